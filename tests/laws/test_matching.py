"""Expressions, schemas and choices: whatever policy writes, in whatever order, all of it fits.

`python tests/laws/test_matching.py 10000` draws so many cases by hand; a case is a row.
"""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.extras import library
from torch import Tensor

from unmask.api import Model
from unmask.decode.canvas import Canvas
from unmask.decode.loop import Decoder
from unmask.decode.pattern import Pattern
from unmask.errors import RequestError, RunError
from unmask.fill.matching import token_bytes
from unmask.hf import patterns
from unmask.hf.schemas import plain_schema, verifier
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.policies.options import Context
from unmask.policies.registry import make
from unmask.process import MaskedDiffusion
from unmask.text.build import bpe_tokenizer, byte_tokenizer, char_tokenizer
from unmask.text.tokenizer import Tokenizer

pytestmark = pytest.mark.extras

REGEXES = (
    "(foo|bar|a{3,9})+",
    "[0-9]{4}-[0-9]{2}-[0-9]{2}",
    "[a-z]+@[a-z]+\\.(com|org)",
    "(ab|ba)*c?",
    "((yes|no)( and |, ))*(yes|no)\\.",
    "[^x]{5,20}x",
    "(é|ß|ü)+[a-z]*",
)
SCHEMAS: tuple[dict[str, Any], ...] = (
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}, "required": ["a"]},
    {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 4},
    {"title": "t", "anyOf": [{"type": "null"}, {"type": "string", "maxLength": 10, "description": "d"}]},
    {"enum": ["red", "green", 'a"b', 3, None, [1, 2]]},
    {"type": "object", "properties": {"x": {"$ref": "#/$defs/point"}}, "required": ["x"], "$defs": {"point": {
        "type": "array", "prefixItems": [{"type": "integer"}, {"type": "integer"}]}}},
    {"type": "string", "pattern": "^(left|right)-[0-9]+$"},
    {"type": ["integer", "boolean"]},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "string", "format": "date"},
)  # fmt: skip
POLICIES = (
    *("random", "random:steps=3", "left-to-right", "left-to-right:steps=1", "confidence:steps=2", "margin:steps=4"),
    *("threshold:threshold=0.05", "entropy-bound:gamma=3", "ancestral:steps=5", "reverse:steps=6", "klass"),
    *("remdm:steps=8,eta=0.3", "remdm:steps=12,kind=loop", "p2:steps=5", "rcr:steps=4", "saber", "prefix", "pc"),
    *("factor", "frechet", "early-stop over threshold", "klass or confidence:steps=3", "credit", "hierarchy"),
)
BLOCKS = (None, 1, 5, 16)


@dataclass(frozen=True)
class Noisy:
    """A denoiser with random preferences for a token by its position and by its left neighbour."""

    tokenizer: Tokenizer
    time_conditioned: bool = False
    max_length: int = 64

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def mask_id(self) -> int:
        return self.tokenizer.mask_id

    def hidden(self, tokens: Tensor, *, valid: Tensor | None = None, time: Tensor | None = None, **_: Any) -> Tensor:
        random = torch.Generator().manual_seed(1)
        place = torch.randn(self.max_length, self.vocab_size, generator=random)
        beside = torch.randn(self.vocab_size, self.vocab_size, generator=random)
        return 2 * (place[: tokens.shape[1]] + beside[tokens.roll(1, -1)])

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


def model_of(tokenizer: Tokenizer) -> Model:
    settings = DiTSettings(tokenizer.vocab_size, tokenizer.mask_id, max_length=64, width=16, blocks=1, heads=2)
    model = Model(build(settings), MaskedDiffusion(tokenizer.mask_id), tokenizer, None, torch.device("cpu"))
    model.denoiser = Noisy(tokenizer)
    return model


Language = tuple[Pattern, Callable[[str], object]]


def languages(model: Model) -> list[Language]:
    """Patterns, and for each what holds of its texts by another library: re of Python, and jsonschema."""
    jsonschema = library("jsonschema", "constrain")

    def fits(schema: dict[str, Any]) -> Callable[[str], object]:
        validator = jsonschema.Draft202012Validator(schema)
        return lambda text: validator.is_valid(json.loads(text))

    rules: list[Language] = [(model.matching(regex=text), re.compile(text).fullmatch) for text in REGEXES]
    return rules + [(model.matching(schema=schema), fits(schema)) for schema in SCHEMAS]


def written(model: Model, rules: list[Language], seed: int, count: int) -> list[tuple[str, bool]]:
    """`count` cases that decode together with one policy in blocks of one size: their texts, and whether each fits.

    A row has a language, a length, a temperature, and an end that is fixed or comes by EOS, all of its own.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(most: int) -> int:
        return int(torch.randint(most, (), generator=random))

    eos, mask = model.tokenizer.eos_id, model.tokenizer.mask_id
    placed, fits, lengths, ends = list[Any](), list[Any](), list[Any](), list[Any]()
    while len(placed) < count:
        (pattern, fit), length, end = rules[draw(len(rules))], 1 + draw(40), draw(2) == 0
        rule = pattern.at(range(length), ends=end)
        if rule.possible:
            for values, value in ((placed, rule), (fits, fit), (lengths, length), (ends, end)):
                values.append(value)
    valid = torch.arange(48) < torch.tensor(lengths)[:, None]
    tokens = torch.where(valid, mask, model.tokenizer.pad_id)
    temperature = torch.tensor([(0.0, 1.0, 1.0, 2.0)[draw(4)] for _ in placed])
    canvas = Canvas.start(tokens, torch.arange(count) + 1000 * seed, valid, temperature=temperature,
                          constraint=torch.arange(count))  # fmt: skip
    context = Context(unigram=lambda: torch.ones(model.tokenizer.vocab_size) / model.tokenizer.vocab_size)
    policy = make(POLICIES[seed % len(POLICIES)], context)
    decoder = Decoder(model.denoiser, policy, 1.0, 1.0, BLOCKS[draw(4)], constraints=tuple(placed), end_id=eos)
    done = decoder.decode(canvas).tokens.tolist()
    cases = list[tuple[str, bool]]()
    for line, length, fit, end in zip(done, lengths, fits, ends, strict=True):
        ids = line[:length]
        ids = ids[: ids.index(eos)] if end and eos in ids else ids
        whole = mask not in ids and eos not in ids
        text = bytes(ids).decode() if whole else ""
        cases.append((text, whole and bool(fit(text))))
    return cases


def test_every_case_fits() -> None:
    """200 cases of the 10,000 that were drawn by hand (docs/decoding.md)."""
    library("outlines_core", "constrain")
    model = model_of(byte_tokenizer())
    rules = languages(model)
    cases = [case for seed in range(len(POLICIES)) for case in written(model, rules, seed, 9)]
    assert len(cases) >= 200
    assert [text for text, fits in cases if not fits] == []
    assert len({text for text, _ in cases}) > 150


@pytest.mark.parametrize("name", ["char", "bpe", "spaced"])
def test_texts_fit_with_tokens_of_several_characters(name: str) -> None:
    """Whatever a text is divided into: the text fits. Also at its beginning, where a tokenizer may drop a space."""
    library("outlines_core", "constrain")
    corpus = ["the river is wide, and 12 small streams run into it; foo bar baz yes no é"] * 3
    made = {"char": lambda: char_tokenizer(corpus), "bpe": lambda: bpe_tokenizer(corpus, 300)}
    made["spaced"] = lambda: bpe_tokenizer(corpus, 300, spaced=True)
    tokenizer = made[name]()
    model = model_of(tokenizer)
    for expression in ("the( [a-z]+){2,5}", " ?(yes|no)( yes| no)*", "[0-9 ]{3,9}é"):
        rule = model.matching(regex=expression)
        for prompt in ("", "foo "):
            texts = model.generate([prompt] * 4, length=14, constraint=rule, policy="random:steps=4").texts
            assert all(re.fullmatch(expression, text.removeprefix(prompt)) for text in texts)
        holes = model.fill("a [4-9] b", count=3, constraint=rule, policy="random:steps=3", draws=2).holes
        assert all(re.fullmatch(expression, hole) for (hole,) in holes)
    assert b"".join(token_bytes(tokenizer)[token] or b"" for token in tokenizer.encode("foo bar")).strip() == b"foo bar"


def test_a_text_of_several_windows_fits_as_a_whole() -> None:
    library("outlines_core", "constrain")
    model = model_of(byte_tokenizer())
    rule = model.matching(regex="(foo|bar|[0-9]{7}, )+end")
    texts = model.generate([""] * 3, length=150, stride=24, constraint=rule, policy="random:steps=6").texts
    assert all(re.fullmatch("(foo|bar|[0-9]{7}, )+end", text) for text in texts)
    assert max(map(len, texts)) > 64


def test_one_hole_and_all_holes_and_lengths_that_have_texts() -> None:
    library("outlines_core", "constrain")
    model = model_of(byte_tokenizer())
    both = model.fill("<[3] [4]>", constraint=model.matching(regex="[a-c]{5}[x-z]{2}"), policy="random:steps=2")
    assert re.fullmatch("<[a-c]{3} [a-c]{2}[x-z]{2}>", both.text)
    second = model.fill("<[3] [4]>", constraint=model.matching(regex="[x-z]+", hole=2))
    assert re.fullmatch("[x-z]{4}", second.holes[0][1])
    free = model.fill("<[1-8]>", constraint=model.matching(choices=["ab", "abcdef"]), draws=2)
    assert {attempt.lengths for attempt in free.attempts[0]} == {(2,), (6,)}
    assert free.holes[0][0] in ("ab", "abcdef")
    with pytest.raises(RequestError, match="shortest text that fits the list of choices has 2 tokens"):
        model.fill("<[1]>", constraint=model.matching(choices=["ab", "abcdef"]))


def test_a_finished_text_is_checked() -> None:
    library("jsonschema", "constrain")
    verify = verifier('{"type": "integer"}')
    verify("12")
    for wrong in ('"12"', "12,"):
        with pytest.raises(RunError, match="does not fit"):
            verify(wrong)


NESTED = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/x"}},
    "$defs": {"x": {"items": {"$ref": "#/$defs/x"}}},
}


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"type": "integer", "minimum": 3}, "'minimum' at \\$, which would be ignored"),
        ({"type": "object", "properties": {"age": {"type": "number", "multipleOf": 2}}}, "'multipleOf' at .*age"),
        ({"type": "string", "maximum": 3}, "'maximum'"),
        ({"allOf": [{"type": "null"}]}, "'allOf'"),
        ({"not": {"type": "null"}}, "'not'"),
        ({"type": "string", "colour": "red"}, "'colour'"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "'oneOf'"),
        ({"type": "string", "pattern": "a.b"}, "quotation mark"),
        ({"type": "string", "pattern": "a(?=b)"}, "look-ahead"),
        ({"type": "string", "format": "email"}, "format 'email'"),
        ({"type": "object", "properties": {"a": {}}, "required": ["b"]}, "'required'"),
        ({"type": "array", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"type": "array", "items": {
            "$ref": "#/$defs/x"}}}}, "recursive '\\$ref' #/\\$defs/x"),
        ({"$ref": "https://example.org/x"}, "not in it"),
        ({"type": "foo"}, "wrong at \\$.type"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength above maxLength"),
    ],
)  # fmt: skip
def test_what_would_be_ignored_is_refused_by_name(schema: dict[str, Any], sentence: str) -> None:
    library("jsonschema", "constrain")
    library("outlines_core", "constrain")
    with pytest.raises(RequestError, match=sentence):
        plain_schema(json.dumps(schema))


@pytest.mark.parametrize(
    ("regex", "sentence"),
    [
        ("a(?=b)", "look-ahead"),
        ("a(?<!b)", "look-behind"),
        ("(a)\\1", "a back-reference"),
        ("\\ba", "a word boundary"),
        ("a$|b", "an anchor"),
        ("(", "no regular expression"),
        ("[ab]*a[ab]{13}", "32,768 states .* at most 4,000"),
    ],
)
def test_an_expression_without_an_automaton_is_refused(regex: str, sentence: str) -> None:
    library("outlines_core", "constrain")
    with pytest.raises(RequestError, match=sentence):
        patterns.table_of(regex, [b"a", b"b"])


def test_an_expression_that_takes_long_is_stopped() -> None:
    library("outlines_core", "constrain")
    with pytest.raises(RequestError, match="takes more than 1 s"):
        patterns.table_of("[ab]*a[ab]{25}", [b"a", b"b"], seconds=1)


def test_characters_that_the_model_lacks() -> None:
    library("outlines_core", "constrain")
    model = model_of(char_tokenizer(["abc def"]))
    assert model.matching(regex="abc|xyz").automaton.size == 5  # the other way is left out; 4, and one behind EOS
    with pytest.raises(RequestError, match="none for 'x'"):
        model.matching(regex="ab(x|y)")


def test_compiled_automata_are_kept() -> None:
    library("outlines_core", "constrain")
    model = model_of(byte_tokenizer())
    assert model.matching(regex="abc+").automaton is model.matching(regex="abc+").automaton


def _by_hand(count: int) -> None:
    """Draw cases, and print how many fit."""
    model = model_of(byte_tokenizer())
    rules, cases = languages(model), list[tuple[str, bool]]()
    while len(cases) < count:
        cases += written(model, rules, len(cases) // 50, min(50, count - len(cases)))
    wrong = [text for text, fits in cases if not fits]
    print(
        f"{len(cases):,} cases, {len(cases) - len(wrong):,} fit, {len({text for text, _ in cases}):,} texts", wrong[:5]
    )


if __name__ == "__main__":
    _by_hand(int(sys.argv[1]))

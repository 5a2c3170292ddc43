"""The sentences of the core, word for word: schedules, policies, decoding, networks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from unmask.api import Model
from unmask.decode.constraint import Vocabulary
from unmask.decode.loop import Decoder
from unmask.errors import ConfigError, RequestError, UnmaskError
from unmask.model.load import build
from unmask.model.settings import DiTSettings
from unmask.noise import generator
from unmask.objective.masked import masking
from unmask.policies.ancestral import Ancestral
from unmask.policies.entries import ENTRIES
from unmask.policies.registry import make
from unmask.policies.top_k import TopK
from unmask.process import MaskedDiffusion, make_schedule
from unmask.testing import TableDenoiser, random_language
from unmask.text.build import byte_tokenizer, dna_tokenizer

TABLE = TableDenoiser(random_language(2, 3))
POLICY = TopK()
TOKENIZER = byte_tokenizer()
SHAPE = DiTSettings(TOKENIZER.vocab_size, TOKENIZER.mask_id, 16, 8, 1, 2)
MODEL = Model(build(SHAPE), MaskedDiffusion(TOKENIZER.mask_id), TOKENIZER, None, torch.device("cpu"))
ACGT = dna_tokenizer()
DNA = Model(
    build(DiTSettings(ACGT.vocab_size, ACGT.mask_id, 16, 8, 1, 2)),
    MaskedDiffusion(ACGT.mask_id),
    ACGT,
    None,
    torch.device("cpu"),
)
POLICIES = f"known: {', '.join(sorted(ENTRIES))}."


def shape(**changes: Any) -> Callable[[], object]:
    chosen: dict[str, Any] = {"vocab_size": 10, "mask_id": 9, **changes}
    return lambda: DiTSettings(**chosen)


CASES: list[tuple[Callable[[], object], type[UnmaskError], str]] = [
    (lambda: make_schedule("linea"), ConfigError, "There is no schedule named 'linea'; did you mean 'linear'?"),
    (
        lambda: masking("fast", MaskedDiffusion(2), torch.ones(1, 1).bool(), generator(0)),
        ConfigError,
        "There is no estimator named 'fast'; known: bernoulli, count, stratified, uniform.",
    ),
    (lambda: make("randm"), RequestError, "There is no policy named 'randm'; did you mean 'random'?"),
    (lambda: make("xyzzy"), RequestError, f"There is no policy named 'xyzzy'; {POLICIES}"),
    (lambda: make("random:step=4"), RequestError, "The policy 'random' has no option 'step'; did you mean 'steps'?"),
    (
        lambda: make("random:32"),
        RequestError,
        "'32' in the policy 'random:32' is not key=value; write for example random:steps=32.",
    ),
    (
        lambda: make("random:steps=many"),
        RequestError,
        "steps is 'many'; give a whole number of at least 1 (or inf).",
    ),
    (lambda: make("ancestral:steps=0"), RequestError, "steps is 0; give a whole number of at least 1 (or inf)."),
    (
        lambda: make("ancestral:schedule=cosin"),
        RequestError,
        "There is no schedule named 'cosin'; did you mean 'cosine'?",
    ),
    (lambda: Ancestral(0), ConfigError, "steps is 0; give a whole number of at least 1."),
    (lambda: TopK(steps=0), ConfigError, "steps is 0; give a whole number of at least 1."),
    (
        lambda: Decoder(TABLE, POLICY, -0.5),
        RequestError,
        "temperature is -0.5; give 0 or a number from 0.0001 to 10000.",
    ),
    (
        lambda: Decoder(TABLE, POLICY, top_p=0.0),
        RequestError,
        "top_p is 0.0; give a number above 0 and of at most 1 (1 keeps every token).",
    ),
    (
        lambda: Decoder(TABLE, POLICY, block_size=0),
        RequestError,
        "block_size is 0; give a whole number of at least 1 (None is a single block).",
    ),
    (shape(width=0), ConfigError, "model.width is 0; give a whole number of at least 1."),
    (
        shape(width=30, heads=4),
        ConfigError,
        "model.width 30 does not divide into 4 heads of an even size; choose a width that is a multiple of 8.",
    ),
    (shape(dropout=1.0), ConfigError, "model.dropout is 1.0; give a number of at least 0 and below 1."),
    (shape(mask_id=10), ConfigError, "model.mask_id is 10, outside the vocabulary of 10 ids."),
    (lambda: MODEL.generate([]), RequestError, "There is no prompt; give at least one, which may be empty."),
    (
        lambda: MODEL.generate("a", length=0),
        RequestError,
        "length is 0; give a whole number of at least 1.",
    ),
    (
        lambda: MODEL.generate("a", stride=17),
        RequestError,
        "stride is 17; give 1 to 16 tokens, the model's window.",
    ),
    (
        lambda: MODEL.generate(["a", "b"], seed=[1]),
        RequestError,
        "1 seeds were given for 2 rows; give one seed, or one a row.",
    ),
    (
        lambda: MODEL.fill("a [40] b"),
        RequestError,
        "The template is 44 tokens long and the model's window is 16; shorten it or its holes.",
    ),
    (lambda: MODEL.fill("a [4] b", count=0), RequestError, "count is 0; give a whole number of at least 1."),
    (
        lambda: MODEL.fill("a [1-40] b"),
        RequestError,
        "The template is up to 44 tokens long and the model's window is 16; shorten it or its holes.",
    ),
    (
        lambda: MODEL.fill("[1-5][1-5][1-5]"),
        RequestError,
        "The holes have 125 combinations of lengths and at most 64 are tried; narrow the lengths, or set some of them.",
    ),
    (
        lambda: MODEL.fill("[1-2]", draws=1),
        RequestError,
        "draws is 1; give a whole number of at least 2 (their spread gives the error).",
    ),
    (
        lambda: MODEL.fill("[2]", constraint=Vocabulary(torch.arange(TOKENIZER.vocab_size) == TOKENIZER.pad_id)),
        RequestError,
        "The constraint leaves no token for a hole; allow at least one that is not MASK.",
    ),
    (
        lambda: DNA.fill("[=\n] A"),
        RequestError,
        "The words to write anew have no token; say how many to write, such as [3=old words].",
    ),
    (
        lambda: MODEL.score("a [?]", ["b"], orders=1),
        RequestError,
        "orders is 1; give a whole number of at least 2 (their spread gives the error).",
    ),
    (
        lambda: MODEL.score("a [?] [?]", ["b"]),
        RequestError,
        "The text has 2 places for the choices; write [?] once, where they go.",
    ),
    (
        lambda: MODEL.score("a [?]", ["b", "b"]),
        RequestError,
        "There are no choices, or one is named twice; name each choice once.",
    ),
    (
        lambda: MODEL.score("a [?] [1-2]", ["b"]),
        RequestError,
        "A hole beside [?] has a free length; set it, such as [5], to compare choices.",
    ),
    (
        lambda: MODEL.score("a [?]", ["b", ""]),
        RequestError,
        "The choice '' has no token; give a text that the tokenizer can encode.",
    ),
    (
        lambda: MODEL.score("a [?]", ["b", "c" * 20]),
        RequestError,
        "The text with its choices is up to 22 tokens long and the model's window is 16; shorten it.",
    ),
    (lambda: MODEL.bound(""), RequestError, "There is no text to measure: every text given is empty."),
]


@pytest.mark.parametrize("request_, error_type, sentence", CASES, ids=[case[2][:40] for case in CASES])
def test_sentences(request_: Callable[[], object], error_type: type[UnmaskError], sentence: str) -> None:
    with pytest.raises(error_type) as caught:
        request_()
    assert str(caught.value) == sentence

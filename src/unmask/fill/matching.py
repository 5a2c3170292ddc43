"""Choices, a regular expression or a JSON schema, and a tokenizer -> the pattern that a decoding keeps to.

The texts of the language are bytes, and so are tokens; a text counts however it is divided into tokens.
"""

__all__ = ["Constraining", "continued", "language", "token_bytes", "verified"]

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import torch

from unmask.decode.automaton import Automaton
from unmask.decode.constraint import Constraint
from unmask.decode.pattern import Pattern, suppressed
from unmask.decode.rows import Written
from unmask.denoiser import Denoiser
from unmask.errors import RequestError
from unmask.fill.holes import Filler
from unmask.hf.patterns import STATES, Table, regex_of_schema, table_of
from unmask.hf.schemas import plain_schema, verifier
from unmask.noise import generator
from unmask.ranges import Count, checked
from unmask.text.tokenizer import Tokenizer

Row = TypeVar("Row")
Step = TypeVar("Step")
_COMPILED = 32  # automata that are kept in memory, the last ones used
_LONGEST = 200_000  # characters of an expression or a schema
_NAMES = {"regex": "pattern", "schema": "JSON schema", "choices": "list of choices"}


class Constraining(ABC):
    """What a `Model` has of constraints."""

    tokenizer: Tokenizer
    denoiser: Denoiser

    @property
    @abstractmethod
    def filler(self) -> Filler:
        """The object that fills holes."""

    def only(self, characters: str) -> Constraint:
        """Characters such as "0123456789" -> a constraint for `stream` and `fill`: only tokens made of them."""
        return self.filler.only(characters)

    @checked
    def matching(
        self,
        *,
        regex: str | None = None,
        schema: str | Mapping[str, Any] | None = None,
        choices: Sequence[str] = (),
        hole: Count | None = None,
    ) -> Pattern:
        """One of an expression, a JSON schema and choices -> a constraint for `generate`, `stream` and `fill`.

        What is written fits it as a whole: a continuation up to EOS, or without EOS in exactly `length` tokens; all
        holes of a template together, in order, or one. Each reveal keeps a completion possible. The samples do not have
        the model's distribution given that a text fits (docs/decoding.md). All but choices need unmask[constrain].

        Args:
            regex: a regular expression for the whole text, in the syntax of the Rust crate regex.
            schema: a JSON schema as JSON or as a dict; what is written is JSON that fits it.
            choices: texts, one of which is written.
            hole: the number of the hole of `fill` that it is for, from 1.

        Raises RequestError for what no automaton over the model's tokens describes, or describes too slowly.
        """
        never = frozenset(suppressed(self.denoiser))
        if (regex is not None) + (schema is not None) + bool(choices) != 1:
            raise RequestError("A pattern is a regular expression, a JSON schema or choices; give one of the three.")
        if regex is not None:
            source, text = "regex", regex
        elif schema is not None:
            source, text = "schema", schema if isinstance(schema, str) else json.dumps(schema)
        else:
            source, text = "choices", tuple(choices)
        size = len(text) if isinstance(text, str) else sum(map(len, text))
        if size > _LONGEST:
            raise RequestError(f"The {_NAMES[source]} has {size:,} characters, of at most {_LONGEST:,}; shorten it.")
        automaton = language(self.tokenizer, self.denoiser.vocab_size, never, source, text)
        verify = verifier(text) if source == "schema" and isinstance(text, str) else None
        return Pattern(automaton, self.tokenizer.mask_id, _NAMES[source], hole, verify)


@lru_cache(maxsize=_COMPILED)
def language(
    tokenizer: Tokenizer, vocab_size: int, never: frozenset[int], source: str, text: str | tuple[str, ...]
) -> Automaton:
    """A tokenizer, the size of the vocabulary of its model and the ids that it never writes; "regex" or "schema" with
    its text, or "choices" with them -> the automaton.

    The last ones are kept in memory. Raises RequestError as `Constraining.matching`.
    """
    ids = dict[bytes, list[int]]()
    for token, content in enumerate(token_bytes(tokenizer)):
        if content and token not in never:
            ids.setdefault(content, []).append(token)
    table = _table(source, text, list(ids))
    begin, edges = _beginning(table, list(ids)) if tokenizer.drops_space else (table.start, table.edges)
    eos_id = None if tokenizer.eos_id in never else tokenizer.eos_id
    options: dict[str, Any] = {"vocab_size": vocab_size, "eos_id": eos_id}
    try:
        return Automaton.of(edges, list(ids.values()), start=table.start, begin=begin, final=table.final, **options)
    except RequestError:
        lacking = sorted({sign for sign in _literal(text) if not any(sign.encode() in each for each in ids)})
        which = f", which have none for {lacking[0]!r}" if lacking else ""
        raise RequestError(
            f"No text that fits the {_NAMES[source]} can be written with the tokens of this model{which}; allow "
            "characters that it has."
        ) from None


def _table(source: str, text: str | tuple[str, ...], tokens: Sequence[bytes]) -> Table:
    """The automaton over these tokens."""
    if not isinstance(text, str):
        return _trie([choice.encode("utf-8", "surrogatepass") for choice in text], tokens)
    return table_of(regex_of_schema(plain_schema(text)) if source == "schema" else text, tokens, name=_NAMES[source])


def _trie(choices: Sequence[bytes], tokens: Sequence[bytes]) -> Table:
    """Texts and tokens -> the automaton of their divisions into tokens; a state is a beginning of one of them."""
    if not all(choices):
        raise RequestError("A choice is empty; give texts of at least one character.")
    index, longest = {token: number for number, token in enumerate(tokens)}, max(map(len, tokens))
    states, edges, final = dict[tuple[int, int], int](), set[tuple[int, int, int]](), list[int]()
    for text in choices:
        path = [0]
        for byte in text:
            path.append(states.setdefault((path[-1], byte), len(states) + 1))
        if len(states) > STATES:
            raise RequestError(f"The list of choices has more than {STATES:,} different beginnings; shorten it.")
        for at, state in enumerate(path[:-1]):
            for end in range(at + 1, min(len(text), at + longest) + 1):
                if (number := index.get(text[at:end])) is not None:
                    edges.add((state, number, path[end]))
        final.append(path[-1])
    return Table(0, final, torch.tensor(sorted(edges), dtype=torch.int64).view(-1, 3))


def _beginning(table: Table, tokens: Sequence[bytes]) -> tuple[int, torch.Tensor]:
    """A table -> another start, of texts whose first token loses its space, and all edges.

    Its edges are those of the tokens without the space. A token of which nothing is left stays out.
    """
    index = {token: number for number, token in enumerate(tokens)}
    begin = 1 + max(table.start, *table.final, int(table.edges.max()) if len(table.edges) else 0)
    first = {number: after for state, number, after in table.edges.tolist() if state == table.start}
    edges = list[tuple[int, int, int]]()
    for token, number in index.items():
        shown = index.get(token[1:]) if token.startswith(b" ") else number
        if shown in first:
            edges.append((begin, number, first[shown]))
    return begin, torch.cat([table.edges, torch.tensor(edges, dtype=torch.int64).view(-1, 3)])


def _literal(text: str | tuple[str, ...]) -> str:
    """The characters that are probably meant as they are: of choices all, else letters, digits and what is no ASCII."""
    if not isinstance(text, str):
        return "".join(text)
    return "".join(sign for sign in text if sign.isalnum() or ord(sign) > 127)


def token_bytes(tokenizer: Tokenizer) -> list[bytes | None]:
    """A tokenizer -> the bytes that each id adds to a text; None for special tokens, and ids without a text.

    Raises RequestError for a tokenizer whose tokens change each other's text.
    """
    added = tokenizer.backend.get_added_tokens_decoder().items()
    special = {*tokenizer.special_ids, tokenizer.stand_in, *(token for token, entry in added if entry.special)}
    contents = [None if token in special else _content(tokenizer, token) for token in range(tokenizer.vocab_size)]
    ids = [token for token, content in enumerate(contents) if content and _is_text(content)]
    random = generator(0)
    for _ in range(32 if ids else 0):  # a tokenizer that joins words, or inserts spaces, shows it in almost every row
        row = [ids[int(at)] for at in torch.randint(len(ids), (6,), generator=random)]
        joined = b"".join(contents[token] or b"" for token in row).decode("utf-8", "replace")
        if tokenizer.decode(row, inside=True) != joined:
            raise RequestError(
                "The tokenizer of this model changes a token by those beside it, so that a pattern cannot say which "
                "tokens fit; patterns need a tokenizer of bytes, characters, or pieces that are joined as they are."
            )
    return contents


def _content(tokenizer: Tokenizer, token: int) -> bytes | None:
    """An id -> its bytes; None where it has no text."""
    text = tokenizer.piece(token)
    return text.encode() if "\N{REPLACEMENT CHARACTER}" not in text else tokenizer.part(token)


def _is_text(content: bytes) -> bool:
    """Whether bytes are whole characters."""
    try:
        return bool(content.decode())
    except UnicodeDecodeError:
        return False


def continued(tokenizer: Tokenizer) -> Callable[[Written], str]:
    """A tokenizer -> a function from a finished row to what was written after its prompt."""
    return lambda row: tokenizer.decode(row.tokens[row.prompt :], row.prompt > 0)


def verified(
    stream: Generator[Step, None, list[Row]],
    rules: Sequence[Constraint | None],
    written: Callable[[Row], str | list[str]],
) -> Generator[Step, None, list[Row]]:
    """A stream, the constraint of each row, and what was written of a row, or in each of its holes -> the same stream.

    At its end each text is checked where its pattern has a check (`Pattern.verify`).
    """
    rows = yield from stream
    for row, rule in zip(rows, rules, strict=True):
        if isinstance(rule, Pattern) and rule.verify is not None:
            parts = written(row)
            whole = parts if isinstance(parts, str) or rule.hole is None else parts[rule.hole - 1]
            rule.verify("".join(whole))
    return rows

"""The Tokenizer: a tokenizer.json of the library `tokenizers`, with the ids of MASK, PAD and EOS.

MASK hides a token, PAD fills a row after its end, EOS ends a text. `BYTE_CHARACTERS` is the alphabet of byte-level
tokenizers: one printable character for each byte.
"""

__all__ = ["BYTE_CHARACTERS", "Tokenizer", "is_plain_bytes"]

import inspect
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import tokenizers

from unmask.config import to_path
from unmask.disk.files import atomic_text, reason_of
from unmask.disk.json import NotJson, fact_of, parse_json, read_text
from unmask.errors import DataError, UnmaskWarning
from unmask.text.roles import ROLE, names_of, role_names


def _characters() -> tuple[str, ...]:
    """The 256 characters by byte: printable Latin-1 as it is, for the other bytes U+0100 and up, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return tuple(chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256))


BYTE_CHARACTERS = _characters()


def is_plain_bytes(record: Mapping[str, Any]) -> bool:
    """Whether a parsed tokenizer.json maps each byte to the id of the same value and has no merges."""
    model, split, decoder = record["model"], record.get("pre_tokenizer") or {}, record.get("decoder") or {}
    return (
        model.get("type") == "BPE"
        and not model.get("merges")
        and model["vocab"] == {character: byte for byte, character in enumerate(BYTE_CHARACTERS)}
        and record.get("normalizer") is None
        and split.get("type") == "ByteLevel"
        and not split.get("add_prefix_space")
        and decoder.get("type") == "ByteLevel"
    )


_LIBRARY = str(Path(__file__).parents[1])
_NAMED = 8  # so many characters are named in a warning
_SPACE = BYTE_CHARACTERS[ord(" ")]
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class _AddedToken:
    """What is read of an added token of a tokenizer.json."""

    content: str
    unmask_role: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """A `tokenizers.Tokenizer` and the ids of its MASK, PAD and EOS; made by `load`, `from_json` or `text.build`.

    Text never encodes to a special id: a literal "<mask>" in a text becomes ordinary tokens.
    """

    backend: tokenizers.Tokenizer = field(repr=False)
    """Owned by this object: not to be changed."""
    mask_id: int
    pad_id: int
    """Differs from `mask_id`."""
    eos_id: int | None
    vocab_size: int
    """The highest id plus 1, special tokens included."""
    _plain_bytes: bool = field(repr=False)
    """Whether each token is a byte and its id the value of the byte: then no library call is needed."""
    _guarded: bool = field(repr=False)
    """Whether the library could encode text to a special id: then ids are checked after encoding."""
    _spaced: bool = field(repr=False)
    """Whether a text that begins with a word is encoded as if a space stood before it, as by the tokenizer `words`."""
    unknown_id: int | None
    """The id of text that has no token; None if every text has tokens."""

    @classmethod
    def load(cls, path: str | Path, mask_token: str | None = None) -> "Tokenizer":
        """The path of a tokenizer.json, or of a folder that holds one -> the tokenizer. `mask_token`: see `from_json`.

        Raises:
            DataError: if there is no such file, it is not a tokenizer, or it has no MASK.
        """
        file = to_path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        if not file.is_file():
            raise DataError(
                f"there is no tokenizer at {file}: give byte, char, dna, bpe or words, or the path of a "
                "tokenizer.json or of a folder that holds one."
            )
        try:
            text = read_text(file)
        except (OSError, NotJson) as error:
            reason = reason_of(error) if isinstance(error, OSError) else f"it {error}"
            raise DataError(f"{file} is not a tokenizer.json that can be read: {reason}.") from error
        return cls.from_json(text, mask_token=mask_token, name=str(file))

    @classmethod
    def from_json(
        cls,
        text: str,
        mask_token: str | None = None,
        name: str = "the tokenizer",
        roles: Mapping[str, int] | None = None,
    ) -> "Tokenizer":
        """The content of a tokenizer.json -> the tokenizer; missing special tokens are added as new ids.

        MASK is `mask_token` (added if it is missing), else the token recorded by `to_json`, else the first usual name
        that exists. PAD and EOS are chosen likewise, but a missing EOS is not added. `name` is used in errors. With
        `roles` these three are the tokens of the ids "mask", "pad" and "eos", of which the last two can be equal.

        Raises:
            DataError: if the text is not a tokenizer, or it has no MASK.
        """
        try:
            record = parse_json(text, dict[str, Any])
            record |= {"truncation": None, "padding": None}  # encoding must not truncate or pad a text
            backend = tokenizers.Tokenizer.from_str(json.dumps(record, ensure_ascii=False))
        except Exception as error:  # the library raises nothing more specific
            reason = f"it {error}" if isinstance(error, NotJson) else error
            raise DataError(f"{name} is not a tokenizer.json that can be read: {reason}.") from error
        record.setdefault("added_tokens", [])
        fact_of(record, ["added_tokens"], list[_AddedToken], name, DataError)
        vocabulary = backend.get_vocab(with_added_tokens=True)
        if len(set(vocabulary.values())) < len(vocabulary):
            raise DataError(f"{name} has several tokens with the same id: give a file in which each has its own.")
        names = role_names(record, vocabulary, mask_token) if roles is None else names_of(roles, vocabulary, name)
        if names is None:
            raise DataError(
                f"{name} has no MASK token under a usual name such as [MASK] or <mask>: name a token with "
                "--data.mask-token (a name that it does not have is added as a new id)."
            )
        return cls._with_roles(record, names)

    @classmethod
    def _with_roles(cls, record: dict[str, Any], names: dict[str, str]) -> "Tokenizer":
        """The tokenizer of `record`, in which the tokens `names` (by role) exist and are special."""
        for token in record["added_tokens"]:
            if token["content"] in names.values():
                token |= {"special": True, "normalized": False}
        backend = tokenizers.Tokenizer.from_str(json.dumps(record, ensure_ascii=False))
        backend.add_special_tokens([tokenizers.AddedToken(n, special=True, normalized=False) for n in names.values()])
        backend.encode_special_tokens = True  # the names of special tokens in a text are encoded as text
        vocabulary = backend.get_vocab(with_added_tokens=True)
        ids = {role: vocabulary[name] for role, name in names.items()}
        own = backend.get_vocab(with_added_tokens=False)
        unknown, space = record["model"].get("unk_token"), backend.encode(" ", add_special_tokens=False).ids
        return cls(
            backend=backend,
            mask_id=ids["mask"],
            pad_id=ids["pad"],
            eos_id=ids.get("eos"),
            vocab_size=1 + max(vocabulary.values()),
            _plain_bytes=is_plain_bytes(record),
            _guarded=any(name in own for name in names.values()),
            _spaced=bool(space) and backend.decode(space) == "",
            unknown_id=own.get(unknown) if isinstance(unknown, str) else None,
        )

    @property
    def special_ids(self) -> tuple[int, ...]:
        """The ids of MASK, PAD and, if it exists, EOS."""
        ids = (self.mask_id, self.pad_id)
        return ids if self.eos_id is None else (*ids, self.eos_id)

    @property
    def drops_space(self) -> bool:
        """Whether a space that begins a text has a token, and is lost when the text is decoded."""
        return self._spaced

    def missing(self, count: int) -> tuple[int, ...]:
        """The ids below `count` that have no token."""
        present = set(self.backend.get_vocab(with_added_tokens=True).values())
        return tuple(token for token in range(count) if token not in present)

    def encode(self, text: str, inside: bool = False) -> list[int]:
        """Text -> its ids; no id is special, and none is added before or after. `inside`: other text stands before it.

        Raises:
            DataError: if the text holds half of a surrogate pair, which is not a character.
        """
        if inside and self._spaced and text[:1].isalnum():
            return self.encode("\n" + text)[1:]
        try:
            if self._plain_bytes:
                return list(text.encode("utf-8"))
            ids = self.backend.encode(text, add_special_tokens=False).ids
        except (UnicodeEncodeError, TypeError) as error:
            raise DataError(
                "the text holds half of a surrogate pair, which has no UTF-8 form: replace it before encoding."
            ) from error
        return self._as_text(ids) if self._guarded else ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Texts -> their ids, in order: `encode` of each."""
        return [self.encode(text) for text in texts]

    def _as_text(self, ids: list[int]) -> list[int]:
        """`ids` with each special id replaced by the unknown token, or left out if there is none."""
        special = self.special_ids
        if not any(token in ids for token in special):
            return ids
        replaced = [self.unknown_id if token in special else token for token in ids]
        return [token for token in replaced if token is not None]

    def decode(self, ids: Sequence[int], inside: bool = False) -> str:
        """Ids -> text, special tokens left out; bytes that are not UTF-8 become replacement characters.

        `inside`: other text stands before it, so that a space at its beginning is kept.
        """
        if inside and self._spaced:
            before = self.encode("\n")  # where it has no token, it has no text either
            return self.decode([*before, *ids])[len(self.decode(before)) :]
        if self._plain_bytes:
            return bytes(token for token in map(int, ids) if token < 256).decode("utf-8", "replace")
        return self.backend.decode([int(token) for token in ids], skip_special_tokens=True)

    # ---- characters outside the alphabet ----

    @property
    def stand_in(self) -> int | None:
        """The id that only stands for characters without a token; None without one, or where it is a letter too (N)."""
        return None if self.unknown_id is None or len(self.piece(self.unknown_id)) == 1 else self.unknown_id

    def unknown(self, *texts: str) -> Counter[str]:
        """The characters of some texts that have no token, and how often each occurs.

        They reach a model as the unknown token, or not at all. A tokenizer of bytes has none. Characters that the
        tokenizer replaces or drops by its own rules (case, white space) do not count where their token has a name.
        """
        lost = Counter[str]()
        special = (*self.special_ids, self.unknown_id)
        own = "" if self.unknown_id is None else self.piece(self.unknown_id).casefold()
        for text in () if self._plain_bytes else texts:
            encoding, covered = self.backend.encode(text, add_special_tokens=False), set[int]()
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                covered.update(range(start, end))
                if token in special and text[start:end].casefold() != own:
                    lost.update(text[start:end])
            if self.unknown_id is None:
                lost.update(sign for at, sign in enumerate(text) if at not in covered and not sign.isspace())
        return lost

    def warn(self, texts: Iterable[str]) -> Counter[str]:
        """Texts -> their characters that have no token, as `unknown`; there is an UnmaskWarning if there are any."""
        unknown = self.unknown(*texts)
        if unknown:
            count = sum(unknown.values())
            which = "1 character of the text is" if count == 1 else f"{count} characters of the text are"
            named = ", ".join(f"{sign!r} ({n})" for sign, n in unknown.most_common(_NAMED))
            warnings.warn(
                f"{which} outside the model's alphabet, and the model cannot tell which: {named}"
                f"{', ...' if len(unknown) > _NAMED else ''}.",
                UnmaskWarning,
                stacklevel=_outside(),
            )
        return unknown

    def typed(self, text: str, ids: Sequence[int], first: int = 0) -> dict[int, str]:
        """A text with its ids -> the text of each position, where it cannot be read back from the ids; else {}.

        The whole text is that of position `first`, its first, and the others have "".
        """
        if not ids or not self.unknown(text):
            return {}
        return {first + at: "" if at else text for at in range(len(ids))}

    def text(self, ids: Sequence[int], typed: Mapping[int, str] | None = None, mask: str = "") -> str:
        """Ids -> text as `decode` does it, with `typed` at its positions and `mask` for each MASK."""
        places = typed or {}
        if not places and (not mask or self.mask_id not in ids):
            return self.decode(ids)
        labels = [1 if at in places else 2 if token == self.mask_id else 0 for at, token in enumerate(ids)]
        text, at = "", 0
        for label, group in groupby(labels):
            end = at + len(list(group))
            if label == 0:  # what the ids before it decode to is left out, so that a space between words stays
                head, whole = self.decode(ids[:at]), self.decode(ids[:end])
                text += whole[len(head) :] if whole.startswith(head) else self.decode(ids[at:end])
            else:
                text += "".join(places[n] for n in range(at, end)) if label == 1 else mask * (end - at)
            at = end
        return text

    # ---- one token ----

    def piece(self, token_id: int) -> str:
        """One id -> its text for display; the name of a special token.

        A replacement character (U+FFFD) for an id that is part of a character, and for an id that does not exist.
        """
        token = self.backend.id_to_token(int(token_id)) if 0 <= token_id < self.vocab_size else None
        if token is None:
            return _REPLACEMENT
        if token.startswith("\u2581"):  # decoding a single word of a SentencePiece vocabulary would lose its space
            return token.replace("\u2581", " ")
        text = self.backend.decode([int(token_id)], skip_special_tokens=False)
        return f" {text}" if self._spaced and token.startswith(_SPACE) else text

    def part(self, token_id: int) -> bytes | None:
        """One id that is part of a character -> its bytes; None for whole characters, and if the bytes are unknown."""
        token = self.backend.id_to_token(int(token_id)) if 0 <= token_id < self.vocab_size else None
        if token is None or _REPLACEMENT not in self.piece(token_id):
            return None
        if match := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token):  # how SentencePiece vocabularies write a byte
            return bytes.fromhex(match[1])
        values = [BYTE_CHARACTERS.index(sign) if sign in BYTE_CHARACTERS else -1 for sign in token]
        return None if -1 in values else bytes(values)

    def to_json(self) -> str:
        """The content of a tokenizer.json in which the roles of the special tokens are recorded."""
        record: dict[str, Any] = json.loads(self.backend.to_str())
        roles = {"mask": self.mask_id, "pad": self.pad_id, "eos": self.eos_id}
        for token in record["added_tokens"]:
            if labels := [role for role, number in roles.items() if number == token["id"]]:
                token[ROLE] = " ".join(labels)
        return json.dumps(record, ensure_ascii=False, indent=1) + "\n"

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` into `folder`, which is created if it is missing.

        Raises:
            RunError: if the disk is full.
            ConfigError: if the place cannot be written.
        """
        atomic_text(Path(folder) / "tokenizer.json", self.to_json())


def _outside() -> int:
    """The `stacklevel` at which a warning of the caller shows the line outside of this library."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARY):
        frame, level = frame.f_back, level + 1
    return max(level, 1)

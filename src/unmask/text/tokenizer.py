"""The alphabet of byte-level tokenizers: one printable character for each byte.

One tokenizer type over the one format `tokenizer.json`, with the three ids that masked diffusion needs.
"""

__all__ = ["BYTE_CHARACTERS", "Tokenizer", "is_plain_bytes"]

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from unmask.errors import DataError
from unmask.text.atomic import write_file


def _characters() -> tuple[str, ...]:
    """The 256 characters by byte: printable Latin-1 stands for itself, the others for U+0100 and up in their order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return tuple(chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256))


BYTE_CHARACTERS = _characters()


def is_plain_bytes(record: Mapping[str, Any]) -> bool:
    """Whether a parsed tokenizer.json maps each byte to its own value and merges nothing."""
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


MASK_NAMES = ("[MASK]", "<mask>", "<|mask|>", "<|mdm_mask|>", "<|mask_token|>", "<MASK>", "<|MASK|>")
PAD_NAMES = ("[PAD]", "<pad>", "<|pad|>", "<|padding|>", "<PAD>", "<|finetune_right_pad_id|>")
EOS_NAMES = ("<eos>", "[EOS]", "</s>", "<|endoftext|>", "<|end_of_text|>", "<|eos|>", "<EOS>", "[SEP]")
_ROLE = "unmask_role"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True, eq=False)
class Tokenizer:
    """A `tokenizers.Tokenizer` and the ids of its MASK, PAD and EOS. Make one with `load`, `from_json` or text.build.

    Text is always text: a literal "<mask>" in what a user writes becomes ordinary tokens, never the MASK id.
    """

    backend: tokenizers.Tokenizer
    """Never to be changed: it belongs to this object."""
    mask_id: int
    pad_id: int
    """Always another id than `mask_id`."""
    eos_id: int | None
    vocab_size: int
    """The highest id plus one, special tokens included."""
    _plain_bytes: bool
    """Whether a token is a byte and its id the value of the byte: then no library call is needed."""
    _guarded: bool
    """Whether the model could come upon a special token in text: then ids are looked through after encoding."""
    unknown_id: int | None
    """What stands for text that the tokenizer has no token for; None where it has one for everything."""

    @classmethod
    def load(cls, path: str | Path, mask_token: str | None = None) -> "Tokenizer":
        """Read a tokenizer.json, or the one in a checkpoint folder. `mask_token`: see `from_json`.

        Raises:
            DataError: where there is no such file, it is not a tokenizer, or it has no MASK.
        """
        file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise DataError(
                f"there is no tokenizer at {file}: give byte, char, dna or bpe, or the path of a tokenizer.json or of "
                "a folder that holds one."
            )
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read as a tokenizer.json: {error}.") from error
        return cls.from_json(text, mask_token=mask_token, name=str(file))

    @classmethod
    def from_json(cls, text: str, mask_token: str | None = None, name: str = "the tokenizer") -> "Tokenizer":
        """Read the content of a tokenizer.json; missing special tokens are added as new ids.

        MASK is `mask_token` (added where it is missing), else the one recorded by `to_json`, else the first usual name;
        PAD and EOS likewise, except that a missing EOS stays missing. `name` is for the sentence of an error.

        Raises:
            DataError: where the text is not a tokenizer, or no MASK is found.
        """
        try:
            record: dict[str, Any] = json.loads(text)
            record |= {"truncation": None, "padding": None}  # encoding must never cut or fill a text
            backend = tokenizers.Tokenizer.from_str(json.dumps(record, ensure_ascii=False))
        except Exception as error:  # the library raises nothing more particular
            raise DataError(f"{name} is not a tokenizer.json that can be read: {error}.") from error
        names = _role_names(record, backend, mask_token)
        if names is None:
            raise DataError(
                f"{name} has no MASK token under a usual name such as [MASK] or <mask>: name a token with "
                "--data.mask-token (a name that it does not have is added as a new id)."
            )
        return cls._with_roles(record, names)

    @classmethod
    def _with_roles(cls, record: dict[str, Any], names: dict[str, str]) -> "Tokenizer":
        """The tokenizer of `record` in which the tokens `names` (by role) exist and are special."""
        for token in record["added_tokens"]:
            if token["content"] in names.values():
                token |= {"special": True, "normalized": False}
        backend = tokenizers.Tokenizer.from_str(json.dumps(record, ensure_ascii=False))
        backend.add_special_tokens([tokenizers.AddedToken(n, special=True, normalized=False) for n in names.values()])
        backend.encode_special_tokens = True  # which means: special tokens found in text are encoded as text
        everything = backend.get_vocab(with_added_tokens=True)
        ids = {role: everything[name] for role, name in names.items()}
        own = backend.get_vocab(with_added_tokens=False)
        unknown = record["model"].get("unk_token")
        return cls(
            backend=backend,
            mask_id=ids["mask"],
            pad_id=ids["pad"],
            eos_id=ids.get("eos"),
            vocab_size=1 + max(everything.values()),
            _plain_bytes=is_plain_bytes(record),
            _guarded=any(name in own for name in names.values()),
            unknown_id=own.get(unknown) if isinstance(unknown, str) else None,
        )

    @property
    def special_ids(self) -> tuple[int, ...]:
        """MASK, PAD and, where there is one, EOS."""
        ids = (self.mask_id, self.pad_id)
        return ids if self.eos_id is None else (*ids, self.eos_id)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, with nothing put before or after; never a special id.

        Raises:
            DataError: where the text holds half of a surrogate pair, which is no character.
        """
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
        """`encode` of each text, in order."""
        return [self.encode(text) for text in texts]

    def _as_text(self, ids: list[int]) -> list[int]:
        """`ids` with the unknown token where the model came upon a special one in text; without one it is left out."""
        special = self.special_ids
        if not any(one in ids for one in special):
            return ids
        replaced = [self.unknown_id if one in special else one for one in ids]
        return [one for one in replaced if one is not None]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out; bytes that are not UTF-8 become replacement characters."""
        if self._plain_bytes:
            return bytes(one for one in map(int, ids) if one < 256).decode("utf-8", "replace")
        return self.backend.decode([int(one) for one in ids], skip_special_tokens=True)

    def piece(self, one: int) -> str:
        """The text of a single id, for drawing: the name of a special token, a replacement character for part of a
        character and for an id that does not exist."""
        token = self.backend.id_to_token(int(one)) if 0 <= one < self.vocab_size else None
        if token is None:
            return _REPLACEMENT
        if token.startswith("\u2581"):  # decoding a lone word of a SentencePiece vocabulary would lose its space
            return token.replace("\u2581", " ")
        return self.backend.decode([int(one)], skip_special_tokens=False)

    def part(self, one: int) -> bytes | None:
        """The bytes of an id that is no whole text by itself; None for one that is, or that tells no bytes."""
        token = self.backend.id_to_token(int(one)) if 0 <= one < self.vocab_size else None
        if token is None or _REPLACEMENT not in self.piece(one):
            return None
        if match := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token):  # how SentencePiece vocabularies write a byte
            return bytes.fromhex(match[1])
        values = [BYTE_CHARACTERS.index(sign) if sign in BYTE_CHARACTERS else -1 for sign in token]
        return None if -1 in values else bytes(values)

    def to_json(self) -> str:
        """The content of a tokenizer.json, in which the roles of the special tokens are recorded."""
        record: dict[str, Any] = json.loads(self.backend.to_str())
        roles = {self.mask_id: "mask", self.pad_id: "pad", self.eos_id: "eos"}
        for token in record["added_tokens"]:
            if token["id"] in roles:
                token[_ROLE] = roles[token["id"]]
        return json.dumps(record, ensure_ascii=False, indent=1) + "\n"

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` into `folder`, which is made where it is missing.

        Raises:
            RunError: where the disk does not take it.
        """
        write_file(Path(folder) / "tokenizer.json", self.to_json().encode("utf-8"))


def _role_names(record: dict[str, Any], backend: tokenizers.Tokenizer, mask_token: str | None) -> dict[str, str] | None:
    """The names of MASK, PAD and EOS (where there is one) by role; None without a MASK."""
    roles: dict[str, str] = {token[_ROLE]: token["content"] for token in record["added_tokens"] if _ROLE in token}
    known = set(backend.get_vocab(with_added_tokens=True))

    def find(role: str, usual: tuple[str, ...], taken: set[str]) -> str | None:
        candidates = (roles[role], *usual) if role in roles else usual
        return next((name for name in candidates if name in known and name not in taken), None)

    mask = mask_token or find("mask", MASK_NAMES, set())
    if mask is None:
        return None
    pad = find("pad", PAD_NAMES, {mask}) or next(name for name in PAD_NAMES[1:] if name not in known and name != mask)
    eos = find("eos", EOS_NAMES, {mask, pad})
    return {"mask": mask, "pad": pad} if eos is None else {"mask": mask, "pad": pad, "eos": eos}

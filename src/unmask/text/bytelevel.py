"""The alphabet of byte-level tokenizers: one printable character for each byte."""

__all__ = ["BYTE_CHARACTERS", "is_plain_bytes"]

from collections.abc import Mapping
from typing import Any


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

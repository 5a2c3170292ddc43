"""Documents as streams of pieces, cut where a reader would cut, so that no document need fit into memory."""

__all__ = ["PIECE_LIMIT", "Piece", "cut_at", "decode_utf8", "document_pieces"]

import codecs
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from unmask.errors import DataError

PIECE_LIMIT = 16_384
"""Characters in a piece, at most."""
_BOM = codecs.BOM_UTF8


class Piece(NamedTuple):
    """Part of a document; the pieces of a document, one after another, are exactly the document."""

    document: int
    text: str
    last_in_document: bool


def cut_at(text: str, limit: int, low: int = 1) -> int:
    """Where to cut `text` for a first part of at most `limit` characters, and more than `low` where possible.

    After the last empty line, else after the last line end, else before the last space (byte-level BPE keeps a space
    with the word behind it), else at `limit`.
    """
    for mark, after in (("\n\n", 2), ("\n", 1), (" ", 0)):
        found = text.rfind(mark, low, limit)
        if found >= 0 and low < found + after <= limit:
            return found + after
    return limit


def document_pieces(document: int, chunks: Iterable[str]) -> Iterator[Piece]:
    """The pieces of one document that arrives in `chunks` of any size; none where it is empty."""
    held = ""
    for chunk in chunks:
        held, at = held + chunk, 0
        while len(held) - at > PIECE_LIMIT:  # never the last piece: there is more
            window = held[at : at + PIECE_LIMIT]
            end = cut_at(window, PIECE_LIMIT, PIECE_LIMIT // 2)
            yield Piece(document, window[:end], False)
            at += end
        held = held[at:]
    if held:
        yield Piece(document, held, True)


def decode_utf8(blocks: Iterable[bytes], name: str) -> Iterator[str]:
    """The text of a file that arrives in `blocks`, without a byte order mark at its head.

    Raises:
        DataError: where a NUL byte or bytes that are not UTF-8 show that `name` is no text; says where.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = start = 0
    try:
        for number, block in enumerate(blocks):
            if (nul := block.find(b"\0")) >= 0:
                raise DataError(
                    f"{name} is not text: there is a NUL byte at offset {offset + nul}; give UTF-8 text or .jsonl."
                )
            head = len(_BOM) if number == 0 and block.startswith(_BOM) else 0
            start = offset + head - len(decoder.getstate()[0])
            text = decoder.decode(block[head:])
            offset += len(block)
            if text:
                yield text
        start = offset - len(decoder.getstate()[0])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {start + error.start} cannot "
            "be decoded; convert the file to UTF-8."
        ) from error

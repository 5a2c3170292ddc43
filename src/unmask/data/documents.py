"""Files -> documents and pairs: the rows of .jsonl files, and texts as streams of pieces.

A document is a continuous text; a pair is a prompt and its answer. A document is read as pieces of at most PIECE_LIMIT
characters, so that it need not fit into memory.
"""

__all__ = [
    "PIECE_LIMIT",
    "Pair",
    "Piece",
    "cut_at",
    "decode_utf8",
    "document_pieces",
    "is_pair",
    "json_rows",
    "row_pair",
    "row_text",
]

import codecs
import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from unmask.disk.json import JSON_BYTES, LINES_BYTES, NotJson, json_lines
from unmask.errors import DataError
from unmask.limits import available_bytes

_ADVICE = {
    "is not UTF-8 text": "convert the file to UTF-8",
    "is not a JSON object": 'write rows such as {"text": "..."}',
}


class Pair(NamedTuple):
    """A prompt, which is never masked, and an answer, which may be masked."""

    prompt: str
    answer: str


def json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """A .jsonl or .jsonl.gz file -> (line number from 1, row) for each line that is not blank.

    Raises:
        DataError: if a line is not a JSON object, or the file cannot be read.
    """
    try:
        with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
            for number, row in json_lines(cast(IO[bytes], file), dict[str, Any], _longest_line(path)):
                if isinstance(row, NotJson):
                    advice = _ADVICE.get(row.reason, "write one object on each line")
                    raise DataError(f"{path}, line {number} {row}: {advice}.")
                yield number, row
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}): make or fetch it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _longest_line(path: Path) -> int:
    """A .jsonl or .jsonl.gz file -> the bytes of the longest line that is read from it.

    A line is held several times while it is parsed: it may have an eighth of the available memory. Text is compressed
    to a fifth, rarely to less; a compressed file may have a line of 64 times its size, so that a small file cannot
    become a line of gigabytes. 64 MiB are always read.
    """
    most = min(LINES_BYTES, available_bytes() // 8)
    if path.name.lower().endswith(".gz"):
        most = min(most, 64 * path.stat().st_size)
    return max(JSON_BYTES, most)


def is_pair(row: Mapping[str, Any], text_key: str) -> bool:
    """Whether a row is a pair rather than a document."""
    return text_key not in row and "prompt" in row and "answer" in row


def row_text(row: Mapping[str, Any], text_key: str, where: str) -> str:
    """A row -> its document; `where` names the row in errors.

    Raises:
        DataError: if the row has no text under `text_key`.
    """
    if text_key not in row:
        keys = ", ".join(map(str, row)) or "none"
        raise DataError(
            f"{where} has no '{text_key}' (its keys: {keys}): name the key that holds text with --data.text-key."
        )
    return _string(row[text_key], text_key, where)


def row_pair(row: Mapping[str, Any], where: str) -> Pair:
    """A row -> its prompt and answer; `where` names the row in errors.

    Raises:
        DataError: if one of them is missing or not a string.
    """
    if "prompt" not in row or "answer" not in row:
        keys = ", ".join(map(str, row)) or "none"
        raise DataError(
            f"{where} has no prompt and answer (its keys: {keys}), but the rows before it have: give all both."
        )
    return Pair(_string(row["prompt"], "prompt", where), _string(row["answer"], "answer", where))


def _string(value: object, key: str, where: str) -> str:
    """`value`, which must be a string; halves of surrogate pairs, which JSON allows and UTF-8 does not, become '?'."""
    if not isinstance(value, str):
        raise DataError(f"{where} has a value of type {type(value).__name__} under '{key}': it must be a string.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


PIECE_LIMIT = 16_384
"""The maximum of characters in a piece."""
_BOM = codecs.BOM_UTF8


class Piece(NamedTuple):
    """Part of a document; the pieces of a document, concatenated, are the document."""

    document: int
    text: str
    last_in_document: bool


def cut_at(text: str, limit: int, low: int = 1) -> int:
    """A text -> where to cut it, so that the first part has more than `low` and at most `limit` characters.

    After the last empty line, else after the last line end, else before the last space (byte-level BPE joins a space
    with the word after it), else at `limit`.
    """
    for mark, after in (("\n\n", 2), ("\n", 1), (" ", 0)):
        index = text.rfind(mark, low, limit)
        if index >= 0 and low < index + after <= limit:
            return index + after
    return limit


def document_pieces(document: int, chunks: Iterable[str]) -> Iterator[Piece]:
    """The number of a document and its text in `chunks` of any size -> its pieces; none if it is empty."""
    buffer = ""
    for chunk in chunks:
        buffer, at = buffer + chunk, 0
        while len(buffer) - at > PIECE_LIMIT:  # more text follows, so this is not the last piece
            window = buffer[at : at + PIECE_LIMIT]
            end = cut_at(window, PIECE_LIMIT, PIECE_LIMIT // 2)
            yield Piece(document, window[:end], False)
            at += end
        buffer = buffer[at:]
    if buffer:
        yield Piece(document, buffer, True)


def decode_utf8(blocks: Iterable[bytes], name: str) -> Iterator[str]:
    """The blocks of bytes of the file `name` -> its text, without a byte order mark at the start.

    Raises:
        DataError: if there is a NUL byte, or bytes that are not UTF-8, with the offset.
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

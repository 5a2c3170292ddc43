"""Files -> documents and pairs: rows of JSON and of tables, sequences of FASTA, and texts as streams of pieces.

A document is a continuous text; a pair is a prompt and its answer. A document is read as pieces of at most PIECE_LIMIT
characters, so that it need not fit into memory.
"""

__all__ = [
    "PIECE_LIMIT",
    "Pair",
    "Piece",
    "choose_columns",
    "cut_at",
    "decode_utf8",
    "document_pieces",
    "fasta_letters",
    "json_rows",
    "opened",
    "row_pair",
    "row_text",
    "table_rows",
]

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from unmask.data.settings import Columns
from unmask.disk.json import JSON_BYTES, LINES_BYTES, NotJson, json_lines, parse_json
from unmask.errors import DataError
from unmask.limits import available_bytes

_BOM = codecs.BOM_UTF8
_ADVICE = {
    "is not UTF-8 text": "convert the file to UTF-8",
    "is not a JSON object": 'write rows such as {"text": "..."}',
}


class Pair(NamedTuple):
    """A prompt, which is never masked, and an answer, which may be masked."""

    prompt: str
    answer: str


@contextmanager
def opened(path: Path) -> Generator[IO[bytes]]:
    """Context of a file as bytes, uncompressed if its name ends in .gz.

    Raises:
        DataError: if it cannot be read, or is not a whole gzip file.
    """
    try:
        with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
            yield cast(IO[bytes], file)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}): make or fetch it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error


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


def json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A file of JSON lines, or of one JSON list of objects -> (a name of its place, row) for each row.

    Raises:
        DataError: if a line or an item is not a JSON object, or the file cannot be read.
    """
    with opened(path) as file:
        listed = (
            path.name.lower().removesuffix(".gz").endswith(".json")
            and file.read(1 << 10).removeprefix(_BOM).lstrip()[:1] == b"["
        )
        if listed:
            yield from _list_rows(path)
            return
        file.seek(0)
        for number, row in json_lines(file, dict[str, Any], _longest_line(path)):
            if isinstance(row, NotJson):
                advice = _ADVICE.get(row.reason, "write one object on each line")
                raise DataError(f"{path}, line {number} {row}: {advice}.")
            yield f"{path}, line {number}", row


def _list_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A file of one JSON list -> its objects; the whole list is in memory."""
    with opened(path) as file:
        content = file.read(JSON_BYTES + 1)
    if len(content) > JSON_BYTES:
        raise DataError(
            f"{path} is a JSON list of more than {JSON_BYTES >> 20} MiB: write one object a line as .jsonl."
        )
    try:
        items = parse_json(content.decode("utf-8-sig"), list[Any])
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: convert the file to UTF-8.") from error
    except NotJson as error:
        raise DataError(f"{path} {error}: write a list of objects, or one object a line as .jsonl.") from error
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise DataError(f'{path}, item {number} is not a JSON object: write rows such as {{"text": "..."}}.')
        yield f"{path}, item {number}", cast(dict[str, Any], item)


def table_rows(path: Path, separator: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A .csv or .tsv file, whose first line names the columns -> (a name of its place, row) for each row.

    Quoted fields may hold separators and line ends; line ends become LF. A .csv file whose first line has semicolons
    and no comma is separated by semicolons.

    Raises:
        DataError: if the file is not such a table, or cannot be read.
    """
    longest = _longest_line(path)
    csv.field_size_limit(longest)
    with opened(path) as file, io.TextIOWrapper(file, "utf-8-sig") as text:
        lines = _lines(path, text, longest)
        first = next(lines, "")
        if separator == "," and "," not in first and ";" in first:
            separator = ";"
        reader = csv.reader(_chained(first, lines), delimiter=separator, strict=True)
        try:
            names = next((values for values in reader if values), [])
            if len(set(names)) < len(names):
                raise DataError(
                    f"{path} has two columns of one name in its first line ({', '.join(names)}): rename one."
                )
            for values in reader:
                where = f"{path}, line {reader.line_num}"
                if values and len(values) != len(names):
                    raise DataError(
                        f"{where} has {len(values)} fields, but the first line names {len(names)} columns: quote "
                        f"fields that hold the separator '{separator}'."
                    )
                if values:
                    yield where, dict(zip(names, values, strict=True))
        except csv.Error as error:
            raise DataError(
                f'{path}, line {reader.line_num} is not a row of a table ({error}): quote fields by " and write a '
                'quote in them as "".'
            ) from error


def _chained(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines


def _lines(path: Path, file: io.TextIOWrapper, longest: int) -> Iterator[str]:
    """An open text file -> its lines. Raises DataError for a line that is too long, and for what is not UTF-8 text."""
    number = 0
    try:
        while line := file.readline(longest):
            number += 1
            if len(line) == longest:
                raise DataError(f"{path}, line {number} is longer than {longest:,} characters: is it a table?")
            if "\0" in line:
                raise DataError(f"{path}, line {number} is not text (there is a NUL byte): give a table in UTF-8.")
            yield line
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: convert the file to UTF-8.") from error


def fasta_letters(chunks: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The text of a FASTA file in chunks -> (number of the sequence, some of its letters), streamed.

    A line that starts with > begins a sequence; such lines and those that start with ; are left out. Of the other lines
    the letters count. A line ends with LF, CR LF or CR.
    """
    number, starts, skipped = 0, True, False
    for chunk in chunks:
        for line in re.findall(r"[^\r\n]+|[\r\n]+", chunk):
            if line[0] in "\r\n":
                starts = True
                continue
            if starts:
                number += line[0] == ">"
                starts, skipped = False, line[0] in ">;"
            if not skipped:
                yield number, line if line.isalpha() else "".join(filter(str.isalpha, line))


_USUAL_PAIRS = (("prompt", "answer"), ("question", "answer"))


def choose_columns(asked: Columns, row: Mapping[str, Any], where: str) -> Columns:
    """The columns that are asked for, and the first row of a file -> those that are taken.

    A column of text comes first, then prompt and answer, then question and answer. `where` names the row in errors.

    Raises:
        DataError: if they are not there; the sentence lists the columns that are.
    """
    keys = ", ".join(map(str, row)) or "none"
    if asked.text is None:
        missing = [key for key in (asked.prompt, asked.answer) if key not in row]
        if missing:
            raise DataError(
                f"{where} has no column '{missing[0]}' (its columns: {keys}): name that of the prompts with "
                "--data.prompt-key and that of the answers with --data.answer-key."
            )
        return asked
    if asked.text in row:
        return asked
    for prompt, answer in _USUAL_PAIRS:
        if asked.text == "text" and prompt in row and answer in row:
            return Columns(None, prompt, answer)
    raise DataError(
        f"{where} has no column '{asked.text}' (its columns: {keys}): name the column of the text with "
        "--data.text-key, or those of prompts and answers with --data.prompt-key and --data.answer-key."
    )


def row_text(row: Mapping[str, Any], key: str, where: str) -> str:
    """A row -> its document, in the column `key`; `where` names the row in errors.

    Raises:
        DataError: if the row has no text there.
    """
    if key not in row:
        keys = ", ".join(map(str, row)) or "none"
        raise DataError(
            f"{where} has no '{key}' (its keys: {keys}): name the key that holds text with --data.text-key."
        )
    return _string(row[key], key, where)


def row_pair(row: Mapping[str, Any], where: str, prompt: str = "prompt", answer: str = "answer") -> Pair:
    """A row -> its prompt and answer, in the columns of these names; `where` names the row in errors.

    Raises:
        DataError: if one of them is missing or not a string.
    """
    if prompt not in row or answer not in row:
        keys = ", ".join(map(str, row)) or "none"
        raise DataError(
            f"{where} has no {prompt} and {answer} (its keys: {keys}), but the rows before it have: give all both."
        )
    return Pair(_string(row[prompt], prompt, where), _string(row[answer], answer, where))


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


def decode_utf8(blocks: Iterable[bytes], name: str, *, lines: bool = True) -> Iterator[str]:
    """The blocks of bytes of the file `name` -> its text, without a byte order mark at the start.

    With `lines` every line ends by LF, also where it ends by CRLF or CR in the file.

    Raises:
        DataError: if there is a NUL byte, or bytes that are not UTF-8, with the offset.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    ends = io.IncrementalNewlineDecoder(None, translate=lines)
    offset = start = 0
    try:
        for number, block in enumerate(blocks):
            if (nul := block.find(b"\0")) >= 0:
                raise DataError(
                    f"{name} is not text: there is a NUL byte at offset {offset + nul}; give UTF-8 text or .jsonl."
                )
            head = len(_BOM) if number == 0 and block.startswith(_BOM) else 0
            start = offset + head - len(decoder.getstate()[0])
            text = ends.decode(decoder.decode(block[head:]))
            offset += len(block)
            if text:
                yield text
        start = offset - len(decoder.getstate()[0])
        if text := ends.decode(decoder.decode(b"", final=True), final=True):
            yield text
    except UnicodeDecodeError as error:
        raise DataError(
            f"{name} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {start + error.start} cannot "
            "be decoded; convert the file to UTF-8."
        ) from error

"""A text -> a source of documents or pairs: files, folders, globs, bundled corpora, data sets of `datasets`.

The bundled corpora are files of the library; the cards beside them say how they were made.
"""

__all__ = ["BUNDLED", "CORPORA", "BundledFile", "Corpora", "Source", "open_source", "read_bundled"]

import glob
import hashlib
import io
import itertools
import lzma
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.config import to_path
from unmask.data.documents import (
    Pair,
    Piece,
    choose_columns,
    decode_utf8,
    document_pieces,
    fasta_letters,
    json_rows,
    opened,
    row_pair,
    row_text,
    table_rows,
)
from unmask.data.hub import open_hub, parquet_rows
from unmask.data.settings import SPLIT_RULE, Columns
from unmask.disk.folders import refuse_ambiguous
from unmask.disk.json import parse_json
from unmask.errors import DataError, did_you_mean

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "corpora"


@dataclass(frozen=True, slots=True)
class BundledFile:
    """A file of the library; `sha256` is that of the compressed file."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Corpora:
    """A line about a corpus, and the keys of BUNDLED of its files, which are read one after another."""

    about: str
    files: tuple[str, ...]


BUNDLED = {
    "austen": BundledFile("austen.jsonl.xz", "4b62d2585e771dfef93806006790ca073e0eec907c9f5ac691754a3c6c142571"),
    "ecoli-k12": BundledFile("ecoli-k12.txt.xz", "35832cfe93724dc085a96aa88b474b146b7faaebe1391c2e43ebc8aa219714c1"),
    "shakespeare": BundledFile(
        "shakespeare.jsonl.xz", "e8589383a80b7fa4771fe6a976cb7d0f63f329093c1d27fcd2a521c2d363234c"
    ),
    "sotu": BundledFile("sotu.jsonl.xz", "b992acbac1c03af12b22a5b4886b86a1e00eb488e6c2736736932a39b2c33717"),
    "wordnet": BundledFile("wordnet.jsonl.xz", "dac706e4baa2172569854986f49e267053e61897027a234cbf1bd109f1037902"),
}
CORPORA = {
    "austen": Corpora("the six novels of Jane Austen, 269 chapters, 4.0 MB", ("austen",)),
    "ecoli-k12": Corpora("the genome of E. coli K-12 MG1655, 4.6 million bases", ("ecoli-k12",)),
    "english": Corpora("shakespeare, austen and sotu together, 19.8 MB", ("shakespeare", "austen", "sotu")),
    "shakespeare": Corpora("38 plays of William Shakespeare, 5.0 MB", ("shakespeare",)),
    "sotu": Corpora("233 State of the Union addresses, 1790 to 2021, 10.8 MB", ("sotu",)),
    "wordnet": Corpora("48,197 words with their definitions, from WordNet 3.0, 3.5 MB", ("wordnet",)),
}


def read_bundled(name: str) -> Iterator[bytes]:
    """A key of BUNDLED -> the lines of that file, line ends included; the checksum is verified first.

    Raises:
        DataError: if the file is missing or its checksum is wrong.
    """
    bundled = BUNDLED[name]
    path = FOLDER / bundled.file
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the bundled corpus {path} cannot be read ({error.strerror}): install unmask again."
        ) from error
    if hashlib.sha256(packed).hexdigest() != bundled.sha256:
        raise DataError(f"the bundled corpus {path} is damaged (its sha256 is wrong): install unmask again.")
    yield from io.BytesIO(lzma.decompress(packed))


_BLOCK = 1 << 20
_FASTA = (".fasta", ".fa", ".fna", ".ffn", ".faa", ".frn")
_FORMATS = {suffix: suffix[1:] for suffix in (".jsonl", ".json", ".csv", ".tsv", ".parquet")} | dict.fromkeys(
    _FASTA, "fasta"
)
"""Suffix of a file -> the format of what it holds; every other file is plain text."""
_TEXTS = (".txt", ".md", ".jsonl")
"""Suffixes of the files of a folder that are taken; the other formats only where there are none of these."""


@dataclass(frozen=True, slots=True)
class Source:
    """A stream of documents or of pairs; it can be read repeatedly and need not fit into memory."""

    name: str
    fingerprint: str
    """The sha256 of the content, in hexadecimal; it does not depend on paths."""
    paired: bool
    """Whether the source holds pairs; read `pairs` then, else `pieces`."""
    read_pieces: Callable[[], Iterable[Piece]]
    read_pairs: Callable[[], Iterable[Pair]]
    taken: str = ""
    """What is taken from rows or from FASTA, as a part of a sentence; empty for plain text."""
    size: int | None = None  # about the bytes of the text, from those of its files
    count: int | None = None  # problems of a task, of which it may yield fewer

    def pieces(self) -> Iterator[Piece]:
        """The documents, each as one or more pieces; empty documents are skipped.

        Raises:
            DataError: if the content is not text, or there is no text at all.
        """
        piece = None
        for piece in self.read_pieces():
            yield piece
        if piece is None:
            raise DataError(f"{self.name} is empty: there is no text to learn from.")

    def pairs(self) -> Iterator[Pair]:
        """The pairs. Raises DataError if a row has no prompt or answer."""
        yield from self.read_pairs()


def open_source(source: str, columns: Columns | None = None, rule: int = SPLIT_RULE) -> Source:
    """A text as in DataSettings.source -> the source.

    `columns` are those that are asked for. Under rule 1 (see SPLIT_RULE) all files but .jsonl are plain text.

    Raises:
        RequestError: for the name of a bundled corpus where there is a path of that name.
        DataError: if there is no such source, it holds no text, or does not have the columns.
    """
    columns = columns or Columns()
    if source.startswith("hf:"):
        return _hub_source(source, columns)
    if source in CORPORA:
        refuse_ambiguous(source, "bundled corpus")
        return _bundled_source(source)
    path = to_path(source)
    if path.is_dir():
        return _file_source(source, *_files_of_folder(path, rule), columns, rule)
    if path.exists():
        if not path.is_file():
            raise DataError(
                f"{source} is a pipe, a device or a socket, and a source is read more than once: write its text to a "
                "file first."
            )
        return _file_source(source, [path], [], columns, rule)
    if glob.has_magic(source):
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if not files:
            raise DataError(f"no file matches {source}: check the pattern, and quote it on a command line.")
        return _file_source(source, files, [], columns, rule)
    task = f" A task is task:{source}" if ".py:" in source or "@" in source else ""
    if "/" in source or "." in source:
        known = ", ".join(CORPORA)
        raise DataError(f"there is no file or folder {source}: give a path that exists, or one of {known}.{task}")
    raise DataError(
        f"there is no file, folder or corpus '{source}' (the corpora are {', '.join(CORPORA)}): "
        f"{did_you_mean(source, CORPORA)}{task}"
    )


def _files_of_folder(folder: Path, rule: int) -> tuple[list[Path], list[Path]]:
    """A folder -> the files under it that are taken, and those that are left out, sorted by path.

    Hidden files are neither. Tables, lists and FASTA beside texts are left out: they often describe the texts.
    """
    files = [
        path
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix())
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if rule == 1:
        texts, tables = [path for path in files if path.name.lower().endswith((*_TEXTS, ".jsonl.gz"))], list[Path]()
    else:
        texts = [path for path in files if _bare(path).endswith(_TEXTS)]
        tables = [path for path in files if _format(path, rule) not in ("text", "jsonl")]
    if not texts and not tables:
        raise DataError(
            f"the folder {folder} holds no text: put .txt, .md, .jsonl, .csv, .tsv, .json, .parquet or .fasta files "
            "into it (.gz too)."
        )
    return (texts, tables) if texts else (tables, [])


def _bare(path: Path) -> str:
    """A path -> its name in lower case, without .gz."""
    return path.name.lower().removesuffix(".gz")


def _format(path: Path, rule: int) -> str:
    """A path -> text, fasta, or the format of its rows."""
    name = next((name for suffix, name in _FORMATS.items() if _bare(path).endswith(suffix)), "text")
    return name if rule > 1 or name == "jsonl" else "text"


def _rows(path: Path, form: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A file of rows in the format `form` -> (a name of its place, row) for each row."""
    if form == "parquet":
        return ((f"{path}, row {number}", row) for number, row in enumerate(parquet_rows(path), start=1))
    if form in ("csv", "tsv"):
        return table_rows(path, "," if form == "csv" else "\t")
    return json_rows(path)


@dataclass(frozen=True, slots=True)
class _File:
    """A file, its format, and the columns that are taken from its rows; None for text, FASTA and files without rows."""

    path: Path
    form: str
    columns: Columns | None
    rule: int

    @property
    def paired(self) -> bool:
        """Whether the rows are pairs."""
        return self.columns is not None and self.columns.text is None

    def documents(self) -> Iterator[Iterable[str]]:
        """Each document, as chunks of text, to be read before the next."""
        if self.form in ("text", "fasta"):
            chunks = decode_utf8(_blocks(self.path), str(self.path), lines=self.rule > 1)
            if self.form == "text":
                return (yield chunks)
            for _, parts in itertools.groupby(fasta_letters(chunks), key=lambda part: part[0]):
                yield (letters for _, letters in parts)
        elif self.columns is not None and self.columns.text is not None:
            for where, row in _rows(self.path, self.form):
                yield (row_text(row, self.columns.text, where),)

    def pairs(self) -> Iterator[Pair]:
        """Each pair."""
        asked = self.columns or Columns()
        for where, row in _rows(self.path, self.form):
            yield row_pair(row, where, asked.prompt or "", asked.answer or "")


def _described(path: Path, columns: Columns, rule: int) -> _File:
    """A path -> the file, with the columns that its first row has."""
    form = _format(path, rule)
    start = decode_utf8(_blocks(path), str(path)) if form in ("text", "fasta") else _rows(path, form)
    first = next(iter(start), None)  # what is no text is refused before all of it is hashed, which may be a terabyte
    return _File(path, form, choose_columns(columns, first[1], first[0]) if isinstance(first, tuple) else None, rule)


def _file_source(name: str, paths: list[Path], left_out: list[Path], columns: Columns, rule: int) -> Source:
    """Files -> one source."""
    files = [_described(path, columns, rule) for path in paths]
    paired = [file for file in files if file.paired]
    if paired and len(paired) < len(files):
        without = next(file for file in files if not file.paired)
        raise DataError(
            f"{paired[0].path} holds prompts with answers but {without.path} does not: keep the two kinds in folders "
            "of their own."
        )
    taken = dict.fromkeys(str(file.columns) for file in files if file.columns is not None)
    taken |= dict.fromkeys("letters of the sequence lines" for file in files if file.form == "fasta")
    if left_out:
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        taken[f"text files alone, without {', '.join(path.name for path in left_out[:3])}{more}"] = None
    return Source(
        name=name,
        fingerprint=_fingerprint(files),
        paired=bool(paired),
        read_pieces=lambda: _numbered(chunks for file in files for chunks in file.documents()),
        read_pairs=lambda: itertools.chain.from_iterable(file.pairs() for file in files),
        taken="; ".join(taken),
        size=sum(file.path.stat().st_size for file in files),
    )


def _blocks(path: Path) -> Iterator[bytes]:
    """A file -> its blocks of bytes, uncompressed if its name ends in .gz."""
    with opened(path) as file:
        while block := file.read(_BLOCK):
            yield block


def _fingerprint(files: Iterable[_File]) -> str:
    """Files in order -> the sha256 of their formats, sizes and contents; their names do not matter."""
    total = hashlib.sha256()
    for file in files:
        try:
            with file.path.open("rb") as content:
                digest, size = hashlib.file_digest(content, "sha256").hexdigest(), content.tell()
        except OSError as error:
            raise DataError(f"{file.path} cannot be read ({error.strerror}): check its permissions.") from error
        label = "text" if file.form == "text" else f".{file.form}"
        if file.path.name.lower().endswith(".gz"):
            label += ".gz"
        total.update(f"{label} {size} {digest}\n".encode())
    return total.hexdigest()


def _numbered(documents: Iterable[Iterable[str]]) -> Iterator[Piece]:
    """Documents, each as chunks of text -> their pieces, numbered from 0 without the empty ones."""
    number = 0
    for chunks in documents:
        written = False
        for piece in document_pieces(number, chunks):
            written = True
            yield piece
        number += written


def _bundled_source(name: str) -> Source:
    """The name of a bundled corpus -> its source."""
    files = CORPORA[name].files
    fingerprint = hashlib.sha256("\n".join(BUNDLED[file].sha256 for file in files).encode()).hexdigest()
    return Source(name, fingerprint, False, lambda: _numbered(_texts_of_bundled(files)), lambda: ())


def _texts_of_bundled(names: Iterable[str]) -> Iterator[Iterable[str]]:
    for name in names:
        for line in read_bundled(name):
            text = line.decode("utf-8")
            yield (parse_json(text, dict[str, Any])["text"] if ".jsonl" in BUNDLED[name].file else text,)


def _hub_source(source: str, columns: Columns) -> Source:
    """hf:NAME[:CONFIG][@SPLIT] -> the source of that data set, streamed."""
    dataset = open_hub(source)
    first = next(iter(dataset.rows()), None)
    taken = columns if first is None else choose_columns(columns, first, f"{source}, row 1")

    def texts() -> Iterator[Iterable[str]]:
        for number, row in enumerate(dataset.rows()):
            yield (row_text(row, taken.text or "", f"{source}, row {number + 1}"),)

    def pairs() -> Iterator[Pair]:
        for number, row in enumerate(dataset.rows()):
            yield row_pair(row, f"{source}, row {number + 1}", taken.prompt or "", taken.answer or "")

    return Source(source, dataset.fingerprint, taken.text is None, lambda: _numbered(texts()), pairs, str(taken))

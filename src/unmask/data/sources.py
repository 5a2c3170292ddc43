"""A text -> a source of documents or pairs: files, folders, globs, bundled corpora, data sets of `datasets`.

The bundled corpora are files of the library; the cards beside them say how they were made.
"""

__all__ = ["BUNDLED", "CORPORA", "BundledFile", "Corpora", "Source", "open_source", "read_bundled"]

import glob
import hashlib
import io
import lzma
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.config import to_path
from unmask.data.documents import Pair, Piece, decode_utf8, document_pieces, is_pair, json_rows, row_pair, row_text
from unmask.data.hub import open_hub
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
    """The files of a corpus name, and a line about them."""

    about: str
    files: tuple[str, ...]
    """Keys of BUNDLED, read one after another."""


BUNDLED = {
    "austen": BundledFile("austen.jsonl.xz", "4b62d2585e771dfef93806006790ca073e0eec907c9f5ac691754a3c6c142571"),
    "ecoli-k12": BundledFile("ecoli-k12.txt.xz", "35832cfe93724dc085a96aa88b474b146b7faaebe1391c2e43ebc8aa219714c1"),
    "shakespeare": BundledFile(
        "shakespeare.jsonl.xz", "e8589383a80b7fa4771fe6a976cb7d0f63f329093c1d27fcd2a521c2d363234c"
    ),
    "sotu": BundledFile("sotu.jsonl.xz", "b992acbac1c03af12b22a5b4886b86a1e00eb488e6c2736736932a39b2c33717"),
}
CORPORA = {
    "austen": Corpora("the six novels of Jane Austen, 269 chapters, 4.0 MB", ("austen",)),
    "ecoli-k12": Corpora("the genome of E. coli K-12 MG1655, 4.6 million bases", ("ecoli-k12",)),
    "english": Corpora("shakespeare, austen and sotu together, 19.8 MB", ("shakespeare", "austen", "sotu")),
    "shakespeare": Corpora("38 plays of William Shakespeare, 5.0 MB", ("shakespeare",)),
    "sotu": Corpora("233 State of the Union addresses, 1790 to 2021, 10.8 MB", ("sotu",)),
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
    with lzma.open(io.BytesIO(packed)) as file:
        yield from file


_BLOCK = 1 << 20
_JSON_SUFFIXES = (".jsonl", ".jsonl.gz")
_FOLDER_SUFFIXES = (".txt", ".md", *_JSON_SUFFIXES)


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
        """The pairs.

        Raises:
            DataError: if a row has no prompt or answer.
        """
        yield from self.read_pairs()


def open_source(source: str, text_key: str = "text") -> Source:
    """A text as in DataSettings.source -> the source.

    Raises:
        RequestError: for the name of a bundled corpus where there is a path of that name.
        DataError: if there is no such source, or it holds no text.
    """
    if source.startswith("hf:"):
        return _hub_source(source, text_key)
    if source in CORPORA:
        refuse_ambiguous(source, "bundled corpus")
        return _bundled_source(source)
    path = to_path(source)
    if path.is_dir():
        return _file_source(source, _files_of_folder(path), text_key)
    if path.exists():
        if not path.is_file():
            raise DataError(
                f"{source} is a pipe, a device or a socket, and a source is read more than once: write its text to a "
                "file first."
            )
        return _file_source(source, [path], text_key)
    if glob.has_magic(source):
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if not files:
            raise DataError(f"no file matches {source}: check the pattern, and quote it on a command line.")
        return _file_source(source, files, text_key)
    if "/" in source or "." in source:
        raise DataError(
            f"there is no file or folder {source}: give a path that exists, or one of {', '.join(CORPORA)}."
        )
    raise DataError(
        f"there is no file, folder or corpus '{source}' (the corpora are {', '.join(CORPORA)}): "
        f"{did_you_mean(source, CORPORA)}"
    )


def _files_of_folder(folder: Path) -> list[Path]:
    """A folder -> the text files under it, sorted by path; hidden files are left out."""
    files = [
        path
        for path in folder.rglob("*")
        if path.name.lower().endswith(_FOLDER_SUFFIXES)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not files:
        raise DataError(f"the folder {folder} holds no text: put .txt, .md, .jsonl or .jsonl.gz files into it.")
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def _is_json(path: Path) -> bool:
    return path.name.lower().endswith(_JSON_SUFFIXES)


def _file_source(name: str, files: list[Path], text_key: str) -> Source:
    """Files -> one source."""
    paired = [_is_json(path) and _holds_pairs(path, text_key) for path in files]
    if any(paired) and not all(paired):
        with_pairs, without = files[paired.index(True)], files[paired.index(False)]
        raise DataError(
            f"{with_pairs} holds prompts with answers but {without} does not: keep the two kinds in folders of their "
            "own."
        )
    return Source(
        name=name,
        fingerprint=_fingerprint(files),
        paired=any(paired),
        read_pieces=lambda: _pieces_of_files(files, text_key),
        read_pairs=lambda: _pairs_of_files(files),
    )


def _holds_pairs(path: Path, text_key: str) -> bool:
    """Whether the first row of a .jsonl file is a pair."""
    first = next(json_rows(path), None)
    return first is not None and is_pair(first[1], text_key)


def _blocks(path: Path) -> Iterator[bytes]:
    """A file -> its blocks of bytes."""
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _fingerprint(files: Iterable[Path]) -> str:
    """Files in order -> the sha256 of their formats, sizes and contents; their names do not matter."""
    total = hashlib.sha256()
    for path in files:
        content, size = hashlib.sha256(), 0
        for block in _blocks(path):
            content.update(block)
            size += len(block)
        suffix = next((suffix for suffix in reversed(_JSON_SUFFIXES) if path.name.lower().endswith(suffix)), "text")
        total.update(f"{suffix} {size} {content.hexdigest()}\n".encode())
    return total.hexdigest()


def _pieces_of_files(files: Iterable[Path], text_key: str) -> Iterator[Piece]:
    """Files -> the pieces of their documents: each text file, and each row of a .jsonl file, is a document."""
    document = 0
    for path in files:
        for chunks in _documents_of_file(path, text_key):
            written = False
            for piece in document_pieces(document, chunks):
                written = True
                yield piece
            document += written


def _documents_of_file(path: Path, text_key: str) -> Iterator[Iterable[str]]:
    """A file -> each of its documents, as chunks of text."""
    if not _is_json(path):
        yield decode_utf8(_blocks(path), str(path))
        return
    for number, row in json_rows(path):
        yield (row_text(row, text_key, f"{path}, line {number}"),)


def _pairs_of_files(files: Iterable[Path]) -> Iterator[Pair]:
    for path in files:
        for number, row in json_rows(path):
            yield row_pair(row, f"{path}, line {number}")


def _no_pairs() -> Iterator[Pair]:
    return iter(())


def _bundled_source(name: str) -> Source:
    """The name of a bundled corpus -> its source."""
    files = CORPORA[name].files
    fingerprint = hashlib.sha256("\n".join(BUNDLED[file].sha256 for file in files).encode()).hexdigest()
    return Source(name, fingerprint, False, lambda: _pieces_of_bundled(files), _no_pairs)


def _pieces_of_bundled(names: Iterable[str]) -> Iterator[Piece]:
    document = 0
    for name in names:
        for line in read_bundled(name):
            text = line.decode("utf-8")
            if ".jsonl" in BUNDLED[name].file:
                text = parse_json(text, dict[str, Any])["text"]
            yield from document_pieces(document, (text,))
            document += 1


def _hub_source(source: str, text_key: str) -> Source:
    """hf:NAME[:CONFIG][@SPLIT] -> the source of that data set, streamed."""
    dataset = open_hub(source)

    def pieces() -> Iterator[Piece]:
        for document, row in enumerate(dataset.rows()):
            yield from document_pieces(document, (row_text(row, text_key, f"{source}, row {document + 1}"),))

    def pairs() -> Iterator[Pair]:
        for number, row in enumerate(dataset.rows()):
            yield row_pair(row, f"{source}, row {number + 1}")

    first = next(iter(dataset.rows()), None)
    return Source(source, dataset.fingerprint, first is not None and is_pair(first, text_key), pieces, pairs)

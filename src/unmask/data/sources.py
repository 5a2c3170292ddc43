"""Where text comes from: files, folders, globs, bundled corpora, data sets of the `datasets` library."""

__all__ = ["Source", "open_source"]

import glob
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unmask.data.corpora import BUNDLED, CORPORA, read_bundled
from unmask.data.hub import open_hub
from unmask.data.pieces import Piece, decode_utf8, document_pieces
from unmask.data.rows import Pair, is_pair, json_rows, row_pair, row_text
from unmask.errors import DataError, did_you_mean

_BLOCK = 1 << 20
_JSON_SUFFIXES = (".jsonl", ".jsonl.gz")
_FOLDER_SUFFIXES = (".txt", ".md", *_JSON_SUFFIXES)


@dataclass(frozen=True, slots=True)
class Source:
    """A stream of documents, or of pairs, that can be read again and again and never needs to fit into memory."""

    name: str
    fingerprint: str
    """sha256 over the content, in hex: the same content, wherever it lies, has the same fingerprint."""
    paired: bool
    """Whether the source holds prompts with answers; then `pairs` is to be read, else `pieces`."""
    read_pieces: Callable[[], Iterable[Piece]]
    read_pairs: Callable[[], Iterable[Pair]]

    def pieces(self) -> Iterator[Piece]:
        """The documents, each as one or more pieces; empty ones are passed over.

        Raises:
            DataError: where the content is not what it should be, or holds no text at all.
        """
        piece = None
        for piece in self.read_pieces():
            yield piece
        if piece is None:
            raise DataError(f"{self.name} is empty: there is no text to learn from.")

    def pairs(self) -> Iterator[Pair]:
        """The prompts with their answers.

        Raises:
            DataError: where a row has no prompt or answer.
        """
        yield from self.read_pairs()


def open_source(source: str, text_key: str = "text") -> Source:
    """The source that `source` names: see DataSettings.source. Names of bundled corpora come before files of that name.

    Raises:
        DataError: where there is no such source, or nothing in it that could be text.
    """
    if source.startswith("hf:"):
        return _hub_source(source, text_key)
    if source in CORPORA:
        return _bundled_source(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _file_source(source, _files_of_folder(path), text_key)
    if path.exists():
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
    """The text files under `folder`, sorted by path; hidden ones are left out."""
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
    """Some files as one source."""
    paired = [_is_json(path) and _holds_pairs(path, text_key) for path in files]
    if any(paired) and not all(paired):
        one, other = files[paired.index(True)], files[paired.index(False)]
        raise DataError(
            f"{one} holds prompts with answers but {other} does not: keep the two kinds in folders of their own."
        )
    return Source(
        name=name,
        fingerprint=_fingerprint(files),
        paired=any(paired),
        read_pieces=lambda: _pieces_of_files(files, text_key),
        read_pairs=lambda: _pairs_of_files(files),
    )


def _holds_pairs(path: Path, text_key: str) -> bool:
    """Whether the first row of a .jsonl file is a prompt with its answer."""
    first = next(json_rows(path), None)
    return first is not None and is_pair(first[1], text_key)


def _blocks(path: Path) -> Iterator[bytes]:
    """A file in blocks of bytes."""
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _fingerprint(files: Iterable[Path]) -> str:
    """sha256 over kind, content and size of the files in their order; their names do not matter."""
    total = hashlib.sha256()
    for path in files:
        content, size = hashlib.sha256(), 0
        for block in _blocks(path):
            content.update(block)
            size += len(block)
        kind = next((suffix for suffix in reversed(_JSON_SUFFIXES) if path.name.lower().endswith(suffix)), "text")
        total.update(f"{kind} {size} {content.hexdigest()}\n".encode())
    return total.hexdigest()


def _pieces_of_files(files: Iterable[Path], text_key: str) -> Iterator[Piece]:
    """A text file is a document, and so is a row of a .jsonl file."""
    document = 0
    for path in files:
        for chunks in _documents_of_file(path, text_key):
            written = False
            for piece in document_pieces(document, chunks):
                written = True
                yield piece
            document += written


def _documents_of_file(path: Path, text_key: str) -> Iterator[Iterable[str]]:
    """Each document of a file as chunks of text."""
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
    """A corpus that ships inside the library."""
    files = CORPORA[name].files
    fingerprint = hashlib.sha256("\n".join(BUNDLED[file].sha256 for file in files).encode()).hexdigest()
    return Source(name, fingerprint, False, lambda: _pieces_of_bundled(files), _no_pairs)


def _pieces_of_bundled(names: Iterable[str]) -> Iterator[Piece]:
    document = 0
    for name in names:
        for line in read_bundled(name):
            text = line.decode("utf-8")
            if ".jsonl" in BUNDLED[name].file:
                text = json.loads(text)["text"]
            yield from document_pieces(document, (text,))
            document += 1


def _hub_source(source: str, text_key: str) -> Source:
    """A data set of the `datasets` library, streamed."""
    dataset = open_hub(source)

    def pieces() -> Iterator[Piece]:
        for document, row in enumerate(dataset.rows()):
            yield from document_pieces(document, (row_text(row, text_key, f"{source}, row {document + 1}"),))

    def pairs() -> Iterator[Pair]:
        for number, row in enumerate(dataset.rows()):
            yield row_pair(row, f"{source}, row {number + 1}")

    first = next(iter(dataset.rows()), None)
    return Source(source, dataset.fingerprint, first is not None and is_pair(first, text_key), pieces, pairs)

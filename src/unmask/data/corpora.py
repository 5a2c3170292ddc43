"""The corpora that ship inside the library, by name. How they were made: the cards beside them."""

__all__ = ["BUNDLED", "CORPORA", "BundledFile", "Corpora", "read_bundled"]

import hashlib
import io
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unmask.errors import DataError

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "corpora"


@dataclass(frozen=True, slots=True)
class BundledFile:
    """One file of the library; `sha256` is that of the file, compressed as it is."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Corpora:
    """What a corpus name stands for."""

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
    """The lines of the bundled file `name` (a key of BUNDLED), line ends included, after its checksum was verified.

    Raises:
        DataError: where the file is missing or its checksum is wrong.
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

"""A text hf:NAME[:CONFIG][@SPLIT] -> a data set of the library `datasets`, streamed; a Parquet file -> its rows.

Both libraries, `datasets` and the `pyarrow` that it needs, are an extra.
"""

__all__ = ["HubDataset", "open_hub", "parquet_rows"]

import hashlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask.errors import DataError


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set whose rows can be read repeatedly."""

    fingerprint: str
    """The sha256, in hexadecimal, of name, configuration, split and, if there is one, the fingerprint of `datasets`."""
    rows: Callable[[], Iterable[Mapping[str, Any]]]


def open_hub(source: str) -> HubDataset:
    """hf:NAME[:CONFIG][@SPLIT] -> the data set; the default split is train.

    Raises:
        DataError: if `datasets` is not installed, the name is empty, or the library cannot open it.
    """
    address, _, split = source.removeprefix("hf:").partition("@")
    name, _, config = address.partition(":")
    if not name:
        raise DataError(f"{source} names no data set: write hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG@SPLIT.")
    try:
        library: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise DataError(f"{source} needs the datasets library: pip install 'unmask[hf]'.") from error
    split = split or "train"
    try:
        dataset = library.load_dataset(name, config or None, split=split, streaming=True)
    except Exception as error:  # the library raises many types: no such name, no such split, no network
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{source} could not be opened ({reason}): check name, configuration, split and network."
        ) from error
    version = getattr(dataset, "_fingerprint", None) or ""
    identity = "\n".join(("hf", name, config, split, str(version)))
    return HubDataset(hashlib.sha256(identity.encode()).hexdigest(), lambda: dataset)


def parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """A Parquet file -> its rows, a group of rows in memory at a time.

    Raises:
        DataError: if `pyarrow` is not installed, or it cannot read the file.
    """
    try:
        library: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            f"{path} needs the pyarrow library: pip install 'unmask[hf]', or pip install pyarrow."
        ) from error
    try:
        for batch in library.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except Exception as error:  # pyarrow raises many types: damaged, encrypted, a type that it does not know
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read as Parquet ({reason}): make or fetch it again.") from error

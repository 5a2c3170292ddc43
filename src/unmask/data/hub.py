"""A text hf:NAME[:CONFIG][@SPLIT] -> a data set of the library `datasets` (an extra), streamed."""

__all__ = ["HubDataset", "open_hub"]

import hashlib
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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

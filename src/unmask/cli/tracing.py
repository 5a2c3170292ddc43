"""What `--trace FILE` does, for every verb that has it."""

__all__ = ["Tracing", "write"]

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from unmask.cli.show import note
from unmask.disk.files import atomic_text
from unmask.errors import RequestError
from unmask.trace.events import Trace
from unmask.trace.files import to_html, to_jsonl
from unmask.trace.recorder import Recorder

if TYPE_CHECKING:
    from unmask.api import Model
    from unmask.decode.rows import Snapshot, Written

Row = TypeVar("Row", bound="Written")
_ALTERNATIVES = 5


class Tracing:
    """Records a stream where a file is named; without one it does nothing."""

    def __init__(self, path: str | None) -> None:
        """Raises RequestError for a name of another kind, or a place where no file can be written."""
        self._path = None if path is None else _checked(path)
        self._model: Model | None = None
        self._recorder: Recorder | None = None

    @property
    def alternatives(self) -> int:
        """How many the stream is to tell."""
        return 0 if self._path is None else _ALTERNATIVES

    def record(
        self, model: "Model", stream: "Generator[Snapshot, None, list[Row]]", template: str | None = None
    ) -> "Generator[Snapshot, None, list[Row]]":
        """The same stream; `template` is what is filled."""
        if self._path is None:
            return stream
        self._model, self._recorder = model, model.recorder(template)
        return self._recorder.record(stream)

    def save(self, rows: "Sequence[Written]", **facts: Any) -> None:
        """Write the file; `facts` are those of `Model.trace`."""
        if self._path is not None and self._model is not None and self._recorder is not None:
            write(self._path, self._model.trace(self._recorder, rows, **facts))


def write(path: Path, trace: Trace) -> None:
    """The trace as a page where the name ends in .html, as JSON lines elsewhere; and say so."""
    page = path.suffix == ".html"
    atomic_text(path, to_html(trace) if page else to_jsonl(trace))
    note(f"  {path}: {len(trace.events):,} events; {'open it in a browser' if page else f'unmask watch {path}'}")


def _checked(name: str) -> Path:
    path = Path(name)
    if path.suffix not in (".jsonl", ".html"):
        raise RequestError(f"--trace cannot write '{name}'; give a name that ends in .jsonl or, for a page, .html.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise RequestError(f"--trace cannot write '{name}'; give a file in a folder that can be written.")
    return path

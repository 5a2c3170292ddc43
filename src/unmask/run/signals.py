"""Stopping a run politely: the first Ctrl-C lets the loop end its step and write a checkpoint."""

__all__ = ["Interrupt"]

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class Interrupt:
    """Inside the `with` block SIGINT and SIGTERM only set `requested`; a second SIGINT raises KeyboardInterrupt.

    The former handlers are put back at the end. Outside of the main thread, where Python allows no handlers, it
    does nothing and `requested` stays False.
    """

    def __init__(self) -> None:
        """Nothing is installed before the block is entered."""
        self.requested = False
        self._former: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the former handlers back; one that was not set from Python (None) becomes the default."""
        for number, former in self._former.items():
            signal.signal(number, signal.SIG_DFL if former is None else former)  # pyright: ignore[reportArgumentType]
        self._former = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        """The handler of both signals."""
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

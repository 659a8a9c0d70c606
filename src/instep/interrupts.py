"""Ctrl-C during a step: the step is finished first, then the interrupt is raised."""

import importlib
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

try:
    # The C functions behind `signal.signal`, which takes ten times as long to make enums of
    # handlers: 0.8 us against 10 us, in a step that may be as short as 5 us.
    _signal: Any = importlib.import_module("_signal")
except ImportError:  # another Python than CPython
    _signal = signal


class HeldInterrupts:
    """A context in which SIGINT is recorded, and handled when the context ends.

    Python handles signals in its main thread only, so other threads need no holding.
    """

    __slots__ = ("_arrived", "_handler")

    def __init__(self) -> None:
        self._handler: Any = None
        self._arrived: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> None:
        self._arrived = None
        self._handler = None
        if threading.get_ident() == threading.main_thread().ident:
            handler = _signal.getsignal(signal.SIGINT)
            if callable(handler):
                self._handler = handler
                _signal.signal(signal.SIGINT, self._record)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self._arrived = (number, frame)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._handler is not None:
            _signal.signal(signal.SIGINT, self._handler)
            if self._arrived is not None:
                self._handler(*self._arrived)

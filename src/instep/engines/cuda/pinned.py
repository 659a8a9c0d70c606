"""Pinned host memory, for copies between host and device that no one waits for."""

import weakref
from collections import deque
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from instep.interrupts import Call, at_once


class Buffer(NamedTuple):
    """Pinned memory, as an array too, and an event that tells when its copy is done."""

    event: Any
    memory: Any
    view: NDArray[Any]


def host_array(count: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return room for so many elements in pinned memory of the host."""
    import cupyx

    found: NDArray[Any] = cupyx.empty_pinned(count, dtype) if count else np.empty(0, dtype)
    return found


#: What copies may still read or write, of owners that are gone. CuPy would give such memory to
#: whoever asks next.
abandoned: deque[deque[Buffer]] = deque()


class PinnedBuffers:
    """Buffers of one size: as many as there are copies on their way at once.

    Attributes
    ----------
    in_flight
        Those whose copy may not be done, the oldest first.
    """

    def __init__(self, count: int, dtype: DTypeLike) -> None:
        self._count, self._dtype = count, np.dtype(dtype)
        self._spare: list[Buffer] = []
        self.in_flight: deque[Buffer] = deque()
        weakref.finalize(self, _abandon, self.in_flight).atexit = False

    def spare(self) -> Buffer:
        """Return a buffer that no copy uses; it stays the same until it is sent."""
        if not self._spare:
            self._spare.append(self._made())
        return self._spare[-1]

    def _made(self) -> Buffer:
        import cupy

        forget_done()
        memory = cupy.cuda.alloc_pinned_memory(self._count * self._dtype.itemsize)
        view = np.frombuffer(memory, self._dtype, self._count)
        return Buffer(cupy.cuda.Event(disable_timing=True), memory, view)

    def sending(self, stream: Any) -> list[Call]:
        """Return the calls that follow the copy of the spare buffer, put on this stream."""
        buffer = self._spare[-1]
        note = partial(self.in_flight.append, buffer)
        return [partial(buffer.event.record, stream), note, self._spare.pop]

    def receiving(self) -> list[Call]:
        """Return the calls that take back the oldest buffer in flight, whose copy is done."""
        return [self.in_flight.popleft, partial(self._spare.append, self.in_flight[0])]

    def reclaim(self) -> None:
        """Take back what is done. Copies on other streams than the oldest may have to wait."""
        while self.in_flight and self.in_flight[0].event.done:
            at_once(self.receiving())


def _abandon(buffers: deque[Buffer]) -> None:
    if buffers:
        abandoned.append(buffers)


def forget_done() -> None:
    """Let go of what owners that are gone have left, where all copies are done."""
    for _ in range(len(abandoned)):
        buffers = abandoned.popleft()
        if not all(buffer.event.done for buffer in buffers):
            abandoned.append(buffers)

"""Arrays of any library that exports its memory: NumPy or CuPy arrays of it stand for them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from instep import arrays, engines
from instep.exchange import NO_STREAM, Memory
from instep.plan.kinds import Lane, Pair, StandIn


def pair(held: Sequence[Any]) -> Pair | None:
    """Return what stands for a parameter and its gradient, if something can."""
    w, g = (None if x is None else arrays.exported(x) for x in held)
    if w is None or not _can_be_seen(w) or not (g is None or _can_be_seen(g)):
        return None
    take_back = None
    if not w.is_writable:
        take_back = _taker(held[0], w) if w.platform == "cpu" else None
        if take_back is None:
            return None
    gradient = None if g is None else Export(held[1], g)
    return Export(held[0], w, take_back), gradient


def reading(held: Any) -> Any:
    """Return an array of NumPy or CuPy of the memory of one that is read only."""
    memory = arrays.exported(held)
    if memory is None or not _can_be_seen(memory):
        return held
    return Export(held, memory).array(held)


def _can_be_seen(memory: Memory) -> bool:
    """Return whether an array of NumPy or CuPy can stand for one there."""
    dtype = arrays.numpy_dtype(memory.dtype)
    if dtype is None or memory.platform == "cpu":
        return dtype is not None
    return can_be_on_device(dtype)


def can_be_on_device(dtype: np.dtype[Any]) -> bool:
    """Return whether the CUDA engine runs here, and knows a dtype."""
    if engines.load("cuda").unavailable() is not None:
        return False
    from instep.engines.cuda.foreign import knows

    return knows(dtype)


def _taker(held: Any, memory: Memory) -> Callable[[Any], Any] | None:
    """Return the function that makes an array of this library of one of NumPy, if it has one."""
    if not arrays.has_namespace(held):
        return None
    take = getattr(arrays.namespace(held), "from_dlpack", None)
    try:
        back = None if take is None else take(array_of(memory).copy(order="C"))
    except (BufferError, NotImplementedError, TypeError, ValueError):
        return None
    return take if type(back) is type(held) else None


def array_of(memory: Memory) -> Any:
    """Return an array of NumPy or CuPy of the same memory, which keeps it."""
    if memory.platform == "cpu":
        return arrays.seen(memory, memory.owner)
    from instep.engines.cuda.foreign import array_at

    place, dtype = (memory.address, memory.shape, memory.strides), arrays.numpy_dtype(memory.dtype)
    return array_at(*place, dtype, device=memory.device, owner=memory.owner)


class Export(StandIn):
    """An array of a library that exports its memory, at each step anew.

    Parameters
    ----------
    take_back
        The function that makes an array of the library of one that was written, where what is held
        cannot be.
    """

    def __init__(
        self, held: Any, memory: Memory, take_back: Callable[[Any], Any] | None = None
    ) -> None:
        self._of = type(held), memory.kind
        self.take_back: Any = take_back
        self.replaces = take_back is not None
        self._device, self._stream = memory.device, memory.stream
        self._is_on_device = memory.platform == "cuda"
        self.lane = self._lane if self._is_on_device else None

    def _lane(self) -> Lane:
        assert self._device is not None  # some array has been seen
        return self._device, self._stream

    def array(self, held: Any) -> Any:
        memory = arrays.exported(held, self._waiting())
        if memory is None or (type(held), memory.kind) != self._of:
            return None
        seen = array_of(memory)
        if self._is_on_device:
            self._device, self._stream = seen.device.id, memory.stream
        return seen.copy(order="C") if self.replaces else seen

    def _waiting(self) -> int:
        """Return the handle of the stream that is to wait for the library."""
        if not self._is_on_device or self._device is None:
            return NO_STREAM
        from instep.engines.cuda.foreign import current_stream

        return current_stream(self._device)

    @staticmethod
    def hand_back(written: Sequence[tuple["Export", Any]]) -> Sequence[Any]:
        return [own.take_back(array) for own, array in written]

"""Arrays of other libraries on the device, and the streams that these libraries work on.

A step runs on CuPy's current stream. Where another library works on another one, each waits for
the other on the device, and the host for none.
"""

import ctypes
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, TypeGuard

import numpy as np

from instep import arrays
from instep.arrays import extent

#: A device, and the handle of the stream there on which a library works, if it is known.
Lane = tuple[int, int | None]

#: The default stream in the words of the protocols; CuPy and PyTorch call it 0.
_LEGACY = 1


@cache
def knows(dtype: np.dtype[Any]) -> bool:
    """Return whether CuPy has arrays of a dtype: before version 14 it had no bfloat16."""
    import cupy

    try:
        cupy.empty(0, dtype)
    except (TypeError, ValueError):
        return False
    return True


def array_at(
    address: int,
    shape: tuple[int, ...],
    strides: Sequence[int],
    dtype: np.dtype[Any],
    *,
    device: int | None,
    owner: Any = None,
) -> Any:
    """Return a CuPy array of memory, which lives as long as its owner; it keeps the one given."""
    import cupy

    before, after = extent(shape, strides, dtype.itemsize)
    if device is None:  # CuPy finds out, where there are elements
        device = -1 if after else cupy.cuda.runtime.getDevice()
    memory = cupy.cuda.UnownedMemory(address - before, before + after, owner, device)
    place = cupy.cuda.MemoryPointer(memory, before)
    return cupy.ndarray(shape, dtype, place, strides=tuple(strides))


def address_field(array: Any) -> int:
    """Return where an array has the address of its elements; 0 where that is not known.

    Another one may be written there, so that the array is at other memory from then on.
    """
    place = _address_in_pointers()
    return 0 if place is None else id(array.data) + place


@cache
def _address_in_pointers() -> int | None:
    """Return where CuPy's pointers have their address, in bytes: no header says it to Python."""
    import cupy

    memory = cupy.cuda.UnownedMemory(1 << 20, 1 << 20, None, 0)
    pointers = [cupy.cuda.MemoryPointer(memory, offset) for offset in (4_096, 65_536)]
    word = ctypes.c_int64.from_address
    places = [
        place
        for place in range(0, cupy.cuda.MemoryPointer.__basicsize__, 8)
        if all(word(id(one) + place).value == one.ptr for one in pointers)
    ]
    return places[0] if len(places) == 1 else None


def current_stream(device: int) -> int:
    """Return the handle of CuPy's current stream on a device, in the words of DLPack."""
    import cupy

    handle: int = cupy.cuda.get_current_stream(device).ptr
    return handle or _LEGACY


class Streams:
    """The order between the streams of libraries and those of CuPy, for one plan."""

    def __init__(self) -> None:
        import cupy

        self._cuda = cupy.cuda
        self._events: dict[int, Any] = {}

    def follow(self, lanes: Iterable[Lane]) -> None:
        """Let CuPy's current streams wait for what libraries have begun on theirs."""
        for device, theirs in lanes:
            with self._cuda.Device(device):
                if device not in self._events:
                    self._events[device] = self._cuda.Event(disable_timing=True)
                ours = self._cuda.get_current_stream().ptr
                if not _are_apart(theirs, ours):
                    continue
                if self._cuda.runtime.streamIsCapturing(theirs):
                    raise RuntimeError(
                        "a stream of another library is being captured into a CUDA graph, which "
                        "would repeat this one step; call update after each launch of the graph"
                    )
                self._order(theirs, ours, device)

    def lead(self, lanes: Iterable[Lane]) -> None:
        """Let what libraries begin from now on wait for CuPy's current streams."""
        for device, theirs in lanes:
            with self._cuda.Device(device):
                ours = self._cuda.get_current_stream()
                if theirs is None:  # there is no other way to tell the library
                    ours.synchronize()
                elif _are_apart(theirs, ours.ptr):
                    self._order(ours.ptr, theirs, device)

    def _order(self, first: int, then: int, device: int) -> None:
        """Let one stream of the current device wait for what another has been given."""
        event, runtime = self._events[device].ptr, self._cuda.runtime
        runtime.eventRecord(event, first)
        runtime.streamWaitEvent(then, event)


def _are_apart(theirs: int | None, ours: int) -> TypeGuard[int]:
    """Return whether the stream of a library is known, and another than CuPy's."""
    return theirs is not None and max(theirs, _LEGACY) != max(ours, _LEGACY)


#: What DLPack calls the memory of a CUDA device.
_CUDA = 2


def number_there(value: Any) -> Any:
    """Return a real number in the memory of a device as an array of CuPy; None: it is elsewhere."""
    import cupy

    library = arrays.library(value)
    if library == "torch" and value.is_cuda and value.dim() == 0:
        value = value.detach().double()
    tells = getattr(value, "__dlpack_device__", None)
    if library != "cupy" and tells is not None and int(tells()[0]) == _CUDA:
        value = cupy.from_dlpack(value)
    is_one = isinstance(value, cupy.ndarray) and value.ndim == 0 and value.dtype.kind in "fiu"
    return value if is_one else None

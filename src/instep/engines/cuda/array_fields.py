"""Where the fields of CuPy's arrays are: found by trying, for no header says it to Python.

Where a field is not found, or in several places, nothing is known: then arrays are asked through
Python.
"""

import ctypes
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from instep.engines.native import availability

_WORD = 8

#: Two shapes of different numbers of axes, with lengths that no other word of an array has.
_SHAPES = ((3, 5, 7), (11, 13, 2, 3, 17))


@dataclass(frozen=True)
class Fields:
    """Byte offsets of fields.

    Attributes
    ----------
    dtype, pointer
        Of the references to the dtype, and to what points at the elements.
    lengths, strides
        Of the addresses of the first axis; after each comes the address behind the last.
    address, device
        In what points at the elements: their address, and the number of the device in four bytes.
    """

    dtype: int
    pointer: int
    lengths: int
    strides: int
    address: int
    device: int


class _UnknownError(Exception):
    """A field was not found, or in several places."""


def are_known() -> bool:
    """Return whether compiled code can look at CuPy's arrays: there may be no compiler, too."""
    return availability.problem() is None and fields() is not None


@cache
def fields() -> Fields | None:
    """Return where the fields are, or None where it is not known."""
    is_locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.implementation.name != "cpython" or sys.byteorder != "little" or not is_locked:
        return None
    with suppress(_UnknownError, AttributeError):
        return _found()
    return None


def _found() -> Fields:
    import cupy

    pointers = [
        cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(address, 1 << 20, None, device), offset)
        for address, device, offset in ((1 << 20, 3, 4_096), (1 << 24, 5, 65_536))
    ]
    kinds = ("float32", "int16")
    arrays = [
        cupy.ndarray(shape, kind, pointer)
        for shape, kind, pointer in zip(_SHAPES, kinds, pointers, strict=True)
    ]
    lengths = _common(_vectors(array) for array in arrays)
    if len(lengths) != 2 or lengths[1] != lengths[0] + 3 * _WORD:
        raise _UnknownError
    for array in arrays:
        begins = [ctypes.c_int64.from_address(id(array) + place).value for place in lengths]
        for begin, own in zip(begins, (array.shape, array.strides), strict=True):
            if tuple(_words(begin, len(own) * _WORD)) != own:
                raise _UnknownError
    return Fields(
        dtype=_only(_where(id(array), array, id(array.dtype)) for array in arrays),
        pointer=_only(_where(id(array), array, id(array.data)) for array in arrays),
        lengths=lengths[0],
        strides=lengths[1],
        address=_only(_where(id(one), one, one.ptr) for one in pointers),
        device=_only(_where(id(one), one, one.device_id, ctypes.c_int32) for one in pointers),
    )


def _words(address: int, count: int, kind: Any = ctypes.c_int64) -> list[int]:
    """Return the numbers of a kind in so many bytes from an address on."""
    size = ctypes.sizeof(kind)
    return [kind.from_address(address + at).value for at in range(0, count // size * size, size)]


def _where(address: int, one: Any, value: int, kind: Any = ctypes.c_int64) -> list[int]:
    """Return the offsets in an object at which a number stands."""
    found = _words(address, type(one).__basicsize__, kind)
    return [ctypes.sizeof(kind) * i for i, number in enumerate(found) if number == value]


def _vectors(array: Any) -> list[int]:
    """Return the offsets of what can be a list of as many words as the array has axes.

    Three addresses: of the first word, behind the last, and behind the room that there is.
    """
    words, length = _words(id(array), type(array).__basicsize__), _WORD * array.ndim
    return [
        _WORD * i
        for i, (begin, end, behind) in enumerate(zip(words, words[1:], words[2:], strict=False))
        if begin > 0 and end - begin == length and length <= behind - begin <= 4 * length
    ]


def _common(places: Iterable[list[int]]) -> list[int]:
    """Return the offsets that all have."""
    return sorted(set.intersection(*map(set, places)))


def _only(places: Iterable[list[int]]) -> int:
    """Return the only offset that all have."""
    found = _common(places)
    if len(found) != 1:
        raise _UnknownError
    return found[0]

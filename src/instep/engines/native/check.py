"""The signature check of the hot path, compiled: a few nanoseconds an array.

Reading shape, strides, flags and address of an array through Python costs 0.4 us and more, which
for two hundred small tensors is as long as the step itself. This reads the fields of the array
objects themselves, whose layout (`PyArrayObject_fields`) is part of NumPy's C ABI. The layout is
tried on real arrays first; where it is another one (free-threaded builds), the Python check serves.
"""

import ctypes
import enum
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instep.arrays import extent
from instep.engines.native.check_code import ITEMS, TYPE, UNKNOWN, Word, emit
from instep.engines.native.fields import loads
from instep.engines.native.functions import Block, compile_method

# Byte offsets of fields in an array object, with the CPython header of 16 bytes before them.
ARRAY_DATA, _ND, _DIMENSIONS, _STRIDES, _DESCR, _FLAGS = 16, 24, 32, 40, 56, 64

_ALIGNED, _WRITEABLE = 0x0100, 0x0400


class OfArray(enum.IntEnum):
    """Positions in what is expected of an array beside `Expected`."""

    DESCR = 6
    ND = 7
    FLAGS = 8


#: Of arrays, in the text of a check.
_FIELDS = f"""\
{loads("object", {"descr": _DESCR}, unit="i8")}
{loads("object", {"nd": _ND, "flags_int": _FLAGS}, "i32", "i8")}
{loads("object", {"lengths": _DIMENSIONS, "strides": _STRIDES}, "ptr", "i8")}
  %descr_ok = icmp eq i64 %descr, %want_descr
  %axes = zext i32 %nd to i64
  %axes_ok = icmp eq i64 %axes, %want_nd
  %all_flags = zext i32 %flags_int to i64
  %flags = and i64 %all_flags, {_ALIGNED | _WRITEABLE}
  %flags_ok = icmp eq i64 %flags, %want_flags
  %some_ok = and i1 %descr_ok, %axes_ok
  %alike = and i1 %some_ok, %flags_ok"""

_MEMORY = f"""\
{loads("object", {"address": ARRAY_DATA}, unit="i8")}
  %sound = icmp eq i64 0, 0"""


#: Arrays, and for each the address to write its own to.
Placed = tuple[Sequence[Any], Sequence[int]]

#: A function of all parameters and all gradients, in tuples.
Compare = Callable[[tuple[Any, ...], tuple[Any, ...]], int]


class Signature(NamedTuple):
    """What is recorded of an object.

    Attributes
    ----------
    strides
        In units of the object's own.
    extents
        Bytes before its address, and from it on.
    words
        What is expected beside `Expected`.
    kept
        What stays alive, so that its identity stays its own.
    """

    shape: Sequence[int]
    strides: Sequence[int]
    extents: tuple[int, int]
    words: Sequence[int]
    kept: Any = None


class SignatureCheck:
    """Compares parameters and gradients with recorded signatures, in one call.

    The addresses of the arrays are written where they belong.

    Parameters
    ----------
    places
        Numbers of the parameters, and of their gradients, among all leaves.

    Attributes
    ----------
    compare
        Returns DIFFERENT, SAME, MOVED, CLEAR or LOST. After DIFFERENT, the addresses of the
        gradients are of no meaning, after LOST, none is.
    fits
        Returns whether it is SAME or CLEAR. Otherwise the addresses are forgotten of arrays that
        are not known to be those of before.
    """

    def __init__(self, parameters: Placed, gradients: Placed, places: Sequence[int]) -> None:
        kept: list[Any] = []
        addresses = [
            self._record(*parameters, places, kept, is_written=True),
            self._record(*gradients, places, kept, is_written=False),
        ]
        self._block = Block([*addresses, len(places), 0, 0, UNKNOWN], expected=kept)
        self.compare: Compare = compile_method(self._text(), "compare")(self._block)
        self.fits: Compare = compile_method(self._text(), "fits")(self._block)

    def _text(self) -> str:
        return _text()

    def _signature(self, x: Any, *, is_written: bool) -> Signature:
        flags, shape, strides = x.flags, x.shape, x.strides
        bits = _ALIGNED * flags.aligned | _WRITEABLE * flags.writeable
        extents = (0, x.nbytes) if flags.c_contiguous else extent(shape, strides, x.itemsize)
        return Signature(shape, strides, extents, (id(x.dtype), x.ndim, bits), x.dtype)

    def _record(
        self,
        objects: Sequence[Any],
        destinations: Sequence[int],
        places: Sequence[int],
        kept: list[Any],
        *,
        is_written: bool,
    ) -> int:
        """Return the address of what is expected of parameters, or of gradients."""
        found = [self._signature(x, is_written=is_written) for x in objects]
        axes = [axis for one in found for axis in zip(one.shape, one.strides, strict=True)]
        shapes, expected = array("q", [n for axis in axes for n in axis] or [0]), array("Q")
        shape = shapes.buffer_info()[0]
        for x, one, place, to in zip(objects, found, places, destinations, strict=True):
            expected.extend((place, id(type(x)), shape, to, *one.extents, *one.words))
            shape += 16 * len(one.shape)
        kept += [found, shapes, expected]
        return expected.buffer_info()[0]

    def watch(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """Take the memory of the parameters: ranges that do not overlap, in order.

        From then on CLEAR may be returned, until parameters have moved.
        """
        block = self._block
        block.kept["ranges"] = starts, stops
        block.put(Word.STARTS, starts.ctypes.data)
        block.put(Word.STOPS, stops.ctypes.data)
        block.put(Word.RANGES, len(starts))

    @property
    def is_watching(self) -> bool:
        """Whether it is known where the parameters are."""
        return self._block.word(Word.RANGES) != UNKNOWN


@cache
def _text() -> str:
    return emit(OfArray, _FIELDS, _MEMORY)


@cache
def is_supported() -> bool:
    """Return whether arrays of this Python and NumPy have the layout that is read here."""
    a = np.zeros((3, 5), dtype=np.float32)[::2, 1:]
    header = object.__basicsize__
    if header != ARRAY_DATA or np.ndarray.__basicsize__ < _FLAGS + 4:
        return False
    word, pair = ctypes.c_int64.from_address, (a, header)
    dimensions, strides = word(id(a) + _DIMENSIONS).value, word(id(a) + _STRIDES).value
    flags = ctypes.c_int32.from_address(id(a) + _FLAGS)
    read_write = flags.value & _WRITEABLE
    a.flags.writeable = False
    return (
        [word(id(pair) + ITEMS + 8 * i).value for i in range(2)] == [id(a), id(header)]
        and word(id(a) + TYPE).value == id(np.ndarray)
        and word(id(a) + ARRAY_DATA).value == a.ctypes.data
        and ctypes.c_int32.from_address(id(a) + _ND).value == a.ndim
        and [word(dimensions + 8 * i).value for i in range(a.ndim)] == list(a.shape)
        and [word(strides + 8 * i).value for i in range(a.ndim)] == list(a.strides)
        and word(id(a) + _DESCR).value == id(a.dtype)
        and read_write == _WRITEABLE
        and flags.value & _WRITEABLE == 0
    )

"""The signature check of the hot path, compiled: a few nanoseconds an array.

Reading shape, strides, flags and address of an array through Python costs 0.4 us and more, which
for two hundred small tensors is as long as the step itself. This reads the fields of the array
objects themselves, whose layout (`PyArrayObject_fields`) is part of NumPy's C ABI. The layout is
tried on real arrays first; where it is another one (PyPy, free-threaded builds), the Python check
serves.
"""

import ctypes
import enum
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.engines.native.compile import compile_function
from instep.engines.native.fields import loads, named

# Byte offsets of fields in an array object, with the CPython header of 16 bytes before them.
_TYPE, ARRAY_DATA, _ND, _DIMENSIONS, _STRIDES, _DESCR, _FLAGS = 8, 16, 24, 32, 40, 56, 64

# Byte offset of the references in a tuple.
ITEMS = 24

_ALIGNED, _WRITEABLE = 0x0100, 0x0400

#: What is found: arrays of another signature; the addresses of the time before; others; or others
#: of gradients alone, none of which touches a parameter. LOST: arrays of another signature, and
#: parameters before them that have moved.
DIFFERENT, SAME, MOVED, CLEAR, LOST = 0, 1, 2, 3, 4

#: What tells that parameters are elsewhere.
_FURTHER = (MOVED, LOST)

#: The number of ranges while it is not known where the parameters are.
_UNKNOWN = -1


class Want(enum.IntEnum):
    """Positions in what is expected of an array."""

    TYPE = 0
    DESCR = 1
    ND = 2
    FLAGS = 3
    SHAPE = 4  # address of the pairs of length and stride
    TO = 5  # where its address goes


class Word(enum.IntEnum):
    """Positions in the block of arguments of `check_both`."""

    PARAMETERS = 0  # address of the references to the objects
    GRADIENTS = 1
    EXPECTED = 2  # address of what is expected of the parameters
    EXPECTED_GRADIENTS = 3
    COUNT = 4  # number of parameters
    STARTS = 5  # address of the first bytes of the ranges of memory that parameters take
    STOPS = 6  # address of the bytes after their last
    RANGES = 7  # their number
    SIZES = 8  # address of the bytes of each gradient
    WIDTH = 9  # words of what is expected of an array


# Plain integers: an enum as an index takes longer than the assignment.
_PARAMETERS, _GRADIENTS, _RANGES = int(Word.PARAMETERS), int(Word.GRADIENTS), int(Word.RANGES)

_IR = f"""\
define i64 @check(ptr %objects, ptr %expected, i64 %count) {{
entry:
  br label %loop

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %next ]
  %result = phi i64 [ {SAME}, %entry ], [ %result_next, %next ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %done

body:
{loads("objects", {"object": "%i"}, "ptr", "ptr")}
  %want = getelementptr [{len(Want)} x i64], ptr %expected, i64 %i
{loads("object", {"type": _TYPE}, unit="i8")}
{loads("want", named(Want, "type", prefix="want_"))}
  %type_ok = icmp eq i64 %type, %want_type
  br i1 %type_ok, label %fields, label %different

fields:
{loads("object", {"descr": _DESCR}, unit="i8")}
{loads("object", {"nd_int": _ND, "flags_int": _FLAGS}, "i32", "i8")}
{loads("want", named(Want, "descr", "nd", "flags", prefix="want_"))}
  %descr_ok = icmp eq i64 %descr, %want_descr
  %nd = zext i32 %nd_int to i64
  %nd_ok = icmp eq i64 %nd, %want_nd
  %flags_all = zext i32 %flags_int to i64
  %flags = and i64 %flags_all, {_ALIGNED | _WRITEABLE}
  %flags_ok = icmp eq i64 %flags, %want_flags
  %some_ok = and i1 %descr_ok, %nd_ok
  %all_ok = and i1 %some_ok, %flags_ok
  br i1 %all_ok, label %shape, label %different

shape:
{loads("object", {"dimensions": _DIMENSIONS, "strides": _STRIDES}, "ptr", "i8")}
{loads("want", named(Want, "shape", prefix="want_"), "ptr")}
  br label %axis

axis:
  %a = phi i64 [ 0, %shape ], [ %a_next, %axis_ok ]
  %axes_left = icmp ult i64 %a, %nd
  br i1 %axes_left, label %axis_body, label %address

axis_body:
{loads("dimensions", {"n": "%a"})}
{loads("strides", {"s": "%a"})}
  %pair = mul i64 %a, 2
  %pair_1 = add i64 %pair, 1
{loads("want_shape", {"want_n": "%pair", "want_s": "%pair_1"})}
  %n_ok = icmp eq i64 %n, %want_n
  %s_ok = icmp eq i64 %s, %want_s
  %pair_ok = and i1 %n_ok, %s_ok
  br i1 %pair_ok, label %axis_ok, label %different

axis_ok:
  %a_next = add i64 %a, 1
  br label %axis

address:
{loads("object", {"data": ARRAY_DATA}, unit="i8")}
{loads("want", named(Want, "to"), "ptr")}
  %known = load i64, ptr %to
  %unmoved = icmp eq i64 %data, %known
  store i64 %data, ptr %to
  br label %next

next:
  %result_next = select i1 %unmoved, i64 %result, i64 {MOVED}
  %i_next = add i64 %i, 1
  br label %loop

done:
  ret i64 %result

different:
  %has_moved = icmp eq i64 %result, {MOVED}
  %lost = select i1 %has_moved, i64 {LOST}, i64 {DIFFERENT}
  ret i64 %lost
}}
"""


#: What calls a `check`: it writes addresses where the records of what is expected say, and returns
#: DIFFERENT, SAME or MOVED.
CHECK_BOTH = f"""\
define i64 @check_both(ptr %block) {{
entry:
{loads("block", named(Word, "count"))}
{loads("block", named(Word, "parameters", "expected"), "ptr")}
  %found = call i64 @check(ptr %parameters, ptr %expected, i64 %count)
{loads("block", named(Word, "gradients", "expected_gradients"), "ptr")}
  %found_others = call i64 @check(ptr %gradients, ptr %expected_gradients, i64 %count)
  %is_alike = and i64 %found, {SAME | MOVED}
  %are_alike = and i64 %found_others, {SAME | MOVED}
  %one_differs = mul i64 %is_alike, %are_alike
  %differs = icmp eq i64 %one_differs, 0
  br i1 %differs, label %different, label %alike

different:
  %stay = icmp ule i64 %found, {SAME}
  %how = select i1 %stay, i64 {DIFFERENT}, i64 {LOST}
  ret i64 %how

alike:
  %is_here = icmp eq i64 %found, {SAME}
  br i1 %is_here, label %here, label %moved

moved:
  ret i64 {MOVED}

here:
  %are_here = icmp eq i64 %found_others, {SAME}
  br i1 %are_here, label %same, label %look

same:
  ret i64 {SAME}

look:
  %touches = call i1 @touches(ptr %block, ptr %expected_gradients, i64 %count)
  %result = select i1 %touches, i64 {MOVED}, i64 {CLEAR}
  ret i64 %result
}}

; Whether a gradient touches a parameter, or it is not known where the parameters are.
define internal i1 @touches(ptr %block, ptr %expected, i64 %count) {{
entry:
{loads("block", named(Word, "starts", "stops", "sizes"), "ptr")}
{loads("block", named(Word, "ranges", "width"))}
  %is_known = icmp sge i64 %ranges, 0
  br i1 %is_known, label %loop, label %yes

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %next ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %no

body:
  %i_next = add i64 %i, 1
  %place = mul i64 %i, %width
  %want = getelementptr i64, ptr %expected, i64 %place
{loads("want", named(Want, "to"), "ptr")}
  %start = load i64, ptr %to
{loads("sizes", {"size": "%i"})}
  %stop = add i64 %start, %size
  br label %halve

; The first range that ends after the gradient begins.
halve:
  %low = phi i64 [ 0, %body ], [ %low_next, %half ]
  %high = phi i64 [ %ranges, %body ], [ %high_next, %half ]
  %is_wide = icmp ult i64 %low, %high
  br i1 %is_wide, label %half, label %found

half:
  %sum = add i64 %low, %high
  %middle = lshr i64 %sum, 1
{loads("stops", {"end": "%middle"})}
  %is_after = icmp sgt i64 %end, %start
  %above = add i64 %middle, 1
  %low_next = select i1 %is_after, i64 %low, i64 %above
  %high_next = select i1 %is_after, i64 %middle, i64 %high
  br label %halve

found:
  %is_there = icmp ult i64 %low, %ranges
  br i1 %is_there, label %compare, label %next

compare:
{loads("starts", {"begin": "%low"})}
  %is_before = icmp slt i64 %begin, %stop
  %has_bytes = icmp sgt i64 %size, 0
  %touches = and i1 %is_before, %has_bytes
  br i1 %touches, label %yes, label %next

next:
  br label %loop

yes:
  ret i1 true

no:
  ret i1 false
}}
"""


#: Arrays, and for each the address to write its own to.
Placed = tuple[Sequence[Any], Sequence[int]]


class SignatureCheck:
    """Compares parameters and gradients with recorded signatures, in one call.

    The addresses of the arrays are written where they belong.
    """

    def __init__(self, parameters: Placed, gradients: Placed) -> None:
        self._recorded = self._record(parameters, gradients)
        addresses = [recorded.address for recorded in self._recorded]
        self._sizes = array("q", [a.nbytes for a in gradients[0]])
        sizes = self._sizes.buffer_info()[0]
        self._block = array(
            "q",
            [0, 0, *addresses, len(parameters[0]), 0, 0, _UNKNOWN, sizes, len(self._wanted)],
        )
        self._address = self._block.buffer_info()[0]
        self._check = self._compile()

    #: What is expected of an array: its address goes where `Want.TO` is.
    _wanted: type[enum.IntEnum] = Want

    def _record(self, parameters: Placed, gradients: Placed) -> Sequence[Any]:
        """Return the signatures of both, each with the address of what is expected."""
        return _Recorded(*parameters), _Recorded(*gradients)

    def _compile(self) -> Any:
        """Return `check_both` for such signatures."""
        return _compiled()

    def watch(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """Take the memory of the parameters: ranges that do not overlap, in order.

        From then on CLEAR may be returned, until parameters have moved. Gradients must be lines.
        """
        self._ranges = starts, stops
        self._block[Word.STARTS], self._block[Word.STOPS] = starts.ctypes.data, stops.ctypes.data
        self._block[Word.RANGES] = len(starts)

    @property
    def is_watching(self) -> bool:
        """Whether it is known where the parameters are."""
        return bool(self._block[_RANGES] != _UNKNOWN)

    def compare(self, parameters: tuple[Any, ...], gradients: tuple[Any, ...]) -> int:
        """Return DIFFERENT, SAME, MOVED, CLEAR or LOST.

        After DIFFERENT, the addresses of the gradients are of no meaning, after LOST, none is.
        """
        # The references of a tuple are read where they lie: a list of their addresses would take
        # four times as long to make as the check takes. One argument: each costs 0.1 us.
        block = self._block
        block[_PARAMETERS], block[_GRADIENTS] = id(parameters) + ITEMS, id(gradients) + ITEMS
        try:
            result: int = self._check(self._address)
        except ctypes.ArgumentError as error:  # what ctypes makes of what is lacking for the call
            lacks = RecursionError if "RecursionError" in str(error) else MemoryError
            raise lacks(str(error)) from error
        if result in _FURTHER:
            block[_RANGES] = _UNKNOWN
        return result


class _Recorded:
    """The signatures of some arrays, as the compiled check reads them."""

    def __init__(self, arrays: Sequence[NDArray[Any]], destinations: Sequence[int]) -> None:
        pairs = [pair for a in arrays for pair in zip(a.shape, a.strides, strict=True)]
        shapes = [number for pair in pairs for number in pair]
        self._shapes = array("q", shapes or [0])
        self._dtypes = [a.dtype for a in arrays]  # kept, so that their identities stay theirs
        base, position = self._shapes.buffer_info()[0], 0
        expected = array("q")
        for a, destination in zip(arrays, destinations, strict=True):
            flags = _ALIGNED * a.flags.aligned | _WRITEABLE * a.flags.writeable
            address = base + 8 * position
            expected.extend([id(type(a)), id(a.dtype), a.ndim, flags, address, destination])
            position += 2 * a.ndim
        self._expected = expected
        self.address = expected.buffer_info()[0]


@cache
def _compiled() -> Any:
    kind = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
    return compile_function(_IR + CHECK_BOTH, "check_both", kind)


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
        and word(id(a) + _TYPE).value == id(np.ndarray)
        and word(id(a) + ARRAY_DATA).value == a.ctypes.data
        and ctypes.c_int32.from_address(id(a) + _ND).value == a.ndim
        and [word(dimensions + 8 * i).value for i in range(a.ndim)] == list(a.shape)
        and [word(strides + 8 * i).value for i in range(a.ndim)] == list(a.strides)
        and word(id(a) + _DESCR).value == id(a.dtype)
        and read_write == _WRITEABLE
        and flags.value & _WRITEABLE == 0
    )

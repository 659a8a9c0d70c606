"""Whether PyTorch's tensors are what they were, compiled: a few nanoseconds a tensor.

Asking a tensor through Python takes microseconds, for two hundred of them more than their step.
This reads the fields of the tensors, as `check` reads those of NumPy's arrays, and writes where
their elements are now into the arrays that stand for them.
"""

import ctypes
import enum
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any

from instep.arrays import extent
from instep.engines.native.check import (
    ARRAY_DATA,
    CHECK_BOTH,
    DIFFERENT,
    ITEMS,
    LOST,
    MOVED,
    SAME,
    Placed,
    SignatureCheck,
    Word,
)
from instep.engines.native.check import Want as ToArray
from instep.engines.native.compile import compile_function
from instep.engines.native.fields import loads, named
from instep.engines.native.tensor_fields import INLINE_AXES, Fields, fields


class Want(enum.IntEnum):
    """Positions in what is expected of a tensor."""

    TYPE = 0
    KEYS = 1
    DTYPE = 2
    OFFSET = 3
    AXES = 4
    TO = int(ToArray.TO)  # where its address goes
    SHAPE = 6  # address of the pairs of length and stride
    BEGIN = 7  # bytes in its storage before the first element
    END = 8  # bytes that its storage must have
    MISALIGNED = 9  # bits of an address that must be zero
    IS_WRITTEN = 10  # all bits, or none
    DELETER = 11  # of the storage of one that is written
    CONTEXT = 12


# A plain integer: an enum as an index takes longer than the assignment.
_PARAMETERS = int(Word.PARAMETERS)


def _text(at: Fields) -> str:
    return f"""\
define internal i64 @check(ptr %objects, ptr %expected, i64 %count) {{
entry:
  br label %loop

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %next ]
  %result = phi i64 [ {SAME}, %entry ], [ %result_next, %next ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %done

body:
{loads("objects", {"object": "%i"}, "ptr")}
  %want = getelementptr [{len(Want)} x i64], ptr %expected, i64 %i
{loads("object", {"type": 8}, unit="i8")}
{loads("want", named(Want, prefix="want_"))}
  %type_ok = icmp eq i64 %type, %want_type
  br i1 %type_ok, label %fields, label %different

fields:
{loads("object", {"tensor": at.tensor}, "ptr", "i8")}
{loads("tensor", {"autograd": at.autograd, "keys": at.keys}, unit="i8")}
{loads("tensor", {"offset": at.offset, "axes": at.axes}, unit="i8")}
{loads("tensor", {"dtype_short": at.dtype}, "i16", "i8")}
  %dtype = zext i16 %dtype_short to i64
  %keys_other = xor i64 %keys, %want_keys
  %dtype_other = xor i64 %dtype, %want_dtype
  %offset_other = xor i64 %offset, %want_offset
  %axes_other = xor i64 %axes, %want_axes
  %other_1 = or i64 %autograd, %keys_other
  %other_2 = or i64 %dtype_other, %offset_other
  %other_3 = or i64 %other_1, %axes_other
  %other = or i64 %other_2, %other_3
  %fields_ok = icmp eq i64 %other, 0
  br i1 %fields_ok, label %shape, label %different

shape:
  %lengths = getelementptr i8, ptr %tensor, i64 {at.lengths}
  %strides = getelementptr i8, ptr %tensor, i64 {at.strides}
  %pairs = inttoptr i64 %want_shape to ptr
  br label %axis

axis:
  %a = phi i64 [ 0, %shape ], [ %a_next, %axis_ok ]
  %axes_left = icmp ult i64 %a, %axes
  br i1 %axes_left, label %axis_body, label %memory

axis_body:
{loads("lengths", {"n": "%a"})}
{loads("strides", {"s": "%a"})}
  %pair = mul i64 %a, 2
  %pair_1 = add i64 %pair, 1
{loads("pairs", {"want_n": "%pair", "want_s": "%pair_1"})}
  %n_ok = icmp eq i64 %n, %want_n
  %s_ok = icmp eq i64 %s, %want_s
  %pair_ok = and i1 %n_ok, %s_ok
  br i1 %pair_ok, label %axis_ok, label %different

axis_ok:
  %a_next = add i64 %a, 1
  br label %axis

memory:
{loads("tensor", {"storage": at.storage}, "ptr", "i8")}
{loads("storage", {"data": at.data, "size": at.size}, unit="i8")}
{loads("storage", {"deleter": at.deleter, "context": at.context}, unit="i8")}
  %address = add i64 %data, %want_begin
  %misaligned = and i64 %address, %want_misaligned
  %deleter_other = xor i64 %deleter, %want_deleter
  %context_other = xor i64 %context, %want_context
  %holder_other = or i64 %deleter_other, %context_other
  %unsafe = and i64 %holder_other, %want_is_written
  %wrong = or i64 %misaligned, %unsafe
  %right = icmp eq i64 %wrong, 0
  %enough = icmp uge i64 %size, %want_end
  %memory_ok = and i1 %right, %enough
  br i1 %memory_ok, label %next, label %different

next:
  %to = inttoptr i64 %want_to to ptr
  %known = load i64, ptr %to
  %unmoved = icmp eq i64 %address, %known
  store i64 %address, ptr %to
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

; Counts a change of each parameter. A thread that counts at the same time may take away one of
; both, which is as good: a graph asks whether there was any.
define void @count_changes(ptr %block) {{
entry:
{loads("block", named(Word, "count"))}
{loads("block", named(Word, "parameters"), "ptr")}
  br label %loop

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %next ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %done

body:
{loads("parameters", {"object": "%i"}, "ptr")}
{loads("object", {"tensor": at.tensor}, "ptr", "i8")}
{loads("tensor", {"version": at.version}, "ptr", "i8")}
  %is_counted = icmp ne ptr %version, null
  br i1 %is_counted, label %change, label %next

change:
  %changes = getelementptr i8, ptr %version, i64 {at.count}
  %before = load atomic i32, ptr %changes monotonic, align 4
  %after = add i32 %before, 1
  store atomic i32 %after, ptr %changes monotonic, align 4
  br label %next

next:
  %i_next = add i64 %i, 1
  br label %loop

done:
  ret void
}}
"""


class TensorCheck(SignatureCheck):
    """Compares tensors with those that were recorded, in one call.

    Where they are not alike, some of their addresses may have been written.
    """

    _wanted = Want

    def _record(self, parameters: Placed, gradients: Placed) -> Sequence[Any]:
        return _Recorded(*parameters, is_written=True), _Recorded(*gradients, is_written=False)

    def _compile(self) -> Any:
        check, self._count = _compiled()
        return check

    def count_changes(self, parameters: tuple[Any, ...]) -> None:
        """Let graphs know that the parameters, which `compare` has seen, are changed."""
        self._block[_PARAMETERS] = id(parameters) + ITEMS
        self._count(self._address)


class _Recorded:
    """What is expected of some tensors, as the compiled check reads it."""

    def __init__(
        self, tensors: Sequence[Any], destinations: Sequence[int], *, is_written: bool
    ) -> None:
        at = fields()
        assert at is not None
        axes = [axis for t in tensors for axis in zip(t.shape, t.stride(), strict=True)]
        sizes = [number for axis in axes for number in axis]
        self._sizes = array("q", sizes or [0])
        position, self._expected = self._sizes.buffer_info()[0], array("Q")
        for t, destination in zip(tensors, destinations, strict=True):
            tensor, itemsize = t._cdata, t.element_size()  # noqa: SLF001  (as in `fields`)
            storage = _word(tensor + at.storage)
            begin = t.storage_offset() * itemsize
            end = begin + extent(t.shape, [n * itemsize for n in t.stride()], itemsize)[1]
            self._expected.extend(
                [
                    *(id(type(t)), _word(tensor + at.keys), _word(tensor + at.dtype) & 0xFFFF),
                    *(t.storage_offset(), t.ndim, destination, position, begin, end),
                    *(itemsize - 1, 2**64 - 1 if is_written else 0),
                    *(_word(storage + at.deleter), _word(storage + at.context)),
                ]
            )
            position += 16 * t.ndim
        self.address = self._expected.buffer_info()[0]


def _word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def can_be_checked(tensor: Any) -> bool:
    """Return whether the compiled check knows all that there is to know of a tensor."""
    at = fields()
    return (
        at is not None
        and tensor.ndim <= INLINE_AXES
        and tensor.data_ptr() % tensor.element_size() == 0
        and _word(tensor._cdata + at.autograd) == 0  # noqa: SLF001
    )


@cache
def _compiled() -> tuple[Any, Any]:
    at = fields()
    assert at is not None
    text = _text(at) + CHECK_BOTH
    check = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)
    count = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
    return (
        compile_function(text, "check_both", check),
        compile_function(text, "count_changes", count),
    )


class Following(TensorCheck):
    """A check whose arrays, which stand for the tensors, follow them where they go."""

    def __init__(self, held: Sequence[Sequence[Any]], arrays: Sequence[Sequence[Any]]) -> None:
        self._arrays = arrays  # their addresses are written: they live as long
        # An array without elements owns its memory, and keeps its address.
        self._nowhere = array("q", [0])
        nowhere = self._nowhere.buffer_info()[0]
        w, g = ([id(x) + ARRAY_DATA if x.size else nowhere for x in side] for side in arrays)
        super().__init__((held[0], w), (held[1], g))

    def follow(self, parameters: tuple[Any, ...], gradients: tuple[Any, ...]) -> bool:
        """Return whether the tensors are alike; where they are not, the arrays are of no use."""
        return self.compare(parameters, gradients) not in (DIFFERENT, LOST)

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
from instep.engines.native.check import Signature, SignatureCheck
from instep.engines.native.check_code import DIFFERENT, ITEMS, LOST, Expected, Word, emit
from instep.engines.native.fields import loads, named
from instep.engines.native.functions import compile_method
from instep.engines.native.tensor_fields import INLINE_AXES, fields


class OfTensor(enum.IntEnum):
    """Positions in what is expected of a tensor beside `Expected`."""

    KEYS = 6
    KIND = 7  # dtype and device
    OFFSET = 8
    AXES = 9
    BEGIN = 10  # bytes in its storage before the first element
    END = 11  # bytes that its storage must have
    MISALIGNED = 12  # bits of an address that must be zero
    IS_WRITTEN = 13  # all bits, or none
    DELETER = 14  # of the storage of one that is written
    CONTEXT = 15


@cache
def _text() -> str:
    at = fields()
    assert at is not None
    same = f"""\
{loads("object", {"tensor": at.tensor}, "ptr", "i8")}
{loads("tensor", {"autograd": at.autograd, "keys": at.keys}, unit="i8")}
{loads("tensor", {"offset": at.offset, "axes": at.axes}, unit="i8")}
{loads("tensor", {"kind_word": at.kind}, "i32", "i8")}
  %lengths = getelementptr i8, ptr %tensor, i64 {at.lengths}
  %strides = getelementptr i8, ptr %tensor, i64 {at.strides}
  %kind = zext i32 %kind_word to i64
  %keys_other = xor i64 %keys, %want_keys
  %kind_other = xor i64 %kind, %want_kind
  %offset_other = xor i64 %offset, %want_offset
  %axes_other = xor i64 %axes, %want_axes
  %other_1 = or i64 %autograd, %keys_other
  %other_2 = or i64 %kind_other, %offset_other
  %other_3 = or i64 %other_1, %axes_other
  %other = or i64 %other_2, %other_3
  %alike = icmp eq i64 %other, 0"""
    memory = f"""\
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
  %sound = and i1 %right, %enough"""
    return f"""\
{emit(OfTensor, same, memory)}
; Counts a change of each parameter. A thread that counts at the same time may take away one of
; both, which is as good: a graph asks whether there was any.
define ptr @count_changes(ptr %self, ptr %sides, i64 %number) {{
entry:
  %block = call ptr @PyByteArray_AsString(ptr %self)
{loads("block", named(Word, "count"))}
{loads("block", named(Word, "expected"), "ptr")}
{loads("sides", {"tuple": 0}, "ptr")}
  %parameters = getelementptr i8, ptr %tuple, i64 {ITEMS}
  br label %loop

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %next ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %done

body:
  %want = getelementptr [{len(Expected) + len(OfTensor)} x i64], ptr %expected, i64 %i
{loads("want", named(Expected, "place"))}
{loads("parameters", {"object": "%place"}, "ptr", "ptr")}
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
  %result = call ptr @PyBool_FromLong(i64 1)
  ret ptr %result
}}
"""


class TensorCheck(SignatureCheck):
    """Compares tensors with those that were recorded, in one call.

    Where they are not alike, some of their addresses may have been written.
    """

    def _text(self) -> str:
        return _text()

    def _signature(self, x: Any, *, is_written: bool) -> Signature:
        at = fields()
        assert at is not None
        tensor, itemsize, strides = x._cdata, x.element_size(), x.stride()  # noqa: SLF001  (as in `fields`)
        storage, begin = _word(tensor + at.storage), x.storage_offset() * itemsize
        extents = extent(x.shape, [n * itemsize for n in strides], itemsize)
        words = [
            *(_word(tensor + at.keys), _word(tensor + at.kind) & 0xFFFFFFFF, x.storage_offset()),
            *(x.ndim, begin, begin + extents[1]),
            *(itemsize - 1, 2**64 - 1 if is_written else 0),
            *(_word(storage + at.deleter), _word(storage + at.context)),
        ]
        return Signature(x.shape, strides, extents, words)


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


class Following(TensorCheck):
    """A check whose arrays, which stand for the tensors, follow them where they go.

    Parameters
    ----------
    held, arrays
        Parameters and gradients, and what stands for them.
    fields
        Where each of these arrays has its address.

    Attributes
    ----------
    count_changes
        Lets graphs know that the parameters, which `compare` has seen, are changed.
    """

    def __init__(
        self,
        held: Sequence[Sequence[Any]],
        arrays: Sequence[Sequence[Any]],
        fields: Sequence[Sequence[int]],
    ) -> None:
        # An array without elements owns its memory, and keeps its address.
        nowhere = array("q", [0])
        w, g = (
            [field if x.size else nowhere.buffer_info()[0] for x, field in zip(*side, strict=True)]
            for side in zip(arrays, fields, strict=True)
        )
        super().__init__((held[0], w), (held[1], g), range(len(w)))
        # Their addresses are written: they live as long.
        self._block.kept["arrays"] = arrays, nowhere
        self.count_changes = compile_method(_text(), "count_changes")(self._block)

    def follow(self, parameters: tuple[Any, ...], gradients: tuple[Any, ...]) -> bool:
        """Return whether the tensors are alike; where they are not, the arrays are of no use."""
        return self.compare(parameters, gradients) not in (DIFFERENT, LOST)

"""The signature check of CuPy's arrays, compiled: a few nanoseconds an array.

Through Python type, dtype, shape, strides and address take 0.5 us an array, which for two hundred
tensors is a multiple of what the device takes for their step.
"""

import enum
from functools import cache
from typing import Any

from instep.arrays import extent
from instep.engines.base import Fit
from instep.engines.cuda.array_fields import fields
from instep.engines.native.check import Signature, SignatureCheck
from instep.engines.native.check_code import DIFFERENT, LOST, SAME, emit
from instep.engines.native.fields import loads


class OfDeviceArray(enum.IntEnum):
    """Positions in what is expected of an array beside `Expected`."""

    DTYPE = 6
    AXES = 7
    DEVICE = 8
    MISALIGNED = 9  # bits of an address that must be zero


@cache
def _text() -> str:
    at = fields()
    assert at is not None
    same = f"""\
{loads("object", {"dtype": at.dtype, "lengths_end": at.lengths + 8}, unit="i8")}
{loads("object", {"lengths": at.lengths, "strides": at.strides}, "ptr", "i8")}
{loads("object", {"pointer": at.pointer}, "ptr", "i8")}
{loads("pointer", {"device_word": at.device}, "i32", "i8")}
  %lengths_begin = ptrtoint ptr %lengths to i64
  %bytes = sub i64 %lengths_end, %lengths_begin
  %axes = lshr i64 %bytes, 3
  %device = zext i32 %device_word to i64
  %dtype_other = xor i64 %dtype, %want_dtype
  %axes_other = xor i64 %axes, %want_axes
  %device_other = xor i64 %device, %want_device
  %other_1 = or i64 %dtype_other, %axes_other
  %other = or i64 %other_1, %device_other
  %alike = icmp eq i64 %other, 0"""
    memory = f"""\
{loads("pointer", {"address": at.address}, unit="i8")}
  %misaligned = and i64 %address, %want_misaligned
  %sound = icmp eq i64 %misaligned, 0"""
    return emit(OfDeviceArray, same, memory)


class DeviceArrayCheck(SignatureCheck):
    """Compares CuPy's arrays with those that were recorded, in one call."""

    def fit(self, params: tuple[Any, ...], grads: tuple[Any, ...]) -> Fit:
        """Return how arrays compare with those that were recorded."""
        found = self.compare(params, grads)
        if found in (DIFFERENT, LOST):
            return Fit.DIFFERENT
        return Fit.SAME if found == SAME else Fit.MOVED

    def _text(self) -> str:
        return _text()

    def _signature(self, x: Any, *, is_written: bool) -> Signature:
        words = id(x.dtype), x.ndim, x.data.device_id, x.itemsize - 1
        extents = extent(x.shape, x.strides, x.itemsize)
        return Signature(x.shape, x.strides, extents, words, x.dtype)

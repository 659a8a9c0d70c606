"""Tensors of PyTorch: NumPy or CuPy arrays of the same memory stand for them."""

import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from instep import arrays, engines
from instep.plan.exports import can_be_on_device
from instep.plan.kinds import Lane, StandIn


def can_be_seen(tensor: Any) -> bool:
    """Return whether the elements of a tensor lie in memory as those of other arrays do."""
    dtype = arrays.numpy_dtype(arrays.dtype_name(tensor))
    platform = tensor.device.type
    return (
        arrays.signature(tensor) is not None
        and dtype is not None
        and (platform == "cpu" or (platform == "cuda" and can_be_on_device(dtype)))
        and (tensor.numel() == 0 or tensor.data_ptr() != 0)
        and arrays.has_all_elements(tensor)
    )


def is_lazy(tensor: Any) -> bool:
    """Return whether a tensor is the negative or the conjugate of what lies in memory."""
    return bool(tensor.is_neg() or tensor.is_conj())


class _Seen(StandIn):
    """A tensor as an array of its memory, the same one while it stays where and what it was."""

    _signature: Any = None
    _last: Any = None

    def _array(self, held: Any, *, writeable: bool) -> Any:
        # Compiled code may have written another address into the array.
        if self._last is None or not _is_memory_of(held, self._last):
            self._last = _seen(held, writeable=writeable)
        return self._last


class Parameter(_Seen):
    """A tensor that is written."""

    tells_of_writes = True

    def __init__(self, held: Any) -> None:
        self._signature = arrays.signature(held)
        self.lane = _lane(held.device.index) if held.device.type == "cuda" else None

    def array(self, held: Any) -> Any:
        # What a tensor is can change while it stays the same object: all is asked again.
        if arrays.library(held) != "torch" or arrays.signature(held) != self._signature:
            return None
        return self._array(held, writeable=True)


class Gradient(_Seen):
    """A tensor that is read: without its graph, and with its sign."""

    def array(self, held: Any) -> Any:
        signature = arrays.signature(held) if arrays.library(held) == "torch" else None
        if signature is None:
            return None
        if signature != self._signature:
            if not can_be_seen(held):
                return None
            self._signature, self._last = signature, None
        if is_lazy(held):
            copy = held.detach().resolve_neg().resolve_conj()
            return _seen(copy, writeable=False, owner=copy)
        return self._array(held, writeable=False)


class Detached(StandIn):
    """A gradient for the library's own functions: they would follow a graph."""

    def array(self, held: Any) -> Any:
        return held.detach() if arrays.library(held) == "torch" else held


def _seen(tensor: Any, *, writeable: bool, owner: Any = None) -> Any:
    """Return an array of the memory of a tensor, which it does not keep alive by itself."""
    shape, itemsize = tuple(tensor.shape), tensor.element_size()
    strides = [n * itemsize for n in tensor.stride()]
    dtype = arrays.numpy_dtype(arrays.dtype_name(tensor))
    if tensor.device.type == "cuda":
        from instep.engines.cuda.foreign import array_at

        place, device = tensor.data_ptr(), tensor.device.index
        return array_at(place, shape, strides, dtype, device=device, owner=owner)
    return arrays.memory_as_array(
        tensor.data_ptr(), shape, strides, dtype, writeable=writeable, owner=owner
    )


@cache
def _lane(device: int) -> Callable[[], Lane]:
    """Return the function that finds the current stream of PyTorch on a device."""
    return lambda: (device, sys.modules["torch"].cuda.current_stream(device).cuda_stream)


def _is_memory_of(tensor: Any, array: Any) -> bool:
    """Return whether an array is where a tensor is, and not a copy of what it means."""
    address = array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr
    return bool(tensor.numel() == 0 or tensor.data_ptr() == address)


def _address_field(array: Any) -> int:
    """Return where an array has the address of its elements; 0 where that is not known."""
    if isinstance(array, np.ndarray):
        from instep.engines.native.check import ARRAY_DATA

        return id(array) + ARRAY_DATA
    from instep.engines.cuda.foreign import address_field

    return address_field(array)


def tell(tensors: Sequence[Any]) -> None:
    """Tell PyTorch that tensors are written, which a graph may have kept for its gradients."""
    from torch.autograd.graph import increment_version

    increment_version(tensors)


def check_for(held: Sequence[Sequence[Any]], seen: Sequence[Sequence[Any]]) -> Any:
    """Return what sees in compiled code whether parameters and gradients are what they were.

    `seen` are the arrays that stand for them. None where it cannot be had, or cannot know all that
    there is to know of a tensor.
    """
    if engines.load("native").unavailable() is not None:
        return None
    from instep.engines.native.tensors import Following, can_be_checked

    pairs = [pair for sides in zip(held, seen, strict=True) for pair in zip(*sides, strict=True)]
    if not all(_is_memory_of(tensor, array) and can_be_checked(tensor) for tensor, array in pairs):
        return None
    fields = [[_address_field(array) for array in side] for side in seen]
    return Following(held, seen, fields) if all(map(all, fields)) else None

"""Tensors of PyTorch: NumPy arrays of the same memory stand for them."""

from collections.abc import Sequence
from typing import Any

from instep import arrays, engines
from instep.plan.kinds import StandIn


def can_be_seen(tensor: Any) -> bool:
    """Return whether the elements of a tensor lie in memory as those of a NumPy array do."""
    return (
        arrays.signature(tensor) is not None
        and tensor.device.type == "cpu"
        and arrays.numpy_dtype(arrays.dtype_name(tensor)) is not None
        and (tensor.numel() == 0 or tensor.data_ptr() != 0)
        and arrays.has_all_elements(tensor)
    )


def is_lazy(tensor: Any) -> bool:
    """Return whether a tensor is the negative or the conjugate of what lies in memory."""
    return bool(tensor.is_neg() or tensor.is_conj())


class Parameter(StandIn):
    """A tensor that is written."""

    tells_of_writes = True

    def __init__(self, held: Any) -> None:
        self._signature = arrays.signature(held)

    def array(self, held: Any) -> Any:
        # What a tensor is can change while it stays the same object: all is asked again.
        if arrays.library(held) != "torch" or arrays.signature(held) != self._signature:
            return None
        return _seen(held, writeable=True)


class Gradient(StandIn):
    """A tensor that is read: without its graph, and with its sign."""

    def array(self, held: Any) -> Any:
        if arrays.library(held) != "torch" or not can_be_seen(held):
            return None
        if is_lazy(held):
            copy = held.detach().resolve_neg().resolve_conj()
            return _seen(copy, writeable=False, owner=copy)
        return _seen(held, writeable=False)


class Detached(StandIn):
    """A gradient for the library's own functions: they would follow a graph."""

    def array(self, held: Any) -> Any:
        return held.detach() if arrays.library(held) == "torch" else held


def _seen(tensor: Any, *, writeable: bool, owner: Any = None) -> Any:
    """Return a NumPy array of the memory of a tensor, which it does not keep alive by itself."""
    return arrays.memory_as_array(
        tensor.data_ptr(),
        tuple(tensor.shape),
        [n * tensor.element_size() for n in tensor.stride()],
        arrays.numpy_dtype(arrays.dtype_name(tensor)),
        writeable=writeable,
        owner=owner,
    )


def _is_memory_of(tensor: Any, array: Any) -> bool:
    """Return whether an array is where a tensor is, and not a copy of what it means."""
    return bool(tensor.numel() == 0 or tensor.data_ptr() == array.ctypes.data)


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
    if all(can_be_checked(tensor) and _is_memory_of(tensor, array) for tensor, array in pairs):
        return Following(held, seen)
    return None

"""Tensors of PyTorch: NumPy arrays of the same memory stand for them."""

from collections.abc import Sequence
from typing import Any

from instep import arrays
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


class Parameter(StandIn):
    """A tensor that is written."""

    tells_of_writes = True

    def __init__(self, held: Any) -> None:
        self._signature = arrays.signature(held)
        self._array = _seen(held, written=True)
        self._address = held.data_ptr()

    def array(self, held: Any) -> Any:
        # What a tensor is can change while it stays the same object: all is asked again.
        if arrays.library(held) != "torch" or arrays.signature(held) != self._signature:
            return None
        address = held.data_ptr()
        if address != self._address:
            self._array, self._address = _seen(held, written=True), address
        return self._array


class Gradient(StandIn):
    """A tensor that is read: without its graph, and with its sign."""

    def array(self, held: Any) -> Any:
        if arrays.library(held) != "torch" or not can_be_seen(held):
            return None
        return _seen(held.detach().resolve_neg(), written=False)


class Detached(StandIn):
    """A gradient for the library's own functions: they would follow a graph."""

    def array(self, held: Any) -> Any:
        return held.detach() if arrays.library(held) == "torch" else held


def _seen(tensor: Any, *, written: bool) -> Any:
    """Return a NumPy array of the memory of a tensor.

    One that is to be kept for later steps, that of a parameter, does not keep the memory.
    """
    return arrays.memory_as_array(
        tensor.data_ptr(),
        tuple(tensor.shape),
        [n * tensor.element_size() for n in tensor.stride()],
        arrays.numpy_dtype(arrays.dtype_name(tensor)),
        writeable=written,
        owner=None if written else tensor,
    )


def tell(tensors: Sequence[Any]) -> None:
    """Tell PyTorch that tensors are written, which a graph may have kept for its gradients."""
    from torch.autograd.graph import increment_version

    increment_version(tensors)

"""What instep asks of PyTorch for tensors on a CUDA device, over arrays of CuPy.

No PyTorch that is built for CUDA can be had where there is no device. The names of everything here
are compared with PyTorch's own in `tests/peers/test_stand_ins.py`.
"""

import sys
from types import ModuleType, SimpleNamespace

from instep.plan import tensors


class Tensor:
    """A tensor on a device, whose elements are those of a CuPy array."""

    __module__ = "torch"

    def __init__(self, array, *, requires_grad=False, negated=False):
        self.array, self.requires_grad = array, requires_grad
        self._negated, self._version = negated, 0
        self.shape, self.layout = array.shape, "strided"
        self.is_nested = self.is_quantized = False
        self.dtype = f"torch.{array.dtype.name}"

    @property
    def device(self):
        number = self.array.device.id

        class Device(SimpleNamespace):
            def __str__(self):
                return f"cuda:{number}"

        return Device(type="cuda", index=number)

    def stride(self):
        return tuple(n // self.array.itemsize for n in self.array.strides)

    def data_ptr(self):
        return self.array.data.ptr if self.array.size else 0

    def element_size(self):
        return self.array.itemsize

    def numel(self):
        return self.array.size

    def storage_offset(self):
        memory = self.array.data
        return (memory.ptr - memory.mem.ptr) // self.array.itemsize

    def untyped_storage(self):
        return SimpleNamespace(nbytes=lambda: self.array.data.mem.size)

    def is_neg(self):
        return self._negated

    def is_conj(self):
        return False

    def is_inference(self):
        return False

    def detach(self):
        return Tensor(self.array, negated=self._negated)

    def cpu(self):
        return SimpleNamespace(numpy=self.array.get)

    def resolve_neg(self):
        return Tensor(-self.array) if self._negated else self

    def resolve_conj(self):
        return self


class Parameter(Tensor):
    """A parameter of a module."""


def module():
    """Return PyTorch's modules by their names, and the handles of current streams by device."""
    torch, autograd, graph = (
        ModuleType(f"torch{name}") for name in ("", ".autograd", ".autograd.graph")
    )
    streams = {}

    def current_stream(device):
        return SimpleNamespace(cuda_stream=streams.get(device, 0))

    def increment_version(tensors):
        for tensor in tensors:
            tensor._version += 1  # noqa: SLF001  (as PyTorch calls it)

    torch.Tensor, torch.strided, torch._C = Tensor, "strided", None  # noqa: SLF001
    torch.nn = SimpleNamespace(Parameter=Parameter)
    torch.is_inference_mode_enabled = lambda: False
    torch.cuda = SimpleNamespace(current_stream=current_stream)
    torch.compiler = SimpleNamespace(is_dynamo_compiling=lambda: False)
    torch.autograd, autograd.graph, graph.increment_version = autograd, graph, increment_version
    return {one.__name__: one for one in (torch, autograd, graph)}, streams


def put(monkeypatch):
    """Let these be PyTorch for a test; return the handles of its current streams, by device."""
    modules, streams = module()
    for name, one in modules.items():
        monkeypatch.setitem(sys.modules, name, one)
    # Compiled code reads the fields of PyTorch's own tensors.
    monkeypatch.setattr(tensors, "check_for", lambda _, __: None)
    return streams

"""What the kit asks of an array, whatever library it comes from."""

import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep import exchange

Array = Any

#: Libraries that are asked in ways of their own, or that only their own functions know.
_NAMED = frozenset(
    ("numpy", "cupy", "torch", "jax", "array_api_strict", "dask", "sparse", "ndonnx")
)


def library(array: Array) -> str | None:
    """Return the name of the array library of `array`; None for what is no array."""
    if isinstance(array, np.ndarray):
        return "numpy"
    if isinstance(array, np.generic) or not hasattr(array, "dtype"):
        return None
    name = type(array).__module__.partition(".")[0]
    return {"jaxlib": "jax"}.get(name, name)


def is_number(x: Any) -> bool:
    """Return whether `x` is a float or complex number of Python or NumPy.

    It is an array of no dimensions, of a kind, that cannot be written: another takes its place.
    """
    return isinstance(x, float | complex | np.inexact)


def number_of_type(kind: type, array: Array) -> Any:
    """Return the element of an array of no dimensions as a number of Python's or NumPy's."""
    return kind(array[()])


def namespace(array: Array) -> Any:
    """Return the array-API namespace of `array`."""
    import array_api_compat

    try:
        return array_api_compat.array_namespace(array)
    except TypeError:
        raise TypeError(
            f"{type(array).__module__}.{type(array).__name__} is of no library that follows the "
            f"array API standard, whose functions are needed here; convert it with numpy.asarray "
            f"or cupy.asarray"
        ) from None


def has_namespace(array: Array) -> bool:
    """Return whether the library of `array` follows the array API standard."""
    try:
        namespace(array)
    except TypeError:
        return False
    return True


def exported(array: Array, stream: int = exchange.NO_STREAM) -> exchange.Memory | None:
    """Return where an array of a library lies that is not known by name; None if it does not tell.

    On a device, `stream` is the handle of one that is to wait for what the library has begun there.
    """
    name = library(array)
    return None if name is None or name in _NAMED else exchange.read(array, stream)


def dtype_name(array: Array) -> str:
    """Return the name of the dtype, as in ``"float32"``; a foreign byte order shows as in NumPy."""
    dtype = array.dtype
    if isinstance(dtype, np.dtype):
        return _dtype_name(dtype)
    name = str(dtype).rpartition(".")[2]
    found = None if name.isidentifier() else exported(array)
    return name if found is None else found.dtype


@cache  # of NumPy's dtypes alone: array-api-strict warns where one of its own is compared to them
def _dtype_name(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.isnative else dtype.str


def device(array: Array) -> str:
    """Return the device of `array`, as text that can be compared."""
    if isinstance(array, np.ndarray):
        return "cpu"
    if library(array) == "cupy":
        return str(array.device.id)
    found = exported(array)
    if found is not None:
        return found.place
    import array_api_compat

    return str(array_api_compat.device(array))


def namespace_device(array: Array) -> Any:
    """Return the device object of `array`, as the library's functions take it."""
    import array_api_compat

    return array_api_compat.device(array)


def describe(array: Any) -> str:
    """Return library, dtype, shape and device in words, for messages."""
    name = library(array)
    if name is None:
        return f"a {type(array).__name__}"
    where = "" if name == "numpy" else f" on device {device(array)}"
    return f"{name} {dtype_name(array)} {tuple(array.shape)}{where}"


def is_immutable(array: Array) -> bool:
    """Return whether an array of this library cannot be written by design."""
    found = exported(array)
    return library(array) == "jax" or (found is not None and not found.is_writable)


def is_traced(array: Array) -> bool:
    """Return whether an array only stands for values, while a function of it is transformed.

    So do tracers of `jax.jit`, `vmap` and `grad`, what `torch.func` wraps, and the fake tensors of
    `torch.compile` and `torch.export`. Arrays of JAX that such a function closes over have values,
    but what is computed of them there has none, or only once.
    """
    match library(array):
        case "jax":
            jax = sys.modules["jax"]
            core = getattr(getattr(jax, "_src", None), "core", None)
            is_idle = getattr(core, "trace_state_clean", None)  # nothing public says
            return isinstance(array, jax.core.Tracer) or bool(is_idle and not is_idle())
        case "torch":
            torch = sys.modules["torch"]
            functorch = getattr(torch._C, "_functorch", None)  # noqa: SLF001  (nothing public says)
            is_wrapped = getattr(functorch, "is_functorch_wrapped_tensor", None)
            return type(array).__name__ in ("FakeTensor", "FunctionalTensor") or bool(
                is_wrapped is not None and is_wrapped(array)
            )
    return False


def signature(array: Array) -> tuple[Any, ...] | None:
    """Return what the checks of a parameter or gradient look at, so that they hold again.

    None where they would refuse it, or look closer.
    """
    if isinstance(array, np.ndarray):
        return (type(array), array.dtype, array.shape, array.strides, array.flags.writeable)
    name = library(array)
    if name == "torch":
        return _signature_of_tensor(array)
    if name == "jax" and (is_traced(array) or array.is_deleted()):
        return None
    if not hasattr(array, "device") or not hasattr(array, "shape"):
        return None
    strides = array.strides if name == "cupy" else None
    return (type(array), dtype_name(array), tuple(array.shape), strides, device(array))


def _signature_of_tensor(x: Array) -> tuple[Any, ...] | None:
    torch = sys.modules["torch"]
    if type(x) not in (torch.Tensor, torch.nn.Parameter) or is_traced(x):
        return None
    if x.layout is not torch.strided or x.is_nested:
        return None
    is_frozen = x.is_inference() and not torch.is_inference_mode_enabled()
    has_memory = x.data_ptr() != 0 and has_all_elements(x)
    kind = x.dtype, x.shape, x.stride(), x.device, x.is_neg(), x.is_conj()
    return (*kind, x.requires_grad, is_frozen, has_memory)


def has_all_elements(tensor: Array) -> bool:
    """Return whether the storage of a tensor of PyTorch, which can be resized, has them all."""
    _, after = extent(tensor.shape, tensor.stride(), 1)
    end = (tensor.storage_offset() + after) * tensor.element_size()
    return after == 0 or bool(end <= tensor.untyped_storage().nbytes())


def memory_bounds(array: Array) -> tuple[int, int] | None:
    """Return the addresses of the first byte of an array and of the one after its last.

    None where the library does not tell, or where there are no bytes.
    """
    if isinstance(array, np.ndarray):
        return np.lib.array_utils.byte_bounds(array) if array.size else None
    places = _places(array)
    if places is None:
        return None
    address, strides, itemsize = places
    before, after = extent(array.shape, strides, itemsize)
    return address - before, address + after


def extent(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> tuple[int, int]:
    """Return how many bytes of an array lie before its first element, and how many from it on."""
    if 0 in shape:
        return 0, 0
    ends = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    return -sum(end for end in ends if end < 0), sum(end for end in ends if end > 0) + itemsize


def footprint(array: Array) -> NDArray[Any]:
    """Return a NumPy array of the addresses, shape and strides of an array that has bounds.

    It is there to be compared with others: its elements may lie on a device, and must not be read.
    """
    if isinstance(array, np.ndarray):
        return array
    places = _places(array)
    assert places is not None
    return np.asarray(_Places(places[0], tuple(array.shape), *places[1:]))


def _places(array: Array) -> tuple[int, tuple[int, ...], int] | None:
    """Return address, strides and itemsize in bytes, where there are any and the library tells."""
    if 0 in array.shape:
        return None
    match library(array):
        case "cupy":
            return array.data.ptr, array.strides, array.itemsize
        case "torch" if array.layout is sys.modules["torch"].strided and array.data_ptr() != 0:
            itemsize = array.element_size()
            return array.data_ptr(), tuple([n * itemsize for n in array.stride()]), itemsize
    found = exported(array)
    return None if found is None else (found.address, found.strides, found.itemsize)


def memory_as_array(
    address: int,
    shape: tuple[int, ...],
    strides: Sequence[int],
    dtype: np.dtype[Any],
    *,
    writeable: bool,
    owner: Any = None,
) -> NDArray[Any]:
    """Return a NumPy array of memory, which lives as long as its owner; it keeps the one given."""
    if 0 in shape:
        return np.empty(shape, dtype)
    places = _Places(address, shape, tuple(strides), dtype.itemsize, writeable=writeable)
    places.owner = owner
    return np.asarray(places).view(dtype)


class _Places:
    """Addresses, as NumPy's array interface tells them."""

    owner: Any = None

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        itemsize: int,
        *,
        writeable: bool = False,
    ) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, not writeable),
            "shape": shape,
            "strides": strides,
            "typestr": f"|V{itemsize}",
        }


@cache
def numpy_dtype(name: str) -> Any:
    """Return NumPy's dtype of a name, or that of ml_dtypes; None where there is none."""
    with suppress(TypeError):
        return np.dtype(name)
    with suppress(ImportError, AttributeError):
        return np.dtype(getattr(importlib.import_module("ml_dtypes"), name))
    return None


def to_numpy(array: Array) -> Array:
    """Return the elements of `array` as a NumPy array of its own memory."""
    match library(array):
        case "cupy":
            return array.get()
        case "torch":  # NumPy 2 warns where it asks torch for a copy
            return array.detach().resolve_neg().cpu().numpy().copy()
    found = exported(array)
    if found is not None and found.platform == "cpu":
        return seen(found, owner=found.owner).copy()
    return np.array(array)


def seen(memory: exchange.Memory, owner: Any = None) -> NDArray[Any]:
    """Return a NumPy array of the memory of an array that a CPU sees, of a dtype of NumPy's."""
    place, dtype = (memory.address, memory.shape, memory.strides), numpy_dtype(memory.dtype)
    return memory_as_array(*place, dtype, writeable=memory.is_writable, owner=owner)


def parts(array: Array) -> tuple[Array, Array]:
    """Return real and imaginary parts of an array of complex numbers."""
    xp = namespace(array)
    return xp.real(array), xp.imag(array)


#: Libraries whose arrays of complex numbers can be seen as their parts.
WITH_PARTS = ("numpy", "cupy", "torch", "jax")


def joined(re: Array, im: Array) -> Array:
    """Return a new array of complex numbers with these parts, bit for bit."""
    match library(re):
        case "torch":
            return sys.modules["torch"].complex(re, im)
        case "jax":
            return sys.modules["jax"].lax.complex(re, im)
    xp = namespace(re)
    dtype = xp.result_type(re.dtype, xp.complex64)
    whole = xp.empty(re.shape, dtype=dtype, device=namespace_device(re))
    for view, part in zip((xp.real(whole), xp.imag(whole)), (re, im), strict=True):
        view[...] = part
    return whole


def as_parts(array: Array) -> Array:
    """Return an array of complex numbers as one of their parts, which lie along one more axis.

    It is a view, but of JAX's arrays; and the parts of a real array are an array of their own.
    """
    xp = namespace(array)
    if not is_complex(array):
        narrow = dtype_name(array) in ("float16", "bfloat16")
        array = xp.astype(array, xp.float32) if narrow else array
        array = joined(array, xp.zeros_like(array))
    match library(array):
        case "numpy":
            return array[..., None].view(array.real.dtype)
        case "cupy":
            part, shape = array.real.dtype, (*array.shape, 2)
            strides = (*array.strides, part.itemsize)
            return type(array)(shape, part, array.data, strides=strides)
        case "torch":
            return sys.modules["torch"].view_as_real(array.resolve_conj())
    return xp.stack(parts(array), axis=-1)


def from_parts(array: Array) -> Array:
    """Return a new array of the complex numbers whose parts lie along the last axis."""
    return joined(array[..., 0], array[..., 1])


def is_complex(array: Array) -> bool:
    """Return whether an array is one of complex numbers."""
    return dtype_name(array).startswith("complex")


def unawaited(number: Array) -> Any:
    """Return a number without dimensions as a float; one on a device as a copy, in float32."""
    if library(number) != "cupy":
        return float(number)
    with number.device:
        return number.astype("float32")


def filled(array: Array, value: Any) -> Array:
    """Return `array`, filled with a number or with the elements of an array of any library."""
    if library(value) is not None and library(value) != library(array):
        value = namespace(array).asarray(to_numpy(value), device=namespace_device(array))
    if not is_immutable(array):
        array[...] = value
        return array
    xp = namespace(array)
    if library(value) is None:
        return xp.full_like(array, value)
    return xp.astype(value, array.dtype, copy=True)


def converted(array: Array, like: Array) -> Array:
    """Return the elements of `array` as a new array of the library, device and dtype of `like`.

    CuPy's own casts flush subnormal numbers, so NumPy makes them; none is made in a step.
    """
    xp = namespace(like)
    if library(array) == "torch":
        array = array.detach()
    casts = library(like) == "cupy" and array.dtype != like.dtype
    if casts or (library(array), device(array)) != (library(like), device(like)):
        array = to_numpy(array)
        array = xp.asarray(
            array.astype(like.dtype) if casts else array, device=namespace_device(like)
        )
    return xp.asarray(xp.astype(array, like.dtype, copy=True))


def view(array: Array) -> Array:
    """Return an array of the same memory, which may be written from now on."""
    return array.detach() if library(array) == "torch" else array[...]


def is_compiled() -> bool:
    """Return whether `torch.compile` is about to compile the function that calls this.

    To be asked where ``torch._dynamo`` has been imported: where nothing is compiled it has not,
    and is not for this, for that takes a second.
    """
    return bool(sys.modules["torch"].compiler.is_dynamo_compiling())


def left_by_compilers(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that `torch.compile` calls, and does not look into."""
    left: Callable[..., Any] = sys.modules["torch"].compiler.disable(function)
    return left

"""Where arrays of other libraries lie, as they tell by DLPack and the CUDA array interface.

NumPy and CuPy read both protocols as well, but not every dtype of them: here no bits are moved, so
that any will do.
"""

import ctypes
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Memory(NamedTuple):
    """The memory of an array.

    Attributes
    ----------
    platform, device
        ``"cpu"`` or ``"cuda"``, and the number of the device, if it is told.
    address, shape, strides, itemsize
        Of the first element, and in bytes.
    dtype
        Its name.
    is_writable
        Whether the library says that elements may be written.
    stream
        Handle of the stream on which the library works, if it is told.
    owner
        What keeps the memory, or nothing, where the array does.
    """

    platform: str
    device: int | None
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int
    dtype: str
    is_writable: bool
    stream: int | None
    owner: Any

    @property
    def kind(self) -> tuple[Any, ...]:
        """What stays the same from step to step: all but where it lies."""
        return (*self[:2], *self[3:8])

    @property
    def place(self) -> str:
        """Platform and device, as text that can be compared."""
        return self.platform if self.device is None else f"{self.platform}:{self.device}"


#: A library that is not to wait for anybody before it hands an array over, in DLPack's words.
NO_STREAM = -1


def cuda_device(array: Any) -> int | None:
    """Return the number of the CUDA device on which an array is, as DLPack counts them."""
    try:
        kind, number = array.__dlpack_device__()
    except BufferError:  # on several, or on none that it knows
        return None
    return int(number) if _PLATFORMS.get(int(kind)) == "cuda" else None


def read(array: Any, stream: int = NO_STREAM) -> Memory | None:
    """Return where an array lies; None where it does not tell, or on no CPU and no CUDA device.

    On a device, `stream` is the handle of the stream that is to wait for what the library has
    begun there. It waits where the array tells no stream of its own.
    """
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None and interface.get("stream") is not None:
        found = _from_interface(interface)
        if found is not None:
            return found
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        return from_dlpack(array, stream)
    return None


def _from_interface(interface: Mapping[str, Any]) -> Memory | None:
    dtype = np.dtype(interface["typestr"])
    if dtype.kind == "V" or interface.get("mask") is not None:  # DLPack knows more dtypes
        return None
    (address, is_read_only), shape = interface["data"], tuple(interface["shape"])
    strides = interface.get("strides") or c_strides(shape, dtype.itemsize)
    return Memory(
        *("cuda", None, address, shape, tuple(strides), dtype.itemsize, dtype.name),
        *(not is_read_only, interface["stream"], None),
    )


def c_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the strides of an array in C order."""
    strides = [itemsize] * len(shape)
    for axis in reversed(range(len(shape) - 1)):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


# DLPack: https://dmlc.github.io/dlpack/latest/c_api.html ----------------------------------------


#: A tensor in C: address, type and number of the device, axes, dtype (its code, bits and lanes),
#: addresses of shape and strides, offset in bytes.
_TENSOR = struct.Struct("@PiiiBBHPPQ")

#: What comes before it where there is a version: that, two pointers, and flags.
_VERSION = struct.Struct("@IIPPQ")

_READ_ONLY = 1
_MAJOR = 1

#: Memory that a CPU sees (that which is pinned is), and that which a CUDA device does.
_PLATFORMS = {1: "cpu", 3: "cpu", 2: "cuda", 13: "cuda"}

_DTYPES = {0: "int{}", 1: "uint{}", 2: "float{}", 4: "bfloat{}", 5: "complex{}"}

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]


def from_dlpack(array: Any, stream: int) -> Memory | None:
    """Return where an array lies as `read` does, by DLPack alone."""
    try:
        platform = _PLATFORMS.get(int(array.__dlpack_device__()[0]))
        if platform is None:
            return None
        capsule = _capsule(array, platform, stream)
    except (BufferError, NotImplementedError, TypeError, ValueError):  # it cannot be exported
        return None
    # A library that exports arrays without a version says in no other way whether they are
    # constants; but those of which all are have no way to set an element.
    is_writable = hasattr(type(array), "__setitem__")
    if _is_valid(capsule, b"dltensor_versioned"):
        place = _pointer(capsule, b"dltensor_versioned")
        major, _, _, _, flags = _VERSION.unpack(ctypes.string_at(place, _VERSION.size))
        place, is_writable = place + _VERSION.size, not flags & _READ_ONLY
        if major != _MAJOR:
            return None
    elif _is_valid(capsule, b"dltensor"):
        place = _pointer(capsule, b"dltensor")
    else:
        return None
    data, _, device, axes, code, bits, lanes, shape_at, strides_at, offset = _TENSOR.unpack(
        ctypes.string_at(place, _TENSOR.size)
    )
    if lanes != 1 or bits % 8:
        return None
    itemsize, numbers = bits // 8, ctypes.c_int64 * axes
    shape = tuple(numbers.from_address(shape_at)) if axes else ()
    if axes and strides_at:
        strides = tuple([n * itemsize for n in numbers.from_address(strides_at)])
    else:
        strides = c_strides(shape, itemsize)
    return Memory(
        *(platform, device if platform == "cuda" else None, data + offset, shape, strides),
        *(itemsize, _DTYPES.get(code, "void{}").format(bits), bool(is_writable), None),
        capsule,  # it releases the memory when it goes
    )


def _capsule(array: Any, platform: str, stream: int) -> Any:
    settings = {} if platform == "cpu" else {"stream": stream}
    try:
        return array.__dlpack__(max_version=(_MAJOR, 0), **settings)
    except TypeError:  # it knows no versions
        return array.__dlpack__(**settings)

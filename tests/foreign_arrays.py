"""Arrays of libraries that nobody knows: they only say where they lie."""

import functools
from types import ModuleType

import numpy as np


class Own:
    """What tests look at: the array of NumPy or CuPy beneath."""

    def __init__(self, array):
        self.array, self.dtype, self.shape = array, array.dtype, array.shape

    def get(self):
        """Return the elements as an array of NumPy."""
        return self.array if isinstance(self.array, np.ndarray) else self.array.get()


class Foreign(Own):
    """An array that can be reached by DLPack alone.

    Attributes
    ----------
    asked
        The streams that were to wait for this one, by the calls.
    """

    def __init__(self, array):
        super().__init__(array)
        self.asked = []

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream=None, **versions):
        self.asked.append(stream)
        return self.array.__dlpack__(stream=stream, **versions)

    def __setitem__(self, key, value):
        raise AssertionError("nobody is to write by way of the library")


class Older(Foreign):
    """One whose DLPack has no versions, so that it does not tell what is a constant."""

    def __dlpack__(self, *, stream=None):
        return super().__dlpack__(stream=stream)


class Constant(Own):
    """An array that cannot be written, of a library that makes such arrays of others."""

    def __init__(self, array):
        super().__init__(array.copy())

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream=None):
        return self.array.__dlpack__(stream=stream)

    def __array_namespace__(self, api_version=None):
        return _namespace(type(self))


@functools.cache
def _namespace(kind):
    found = ModuleType("constants")
    found.from_dlpack = lambda x: kind(np.from_dlpack(x))
    return found


class OnDevice(Own):
    """An array of CuPy that tells of itself and its stream by the CUDA array interface."""

    def __init__(self, array, stream):
        super().__init__(array)
        self.stream = stream

    @property
    def __cuda_array_interface__(self):
        return self.array.__cuda_array_interface__ | {"stream": self.stream}

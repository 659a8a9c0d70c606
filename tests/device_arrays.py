"""Arrays on a device that lie in memory exactly as given NumPy arrays do."""

import ctypes

import numpy as np


class Mirror:
    """A copy of a NumPy array on the device, gaps between its elements included.

    It has the strides of the array, and its address is as far from a multiple of 16.

    Attributes
    ----------
    array
        The CuPy array.
    """

    def __init__(self, cupy, x):
        low, high = np.lib.array_utils.byte_bounds(x)
        nbytes = high - low if x.size else 0
        shift = low % 16 if x.size else 0
        self._first = x.__array_interface__["data"][0] - low + shift if x.size else 0
        self._shape, self._strides, self._dtype = x.shape, x.strides, x.dtype
        memory = (ctypes.c_char * nbytes).from_address(low) if x.size else b""
        self._start = np.zeros(shift + max(1, nbytes), dtype=np.uint8)
        self._start[shift : shift + nbytes] = np.frombuffer(memory, np.uint8)
        self._room = cupy.empty(self._start.size, dtype=np.uint8)
        self._room.set(self._start)
        self.array = cupy.ndarray(
            x.shape, x.dtype, self._room.data + self._first, strides=x.strides
        )

    def read(self):
        """Return the elements, and check that nothing between them has changed."""
        room = self._room.get()
        inside = np.zeros(self._start.size, dtype=bool)
        itemsize = self._dtype.itemsize
        self._view(inside, (*self._shape, itemsize), np.bool_, (*self._strides, 1))[...] = True
        assert np.array_equal(room[~inside], self._start[~inside]), "bytes outside of the array"
        return self._view(room, self._shape, self._dtype, self._strides).copy()

    def _view(self, room, shape, dtype, strides):
        return np.ndarray(shape, dtype, room, self._first, strides)


def mirrors(cupy, arrays):
    """Return a mirror for each array of a dict."""
    return {name: Mirror(cupy, x) for name, x in arrays.items()}


def arrays_of(mirrored):
    """Return the CuPy arrays of a dict of mirrors."""
    return {name: mirror.array for name, mirror in mirrored.items()}

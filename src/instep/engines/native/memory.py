"""Memory for state: on huge pages, and in step with the parameters' cache lines."""

import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.engines.placement import state_strides

CACHE_LINE = 64
HUGE_PAGE = 2 << 20


def allocate(parameters: Sequence[NDArray[Any]], dtypes: Sequence[str]) -> list[list[NDArray[Any]]]:
    """Return zeros for the state of each parameter, one array of each dtype.

    All arrays share one block of memory. An array begins as many bytes past a cache line as its
    parameter does: where the loop has peeled one to the line, it has peeled all. Huge pages save
    the address translations that otherwise cost a third of the step; the pages are touched
    first, and so placed, by the thread that first runs on them.
    """
    sizes = [np.dtype(name).itemsize for name in dtypes]
    total, places = 0, []
    for w in parameters:
        for size in sizes:
            # The same element stands on a line boundary in both arrays.
            peeled = (-w.ctypes.data % CACHE_LINE) // w.itemsize
            start = -(-total // CACHE_LINE) * CACHE_LINE + (-peeled * size) % CACHE_LINE
            places.append(start)
            total = start + w.size * size
    block = _zeros(total)
    addresses = iter(places)
    return [
        [
            np.ndarray(w.shape, name, block, next(addresses), state_strides(w, size))
            for name, size in zip(dtypes, sizes, strict=True)
        ]
        for w in parameters
    ]


def _zeros(size: int) -> NDArray[np.uint8]:
    """Return zeroed bytes that begin on a cache line, on huge pages where they are large."""
    if size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except TimeoutError:  # from the handler of a signal
            raise
        except OSError:  # a kernel without them, or a sandbox that allows no such advice
            pass
        block, line = np.frombuffer(memory, dtype=np.uint8), HUGE_PAGE
    else:
        block, line = np.zeros(size + CACHE_LINE, dtype=np.uint8), CACHE_LINE
    start = -block.ctypes.data % line
    return block[start : start + size]

"""Blocks of arrays that are no line in memory, copied together."""

from collections.abc import Iterator, Sequence
from functools import partial
from operator import setitem
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.engines.walks import boxes_of_line
from instep.graph import Graph
from instep.interrupts import Call
from instep.numerics import TILE

#: Elements of a block that is gathered from arrays that are no line: a multiple of a tile.
GATHERED = 4 * TILE


class Gathering:
    """Contiguous copies, in C order, of parts of arrays that are no line.

    Parameters
    ----------
    dtypes
        Of the arrays of a leaf.
    longest
        Elements of the largest leaf.
    """

    def __init__(self, dtypes: Sequence[Any], longest: int) -> None:
        self.buffers = [np.empty(min(longest, GATHERED), dtype) for dtype in dtypes]

    def tiles(self, graph: Graph, arrays: Sequence[NDArray[Any]]) -> Iterator[list[NDArray[Any]]]:
        """Yield what a pass that reduces loads, in blocks of whole tiles."""
        loaded = {array.name for array in graph.loaded}
        for start in range(0, arrays[0].size, GATHERED):
            stop = min(start + GATHERED, arrays[0].size)
            block = [buffer[: stop - start] for buffer in self.buffers]
            for i, spec in enumerate(graph.arrays):
                if spec.per > 1:
                    block[i] = arrays[i][start // spec.per : -(-stop // spec.per)]
                elif spec.name in loaded:
                    block[i] = _line(arrays[i], start, stop, block[i])
            yield block

    def lines(
        self, graph: Graph, arrays: Sequence[NDArray[Any]], begin: int
    ) -> Iterator[tuple[int, list[NDArray[Any]], list[Call]]]:
        """Yield the same as `boxes`, in blocks of whole tiles: of arrays in C order."""
        stored = {array.name for array in graph.stored}
        for start in range(begin, arrays[0].size, GATHERED):
            stop = min(start + GATHERED, arrays[0].size)
            block: list[NDArray[Any]] = []
            stores: list[Call] = []
            for buffer, array, spec in zip(self.buffers, arrays, graph.arrays, strict=True):
                if spec.per > 1:
                    part = slice(start // spec.per, -(-stop // spec.per))
                    copy = buffer[: len(array[part])]
                    copy[...] = array[part]
                    block.append(copy)
                    stores.append(partial(setitem, array, part, copy))
                    continue
                copy = buffer[: stop - start]
                line = _line(array, start, stop, copy)
                block.append(copy if spec.name in stored else line)
                if spec.name in stored:
                    copy[...] = line
                    stores += _scattered(copy, array, start, stop)
            yield stop, block, stores

    def boxes(
        self, graph: Graph, arrays: Sequence[NDArray[Any]], begin: int
    ) -> Iterator[tuple[int, list[NDArray[Any]], list[Call]]]:
        """Yield what the last pass loads from element `begin` on, without allocating anything.

        Each time the element after the part, copies of it or the part itself where it is only
        read, and the calls that write it back.
        """
        loaded, stored = ({array.name for array in of} for of in (graph.loaded, graph.stored))
        for stop, index in boxes(arrays[0].shape, GATHERED):
            if stop <= begin:
                continue
            block: list[NDArray[Any]] = []
            stores: list[Call] = []
            for buffer, array, spec in zip(self.buffers, arrays, graph.arrays, strict=True):
                part = array[index]
                if part.flags.c_contiguous and part.flags.aligned and spec.name not in stored:
                    block.append(part.reshape(-1))
                    continue
                copy = buffer[: part.size]
                block.append(copy)
                if spec.name in loaded:
                    copy.reshape(part.shape)[...] = part
                if spec.name in stored:
                    stores.append(partial(setitem, array, index, copy.reshape(part.shape)))
            yield stop, block, stores


def _line(array: NDArray[Any], start: int, stop: int, copy: NDArray[Any]) -> NDArray[Any]:
    """Return elements of an array in C order: where they lie, if that is a line, or copied."""
    if array.flags.c_contiguous and array.flags.aligned:
        return array.reshape(-1)[start:stop]
    array = np.atleast_1d(array)
    done = 0
    for index, lengths in boxes_of_line(array.shape, start, stop):
        part = array[tuple(slice(i, i + n) for i, n in zip(index, lengths, strict=True))]
        copy[done : done + part.size].reshape(part.shape)[...] = part
        done += part.size
    return copy


def _scattered(copy: NDArray[Any], array: NDArray[Any], start: int, stop: int) -> Iterator[Call]:
    """Yield the calls that write elements, in C order, where they lie."""
    array, done = np.atleast_1d(array), 0
    for index, lengths in boxes_of_line(array.shape, start, stop):
        box = tuple(slice(i, i + n) for i, n in zip(index, lengths, strict=True))
        part = array[box]
        yield partial(setitem, array, box, copy[done : done + part.size].reshape(part.shape))
        done += part.size


def boxes(shape: Sequence[int], most: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Cut an array into boxes of at most so many elements, each without a gap in C order.

    Yield the number of elements up to the end of each, and its index.
    """
    axis, inner = len(shape), 1
    while axis and inner * shape[axis - 1] <= most:
        axis -= 1
        inner *= shape[axis]
    if axis == 0:
        if inner:
            yield inner, (...,)
        return
    axis -= 1
    step, done = max(1, most // max(1, inner)), 0
    for outer in np.ndindex(*shape[:axis]):
        for start in range(0, shape[axis], step):
            done += inner * (min(start + step, shape[axis]) - start)
            yield done, (*outer, slice(start, start + step), ...)

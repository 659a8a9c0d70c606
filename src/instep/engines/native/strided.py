"""Leaves whose arrays are no lines: boxes of them are copied, passed over, and copied back.

One call of compiled code on each thread does it for all such leaves of a launch. It allocates
nothing and runs no Python, so that neither a lack of memory nor the handler of a signal finds it
half done. All that can be known of boxes beforehand stands in tables.
"""

import ctypes
import math
from array import array
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from instep.engines.native.compile import address_of, compile_function, compile_kernel, traits
from instep.engines.native.emit import emit as emit_pass
from instep.engines.native.strided_code import LOADED, STORED, Block, Part, Word, emit
from instep.engines.placement import Placement
from instep.engines.walks import Cut, Walk, boxes_of_line, loop_order
from instep.graph import Graph
from instep.numerics import TILE

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Elements of a block of a pass that reduces: whole tiles, of several rows of most matrices, so
#: that all of a cache line that was loaded is used.
REDUCED = 4 * TILE

#: Words of the arguments, the first ones, that count up from zero in each run.
COUNTERS = 2


class Strided:
    """The leaves of a launch that are no lines.

    Parameters
    ----------
    graph
        The pass, of which `kernel` is the address.
    leaves
        The leaves, with the addresses at which those of their arrays stand, and the positions of
        their first tiles.
    threads
        The most threads that it may use.
    arguments
        The arguments of the kernel.
    """

    def __init__(
        self,
        graph: Graph,
        kernel: int,
        leaves: Sequence[tuple[Placement, int, int]],
        threads: int,
        arguments: "array[int]",
    ) -> None:
        tables = _Tables(graph, kernel)
        for leaf, addresses, first_tile in leaves:
            tables.add(leaf, addresses, first_tile)
        blocks = np.concatenate([np.zeros((0, len(Block)), np.int64), *tables.blocks])
        self.threads = max(1, min(threads, len(blocks)))
        loaded, stored = set(graph.loaded), set(graph.stored)
        arrays, end = array("q"), 0
        for spec, size, room in zip(graph.arrays, tables.sizes, tables.room, strict=True):
            use = LOADED * (spec in loaded) | STORED * (spec in stored)
            arrays.extend([size, use, end])
            end += -(-room // _PAGE) * _PAGE + _LINE
        buffers = np.empty(end * self.threads + _PAGE, np.uint8)
        self._kept = tables.kept, blocks, arrays, buffers, arguments
        self._words = array("q", bytes(8 * len(Word)))
        for word, value in (
            (Word.BLOCKS, blocks.ctypes.data),
            (Word.COUNT, len(blocks)),
            (Word.ARGUMENTS, arguments.buffer_info()[0]),
            (Word.ARRAYS, arrays.buffer_info()[0]),
            (Word.ARRAY_COUNT, len(graph.arrays)),
            (Word.BUFFERS, buffers.ctypes.data + -buffers.ctypes.data % _PAGE),
            (Word.BUFFERS_BYTES, end),
            (Word.REDUCES, int(bool(graph.sums))),
        ):
            self._words[word] = value
        self._address = self._words.buffer_info()[0]
        self._run_address = address_of(_compiled(frozenset(tables.sizes)))

    @property
    def call(self) -> tuple[int, int]:
        """The addresses of what runs the pass on all leaves, and of its arguments."""
        return self._run_address, self._address


#: Copies of arrays begin a line after a page: one that is read does not wait for a store to
#: another at the same place in a page.
_PAGE, _LINE = 4096, 64


class _Tables:
    """The tables of the leaves of a launch."""

    def __init__(self, graph: Graph, kernel: int) -> None:
        self._graph, self._kernel = graph, kernel
        self.blocks: list[NDArray[np.int64]] = []
        self.kept: list[NDArray[np.int64]] = []
        self.room = [0] * len(graph.arrays)  # bytes of the largest copy of each array
        self.sizes: tuple[int, ...] = ()

    def add(self, leaf: Placement, addresses: int, first_tile: int) -> None:
        """Cut a leaf into blocks."""
        graph = self._graph
        walk = Walk.of(graph, leaf.shape, leaf.strides)
        self.sizes = walk.sizes
        if leaf.size == 0:
            return
        if graph.in_order:
            copied = tuple(
                use > 0 and not fit for use, fit in zip(walk.uses, leaf.contiguous, strict=True)
            )
            cut = Cut(walk.shape, None, copied)
            first, index, lengths, place = _blocks_of_tiles(walk.shape, leaf.size)
        else:
            cut = Cut.of(walk, leaf.aligned)
            index, lengths = _grid(walk.shape, cut.box)
            first, place = np.arange(len(index) + 1), np.zeros(len(index), np.int64)
        record = self._leaf(leaf, addresses, walk, cut)
        forms, form_of = np.unique(lengths, axis=0, return_inverse=True)
        form_at = self._keep([_form(walk, cut, form) for form in forms.tolist()])
        parts = np.empty((len(index), len(Part) + len(walk.steps)), np.int64)
        parts[:, Part.FORM] = np.array(form_at)[form_of.reshape(-1)]
        parts[:, Part.PLACE] = place
        parts[:, len(Part) :] = walk.starts + index @ np.array(walk.steps).T
        (parts_at,) = self._keep([parts])
        blocks = np.zeros((len(first) - 1, len(Block)), np.int64)
        blocks[:, Block.LEAF] = record
        blocks[:, Block.PARTS] = parts_at + first[:-1] * parts.strides[0]
        blocks[:, Block.PART_COUNT] = np.diff(first)
        blocks[:, Block.ROWS] = 1 if cut.rows is None else lengths[first[:-1], cut.rows]
        sizes = np.add.reduceat(lengths.prod(axis=1), first[:-1])
        blocks[:, Block.LENGTH] = sizes // blocks[:, Block.ROWS]
        blocks[:, Block.TILES] = -(-sizes // TILE)
        blocks[:, Block.FIRST_TILE] = first_tile + np.arange(len(blocks)) * (REDUCED // TILE)
        blocks[:, Block.FIRST] = np.arange(len(blocks)) * REDUCED if graph.in_order else 0
        self.blocks.append(blocks)
        longest, rows = int(sizes.max()), int(blocks[:, Block.ROWS].max())
        self.room = [
            max(room, is_copied * max(longest * size, rows * step))
            for room, is_copied, size, step in zip(
                self.room, cut.copied, walk.sizes, cut.row_steps(walk), strict=True
            )
        ]

    def _leaf(self, leaf: Placement, addresses: int, walk: Walk, cut: Cut) -> int:
        """Write the record of a leaf; return its address."""
        words, row_steps = [], cut.row_steps(walk)
        for i, steps in enumerate(walk.steps):
            order = loop_order(walk, i, cut.box)
            words.append([int(cut.copied[i]), row_steps[i], *(steps[axis] for axis in order)])
        (arrays_at,) = self._keep([np.array(words, np.int64)])
        kernel = self._kernel_for(cut.sparse)
        record = [addresses, leaf.row, leaf.position, len(walk.shape), arrays_at, kernel]
        return self._keep([np.array(record, np.int64)])[0]

    def _kernel_for(self, sparse: frozenset[int]) -> int:
        """Return the address of the pass on rows of which these arrays have gaps."""
        if not sparse:
            return self._kernel
        text = emit_pass(self._graph, traits(), in_rows=True, sparse=sparse)
        return address_of(compile_kernel(text))

    def _keep(self, tables: "Sequence[NDArray[np.int64]]") -> list[int]:
        """Keep tables, and return their addresses."""
        self.kept.extend(tables)
        return [table.ctypes.data for table in tables]


def _grid(
    shape: Sequence[int], box: Sequence[int]
) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    """Cut a walk into boxes; return the first index and the lengths of each."""
    counts = [-(-n // length) for n, length in zip(shape, box, strict=True)]
    number = np.arange(math.prod(counts))
    index = np.stack(np.unravel_index(number, counts), axis=1) * np.array(box)
    return index, np.minimum(box, np.array(shape) - index)


def _blocks_of_tiles(shape: Sequence[int], size: int) -> "tuple[NDArray[np.int64], ...]":
    """Cut a line into blocks of whole tiles, and these into boxes.

    Return the number of the first box of each block, and one more; and of each box the first
    index, the lengths, and how many elements of the block come before.
    """
    first, index, lengths, place = [0], [], [], []
    for start in range(0, size, REDUCED):
        before = 0
        for at, box in boxes_of_line(shape, start, min(start + REDUCED, size)):
            index.append(at)
            lengths.append(box)
            place.append(before)
            before += math.prod(box)
        first.append(len(index))
    return tuple(np.array(table, np.int64) for table in (first, index, lengths, place))


def _form(walk: Walk, cut: Cut, lengths: Sequence[int]) -> "NDArray[np.int64]":
    """Return, for each array, lengths of the axes of a box and their steps in a copy of it."""
    words, row_steps = [], cut.row_steps(walk)
    for i, size in enumerate(walk.sizes):
        order = loop_order(walk, i, cut.box)
        steps = [size * math.prod(lengths[axis + 1 :]) for axis in range(len(lengths))]
        if cut.rows is not None:
            steps[cut.rows] = row_steps[i]
        words.append([[lengths[axis] for axis in order], [steps[axis] for axis in order]])
    return np.array(words, np.int64)


@cache
def _compiled(sizes: frozenset[int]) -> Any:
    return compile_function(emit(sizes), "run_strided", ctypes.CFUNCTYPE(None, ctypes.c_void_p))

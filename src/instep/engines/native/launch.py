"""Launches of the native engine: one call of compiled code a thread, for all tensors of a pass."""

import struct
from array import array
from collections.abc import Iterable, Mapping
from functools import partial
from operator import setitem
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.engines.host import HostBucket, HostLaunch
from instep.engines.native.arguments import Argument, Entry, entry_words, scalar_layout
from instep.engines.native.compile import address_of, compile_kernel, traits
from instep.engines.native.emit import emit
from instep.engines.native.one_call import Calls, OneCall
from instep.engines.native.pool import start_workers
from instep.engines.native.strided import COUNTERS, Strided
from instep.engines.native.waking import worth_waking
from instep.engines.sums import SumTable
from instep.graph import Array, Graph, Node, Sum, sum_number
from instep.graph.nodes import FIRST
from instep.graph.rows import Row
from instep.interrupts import Call
from instep.numerics import LANES, TILE
from instep.words import BLOCK

#: Elements of the smallest and the largest chunk. Threads take chunks as they come free, so a
#: core that was disturbed leaves its share to the others; a chunk is long enough to be read in
#: a stream (256 KiB and more of each array). Smallest chunks of 4 Ki to 32 Ki are alike; with 64 Ki
#: Adam takes 50 us at 256 Ki elements, and 39 with 16 Ki.
SMALLEST_CHUNK, LARGEST_CHUNK = 16 * 1024, 256 * 1024

#: Chunks of a thread, where they are not too small or too large for it. On a quiet machine 1, 4 and
#: 16 are alike (RMSProp and AdamW on 2**22 to 2**25 elements, two threads of Zen 5).
_CHUNKS_PER_THREAD = 16

# Plain integers: an enum as an index takes longer than the assignment.
_NEXT = int(Argument.NEXT)
_OF_TILES = (int(Entry.COLUMN), int(Entry.FIRST_TILE), int(Entry.TILES))
_SUMS, _SUMS_STRIDE = int(Argument.SUMS), int(Argument.SUMS_STRIDE)


class Arguments:
    """The block of arguments of a kernel, and the arrays that it points at: these live as long."""

    def __init__(
        self,
        table: NDArray[np.int64],
        chunks: NDArray[np.int64],
        scalars: NDArray[Any] | None,
        partials: NDArray[np.float64],
    ) -> None:
        # A list of words that Python writes in 30 ns each; NumPy takes three times as long.
        self.words = array("q", bytes(8 * len(Argument)))
        self.words[Argument.TABLE] = table.ctypes.data
        self.words[Argument.CHUNKS] = chunks.ctypes.data
        self.words[Argument.COUNT] = len(chunks)
        if scalars is not None:
            self.words[Argument.SCALARS] = scalars.ctypes.data
        self.words[Argument.PARTIALS] = partials.ctypes.data
        self.words[Argument.PARTIALS_STRIDE] = partials.shape[1]
        self.address = self.words.buffer_info()[0]
        self.table, self.chunks, self.partials = table, chunks, partials
        self._scalars = scalars


class CompiledLaunch(HostLaunch):
    """Compiled code with its arguments, on leaves of a bucket."""

    _arguments: Arguments
    _call: OneCall | None = None

    def __init__(self, bucket: HostBucket[Any], graph: Graph, members: list[int]) -> None:
        super().__init__(bucket, graph, members)
        layout = scalar_layout(graph)
        rows = 1 + max(leaf.row for leaf in bucket.leaves)
        self.scalars = np.zeros((rows, layout.itemsize), dtype=np.uint8)
        self._pack, self._offsets = struct.Struct(layout.format).pack_into, layout.offsets
        self._places = [(row, row * layout.itemsize) for row in self.rows if graph.scalars]
        self._sum_count = graph.sum_count

    def take(self, rows: Iterable[Row], candidate: int) -> None:
        numbers = [row.numbers for row in rows]
        for row, at in self._places:  # other rows are of leaves that run another graph
            values = self.host_expressions(*numbers[row])
            try:
                self._pack(self.scalars.data, at, *values)
            except OverflowError:  # beyond the largest float32: infinite, as NumPy rounds it
                dtypes = [np.dtype(scalar.dtype).type for scalar in self.graph.scalars]
                with np.errstate(over="ignore"):
                    rounded = [dtype(x) for dtype, x in zip(dtypes, values, strict=True)]
                self._pack(self.scalars.data, at, *rounded)

    def scalar_places(self) -> Iterable[tuple[int, list[tuple[int, bool]]]]:
        """Return, for each row, where its scalars go: addresses, and whether they are doubles."""
        wide = [scalar.dtype == "float64" for scalar in self.graph.scalars]
        for row, at in self._places:
            start = self.scalars.ctypes.data + at
            yield row, [(start + o, w) for o, w in zip(self._offsets, wide, strict=True)]

    def prepare(self, sums: SumTable) -> None:
        """Prepare a run: its calls are known but for those that need the final table of sums."""
        if self._call is None:
            self._call = self._alone(sums)
        self._call.begin()

    def run(self, bucket: HostBucket[Any], sums: SumTable) -> None:
        assert self._call is not None
        if self._call.outcome() is None:
            if self._arguments.words[_SUMS] != sums.address and self._sum_count:
                self._call = self._alone(sums)
            self._call.run()
            self.leave_tiles(sums)

    def leave_tiles(self, sums: SumTable) -> None:
        """Leave the sums of tiles where other processes have the others."""

    def _alone(self, sums: SumTable) -> OneCall:
        calls = Calls()
        self.add_to(calls, sums)
        return OneCall(calls, Calls(), Calls())

    def add_to(self, calls: Calls, sums: SumTable) -> None:
        """Add the calls that run the pass."""
        self._arguments.words[_SUMS] = sums.address
        self._arguments.words[_SUMS_STRIDE] = sums.stride


class NativeLaunch(CompiledLaunch):
    """A pass on leaves of a bucket: compiled code, its arguments, and the list of chunks.

    Parameters
    ----------
    table
        What the compiled code reads of each leaf of the bucket: the addresses of its arrays, then
        the words of `Entry`.
    threads
        The most threads that it may use.
    """

    def __init__(
        self,
        bucket: HostBucket[Any],
        graph: Graph,
        members: list[int],
        table: NDArray[np.int64],
        threads: int,
    ) -> None:
        super().__init__(bucket, graph, members)
        leaves = bucket.leaves
        self._width = width = len(graph.arrays)
        # One call for all: a leaf that is a line is walked as others are where there are others.
        are_lines = all(leaves[i].is_walked(graph) for i in members)
        walks, self._gathered = (members, []) if are_lines else ([], members)
        self._members = np.array(walks, dtype=np.intp)
        self._own_table = len(walks) != len(table)
        # Of the arrays of a leaf, those that are others at each step.
        self._moving = [0, 1, width - 1] if bucket.unwritable else [0, 1]
        self._table = table
        table = table[self._members] if self._own_table else table
        table[:, width + Entry.ROW] = [leaves[i].row for i in walks]
        if self._own_table:  # these tensors have tiles of numbers from 0 on
            counts = table[:, width + Entry.TILES]
            table[:, width + Entry.FIRST_TILE] = np.cumsum(counts) - counts

        extents = table[:, width + (Entry.TILES if graph.sums else Entry.COUNT)]
        unit = TILE if graph.sums else 1
        elements = int(table[:, width + Entry.COUNT].sum())
        if graph.sums:  # a tile, however short, costs as much as this many elements: its fold
            elements += LANES * int(extents.sum())
        most_threads = threads
        threads = worth_waking(threads, elements, graph)
        is_whole = graph.has_blocks and not graph.sums
        chunks = in_blocks(extents, threads) if is_whole else split(extents, threads, unit)
        self._threads = min(threads, len(chunks))
        tiles = int(table[:, width + Entry.TILES].sum()) if graph.sums else 0
        partials = _partials(graph, max(1, tiles))
        self._arguments = Arguments(table, chunks, self.scalars, partials)
        self._tiles = partials, *(table[:, width + place] for place in _OF_TILES)
        in_rows = bool(self._gathered) and not graph.in_order
        self._kernel_address = address_of(compile_kernel(emit(graph, traits(), in_rows=in_rows)))
        self._strided = self._strided_leaves(bucket, most_threads)
        start_workers(max(self._threads, self._strided.threads if self._strided else 1))

    def _strided_leaves(self, bucket: HostBucket[Any], threads: int) -> Strided | None:
        """Return what runs the pass on the leaves that are no lines, if there are any."""
        if not self._gathered:
            return None
        columns, _, tiles = (self._table[self._gathered, self._width + i] for i in _OF_TILES)
        firsts = np.cumsum(tiles) - tiles
        elements = int(self._table[self._gathered, self._width + Entry.COUNT].sum())
        partials = _partials(self.graph, int(tiles.sum()))
        self._tiles = partials, columns, firsts, tiles
        # Each thread has a table and a chunk of its own, for one block at a time.
        none = np.zeros((0, 0), dtype=np.int64)
        self._arguments = Arguments(none, none, self.scalars, partials)
        start, stride = self._table.ctypes.data, self._table.strides[0]
        leaves = [
            (bucket.leaves[i], start + i * stride, int(first))
            for i, first in zip(self._gathered, firsts, strict=True)
        ]
        threads = worth_waking(threads, elements, self.graph)
        return Strided(self.graph, self._kernel_address, leaves, threads, self._arguments.words)

    def turning(self, names: Mapping[str, str]) -> list[Call]:
        if not self._own_table or self._strided is not None:
            return []  # the table of the bucket is read
        place = {array.name: i for i, array in enumerate(self.graph.arrays)}
        new, old = ([place[name] for name in some] for some in (names, names.values()))
        own = self._arguments.table
        return [partial(setitem, own, (slice(None), new), own[:, old])]

    def leave_tiles(self, sums: SumTable) -> None:
        if sums.tiles is None:
            return
        partials, columns, firsts, counts = self._tiles
        for k, entry in enumerate(self.graph.sums):
            for column, first, count in zip(columns, firsts, counts, strict=True):
                found = partials[k][first : first + count].copy()
                sums.tiles[entry.number, int(column)] = found

    def add_to(self, calls: Calls, sums: SumTable) -> None:
        super().add_to(calls, sums)
        if self._strided is not None:
            function, arguments = self._strided.call
            calls.clear(arguments, COUNTERS)
            calls.run(function, arguments, self._strided.threads)
        else:
            own = self._arguments
            if self._own_table:
                places = places_of(self._table)[self._members]
                calls.move(places[:, self._moving], places_of(own.table)[:, self._moving])
            calls.clear(own.address + 8 * _NEXT)
            calls.run(self._kernel_address, own.address, self._threads)
        for k, entry in enumerate(self.graph.sums):
            self._add_sum(calls, k, entry.kind, sums.address + 8 * sums.stride * entry.number)

    def _add_sum(self, calls: Calls, k: int, kind: str, row: int) -> None:
        """Add the calls that make the sums of tensors of those of their tiles: most have one."""
        partials, columns, firsts, counts = self._tiles
        found = places_of(partials[k])[firsts]
        for i in np.flatnonzero(counts > 1):
            found[i] = _add_up(calls, kind, partials[k][firsts[i] : firsts[i] + counts[i]])
        calls.move(found, row + found.itemsize * columns)


def _partials(graph: Graph, tiles: int) -> NDArray[np.float64]:
    """Return room for the sums of tiles; a tensor without elements may leave its own as it is."""
    first = np.array([FIRST[entry.kind] for entry in graph.sums] or [0.0])
    return np.repeat(first.reshape(-1, 1), tiles, axis=1)


def places_of(x: NDArray[Any]) -> NDArray[np.int64]:
    """Return the addresses of the elements of a contiguous array."""
    return x.ctypes.data + x.itemsize * np.arange(x.size, dtype=np.int64).reshape(x.shape)


def split(extents: NDArray[np.int64], threads: int, unit: int) -> NDArray[np.int64]:
    """Cut the tensors, laid end to end, into chunks: (first tensor, begin, last tensor, end).

    `extents` are the sizes of the tensors, in units of `unit` elements: 1, or a tile for a pass
    that sums, since tiles are never cut.
    """
    total = int(extents.sum())
    if total == 0:
        return np.zeros((0, 4), dtype=np.int64)
    size = total if threads == 1 else -(-total // (threads * _CHUNKS_PER_THREAD))
    if threads > 1:
        size = min(max(size, SMALLEST_CHUNK // unit), LARGEST_CHUNK // unit)
        if unit == 1:
            size = -(-size // 1024) * 1024
    starts = np.arange(0, total, max(1, size), dtype=np.int64)
    stops = np.minimum(starts + size, total)
    ends = np.cumsum(extents)
    begins = ends - extents
    first = np.searchsorted(ends, starts, side="right")
    last = np.searchsorted(ends, stops, side="left")
    return np.stack([first, starts - begins[first], last, stops - begins[last]], axis=1)


def in_blocks(extents: NDArray[np.int64], threads: int) -> NDArray[np.int64]:
    """Cut tensors into chunks as `split` does, none of which begins within a block."""
    chunks = split(-(-extents // BLOCK), threads, BLOCK)
    chunks[:, (1, 3)] *= BLOCK
    chunks[:, 3] = np.minimum(chunks[:, 3], extents[chunks[:, 2]])
    return chunks


#: The passes over an array of float64: what adds up the sums of tiles, or takes their maximum.
_OF_TILES_OF = {
    kind: Graph(
        name=f"{kind}_float64",
        compute="float64",
        arrays=(Array("x", "float64"),),
        scalars=(),
        nodes=(Node("load", (), "float64", "x"),),
        sums=(Sum(sum_number(0, "tensor", kind), 0, "tensor"),),
        sum_count=1 + sum_number(0, "tensor", kind),
    )
    for kind in ("sum", "maximum")
}


def _add_up(calls: Calls, kind: str, x: NDArray[np.float64]) -> int:
    """Add the calls that make the canonical sum of a line; return the address of the sum."""
    graph = _OF_TILES_OF[kind]
    while len(x) > 1:
        tiles = -(-len(x) // TILE)
        row = np.zeros((1, entry_words(graph)), dtype=np.int64)
        row[0] = [x.ctypes.data, len(x), 0, 0, tiles, 0, 0]
        chunk = np.array([[0, 0, 0, tiles]], dtype=np.int64)
        arguments = Arguments(row, chunk, None, np.zeros((1, tiles)))
        calls.kept.append(arguments)
        calls.clear(arguments.address + 8 * _NEXT)
        calls.run(address_of(compile_kernel(emit(graph, traits()))), arguments.address)
        x = arguments.partials[0]
    return x.ctypes.data

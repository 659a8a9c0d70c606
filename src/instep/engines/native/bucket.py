"""Steps of the native engine: one call of compiled code a thread, for all tensors of a bucket."""

import struct
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.engines.base import Fit, Member, Range, Repeater, SumTable
from instep.engines.host import Group, HostBucket, gathered
from instep.engines.native import check
from instep.engines.native.compile import address_of, compile_kernel
from instep.engines.native.emit import Argument, Entry, emit, entry_words
from instep.engines.native.pool import run_on_threads
from instep.engines.native.threads import thread_count
from instep.graph import Array, Graph, Node, Sum, sum_number
from instep.numerics import LANES, TILE
from instep.overlaps import Written
from instep.program import Program, Row

#: Elements under which a step stays on one thread; each thread has half as many at least. Steps
#: on two threads and on one take, in us (medians, float32, Zen 5): Adam 26 and 28 at 128 Ki
#: elements, 39 and 53 at 256 Ki, 66 and 98 at 512 Ki; SGD 13 and 12, 21 and 24, 36 and 48. A lone
#: step after milliseconds of other work finds the second core asleep: there Adam is level at 256
#: Ki, and SGD loses 10 us and is level from 512 Ki on.
ELEMENTS_TO_WAKE = 256 * 1024

#: Elements of the smallest and the largest chunk. Threads take chunks as they come free, so a
#: core that was disturbed leaves its share to the others; a chunk is long enough to be read in
#: a stream (256 KiB and more of each array). Smallest chunks of 4 Ki to 32 Ki are alike; with 64 Ki
#: Adam takes 50 us at 256 Ki elements, and 39 with 16 Ki.
SMALLEST_CHUNK, LARGEST_CHUNK = 16 * 1024, 256 * 1024

#: Chunks of a thread, where they are not too small or too large for it. On a quiet machine 1, 4 and
#: 16 are alike (RMSProp and AdamW on 2**22 to 2**25 elements, two threads of Zen 5).
_CHUNKS_PER_THREAD = 16

_WORD = 8

# Plain integers: an enum as an index takes longer than the assignment.
_COUNT, _NEXT = int(Argument.COUNT), int(Argument.NEXT)
_SUMS, _SUMS_STRIDE = int(Argument.SUMS), int(Argument.SUMS_STRIDE)


class NativeBucket(HostBucket):
    """Leaves that compiled loops walk."""

    def __init__(self, program: Program, members: Sequence[Member], threads: int | None) -> None:
        super().__init__(program, members)
        self.threads = thread_count(threads)
        width = 2 + len(program.arrays)
        table = np.zeros((len(members), width + len(Entry)), dtype=np.int64)
        first_tile = 0
        for leaf, row in zip(self.leaves, table, strict=True):
            row[2:width] = [leaf.slots[name].ctypes.data for name in program.arrays]
            tiles = max(1, -(-leaf.count // TILE))
            row[width:] = [leaf.count, 0, leaf.position, tiles, first_tile]
            first_tile += tiles
        self.table, self.width = table, width
        self._check: check.SignatureCheck | None = None
        if check.is_supported():
            start, stride = self.table.ctypes.data, self.table.strides[0]
            rows = [start + i * stride for i in range(len(members))]
            self._check = check.SignatureCheck(
                ([member.parameter for member in members], rows),
                ([member.gradient for member in members], [row + _WORD for row in rows]),
            )

    def fit(self, params: Sequence[Any], grads: Sequence[Any]) -> Fit:
        if self._check is not None:
            found = self._check.compare(self.own(params), self.own(grads))
            if found != check.DIFFERENT:
                self._params, self._grads = params, grads
                return Fit.SAME if found == check.SAME else Fit.MOVED
        # Another dtype object may stand for the same dtype: the slower check decides.
        if super().fit(params, grads) is Fit.DIFFERENT:
            return Fit.DIFFERENT
        self.table[:, 0] = [params[i].ctypes.data for i in self.positions]
        self.table[:, 1] = [grads[i].ctypes.data for i in self.positions]
        return Fit.MOVED

    def own(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """Return the leaves of this bucket."""
        if len(leaves) != len(self.positions):
            return tuple([leaves[i] for i in self.positions])
        return leaves if type(leaves) is tuple else tuple(leaves)

    def bounds(self) -> tuple[Range, Range]:
        if not all(leaf.line for leaf in self.leaves):
            return super().bounds()
        w, g = self.table[:, 0], self.table[:, 1]
        return (w, w + self._nbytes), (g, g + self._nbytes)

    def runner(self, graph: Graph, members: list[int]) -> "Launch":
        rows = 1 + max(leaf.row for leaf in self.leaves)
        launch = Launch(self, graph, members, rows)
        launch.host_expressions = self._program.host_expressions(graph)
        return launch

    def prepare(self, groups: Sequence[Group], rows: Sequence[Row]) -> None:
        for group in groups:
            for launch in group.runners:
                launch.take(rows)

    def run(self, group: Group, level: int, sums: SumTable) -> None:
        group.runners[level].run(sums)

    def repeater(self) -> "Repeater | None":
        launches = [launch for group in self._groups for launch in group.runners]
        if self._check is None or len(launches) != 1 or not launches[0].is_simple:
            return None
        return NativeRepeater(self, launches[0], self._check)


class NativeRepeater(Repeater):
    """One call to check, one to run: all that a step with the arrays of the step before takes."""

    def __init__(self, bucket: NativeBucket, launch: "Launch", fits: check.SignatureCheck) -> None:
        self._bucket, self._launch, self._check = bucket, launch, fits
        self.run = launch.run_kernel

    def stage(self, params: Any, grads: Any, numbers: tuple[float, ...]) -> bool:
        own = self._bucket.own
        found = self._check.compare(own(params), own(grads))
        return found in (check.SAME, check.CLEAR) and self._launch.pack(numbers)

    def refresh(self) -> None:
        if not self._check.is_watching:
            written = Written(*self._bucket.bounds()[0])
            if not written.overlaps:
                self._check.watch(written.starts, written.stops)


class Launch:
    """A pass on leaves of a bucket: compiled code, its arguments, and the list of chunks."""

    host_expressions: Any

    def __init__(self, bucket: NativeBucket, graph: Graph, members: list[int], rows: int) -> None:
        self.graph = graph
        self.scalars: NDArray[Any] = np.zeros((rows, len(graph.scalars)), dtype=graph.compute)
        self._bucket = bucket
        leaves = bucket.leaves
        # Others are of other buckets, or of leaves that run another graph.
        self._rows = sorted({leaves[i].row for i in members})
        walks = [i for i in members if leaves[i].c_order or (leaves[i].line and not graph.sums)]
        self._gathered = sorted(set(members) - set(walks))
        self._members = np.array(walks, dtype=np.intp)
        everything = len(walks) == len(bucket.table)
        self._table = bucket.table if everything else bucket.table[self._members]
        width = bucket.width
        self._table[:, width + Entry.ROW] = [leaves[i].row for i in walks]

        extents = self._table[:, width + (Entry.TILES if graph.sums else Entry.COUNT)]
        unit = TILE if graph.sums else 1
        elements = int(self._table[:, width + Entry.COUNT].sum())
        if graph.sums:  # a tile, however short, costs as much as this many elements: its fold
            elements += LANES * int(extents.sum())
        threads = max(1, min(bucket.threads, 2 * elements // ELEMENTS_TO_WAKE))
        self._chunks = split(extents, threads, unit)
        self._threads = min(threads, len(self._chunks))
        tiles = int(self._table[:, width + Entry.TILES].sum()) if graph.sums else 0
        self._table_tiles(width)
        self._partials = np.zeros((max(1, len(graph.sums)), max(1, tiles)))
        # A list of words that Python writes in 30 ns each; NumPy takes three times as long.
        self._arguments = array("q", bytes(8 * len(Argument)))
        self._arguments[Argument.TABLE] = self._table.ctypes.data
        self._arguments[Argument.SCALARS] = self.scalars.ctypes.data
        self._arguments[Argument.CHUNKS] = self._chunks.ctypes.data
        self._arguments[Argument.COUNT] = len(self._chunks)
        self._arguments[Argument.PARTIALS] = self._partials.ctypes.data
        self._arguments[Argument.PARTIALS_STRIDE] = self._partials.shape[1]
        self._address = self._arguments.buffer_info()[0]
        self._own_table = self._table is not bucket.table
        letter = {"float32": "f", "float64": "d"}[graph.compute]
        self._pack = struct.Struct(f"={len(graph.scalars)}{letter}").pack_into
        self._kernel = compile_kernel(emit(graph))
        self._kernel_address = address_of(self._kernel)

    def _table_tiles(self, width: int) -> None:
        """Give the tiles of these tensors numbers from 0 on."""
        if self._table is not self._bucket.table:
            tiles = self._table[:, width + Entry.TILES]
            self._table[:, width + Entry.FIRST_TILE] = np.cumsum(tiles) - tiles

    @property
    def is_simple(self) -> bool:
        """Return whether one call of the kernel with one row is all there is."""
        return (
            not (self._own_table or self._gathered or self.graph.sum_count or self.graph.calls)
            and self._arguments[_COUNT] > 0
            and len(self.scalars) == 1
        )

    def pack(self, numbers: tuple[float, ...]) -> bool:
        """Take the scalars of the only row; return False where one is beyond the dtype."""
        try:
            self._pack(self.scalars.data, 0, *self.host_expressions(*numbers))
        except OverflowError:
            return False
        return True

    def run_kernel(self) -> None:
        """Run the kernel, on several threads where there are chunks to share."""
        arguments = self._arguments
        arguments[_NEXT] = 0
        if arguments[_COUNT] == 1:
            self._kernel(self._address)
        else:
            run_on_threads(self._kernel_address, self._address, self._threads)

    def run(self, sums: SumTable) -> None:
        """Run the pass on all its leaves."""
        if self._own_table:
            self._table[:, :2] = self._bucket.table[self._members, :2]
        if self._arguments[_COUNT]:
            self._call(sums)
        if self.graph.sums:
            self._add_tiles(sums)
        for i in self._gathered:
            self._run_gathered(i, sums)

    def take(self, rows: Sequence[Row]) -> None:
        """Evaluate the host expressions, each rounded once to the compute dtype."""
        for number in self._rows:
            values = self.host_expressions(*rows[number].numbers)
            try:
                self._pack(self.scalars.data, number * self.scalars.strides[0], *values)
            except OverflowError:  # beyond the largest float32: infinite, as NumPy rounds it
                with np.errstate(over="ignore"):
                    self.scalars[number, : len(values)] = values

    def _call(self, sums: SumTable) -> None:
        if self.graph.sum_count:
            self._arguments[_SUMS] = sums.address
            self._arguments[_SUMS_STRIDE] = sums.values.shape[1]
        self.run_kernel()

    def _add_tiles(self, sums: SumTable) -> None:
        """Write the sums of the tensors, from the sums of their tiles."""
        width = self._bucket.width
        columns = self._table[:, width + Entry.COLUMN]
        counts = self._table[:, width + Entry.TILES]
        firsts = self._table[:, width + Entry.FIRST_TILE]
        for k, entry in enumerate(self.graph.sums):
            partials = self._partials[k]
            sums.values[entry.number, columns] = partials[firsts]
            for i in np.flatnonzero(counts > 1):
                tiles = partials[firsts[i] : firsts[i] + counts[i]]
                sums.values[entry.number, columns[i]] = canonical_sum(tiles)

    def _run_gathered(self, i: int, sums: SumTable) -> None:
        """Run the pass on a leaf whose arrays are no line, on contiguous copies of its blocks."""
        leaf, width = self._bucket.leaves[i], self._bucket.width
        row = np.zeros(width + len(Entry), dtype=np.int64)
        table, chunks = self._table, self._chunks
        partials: list[NDArray[np.float64]] = []
        for block in gathered(self.graph, self._bucket.arrays(leaf)):
            count = len(block[0])
            tiles = max(1, -(-count // TILE))
            row[:width] = [copy.ctypes.data for copy in block]
            row[width:] = [count, leaf.row, leaf.position, tiles, 0]
            chunk = np.array([[0, 0, 0, tiles if self.graph.sums else count]])
            found = np.zeros((max(1, len(self.graph.sums)), tiles))
            self._point_at(row[None], chunk, found)
            self._call(sums)
            partials.append(found)
        self._point_at(table, chunks, self._partials)
        for k, entry in enumerate(self.graph.sums):
            tiles_of_leaf = np.concatenate([np.zeros(0), *(found[k] for found in partials)])
            sums.values[entry.number, leaf.position] = canonical_sum(tiles_of_leaf)

    def _point_at(
        self, table: NDArray[np.int64], chunks: NDArray[np.int64], partials: NDArray[np.float64]
    ) -> None:
        arguments = self._arguments
        arguments[Argument.TABLE] = table.ctypes.data
        arguments[Argument.CHUNKS] = chunks.ctypes.data
        arguments[Argument.COUNT] = len(chunks)
        arguments[Argument.PARTIALS] = partials.ctypes.data
        arguments[Argument.PARTIALS_STRIDE] = partials.shape[1]


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


#: The pass that sums an array of float64: what adds up the sums of tiles.
_SUM = Graph(
    name="sum_float64",
    compute="float64",
    arrays=(Array("x", "float64"),),
    scalars=(),
    nodes=(Node("load", (), "float64", "x"),),
    sums=(Sum(sum_number(0, "tensor"), 0, "tensor"),),
    sum_count=2,
)


def canonical_sum(x: NDArray[np.float64]) -> float:
    """Return the canonical sum of a contiguous float64 array."""
    while True:
        tiles = max(1, -(-len(x) // TILE))
        partials = np.zeros(tiles)
        row = np.zeros(entry_words(_SUM), dtype=np.int64)
        row[0] = x.ctypes.data
        row[1:] = [len(x), 0, 0, tiles, 0]
        chunk = np.array([0, 0, 0, tiles], dtype=np.int64)
        arguments = array("q", bytes(8 * len(Argument)))
        arguments[Argument.TABLE] = row.ctypes.data
        arguments[Argument.CHUNKS] = chunk.ctypes.data
        arguments[Argument.COUNT] = 1
        arguments[Argument.PARTIALS] = partials.ctypes.data
        arguments[Argument.PARTIALS_STRIDE] = tiles
        compile_kernel(emit(_SUM))(arguments.buffer_info()[0])
        if tiles == 1:
            return float(partials[0])
        x = partials

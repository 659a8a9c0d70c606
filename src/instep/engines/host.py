"""What the engines for NumPy arrays share: signatures, lines of elements, and gathered blocks."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import setitem
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.engines import placement as layout
from instep.engines.base import Bucket, Engine, Fit, Member
from instep.engines.calls import RenewedSlots
from instep.engines.ranges import Range
from instep.engines.sums import SumTable
from instep.graph import Graph
from instep.graph.dtypes import DTYPES
from instep.graph.program import Flags, Program, Row
from instep.interrupts import Call, at_once
from instep.numerics import TILE

#: Elements of a block that is gathered from arrays that are no line: a multiple of a tile.
GATHERED = 4 * TILE


@dataclass(eq=False)
class Placement:
    """How the arrays of one leaf lie in memory.

    Attributes
    ----------
    line
        Whether parameter, gradient and state can be walked as one line of elements together.
    c_order
        Whether they can be walked in C order, which sums need.
    """

    position: int
    row: int
    slots: dict[str, Any]
    count: int
    axes: layout.Axes
    line: bool
    c_order: bool
    shape: tuple[int, ...]
    strides: list[tuple[int, ...]]  # of every array
    contiguous: list[bool]  # whether each is a line in C order by itself

    @classmethod
    def of(cls, member: Member, slots: Sequence[str]) -> "Placement":
        """Look at the arrays of a member."""
        w, g = member.parameter, member.gradient
        arrays = [w, g, *(member.slots[name] for name in slots)]
        axes = layout.dense_axes(w.shape, w.strides, w.itemsize)
        line = axes is not None and all(
            array.flags.aligned
            and layout.same_walk(
                w.shape, array.strides, layout.dense_strides(w.shape, axes, array.itemsize)
            )
            for array in arrays
        )
        c_order = line and layout.is_c_order(w.shape, w.strides, w.itemsize)
        strides = [array.strides for array in arrays]
        contiguous = [
            array.flags.aligned and layout.is_c_order(w.shape, array.strides, array.itemsize)
            for array in arrays
        ]
        return cls(
            *(member.position, member.row, member.slots, w.size, axes or ()),
            *(line, c_order, w.shape, strides, contiguous),
        )

    def is_walked(self, graph: Graph) -> bool:
        """Return whether a pass can walk the arrays where they lie."""
        return self.c_order or (self.line and not graph.sums)

    def walk(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the elements of an array of this leaf as a view of one dimension."""
        return array.transpose(self.axes).reshape(-1)


class HostEngine(Engine):
    """An engine for NumPy arrays."""

    def refuses(self, w: Any) -> str | None:
        if not isinstance(w, np.ndarray):
            return f"it updates numpy arrays, and this is a {type(w).__module__} array"
        return None

    def suits(self, slot: Any, w: Any) -> bool:
        axes = layout.dense_axes(w.shape, w.strides, w.itemsize)
        if not isinstance(slot, np.ndarray):
            return False
        if axes is None:
            return slot.flags.c_contiguous
        return layout.same_walk(
            w.shape, slot.strides, layout.dense_strides(w.shape, axes, slot.itemsize)
        )

    def layout(self, w: Any) -> str:
        if w.flags.aligned and layout.dense_axes(w.shape, w.strides, w.itemsize) is not None:
            return ""
        return "strided or misaligned: walked through contiguous copies of blocks, slower"

    def allocate(self, parameters: Sequence[Any], dtypes: Sequence[str]) -> list[list[Any]]:
        return [[zeros_like(w, np.dtype(name)) for name in dtypes] for w in parameters]


def state_strides(w: NDArray[Any], itemsize: int) -> tuple[int, ...]:
    """Return the strides of state for `w`: its walk where it is dense, else C order."""
    axes = layout.dense_axes(w.shape, w.strides, w.itemsize)
    if axes is None:
        axes = tuple(range(w.ndim))
    return layout.dense_strides(w.shape, axes, itemsize)


def zeros_like(w: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros of the shape and walk of `w`."""
    buffer = np.zeros(w.size * dtype.itemsize, dtype=np.uint8)
    return np.ndarray(w.shape, dtype, buffer, strides=state_strides(w, dtype.itemsize))


@dataclass(eq=False)
class Group:
    """Leaves of a bucket that run the same passes.

    Attributes
    ----------
    passes
        The graphs.
    members
        The leaves, by their positions in the bucket.
    runners
        What the engine has made of each pass.
    """

    passes: tuple[Graph, ...]
    members: list[int]
    runners: list[Any]


class Progress:
    """How far the last pass has come on each leaf, in elements.

    It is noted in the call that stores, so that nothing is stored twice after an exception.
    """

    def __init__(self, leaves: int) -> None:
        self._done = [0] * leaves

    def begin(self) -> None:
        """Begin a step."""
        self._done[:] = [0] * len(self._done)

    def __getitem__(self, leaf: int) -> int:
        return self._done[leaf]

    def store(self, leaf: int, stop: int, stores: Sequence[Call]) -> None:
        """Run these, which are implemented in C, and note that all up to `stop` is done."""
        at_once([*stores, partial(setitem, self._done, leaf, stop)])


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
            for copy, array, spec in zip(block, arrays, graph.arrays, strict=True):
                if spec.name in loaded:
                    copy[...] = array.flat[start:stop]
            yield block

    def boxes(
        self, graph: Graph, arrays: Sequence[NDArray[Any]], begin: int
    ) -> Iterator[tuple[int, list[NDArray[Any]], list[Call]]]:
        """Yield what the last pass loads from element `begin` on, without allocating anything.

        Each time the element after the part, copies of it, and the calls that write it back.
        """
        loaded, stored = ({array.name for array in of} for of in (graph.loaded, graph.stored))
        for stop, index in boxes(arrays[0].shape, GATHERED):
            if stop <= begin:
                continue
            block: list[NDArray[Any]] = []
            stores: list[Call] = []
            for buffer, array, spec in zip(self.buffers, arrays, graph.arrays, strict=True):
                part = array[index]
                copy = buffer[: part.size]
                block.append(copy)
                if spec.name in loaded:
                    copy.reshape(part.shape)[...] = part
                if spec.name in stored:
                    stores.append(partial(setitem, array, index, copy.reshape(part.shape)))
            yield stop, block, stores


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


class HostBucket(Bucket):
    """Leaves of NumPy arrays of one dtype.

    Subclasses run a pass on the leaves whose arrays are lines, and on gathered blocks of those
    that are not; the signature check, the rows and the sums are here.
    """

    def __init__(self, program: Program, members: Sequence[Member]) -> None:
        self.positions = tuple(member.position for member in members)
        self._program = program
        self._dtype = members[0].parameter.dtype
        self._compute = DTYPES[self._dtype.name].compute
        self.leaves = [Placement.of(member, program.arrays) for member in members]
        self._expected = [
            (_signature(member.parameter), _signature(member.gradient)) for member in members
        ]
        self._nbytes = np.array([member.parameter.nbytes for member in members], dtype=np.int64)
        self._params: Sequence[Any] = ()
        self._grads: Sequence[Any] = ()
        self._groups: Sequence[Group] = ()
        # Transforms that do something else in some of the steps come back to the same groups.
        self._groups_by_flags: dict[tuple[Flags, ...], list[Group]] = {}
        self._level = 0
        self._rows: Sequence[Row] = ()
        self._renewed = RenewedSlots()
        self.progress = Progress(len(members))

    @cached_property
    def gathering(self) -> Gathering:
        """Memory for copies of arrays that are no line. Ask for it before the last pass."""
        slots = [self.leaves[0].slots[name].dtype for name in self._program.arrays]
        longest = max(leaf.count for leaf in self.leaves)
        return Gathering([self._dtype, self._dtype, *slots], longest)

    def fit(self, params: Sequence[Any], grads: Sequence[Any]) -> Fit:
        for leaf, (parameter, gradient) in zip(self.leaves, self._expected, strict=True):
            w, g = params[leaf.position], grads[leaf.position]
            if _signature(w) != parameter or _signature(g) != gradient:
                return Fit.DIFFERENT
        self._params, self._grads = params, grads
        return Fit.MOVED

    def bounds(self) -> tuple[Range, Range]:
        found = []
        for leaves in (self._params, self._grads):
            ranges = [np.lib.array_utils.byte_bounds(leaves[p]) for p in self.positions]
            starts, stops = np.array(ranges, dtype=np.int64).reshape(-1, 2).T
            found.append((starts, np.where(self._nbytes > 0, stops, starts)))
        return found[0], found[1]

    def stage(self, candidates: Sequence[Sequence[Row]], sums: SumTable) -> None:
        (rows,) = candidates
        for row in rows:
            self._program.check_rounding(row, self._compute)
        groups = self._grouped(tuple([row.flags for row in rows]))
        if groups is not self._groups:
            sums.clear()  # first: where an exception comes now, the groups are still others
            self.guards = frozenset(n for group in groups for n in group.passes[0].guards)
            self._groups = groups
        self._level, self._rows = 0, rows
        self._renewed.clear()
        self.progress.begin()
        sums.reserve(max((group.passes[0].sum_count for group in groups), default=0))
        self.prepare(groups, rows)

    def _grouped(self, flags: tuple[Flags, ...]) -> list[Group]:
        """Group the leaves by the flags of their rows: leaves of a group run the same graphs."""
        if flags not in self._groups_by_flags:
            members: dict[Flags, list[int]] = {}
            for i, leaf in enumerate(self.leaves):
                members.setdefault(flags[leaf.row], []).append(i)
            groups = []
            for key, positions in members.items():
                passes = self._program.passes(self._dtype.name, key)
                runners = [self.runner(graph, positions) for graph in passes]
                groups.append(Group(passes, positions, runners))
            self._groups_by_flags[flags] = groups
        return self._groups_by_flags[flags]

    def reduce(self, sums: SumTable) -> set[int]:
        numbers: set[int] = set()
        depth = max((len(group.passes) for group in self._groups), default=1)
        while not numbers and self._level < depth - 1:
            for group in self._groups:
                if self._level < len(group.passes) - 1:
                    graph = group.passes[self._level]
                    self.run(group, self._level, sums)
                    numbers |= {entry.number for entry in graph.sums}
                    if graph.calls:
                        self._call(graph, group.members)
            self._level += 1
            self.progress.begin()  # what passes before the last one store is no state
        return numbers

    def _call(self, graph: Graph, members: Sequence[int]) -> None:
        for leaf in (self.leaves[i] for i in members):
            self._renewed.call(self._program, graph, leaf.slots, self._rows[leaf.row])

    def commit(self, sums: SumTable) -> Mapping[int, Any]:
        for group in self._groups:
            self.run(group, -1, sums)
        self._renewed.store()
        return {}

    def release(self) -> None:
        self._params = self._grads = ()

    @abstractmethod
    def runner(self, graph: Graph, members: list[int]) -> Any:
        """Return what runs a pass on these leaves."""

    @abstractmethod
    def prepare(self, groups: Sequence[Group], rows: Sequence[Row]) -> None:
        """Compute the scalars of the step, and allocate all it needs: what may raise."""

    @abstractmethod
    def run(self, group: Group, level: int, sums: SumTable) -> None:
        """Run a pass of a group; the last one goes on where it was cut off since `prepare`."""

    def arrays(self, leaf: Placement) -> list[NDArray[Any]]:
        """Return the arrays of a leaf in the order of `Graph.arrays`."""
        slots = [leaf.slots[name] for name in self._program.arrays]
        return [self._params[leaf.position], self._grads[leaf.position], *slots]


def _signature(array: Any) -> tuple[Any, ...]:
    if type(array) is not np.ndarray and type(array) is not np.memmap:
        return ()
    flags = array.flags
    return (array.dtype, array.shape, array.strides, flags.writeable, flags.aligned)

"""What the engines for NumPy arrays share: signatures, lines of elements, and gathered blocks."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep import layout
from instep.engines.base import Bucket, Engine, Fit, Member, Range, SumTable
from instep.engines.calls import RenewedSlots
from instep.graph import Graph
from instep.numerics import COMPUTE_DTYPE, TILE
from instep.program import Flags, Program, Row

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
        return cls(member.position, member.row, member.slots, w.size, axes or (), line, c_order)

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


class HostBucket(Bucket):
    """Leaves of NumPy arrays of one dtype.

    Subclasses run a pass on the leaves whose arrays are lines, and on gathered blocks of those
    that are not; the signature check, the rows and the sums are here.
    """

    def __init__(self, program: Program, members: Sequence[Member]) -> None:
        self.positions = tuple(member.position for member in members)
        self._program = program
        self._dtype = members[0].parameter.dtype
        self._compute = COMPUTE_DTYPE[self._dtype.name]
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
            self.guards = frozenset(n for group in groups for n in group.passes[0].guards)
            self._groups = groups
            sums.clear()
        self._level, self._rows = 0, rows
        self._renewed.clear()
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
        return numbers

    def _call(self, graph: Graph, members: Sequence[int]) -> None:
        for leaf in (self.leaves[i] for i in members):
            self._renewed.call(self._program, graph, leaf.slots, self._rows[leaf.row])

    def commit(self, sums: SumTable) -> Mapping[int, Any]:
        for group in self._groups:
            self.run(group, -1, sums)
        self._renewed.store()
        self.release()
        return {}

    def release(self) -> None:
        self._params = self._grads = ()

    @abstractmethod
    def runner(self, graph: Graph, members: list[int]) -> Any:
        """Return what runs a pass on these leaves."""

    @abstractmethod
    def prepare(self, groups: Sequence[Group], rows: Sequence[Row]) -> None:
        """Compute the scalars of the step: what may raise."""

    @abstractmethod
    def run(self, group: Group, level: int, sums: SumTable) -> None:
        """Run a pass of a group."""

    def arrays(self, leaf: Placement) -> list[NDArray[Any]]:
        """Return the arrays of a leaf in the order of `Graph.arrays`."""
        slots = [leaf.slots[name] for name in self._program.arrays]
        return [self._params[leaf.position], self._grads[leaf.position], *slots]


def gathered(graph: Graph, arrays: list[NDArray[Any]]) -> Iterator[list[NDArray[Any]]]:
    """Yield contiguous copies of blocks of arrays, in C order, and write back what is stored."""
    loaded = {array.name for array in graph.loaded}
    stored = {array.name for array in graph.stored}
    count = arrays[0].size
    for start in range(0, count, GATHERED):
        stop = min(start + GATHERED, count)
        block = []
        for array, spec in zip(arrays, graph.arrays, strict=True):
            if spec.name in loaded:
                block.append(np.ascontiguousarray(array.flat[start:stop]))
            else:
                block.append(np.empty(stop - start, array.dtype))
        yield block
        for array, spec, copy in zip(arrays, graph.arrays, block, strict=True):
            if spec.name in stored:
                array.flat[start:stop] = copy


def _signature(array: Any) -> tuple[Any, ...]:
    if type(array) is not np.ndarray and type(array) is not np.memmap:
        return ()
    flags = array.flags
    return (array.dtype, array.shape, array.strides, flags.writeable, flags.aligned)

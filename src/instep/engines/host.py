"""What the engines for NumPy arrays share: signatures, gathered blocks, and how launches run."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from instep.engines import uniform
from instep.engines.base import Fit, Member
from instep.engines.fused import Arrangement, FusedBucket, FusedEngine, Launch
from instep.engines.gathering import Gathering
from instep.engines.placement import Placement, state_strides
from instep.engines.sums import SumTable
from instep.graph import Graph, sum_scope
from instep.graph.passes import remembering
from instep.graph.program import Program
from instep.graph.rows import Row

#: New arrays begin at a multiple of this: other memory XLA does not take over, but copies.
_ALIGNMENT = 64


class HostEngine(FusedEngine):
    """An engine for NumPy arrays."""

    other_walk = (
        "walked in boxes, through contiguous copies of what has gaps or another order; slower"
    )

    def refuses(self, w: Any) -> str | None:
        if not isinstance(w, np.ndarray):
            return f"it updates numpy arrays, and this is a {type(w).__module__} array"
        return None

    def allocate(self, parameters: Sequence[Any], dtypes: Sequence[str]) -> list[list[Any]]:
        return [[zeros_like(w, np.dtype(name)) for name in dtypes] for w in parameters]


def zeros_like(w: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return zeros of the shape and walk of `w`."""
    buffer = np.zeros(w.size * dtype.itemsize, dtype=np.uint8)
    return np.ndarray(w.shape, dtype, buffer, strides=state_strides(w, dtype.itemsize))


def empty_like(w: NDArray[Any]) -> NDArray[Any]:
    """Return an array of the shape and walk of `w`, for whatever is to be written."""
    memory = np.empty(w.nbytes + _ALIGNMENT, dtype=np.uint8)
    strides = state_strides(w, w.itemsize)
    return np.ndarray(w.shape, w.dtype, memory, -memory.ctypes.data % _ALIGNMENT, strides)


class HostLaunch(Launch):
    """A pass on leaves of NumPy arrays, those that are no lines among them."""

    @abstractmethod
    def run(self, bucket: "HostBucket[Any]", sums: SumTable) -> None:
        """Run the pass on all its leaves, or what is left of it since `take`."""


_Launch = TypeVar("_Launch", bound=HostLaunch)


class HostBucket(FusedBucket[_Launch]):
    """Leaves of NumPy arrays of one dtype. A step has one candidate: no device decides.

    Attributes
    ----------
    unwritable
        The leaves whose parameters cannot be written: new arrays take their place.
    """

    def __init__(self, program: Program, members: Sequence[Member]) -> None:
        super().__init__(program, members)
        self._expected = [
            (_signature(member.parameter), _signature(member.gradient)) for member in members
        ]
        self._params: Sequence[Any] = ()
        self._grads: Sequence[Any] = ()
        self.unwritable = [i for i, one in enumerate(members) if not one.parameter.flags.writeable]
        self._extents[self.unwritable, 0] = 0  # no memory of theirs is written
        self._new: Mapping[int, Any] = {}

    @cached_property
    def gathering(self) -> Gathering:
        """Memory for copies of arrays that are no line. Ask for it before the last pass."""
        slots = [self.leaves[0].slots[name].dtype for name in self.names]
        return Gathering(
            [self.dtype, self.gradient_dtype, *slots], max(leaf.size for leaf in self.leaves)
        )

    def fit(self, params: Sequence[Any], grads: Sequence[Any]) -> Fit:
        for position, (parameter, gradient) in zip(self.positions, self._expected, strict=True):
            if _signature(params[position]) != parameter or _signature(grads[position]) != gradient:
                return Fit.DIFFERENT
        for column, leaves in enumerate((params, grads)):
            self.addresses[:, column] = [leaves[i].ctypes.data for i in self.positions]
        self._params, self._grads = params, grads
        return Fit.MOVED

    def stage(self, candidates: Sequence[Sequence[Row]], sums: SumTable) -> None:
        super().stage(candidates, sums)
        if self.unwritable:
            self._new = self.renew()

    def renew(self) -> Mapping[int, Any]:
        """Return by position the arrays that take the place of those that cannot be written."""
        new = {
            self.positions[i]: empty_like(self._params[self.positions[i]]) for i in self.unwritable
        }
        for position, array in new.items():
            array[...] = self._params[position]
        self._params = [new.get(i, w) for i, w in enumerate(self._params)]
        return new

    def commit(self, sums: SumTable) -> Mapping[int, Any]:
        super().commit(sums)
        return self._new

    def prepare(self, chosen: Sequence[Arrangement[_Launch]], sums: SumTable) -> None:
        sums.reserve(max(arrangement.sum_count for arrangement in chosen))
        for name, number in self.program.remembered.items():
            values = [float(numbers[name]) for numbers in self.numbers]
            # Leaves have the same number of the tree.
            sums.values[number, columns(number, self.leaves)] = values

    def made(self, sums: SumTable, *, lasting: bool = False) -> Iterator[tuple[Any, Any]]:
        """Yield the arrays of numbers that are remembered, or of those that last, and new values.

        All sums are known.
        """
        for graph, members in self.now[0].remembered:
            if entries := graph.lasting if lasting else graph.remembered:
                yield from self._made(remembering(graph, entries), members, sums)

    def _made(
        self, graph: Graph, members: Sequence[int], sums: SumTable
    ) -> Iterator[tuple[Any, Any]]:
        leaves = [self.leaves[i] for i in members]
        function = self.program.host_expressions(graph)
        scalars = {row: function(*self.rows[row].numbers) for row in {x.row for x in leaves}}
        reduced = {
            number: sums.values[number, columns(number, leaves)]
            for number in range(graph.sum_count)
        }
        values = uniform.made(graph, [*np.array([scalars[leaf.row] for leaf in leaves]).T], reduced)
        for entry in graph.remembered:
            holders = members if entry.scope == "tensor" else members[:1]
            made = np.broadcast_to(values[entry.name], len(members))
            yield from zip([self.numbers[i][entry.name] for i in holders], made, strict=False)

    def turn_away(self, sums: SumTable) -> None:
        for number, value in self.made(sums, lasting=True):
            number[...] = value

    def run(self, levels: Sequence[list[_Launch]], sums: SumTable) -> None:
        for level in levels:
            for launch in level:
                launch.run(self, sums)

    def release(self) -> None:
        self._params = self._grads = ()
        self._new = {}

    def arrays(self, leaf: Placement) -> list[NDArray[Any]]:
        """Return the arrays of a leaf in the order of `Graph.arrays`."""
        slots = [leaf.slots[name] for name in self.names]
        return [self._params[leaf.position], self._grads[leaf.position], *slots]


def columns(number: int, leaves: Sequence[Placement]) -> list[int]:
    """Return where leaves have a sum in the table."""
    return [leaf.position if sum_scope(number) == "tensor" else -1 for leaf in leaves]


def _signature(array: Any) -> tuple[Any, ...]:
    if type(array) is not np.ndarray and type(array) is not np.memmap:
        return ()
    flags = array.flags
    return (array.dtype, array.shape, array.strides, flags.writeable, flags.aligned)

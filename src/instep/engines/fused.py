"""The skeleton of an engine that runs graphs: what it does with leaves, whatever runs the passes.

Leaves whose rows have equal flags run the same graphs. A pass on such leaves is a launch; the
launches of a step are an arrangement, in levels, between which sums become known and functions on
whole arrays are called.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from instep import arrays
from instep.engines import placement
from instep.engines.base import Bucket, Engine, Member, Repeater
from instep.engines.calls import RenewedSlots
from instep.engines.placement import Placement
from instep.engines.ranges import Range, Written
from instep.engines.sums import SumTable
from instep.graph import Graph
from instep.graph.dtypes import DTYPES
from instep.graph.numbers import check_tree
from instep.graph.passes import remembering
from instep.graph.program import Program
from instep.graph.rows import Flags, Row
from instep.interrupts import Call


class FusedEngine(Engine):
    """An engine that runs graphs."""

    #: What is said of arrays that are not one line in memory.
    other_walk: ClassVar[str]

    def suits(self, slot: Any, w: Any) -> bool:
        return super().suits(slot, w) and placement.lies_as_state(slot, w)

    def layout(self, w: Any, beside: Mapping[str, Any]) -> str:
        if placement.is_line(w, *beside.values()):
            return ""
        lying = {"parameter": w, **beside}
        words = ", ".join(f"{name} {placement.described(x)}" for name, x in lying.items())
        return f"{words}: {self.other_walk}"


class Launch(ABC):
    """A pass on leaves of a bucket, ready to run.

    Attributes
    ----------
    graph
        The pass.
    members
        The leaves, by their positions in the bucket.
    rows
        Numbers of their rows of hyperparameters.
    host_expressions
        The function from the numbers of a row to the scalars of the pass.
    """

    def __init__(self, bucket: "FusedBucket[Any]", graph: Graph, members: list[int]) -> None:
        self.graph, self.members = graph, members
        self.rows = sorted({bucket.leaves[i].row for i in members})
        self.host_expressions: Callable[..., tuple[float, ...]]
        self.host_expressions = bucket.program.host_expressions(graph)

    @abstractmethod
    def take(self, rows: Sequence[Row], candidate: int) -> None:
        """Take the scalars of a candidate for the step, and all memory that it needs."""

    def turning(self, names: Mapping[str, str]) -> list[Call]:
        """Return the calls in C by which slots are the arrays of others: see `Bucket.turning`."""
        return []


_Launch = TypeVar("_Launch", bound=Launch)
_Item = TypeVar("_Item")


def in_turn(
    many: Sequence[Sequence[_Item]], graphs: Callable[[_Item], Iterable[Graph]]
) -> Iterator[list[_Item]]:
    """Yield what runs together of several sequences of passes, each in its order.

    A pass that reads a sum over the tree comes after all that add to it, in all sequences.
    """
    left = [list(one) for one in many]
    while any(left):
        adds = [{n for item in one for graph in graphs(item) for n in graph.adds} for one in left]
        ready = []
        for i, one in enumerate(left):
            others = set().union(*adds[:i], *adds[i + 1 :])
            if one and all(others.isdisjoint(graph.awaits) for graph in graphs(one[0])):
                ready.append(one)
        yield [one.pop(0) for one in ready or [one for one in left if one]]


@dataclass(eq=False)
class Arrangement(Generic[_Launch]):
    """The launches of a step, for one choice of graphs for the rows.

    Attributes
    ----------
    levels
        What runs before sums or results of functions are known, level by level.
    final
        What stores parameters and state.
    remembered
        The graphs that make the numbers that are remembered, and the leaves that run them.
    """

    levels: list[list[_Launch]]
    final: list[_Launch]
    sum_count: int
    guards: frozenset[int]
    remembered: list[tuple[Graph, list[int]]]

    @cached_property
    def launches(self) -> list[_Launch]:
        """All launches, in order."""
        return [launch for level in (*self.levels, self.final) for launch in level]


class FusedBucket(Bucket, Generic[_Launch]):
    """Leaves whose graphs are run by launches of one kind.

    A new engine is a subclass of `Launch`, which takes the scalars of a step and runs once after
    that, however often it is told, and these methods:

    - `launches`: what it makes of a pass on some of the leaves;
    - `fit`: how the arrays of a step compare with those that the bucket was made for. It writes
      where they are into `addresses`;
    - `prepare`: what a step takes beside the scalars of its launches, room for sums for one;
    - `run`: how the launches of a level run;
    - `release`: which arrays of the user it has kept.

    Attributes
    ----------
    compute
        Dtype of the arithmetic.
    names
        Of the arrays that passes use beside parameter and gradient.
    addresses
        Of parameter and gradient of each leaf, as of the last `fit`.
    numbers
        The numbers that each leaf remembers, and those of the tree, as arrays of no dimensions.
    own_rows
        Numbers of the rows of hyperparameters that its leaves have.
    now
        What this step runs: one arrangement, or one for every choice of graphs that may be right.
    """

    #: What launches are made and run in.
    context: AbstractContextManager[Any] = nullcontext()

    def __init__(self, program: Program, members: Sequence[Member]) -> None:
        self.positions = tuple(member.position for member in members)
        self.program = program
        self.dtype = members[0].parameter.dtype
        self.names = program.arrays(self.dtype.name)
        self.gradient_dtype = members[0].gradient.dtype
        self.compute = DTYPES[self.dtype.name].compute
        self.leaves = [Placement.of(member, self.names) for member in members]
        self.numbers = [member.numbers for member in members]
        self.own_rows = sorted({member.row for member in members})
        self.addresses = np.zeros((len(members), 2), dtype=np.int64)
        self._extents = np.array(
            [
                [arrays.extent(x.shape, x.strides, x.itemsize) for x in (w, g)]
                for w, g in ((one.parameter, one.gradient) for one in members)
            ],
            dtype=np.int64,
        )
        self.now: list[Arrangement[_Launch]] = []
        # Transforms that do something else in some of the steps come back to the same launches.
        self._arrangements: dict[tuple[Flags, ...], Arrangement[_Launch]] = {}
        self._level = self._depth = 0
        self.rows: Sequence[Row] = ()
        self._renewed = RenewedSlots()
        self._alike: dict[frozenset[str], bool] = {}  # whether slots lie in one way

    @property
    def slots(self) -> Sequence[dict[str, Any]]:
        return [leaf.slots for leaf in self.leaves]

    @property
    def reduces(self) -> bool:
        return self._depth > 0

    def turning(self, names: Mapping[str, str]) -> list[Call] | None:
        which = frozenset(names)
        if which not in self._alike:
            places = [2 + self.names.index(name) for name in which]
            self._alike[which] = all(leaf.are_alike(places) for leaf in self.leaves)
        if not self._alike[which]:
            return None
        launches = [x for one in self._arrangements.values() for x in one.launches]
        with self.context:
            return [call for launch in launches for call in launch.turning(names)]

    @abstractmethod
    def launches(self, graph: Graph, members: list[int]) -> list[_Launch]:
        """Return what runs a pass on these leaves: several launches where some lie otherwise."""

    @abstractmethod
    def prepare(self, chosen: Sequence[Arrangement[_Launch]], sums: SumTable) -> None:
        """Make room for sums, and what else a step takes: `chosen` is for each candidate."""

    @abstractmethod
    def run(self, levels: Sequence[list[_Launch]], sums: SumTable) -> None:
        """Run what each arrangement has on a level, or what is left of it since `take`."""

    def remembering(self, graph: Graph, members: list[int]) -> list[_Launch]:
        """Return what runs after the last pass, and makes and stores the numbers of these leaves.

        Else `remember` does it.
        """
        return []

    def remember(self, sums: SumTable) -> list[tuple[Any, Any]]:
        """Return numbers that are remembered, as arrays, with new values. All sums are known."""
        return []

    def bounds(self) -> tuple[Range, Range]:
        starts = self.addresses - self._extents[:, :, 0]
        stops = self.addresses + self._extents[:, :, 1]
        return (starts[:, 0], stops[:, 0]), (starts[:, 1], stops[:, 1])

    def stage(self, candidates: Sequence[Sequence[Row]], sums: SumTable) -> None:
        for rows in candidates:
            for i in self.own_rows:
                self.program.check_rounding(rows[i].numbers, self.compute)
        chosen = [self.arrangement(rows) for rows in candidates]
        for arrangement, rows in zip(chosen, candidates, strict=True):
            for graph, _ in arrangement.remembered:
                check_tree(graph, self.programs, rows)
        self.turn_to(chosen if len(chosen) == 1 else list(dict.fromkeys(chosen)), sums)
        self.guards = frozenset(number for one in self.now for number in one.guards)
        self._depth = max(len(one.levels) for one in self.now)
        self._level, self.rows = 0, candidates[0]
        self._renewed.clear()
        for candidate, arrangement in enumerate(chosen):
            for launch in arrangement.launches:
                launch.take(candidates[candidate], candidate)
        self.prepare(chosen, sums)

    def turn_to(self, now: list[Arrangement[_Launch]], sums: SumTable) -> None:
        """Take what this step runs, one arrangement or several, where it is not the same."""
        # A leaf may have no part in a sum in which it had one. Where there are several, it is not
        # known whose sums the table holds.
        if now != self.now or len(now) > 1:
            sums.clear()  # first: where an exception comes now, the launches are still others
            self.now = now

    def arrangement(self, rows: Sequence[Row]) -> Arrangement[_Launch]:
        """Return what a step with these rows runs."""
        flags = tuple([row.flags for row in rows])
        if flags not in self._arrangements:
            with self.context:
                self._arrangements[flags] = self._arranged(flags)
        return self._arrangements[flags]

    def _arranged(self, flags: Sequence[Flags]) -> Arrangement[_Launch]:
        members: dict[Flags, list[int]] = {}
        for i, leaf in enumerate(self.leaves):
            members.setdefault(flags[leaf.row], []).append(i)
        dtype, gradient = self.dtype.name, self.gradient_dtype.name
        sections = [
            (self.program.passes(dtype, key, gradient), chosen) for key, chosen in members.items()
        ]
        early = [[(graph, chosen) for graph in passes[:-1]] for passes, chosen in sections]
        levels = [
            [launch for graph, chosen in level for launch in self.launches(graph, chosen)]
            for level in in_turn(early, lambda item: item[:1])
        ]
        final: list[_Launch] = []
        for passes, chosen in sections:
            final += self.launches(passes[-1], chosen)
        remembered = list(self._remembered(sections))
        for graph, chosen in remembered:  # when all have read what the numbers were before
            final += self.remembering(graph, chosen)
        return Arrangement(
            levels,
            final,
            max(passes[0].sum_count for passes, _ in sections),
            frozenset(number for passes, _ in sections for number in passes[0].guards),
            remembered,
        )

    def _remembered(
        self, sections: Sequence[tuple[tuple[Graph, ...], list[int]]]
    ) -> Iterator[tuple[Graph, list[int]]]:
        """Yield the graphs that make numbers; those of the tree one bucket makes, and once.

        With them come the leaves that run them.
        """
        made = set(self.left_to_others)
        for passes, chosen in sections:
            graph = passes[-1].remembers
            entries = [] if graph is None else [x for x in graph.remembered if x.name not in made]
            made.update(entry.name for entry in entries if entry.scope == "tree")
            if graph is not None and entries:
                yield remembering(graph, entries), chosen

    def pending(self) -> AbstractSet[int]:
        levels = [level for one in self.now for level in one.levels[self._level :]]
        return {number for level in levels for launch in level for number in launch.graph.adds}

    def reduce(self, sums: SumTable, awaited: AbstractSet[int] = frozenset()) -> set[int]:
        numbers: set[int] = set()
        if self._level == self._depth:
            return numbers
        with self.context:
            while not numbers and self._level < self._depth:
                levels = [level for one in self.now for level in one.levels[self._level :][:1]]
                if any(x.graph.awaits & awaited for level in levels for x in level):
                    break
                self.run(levels, sums)
                for launch in (launch for level in levels for launch in level):
                    numbers.update(entry.number for entry in launch.graph.sums)
                    if launch.graph.calls:
                        self._call(launch)
                self._level += 1
        return numbers

    def _call(self, launch: Launch) -> None:
        for leaf in (self.leaves[i] for i in launch.members):
            self._renewed.call(self.program, launch.graph, leaf.slots, self.rows[leaf.row])

    def commit(self, sums: SumTable) -> Mapping[int, Any]:
        with self.context:
            self._renewed.keep_once(partial(self.remember, sums))
            self.run([one.final for one in self.now], sums)
            self._renewed.store()
        return {}


class Watched(Protocol):
    """A check of arrays against those that were recorded, in compiled code."""

    @property
    def fits(self) -> Callable[[tuple[Any, ...], tuple[Any, ...]], Any]:
        """Returns whether arrays are alike, and no gradient touches a parameter."""

    @property
    def is_watching(self) -> bool:
        """Whether it is known where the parameters are."""

    def watch(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        """Take the memory of the parameters."""


class FusedRepeater(Repeater, Generic[_Launch]):
    """The short way of an arrangement of launches, whose arrays compiled code looks at."""

    def __init__(
        self, bucket: FusedBucket[_Launch], now: Arrangement[_Launch], watched: Watched
    ) -> None:
        self.compute, self.rows, self.fits = bucket.compute, bucket.own_rows, watched.fits
        self.bucket, self.now, self._watched = bucket, now, watched

    @property
    def is_watching(self) -> bool:
        return self._watched.is_watching

    def watch(self, written: Written) -> None:
        self._watched.watch(written.starts, written.stops)

    def begin(self, sums: SumTable) -> None:
        self.bucket.turn_to([self.now], sums)

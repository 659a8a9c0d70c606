"""What is known of the last step: its hyperparameters, and what its sums have left."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from instep.correctly_rounded import power
from instep.engines import Bucket, uniform
from instep.engines.sums import SumTable
from instep.graph import Graph
from instep.graph.passes import reading
from instep.graph.program import Program
from instep.graph.rows import Row
from instep.interrupts import Call
from instep.plan.assignment import Assignment
from instep.plan.leaves import Leaf
from instep.state import State


@dataclass(eq=False)
class Stepped:
    """A leaf that took the step, or was to.

    Attributes
    ----------
    key, position
        Which leaf.
    row
        Number of its row of hyperparameters.
    program
        Its rules.
    dtypes
        Those of the parameter and of its gradient.
    """

    key: str
    position: int
    row: int
    program: Program
    dtypes: tuple[str, str]


class LastStep:
    """What is known of the last step of a plan. Nothing is computed until it is read.

    Attributes
    ----------
    rows
        The hyperparameters, as the step has made them: rows, what makes a row, or numbers alone.
    leaves
        Those that took it, by their keys.
    """

    def __init__(
        self, given: Assignment, leaves: Sequence[Leaf], buckets: Sequence[Bucket], sums: SumTable
    ) -> None:
        self._sums = sums
        self.rows: Sequence[Any] = ()
        self._candidates: Sequence[Sequence[Row]] = ()
        self._taken = 0
        found: dict[int, Stepped] = {}
        # What rules have returned that were called, which no sums tell.
        self._called: dict[str, Mapping[int, Mapping[str, float]]] = {}
        self._graphs: dict[tuple[object, ...], Graph | None] = {}  # of what was read before
        for own, bucket in zip(given.buckets, buckets, strict=True):
            for i in own.members:
                leaf, dtypes = leaves[i], (own.dtype, leaves[i].gradient_dtype)
                row = given.group_of[i]
                found[i] = Stepped(leaf.key, leaf.position, row, own.program, dtypes)
                if bucket.is_called:
                    self._called[leaf.key] = bucket.read
        self.leaves = {found[i].key: found[i] for i in sorted(found)}

    def begin(self, state: State, candidates: Sequence[Sequence[Row]]) -> None:
        """Forget the step before, and take the rows of one, for every number of undecided steps."""
        state.last = None
        self.rows, self._candidates, self._taken = candidates[0], candidates, state.t

    def noting(self, taken: int) -> list[Call]:
        """Return the calls that note how many steps there were before one that was heard of."""
        return [partial(self.__dict__.update, rows=self._candidates[taken - self._taken])]

    def representatives(self) -> list[Stepped]:
        """Return leaves that have all the hyperparameters that there are."""
        return list({(id(one.program), one.row): one for one in self.leaves.values()}.values())

    def hyperparameters(self, leaf: Stepped) -> dict[str, float]:
        """Return the numbers that the rules of a leaf read, but for arrays."""
        program, row = leaf.program, self._row(leaf)
        found = dict(zip(program.names, row.numbers, strict=True))
        for name, (rate, steps) in program.powers.items():
            if not math.isnan(found[rate]):
                found[name] = power(found[rate], found[steps])
        return {name: number for name, number in found.items() if not math.isnan(number)}

    def readings(self, leaf: Stepped, *scopes: str) -> dict[str, float]:
        """Return what the rules of a leaf have left to be read, of its tensor or of the tree."""
        own = [name for name, scope in leaf.program.readings.items() if scope in scopes]
        if leaf.key in self._called:
            known = self._called[leaf.key].get(leaf.position, {})
            return {name: known[name] for name in own if name in known}
        row = self._row(leaf)
        what = leaf.key, scopes, row.flags
        if what not in self._graphs:
            self._graphs[what] = self._read_by(leaf, row, own)
        graph = self._graphs[what]
        if graph is None:
            return {}
        sums = [int(str(node.value)) for node in graph.nodes if node.operation == "reduced"]
        reduced = {number: self._sums.of(number, leaf.position) for number in sums}
        scalars = leaf.program.host_expressions(graph)(*row.numbers)
        made = uniform.made(graph, scalars, reduced)
        return {name: float(number) for name, number in made.items()}

    @staticmethod
    def _read_by(leaf: Stepped, row: Row, names: Collection[str]) -> Graph | None:
        """Return the graph of what is read by these names, if anything is."""
        dtype, gradient = leaf.dtypes
        graph = leaf.program.passes(dtype, row.flags, gradient)[-1] if names else None
        return None if graph is None or graph.reads is None else reading(graph.reads, names)

    def _row(self, leaf: Stepped) -> Row:
        row = self.rows[leaf.row]
        if isinstance(row, Row):
            return row
        return Row(*row) if isinstance(row[0], Sequence) else Row(tuple(row), ())

"""The specification: call the rule itself, with the arrays' own namespace.

Slow on NumPy and CuPy, where every operation is a sweep over memory, but it serves every library
that follows the array API standard, and the other engines are tested against it to the bit.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from instep import arrays
from instep.engines.base import Bucket, Engine, Fit, Member
from instep.engines.kept_arrays import KeptArrays
from instep.engines.ranges import Range
from instep.engines.rule_namespace import RuleNamespace, TreeSumError
from instep.engines.sums import SumTable
from instep.graph import Graph
from instep.graph.dtypes import DTYPES
from instep.graph.numbers import of_tree
from instep.graph.pairs import PairNamespace
from instep.graph.program import Program
from instep.graph.remembered import PLACE, tree_disagrees
from instep.graph.rows import Row
from instep.graph.trace import Values, check_result


class ArrayAPIEngine(Engine):
    """Calls rules with arrays."""

    name = "array_api"
    fuses = False

    def unavailable(self) -> str | None:
        return None

    def refuses(self, w: Any) -> str | None:
        return None

    def allocate(self, parameters: Sequence[Any], dtypes: Sequence[str]) -> list[list[Any]]:
        allocated = []
        for w in parameters:
            xp = arrays.namespace(w)
            allocated.append([xp.zeros_like(w, dtype=getattr(xp, dtype)) for dtype in dtypes])
        return allocated

    def bucket(self, program: Program, members: Sequence[Member], threads: int | None) -> Bucket:
        return ArrayAPIBucket(program, members)

    def emit(self, graph: Graph) -> str:
        return "(the rule is called as it is, one array operation at a time)"


class ArrayAPIBucket(Bucket):
    """Leaves of one library, each updated by a call of the rule."""

    is_called = True

    def __init__(self, program: Program, members: Sequence[Member]) -> None:
        self.positions = tuple(member.position for member in members)
        self._program = program
        self._slots = [member.slots for member in members]
        self._varying = [member.varying for member in members]
        self._numbers = [member.numbers for member in members]
        self._rows = [member.row for member in members]
        self._signatures = [
            (arrays.signature(member.parameter), arrays.signature(member.gradient))
            for member in members
        ]
        self._params: list[Any] = []
        self._grads: list[Any] = []
        self._rows_now: list[Row] = []
        self._results: list[tuple[Any, dict[str, Any]] | None] = []
        self._added: list[set[int]] = []  # the sums over the tree to which each leaf has added
        self.read: dict[int, dict[str, float]] = {}

    @property
    def slots(self) -> Sequence[dict[str, Any]]:
        return self._slots

    def fit(self, params: Sequence[Any], grads: Sequence[Any]) -> Fit:
        for position, expected in zip(self.positions, self._signatures, strict=True):
            found = arrays.signature(params[position]), arrays.signature(grads[position])
            if found != expected or None in found:
                return Fit.DIFFERENT
        self._params = [params[position] for position in self.positions]
        self._grads = [grads[position] for position in self.positions]
        return Fit.MOVED

    def bounds(self) -> tuple[Range, Range]:
        return _ranges(self._params), _ranges(self._grads)

    def stage(self, candidates: Sequence[Sequence[Row]], sums: SumTable) -> None:
        (rows,) = candidates
        # A leaf whose flags have changed may have no part in a sum in which it had one.
        if [row.flags for row in self._rows_now] != [rows[row].flags for row in self._rows]:
            sums.clear()  # first: an exception now leaves the rows as they were
        self._rows_now = [rows[row] for row in self._rows]
        self._results = [None] * len(self.positions)
        self._added = [set() for _ in self.positions]
        self.guards = frozenset()
        self.read.clear()
        for w, row in zip(self._params, self._rows_now, strict=True):
            self._program.check_rounding(row.numbers, DTYPES[arrays.dtype_name(w)].compute)

    def reduce(self, sums: SumTable, awaited: AbstractSet[int] = frozenset()) -> set[int]:
        # The rule runs from its start again whenever it has met a sum over the tree: what it
        # computed before is computed again, which only costs time.
        missing: set[int] = set()
        for i, result in enumerate(self._results):
            if result is None:
                try:
                    self._results[i] = self._evaluate(i, sums)
                except TreeSumError as need:
                    missing.update(need.numbers)
        if not missing:
            self._check_tree_numbers()
        return missing

    def _check_tree_numbers(self) -> None:
        """Raise if leaves make different numbers of what is one number of the tree."""
        for name in of_tree(self._program):
            made = [result[1] for result in self._results if result is not None]
            if len({repr(slots[name]) for slots in made if name in slots}) > 1:
                raise tree_disagrees(self._program.name, name)

    def _evaluate(self, i: int, sums: SumTable) -> tuple[Any, dict[str, Any]]:
        program, w = self._program, self._params[i]
        namespace = arrays.namespace(w)
        compute = getattr(namespace, DTYPES[arrays.dtype_name(w)].compute)
        place = self._numbers[i].get(PLACE)
        place = None if place is None else float(place)
        numbers = dict(zip(program.names, self._rows_now[i].numbers, strict=True))
        keeping = program.keeping(arrays.dtype_name(w))
        step = int(numbers[keeping.rounds_at]) if keeping.rounds_at else 0
        own = self.positions[i], sums, self._added[i], place
        xp = RuleNamespace(program.name, namespace, w, compute, *own)
        pairs = PairNamespace(program.name, xp) if arrays.is_complex(w) else None
        with np.errstate(all="ignore"):
            # The rule gets copies, for it may be written with operations in place.
            kept = KeptArrays(keeping, xp, pairs, w, self._slots[i], step)
            g = xp.computable(self._grads[i])
            given = {name: kept.slot(name) for name in (*program.slots, *program.whole)}
            numbers = {name: xp.number(float(x)) for name, x in self._numbers[i].items()}
            varying = {
                name: pairs.pair(x) if pairs and xp.is_complex(x) else xp.computable(x)
                for name, x in self._varying[i].items()
            }
            new, new_slots = check_result(
                program.name,
                program.rule(
                    *(pairs or xp, kept.parameter(), g if pairs is None else pairs.pair(g)),
                    Values(program.name, "slot", given | numbers),
                    program.hyperparameters(self._rows_now[i], xp.host_number, varying, numbers),
                ),
                (*given, *numbers, *program.readings),
            )
            self.guards |= xp.guards
            of_rule = {
                name: xp.remembered(program.name, name, value)
                for name, value in new_slots.items()
                if name in program.readings or name in numbers
            }
            self.read[self.positions[i]] = {
                name: x for name, x in of_rule.items() if name in program.readings
            }
            w, state = kept.new_parameter(program.name, new)
            state |= {name: x for name, x in of_rule.items() if name in numbers}
            for name, value in new_slots.items():
                if name not in of_rule:
                    state |= kept.new_slot(program.name, name, value)
            return w, state

    def commit(self, sums: SumTable) -> Mapping[int, Any]:
        replaced = {}
        for i, result in enumerate(self._results):
            assert result is not None
            new, new_slots = result
            w = self._params[i]
            if arrays.is_immutable(w):
                replaced[self.positions[i]] = new
            else:
                w[...] = new
            self._store_numbers(i, new_slots)
            slots = {k: x for k, x in new_slots.items() if k not in self._numbers[i]}
            self._slots[i].update(slots)
        return replaced

    def turn_away(self, sums: SumTable) -> None:
        for i, result in enumerate(self._results):
            assert result is not None
            new = {name: x for name, x in result[1].items() if name in self._program.lasting}
            self._store_numbers(i, new)

    def _store_numbers(self, i: int, new: Mapping[str, Any]) -> None:
        """Store what is remembered of these, but for what another bucket stores."""
        numbers = self._numbers[i]
        for name in numbers.keys() & new.keys():
            if name not in self.left_to_others:
                numbers[name][...] = new[name]

    def release(self) -> None:
        self._results, self._params, self._grads = [], [], []


def _ranges(leaves: Sequence[Any]) -> Range:
    found = [arrays.memory_bounds(array) or (0, 0) for array in leaves]
    starts, stops = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return starts, stops


ENGINE = ArrayAPIEngine()

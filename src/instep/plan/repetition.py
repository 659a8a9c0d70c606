"""The short way: a step like an earlier one, but for its number, gradients and hyperparameters."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from operator import itemgetter
from typing import Any

from instep.engines import Bucket
from instep.engines.base import Repeater, Run
from instep.engines.ranges import Written
from instep.engines.sums import SumTable
from instep.graph.program import Flags, Group, Program, Row
from instep.interrupts import finish, require_frames
from instep.plan.overlaps import joined
from instep.state import Owner, State

#: The numbers of a step, by group, in the order of `Program.names`.
Numbers = Sequence[Sequence[float]]


class Way:
    """What the buckets of a plan run in a step whose graphs are known.

    Attributes
    ----------
    take
        Take the numbers of a step.
    levels
        Passes that reduce, level by level, and the numbers of the sums that are known then.
    final
        The last passes.
    guards
        Numbers of sums over the tree that must be zero, or the step is turned away.
    """

    def __init__(self, repeaters: Sequence[Repeater]) -> None:
        self._repeaters = repeaters
        self._fits = [repeater.fits for repeater in repeaters]
        self.take = [take for repeater in repeaters for take in repeater.take]
        self.final = [run for repeater in repeaters for run in repeater.final]
        self.guards = [number for repeater in repeaters for number in repeater.guards]
        self.levels: list[tuple[list[Run], set[int]]] = []
        for levels in zip_longest(*(one.levels for one in repeaters), fillvalue=((), set())):
            runs = [run for own, _ in levels for run in own]
            self.levels.append((runs, set().union(*(numbers for _, numbers in levels))))

    def fits(self, params: Sequence[Any], grads: Sequence[Any]) -> bool:
        """Return whether these are the arrays of the step before, or gradients of the same kind."""
        for fits in self._fits:  # noqa: SIM110  (a generator takes longer than what is asked)
            if not fits(params, grads):
                return False
        return True

    def watch(self, buckets: Sequence[Bucket]) -> None:
        """Take note of where the parameters are: a step was taken the long way."""
        if not all(repeater.is_watching() for repeater in self._repeaters):
            written = Written(*joined([bucket.bounds()[0] for bucket in buckets]))
            if not written.overlaps:
                for repeater in self._repeaters:
                    repeater.watch(written)

    def check(self, rows: Sequence[Row]) -> None:
        """Raise if a number is none in the dtype of the arithmetic."""
        for repeater in self._repeaters:
            repeater.check(rows)

    def begin(self, sums: SumTable) -> None:
        """Turn to this way from that of the step before."""
        for repeater in self._repeaters:
            repeater.begin(sums)

    def reduce(self, sums: SumTable) -> None:
        """Run all passes but the last."""
        sums.begin()
        for runs, numbers in self.levels:
            for run in runs:
                run(sums)
            sums.add_up(numbers)


class Repetition:
    """The ways that the steps of a plan have taken.

    Attributes
    ----------
    last
        The way of the step before; None where the next step is to look for its own.
    """

    def __init__(
        self,
        owner: Owner,
        program: Program,
        groups: Sequence[Group],
        buckets: Sequence[Bucket],
        sums: SumTable,
    ) -> None:
        self._program, self._sums = program, sums
        self._groups, self._buckets = groups, buckets
        self.last: Way | None = None
        self._ways: dict[tuple[Flags, ...], Way | None] = {}
        # The settings of the step before, and these again where they make all of its numbers.
        self._settings: tuple[Any, ...] | None = None
        self._constant: tuple[Any, ...] | None = None
        # The values of another rule than the owner, a part of a chain, may be kept: it has no plan.
        self._readers = [
            (_reader([entry.name for entry in part.fields]), _values(part.rule, owner))
            for part in program.parts
        ]
        self._read = self._readers[0][0] if [own for _, own in self._readers] == [None] else None
        self._is_derived = any(part.derives or part.period > 1 for part in program.parts)
        self._overridden = [
            {
                p + name: value
                for p, entries in group.overrides.items()
                for name, value in entries.items()
            }
            for group in groups
        ]
        self._picks = [(_pick(program, names), [*names.values()]) for names in self._overridden]

    def settings(self, owner: Owner) -> tuple[Any, ...]:
        """Return the hyperparameters of the rules, as they are set now."""
        values = owner.__dict__
        if self._read is not None:
            return self._read(values)
        found: tuple[Any, ...] = ()
        for read, own in self._readers:
            found += read(values if own is None else own)
        return found

    def numbers(self, settings: tuple[Any, ...], step: int) -> Numbers | None:
        """Return the numbers of a step where settings are those of the step before, and constant.

        None: schedules are to be followed, numbers derived, or new ones checked.
        """
        if settings != self._constant:
            return None
        if self._read is not None and len(self._groups) == 1 and not self._overridden[0]:
            return ((*settings, step - self._groups[0].missed),)
        rows = []
        for group, (pick, values) in zip(self._groups, self._picks, strict=True):
            rows.append(pick((*settings, step - group.missed, *values)))
        return rows

    def step(self, owner: Owner, state: State, plan: Any) -> list[Row] | None:
        """Take a step, unless it runs what none has run: then its rows are returned."""
        step, settings = state.t + 1, self.settings(owner)
        numbers = self.numbers(settings, step)
        if numbers is None:
            rows = [self._program.row(step, group) for group in self._groups]
            if not self._turn_to(rows):
                return rows
            numbers = [row.numbers for row in rows]
        else:
            rows = []
        way, sums = self.last, self._sums
        assert way is not None
        for take in way.take:
            take(numbers)
        if way.levels:
            way.reduce(sums)
            if way.guards and any(sums.total(number) != 0 for number in way.guards):
                state.skipped += 1
                return None
        if len(way.final) > 1:  # a single call is made, or is not
            require_frames(6)
        try:
            self._run(state, plan, step, rows)
        except BaseException:
            finish(partial(self._run, state, plan, step, rows))
            raise
        if rows:
            self._settle(settings, step, rows)
        return None

    def _turn_to(self, rows: Sequence[Row]) -> bool:
        """Take the way of a step with these rows; return False where none has gone it."""
        way = self._ways.get(tuple([row.flags for row in rows]))
        if way is None:
            return False
        way.check(rows)
        if way is not self.last:
            self.last = None
            way.begin(self._sums)
            self.last = way
        return True

    def _run(self, state: State, plan: Any, step: int, rows: Sequence[Row]) -> None:
        """Do what the step changes, or what is left of it: called again, it goes on."""
        assert self.last is not None
        for run in self.last.final:
            run(self._sums)
        for group in self._groups:
            group.history.taken = step - group.missed
        for group, row in zip(self._groups, rows, strict=True) if rows else ():
            group.memory.update(row.memory)
        state.t, state.plan = step, plan

    def learn(self, settings: tuple[Any, ...], step: int, rows: Sequence[Row]) -> None:
        """Take note of the step that was just taken, the long way, with these rows."""
        flags = tuple([row.flags for row in rows])
        if flags not in self._ways:
            repeaters = [bucket.repeater() for bucket in self._buckets]
            known = [repeater for repeater in repeaters if repeater is not None]
            self._ways[flags] = Way(known) if repeaters and len(known) == len(repeaters) else None
        way = self._ways[flags]
        if way is not None:
            way.watch(self._buckets)
            self._settle(settings, step, rows)
            self.last = way

    def _settle(self, settings: tuple[Any, ...], step: int, rows: Sequence[Row]) -> None:
        """Take note of settings whose numbers were checked, in the rows of this step."""
        if settings == self._settings:
            return
        self._settings, self._constant = settings, None
        given = [*settings, *(value for _, values in self._picks for value in values)]
        if not self._is_derived and all(type(value) is float for value in given):
            self._constant = settings
            # They may have been set in the midst of the step, before its rows or after them.
            if [*(self.numbers(settings, step) or ())] != [row.numbers for row in rows]:
                self._constant = None


def _values(rule: Any, owner: Owner) -> Mapping[str, Any] | None:
    """Return the attributes of a rule; None for those of the owner of the plan."""
    return None if rule is owner else rule.__dict__


def _reader(names: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Return the function from a dict or a sequence to the tuple of its values at `names`."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple([values[name] for name in names])


def _pick(program: Program, overridden: Mapping[str, Any]) -> Callable[[Any], tuple[float, ...]]:
    """Return the function to the numbers of a row, from settings, step, and what is overridden."""
    names = [part.prefix + entry.name for part in program.parts for entry in part.fields]
    places = {name: place for place, name in enumerate(names)}
    places |= {part.prefix + "t": len(names) for part in program.parts}
    places |= {name: len(names) + 1 + place for place, name in enumerate(overridden)}
    return _reader([places.get(name, 0) for name in program.names])

"""The short way: a step like an earlier one, but for its number, gradients and hyperparameters."""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from instep.engines import Bucket
from instep.engines.base import Joined, Leaves, Repeater
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
    fits
        Returns whether parameters are those of the step before, and gradients of the same kind.
    joined
        The passes, as one call.
    computes
        Dtypes of the arithmetic.
    sees_tensors
        Whether it takes tensors as they are, and not the arrays that stand for them.
    """

    joined: Joined

    def __init__(self, repeaters: Sequence[Repeater], *, sees_tensors: bool) -> None:
        self._repeaters, self.sees_tensors = repeaters, sees_tensors
        # A call within another takes 0.1 us.
        self.fits = repeaters[0].fits if len(repeaters) == 1 else self._fit
        self.computes = list(dict.fromkeys(repeater.compute for repeater in repeaters))
        self._table = 0

    def _fit(self, params: tuple[Any, ...], grads: tuple[Any, ...]) -> bool:
        return all(repeater.fits(params, grads) for repeater in self._repeaters)

    def watch(self, buckets: Sequence[Bucket]) -> None:
        """Take note of where the parameters are: a step was taken the long way."""
        if not all(repeater.is_watching for repeater in self._repeaters):
            written = Written(*joined([bucket.bounds()[0] for bucket in buckets]))
            if not written.overlaps:
                for repeater in self._repeaters:
                    repeater.watch(written)

    def begin(self, sums: SumTable) -> None:
        """Turn to this way from that of the step before."""
        for repeater in self._repeaters:
            repeater.begin(sums)
        if self._table != sums.address:
            self.joined = self._repeaters[0].joined(self._repeaters, sums)
            self._table = sums.address


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
        # The settings of the step before, where nothing but the step number changes in its numbers,
        # and those of the last where more did.
        self._constant: tuple[Any, ...] | None = None
        self._changing: tuple[Any, ...] | None = None
        # The values of another rule than the owner, a part of a chain, may be kept: it has no plan.
        kept = [None if owner.main is owner else part.rule.__dict__ for part in program.parts]
        readers = [_reader([entry.name for entry in part.fields]) for part in program.parts]
        self._sources = list(zip(readers, kept, strict=True))
        self._is_derived = any(part.derives or part.period > 1 for part in program.parts)
        self._makers = [] if self._is_derived else [_RowMaker(program, group) for group in groups]
        # One group of one rule, as most optimizers are: its numbers are made in half the time.
        self._is_one = len(groups) == 1 and not self._is_derived
        is_alone = self._is_one and len(program.parts) == 1 and not groups[0].overrides
        self._alone = (*self._sources[0], groups[0]) if is_alone else None

    def _read(self, owner: Owner) -> tuple[Any, ...]:
        """Return the hyperparameters of the rules, as they are set now."""
        found: tuple[Any, ...] = ()
        for read, values in self._sources:
            found += read(owner.__dict__ if values is None else values)
        return found

    def step(self, owner: Owner, state: State, plan: Any) -> list[Row] | None:
        """Take a step, unless it runs what none has run: then its rows are returned."""
        step = state.t + 1
        rows: list[Row] = []
        if self._is_derived:
            rows = [self._program.row(step, group) for group in self._groups]
            if not self._turn_to(rows):
                return rows
            numbers: Numbers = [row.numbers for row in rows]
        elif self._alone is not None:
            read, values, group = self._alone
            settings = read(owner.__dict__ if values is None else values)
            if settings == self._constant:
                numbers = ((*settings, step - group.missed),)
            else:
                numbers = self._numbers(settings, step)
        else:
            numbers = self._numbers(self._read(owner), step)
        assert self.last is not None
        call = self.last.joined
        scalars = call.scalars(numbers)
        call.begin()
        if self._is_one:
            self._run_one(call, scalars, state, plan, step)
            return None
        skipped = state.skipped + 1

        def run() -> None:
            """Do what the step changes, or what is left of it: called again, it goes on."""
            if not call.is_done() and not call.run(*scalars):
                state.skipped = skipped
                return
            for group in self._groups:
                group.history.taken = step - group.missed
            for group, row in zip(self._groups, rows, strict=False):
                group.memory.update(row.memory)
            state.t, state.plan = step, plan

        require_frames(8)
        finish(run)
        return None

    def _numbers(self, settings: tuple[Any, ...], step: int) -> Numbers:
        """Return the numbers of a step, from which no others are derived."""
        if settings == self._constant:
            return [maker.row(settings, step) for maker in self._makers]
        rows = [self._program.numbers(step, group) for group in self._groups]
        self._check(rows)
        if settings != self._changing:
            # Not so where there are schedules, or where another call has set what was read before.
            made = [maker.row(settings, step) for maker in self._makers]
            same = made == rows
            self._constant, self._changing = (settings, None) if same else (None, settings)
        return rows

    def _check(self, rows: Numbers) -> None:
        """Raise if a number is none in the dtype of the arithmetic."""
        assert self.last is not None
        for compute in self.last.computes:
            for row in rows:
                self._program.check_rounding(row, compute)

    def _turn_to(self, rows: Sequence[Row]) -> bool:
        """Take the way of a step with these rows; return False where none has gone it."""
        way = self._ways.get(tuple([row.flags for row in rows]))
        if way is None:
            return False
        self._check([row.numbers for row in rows])
        if way is not self.last:
            self.last = None
            way.begin(self._sums)
            self.last = way
        return True

    def _run_one(
        self, call: Joined, scalars: tuple[float, ...], state: State, plan: Any, step: int
    ) -> None:
        """Do what a step of one group changes."""
        history, taken = self._groups[0].history, step - self._groups[0].missed
        try:
            if call.run(*scalars):
                history.taken, state.t, state.plan = taken, step, plan
            else:
                state.skipped += 1
        except BaseException:  # from a handler of a signal: before the one call, or after it
            try:
                is_done = call.is_done()
            except BaseException:  # noqa: BLE001  (from a second one)
                is_done = call.is_done()
            if is_done:
                history.taken, state.t, state.plan = taken, step, plan
            raise

    def learn(self, rows: Sequence[Row], tensors: Leaves | None) -> None:
        """Take note of the step that was just taken, the long way, with these rows.

        Tensors of PyTorch are given where nothing but compiled code has to look at them.
        """
        flags = tuple([row.flags for row in rows])
        if flags not in self._ways:
            repeaters = [bucket.repeater(tensors) for bucket in self._buckets]
            known = [repeater for repeater in repeaters if repeater is not None]
            way = Way(known, sees_tensors=tensors is not None) if known else None
            self._ways[flags] = way if len(known) == len(repeaters) else None
        way = self._ways[flags]
        if way is not None:
            way.begin(self._sums)
            way.watch(self._buckets)
        self.last = way


class _RowMaker:
    """Makes the numbers of a group for a step, where none is derived from others."""

    def __init__(self, program: Program, group: Group) -> None:
        overridden = {
            prefix + name: value
            for prefix, values in group.overrides.items()
            for name, value in values.items()
        }
        self._group, self._overridden = group, tuple(overridden.values())
        fields = [part.prefix + entry.name for part in program.parts for entry in part.fields]
        names = program.names
        # A row picks from settings, the step of the rules, and what takes the place of settings.
        places = {name: place for place, name in enumerate(fields)}
        places |= {part.prefix + "t": len(fields) for part in program.parts}
        places |= {name: len(fields) + 1 + place for place, name in enumerate(overridden)}
        self._pick = _reader([places[name] for name in names])

    def row(self, settings: tuple[Any, ...], step: int) -> tuple[Any, ...]:
        """Return the numbers of a step, schedules among them."""
        return self._pick((*settings, step - self._group.missed, *self._overridden))


def _reader(names: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Return the function from a dict or a sequence to the tuple of its values at `names`."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple([values[name] for name in names])

"""The short way: a step like an earlier one, but for its number, gradients and hyperparameters."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import chain, count
from operator import call, itemgetter
from typing import Any

from instep.engines import Bucket
from instep.engines.base import Joined, Leaves, Repeater
from instep.engines.ranges import Written
from instep.engines.sums import SumTable
from instep.graph.derivation import Derivation, derivation
from instep.graph.program import Program
from instep.graph.rows import Flags, Group, Row
from instep.interrupts import finish, require_frames
from instep.plan.overlaps import joined
from instep.state import Owner, State

#: The numbers of a step, by group, in the order of `Program.names`.
Numbers = Sequence[Sequence[float]]

#: What each group remembers anew; nothing where no numbers are derived.
Memories = Sequence[Mapping[str, float]]

#: What arithmetic without a value raises.
_NO_VALUE = (ArithmeticError, ValueError, TypeError)


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
        # The settings of the step before, where its rows follow from them and the step number
        # alone, and those of the last where more did.
        self._constant: tuple[Any, ...] | None = None
        self._changing: tuple[Any, ...] | None = None
        # The values of another rule than the owner, a part of a chain, may be kept: it has no plan.
        self._kept = [] if owner.main is owner else [part.rule.__dict__ for part in program.parts]
        self._readers = [_reader([entry.name for entry in part.fields]) for part in program.parts]
        self._derives = any(part.derives or part.period > 1 for part in program.parts)
        # One group of one rule, as most optimizers are: its numbers are made in half the time.
        is_alone = len(groups) == 1 and not (groups[0].overrides or self._kept or self._derives)
        self._alone = (self._readers[0], groups[0]) if is_alone else None

    @cached_property
    def _makers(self) -> list["_RowMaker"]:
        """What makes rows from settings and the step number; none where rules do more."""
        found = derivation(self._program) if self._derives else None
        if self._derives and found is None:
            return []
        return [_RowMaker(self._program, group, found) for group in self._groups]

    def _read(self, owner: Owner) -> tuple[Any, ...]:
        """Return the hyperparameters of the rules, as they are set now."""
        if not self._kept:
            return self._readers[0](owner.__dict__)
        return tuple(chain.from_iterable(map(call, self._readers, self._kept)))

    def step(self, owner: Owner, state: State, plan: Any) -> list[Row] | None:
        """Take a step, unless it runs what none has run: then its rows are returned."""
        step = state.t + 1
        memories: Memories = ()
        if self._derives:
            rows = self._rows(self._read(owner), step)
            numbers, flags, memories = zip(*rows, strict=True)
            if not self._turn_to(flags):
                return [Row(*row) for row in rows]
        elif self._alone is not None:
            read, group = self._alone
            settings = read(owner.__dict__)
            if settings == self._constant:
                numbers = ((*settings, step - group.missed),)
            else:
                numbers = tuple(self._rows(settings, step))
        else:
            numbers = tuple(self._rows(self._read(owner), step))
        assert self.last is not None
        joint = self.last.joined
        scalars = joint.scalars(numbers)
        joint.begin()
        if len(self._groups) == 1:
            self._run_one(joint, scalars, state, plan, step, memories)
            return None
        skipped = state.skipped + 1

        def run() -> None:
            """Do what the step changes, or what is left of it: called again, it goes on."""
            if not joint.is_done() and not joint.run(*scalars):
                state.skipped = skipped
                return
            for group in self._groups:
                group.history.taken = step - group.missed
            for group, memory in zip(self._groups, memories, strict=False):
                group.memory.update(memory)
            state.t, state.plan = step, plan

        require_frames(5)
        finish(run)
        return None

    def _rows(self, settings: tuple[Any, ...], step: int) -> list[Any]:
        """Return the rows of a step, or only their numbers, where no others are derived."""
        if settings == self._constant:
            try:
                return [maker.row(settings, step) for maker in self._makers]
            except _NO_VALUE:  # the rules raise their own
                self._constant = None
        make: Callable[..., Any] = self._program.row if self._derives else self._program.numbers
        rows = [make(step, group) for group in self._groups]
        numbers = [row.numbers for row in rows] if self._derives else rows
        for compute in self.last.computes if self.last is not None else ():
            for row in numbers:
                self._program.check_rounding(row, compute)
        if settings != self._changing:
            given = [*settings, *(x for maker in self._makers for x in maker.overridden)]
            is_constant = self._makers and {*map(type, given)} <= {float}  # and has no schedules
            self._constant, self._changing = (settings, None) if is_constant else (None, settings)
        return rows

    def _turn_to(self, flags: tuple[Flags, ...]) -> bool:
        """Take the way of a step with these flags; return False where none has gone it."""
        way = self._ways.get(flags)
        if way is None:
            return False
        if way is not self.last:
            self.last = None
            way.begin(self._sums)
            self.last = way
        return True

    def _run_one(
        self,
        joint: Joined,
        scalars: tuple[float, ...],
        state: State,
        plan: Any,
        step: int,
        memories: Memories,
    ) -> None:
        """Do what a step of one group changes."""
        (group,) = self._groups
        history, taken = group.history, step - group.missed
        memory = {**history.scalars, **memories[0]} if memories else history.scalars
        try:
            if joint.run(*scalars):
                # One assignment: no handler comes in its midst.
                history.taken, history.scalars, state.t, state.plan = taken, memory, step, plan
            else:
                state.skipped += 1
        except BaseException:  # from a handler of a signal: before the one call, or after it
            try:
                is_done = joint.is_done()
            except BaseException:  # noqa: BLE001  (from a second one)
                is_done = joint.is_done()
            if is_done:
                history.taken, history.scalars, state.t, state.plan = taken, memory, step, plan
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
    """Makes the rows of a group, or only their numbers, where no others are derived."""

    def __init__(self, program: Program, group: Group, derived: Derivation | None) -> None:
        self._derived = derived
        overridden = {
            prefix + name: value
            for prefix, values in group.overrides.items()
            for name, value in values.items()
        }
        self._group, self.overridden = group, tuple(overridden.values())
        # A row picks from settings, the steps of the rules, and what takes the place of settings.
        self._periods = sorted({part.period for part in program.parts})
        self._is_simple = self._periods == [1]
        fields = [part.prefix + entry.name for part in program.parts for entry in part.fields]
        end, places = len(fields) + len(self._periods), dict(zip(fields, count()))
        places |= {
            part.prefix + "t": len(fields) + self._periods.index(part.period)
            for part in program.parts
        }
        places |= zip(overridden, count(end))
        own = [[*(entry.name for entry in part.fields), "t"] for part in program.parts]
        names = [
            part.prefix + name
            for part, names in zip(program.parts, own, strict=True)
            for name in names
        ]
        self._pick = _reader([places[name] for name in names])

    def row(self, settings: tuple[Any, ...], step: int) -> Any:
        """Return the row of a step, schedules in it as they are."""
        taken = step - self._group.missed
        if self._is_simple:
            numbers = self._pick((*settings, taken, *self.overridden))
        else:
            steps = [-(-taken // period) for period in self._periods]
            numbers = self._pick((*settings, *steps, *self.overridden))
        if self._derived is None:
            return numbers
        return self._derived.row(numbers, self._group.history.scalars)


def _reader(names: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Return the function from a dict or a sequence to the tuple of its values at `names`."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple([values[name] for name in names])

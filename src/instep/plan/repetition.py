"""The short way: a step like an earlier one, but for its number, gradients and hyperparameters."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain, count
from operator import call, itemgetter
from typing import Any

from instep.engines import Bucket
from instep.engines.base import Joined, Leaves
from instep.engines.sums import SumTable
from instep.engines.whole import MOST_ROWS, MOST_STEPS, Numbers
from instep.graph.derivation import Derivation, derivation
from instep.graph.program import Program
from instep.graph.rows import Flags, Group, Part, Row
from instep.graph.told import asks
from instep.hyperparameters import Hyperparameter, is_array
from instep.interrupts import finish, require_frames
from instep.plan.assignment import Assignment
from instep.plan.last import LastStep
from instep.plan.way import Way
from instep.plan.whole import Step, WholeSteps
from instep.rule import edition
from instep.state import Owner, State

#: The numbers of a step, by group, in the order of `Program.names`.
Rows = Sequence[Sequence[float]]

#: What arithmetic without a value raises.
_NO_VALUE = (ArithmeticError, ValueError, TypeError)


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
        given: Assignment,
        buckets: Sequence[Bucket],
        sums: SumTable,
        noted: LastStep,
        wholes: WholeSteps | None,
    ) -> None:
        self._wholes = wholes
        self._programs, self._sums, self._noted = given.programs, sums, noted
        self._groups, self._buckets = given.groups, buckets
        self.last: Way | None = None
        self._ways: dict[tuple[Flags, ...], Way | None] = {}
        parts = [part for program in dict.fromkeys(given.programs) for part in program.parts]
        # The values of another rule than the owner, a part of a chain, may be kept: it has no plan.
        is_one = "" in owner.parts
        self._kept = [] if is_one else [part.rule.__dict__ for part in parts]
        self._readers = [_reader([entry.name for entry in part.fields]) for part in parts]
        self._derives = any(part.derives or part.period > 1 for part in parts)
        self._edition: object = None
        self._settings: tuple[Any, ...] = ()
        # Whether makers know the rows of a step; whether these follow from its number and the
        # settings alone, without a schedule; and whether they survive in the dtypes of the
        # arithmetic.
        self._is_known = self._is_constant = self._is_checked = False
        self._is_told = False  # whether a schedule asks for the value of the objective
        # One group of one rule, as most optimizers are: its rows are made in half the time.
        is_alone = len(given.groups) == len(parts) == 1
        self._is_alone = is_alone and not (given.groups[0].overrides or self._derives)

    @cached_property
    def _makers(self) -> list["_RowMaker"]:
        """What makes rows from settings and the step number; none where rules do more."""
        derived: dict[Program, Derivation | None] = {}
        first, count = {}, 0
        for program in dict.fromkeys(self._programs):
            derived[program] = derivation(program) if self._derives else None
            first[program], count = count, count + sum(len(part.fields) for part in program.parts)
        if self._derives and None in derived.values():
            return []
        return [
            _RowMaker(program, group, derived[program], first[program])
            for program, group in zip(self._programs, self._groups, strict=True)
        ]

    def next_whole(self, changes: int, plan: Any) -> Step | None:
        """Return what may take the next step as one call, after one that the last way has taken.

        `changes` are those of the state that the plan was made for.
        """
        wholes, way = self._wholes, self.last
        if wholes is None or way is None or self._derives or len(self._groups) > MOST_ROWS:
            return None
        if not (self._is_constant and self._is_known and wholes.follow(way)):
            return None
        if any(abs(group.missed) >= MOST_STEPS for group in self._groups):
            return None
        rows = [maker.next_row() for maker in self._makers]
        return wholes.next(way, (changes, self._edition), plan, rows, self._groups, self._noted)

    def ready(self, owner: Owner) -> Way | None:
        """Return the way that the last step has left, with the hyperparameters read by now."""
        if self.last is not None and self._edition is not edition.present:
            self._read(owner)
        return self.last

    def _read(self, owner: Owner) -> None:
        """Read the hyperparameters of the rules, as they are set now."""
        present = edition.present  # before: what is set from now on is another
        if self._kept:
            settings = tuple(chain.from_iterable(map(call, self._readers, self._kept)))
        else:
            settings = self._readers[0](owner.__dict__)
        makers = self._makers
        given = [*settings, *chain.from_iterable([maker.overridden for maker in makers])]
        moving = [value for value in given if value.__class__ is not float]
        self._is_constant = not moving
        self._is_told = any(map(asks, moving))
        self._is_known = bool(makers) and not any(map(is_array, moving))
        self._is_checked = self._is_checked and _are_same(settings, self._settings)
        self._settings = settings
        if self._is_known:
            for maker in makers:
                maker.take(settings)
        self._edition = present  # last: after an exception all is read again

    def step(self, state: State, plan: Any, value: Any) -> list[Row] | None:
        """Take a step, unless it runs what none has run: then its rows are returned.

        The hyperparameters are those that were read last, and what schedules set from then on.
        """
        step = state.t + 1
        numbers: Rows
        rows: Sequence[Any]
        if self._is_alone and self._is_constant and self._is_checked:
            numbers = rows = ((*self._settings, step - self._groups[0].missed),)
        else:
            numbers = rows = self._rows(step, value)
        if self._derives:
            numbers, flags, _ = zip(*rows)  # noqa: B905  (which takes longer)
            if not self._turn_to(flags, state):
                return [Row(*row) for row in rows]
        assert self.last is not None
        joint = self.last.joined
        scalars = joint.scalars(numbers)
        joint.begin()
        run = self._run_one if len(self._groups) == 1 else self._run_all
        run(joint, scalars, state, plan, step, rows)
        return None

    def _rows(self, step: int, value: Any) -> list[Any]:
        """Return the rows of a step, or only their numbers, where no others are derived."""
        rows: list[Any] = []
        if self._is_told:
            self._groups[0].told.value = value
        if self._is_known:
            rows = [maker.row(step, self._edition) for maker in self._makers]
        else:
            for program, group in zip(self._programs, self._groups, strict=True):
                rows.append(_asked(program, group, step, derives=self._derives))
        if not (self._is_checked and self._is_constant):
            for i, compute in self.last.computes if self.last is not None else ():
                numbers = rows[i][0] if self._derives else rows[i]
                self._programs[i].check_rounding(numbers, compute)
            self._is_checked = True
        return rows

    def _turn_to(self, flags: tuple[Flags, ...], state: State) -> bool:
        """Take the way of a step with these flags; return False where none has gone it."""
        way = self._ways.get(flags)
        if way is None:
            return False
        if way is not self.last:
            self.last = state.last = None  # which the sums are to leave
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
        rows: Sequence[Any],
    ) -> None:
        """Do what a step of one group changes."""
        (group,) = self._groups
        history, taken = group.history, step - group.missed
        memory = {**history.scalars, **rows[0][2]} if self._derives else history.scalars
        noted, skipped = self._noted, state.skipped + 1
        try:
            if joint.run(*scalars):
                # Assignments alone: no handler comes in their midst.
                history.taken, history.scalars, state.t, state.plan = taken, memory, step, plan
                noted.rows, state.last = rows, noted
            else:
                noted.rows, state.last, state.skipped = rows, noted, skipped
        except BaseException:  # from a handler of a signal: before the one call, or after it
            try:
                is_taken = joint.outcome()
            except BaseException:  # noqa: BLE001  (from a second one)
                is_taken = joint.outcome()
            state.last = None
            if is_taken:
                history.taken, history.scalars, state.t, state.plan = taken, memory, step, plan
                noted.rows, state.last = rows, noted
            elif is_taken is not None:
                noted.rows, state.last, state.skipped = rows, noted, skipped
            raise

    def _run_all(
        self,
        joint: Joined,
        scalars: tuple[float, ...],
        state: State,
        plan: Any,
        step: int,
        rows: Sequence[Any],
    ) -> None:
        """Do the same for several groups."""
        require_frames(6)
        noted, skipped = self._noted, state.skipped + 1
        try:
            if joint.run(*scalars):
                self._note(state, plan, step, rows)
            else:
                noted.rows, state.last, state.skipped = rows, noted, skipped
        except BaseException:

            def rest() -> None:
                state.last = None
                is_taken = joint.outcome()
                if is_taken:
                    self._note(state, plan, step, rows)
                elif is_taken is not None:
                    noted.rows, state.last, state.skipped = rows, noted, skipped

            finish(rest)
            raise

    def _note(self, state: State, plan: Any, step: int, rows: Sequence[Any]) -> None:
        """Take note of a step, or of what is left of it: called again, it goes on."""
        for group in self._groups:
            group.history.taken = step - group.missed
        if self._derives:
            for group, (_, _, memory) in zip(self._groups, rows, strict=True):
                group.memory.update(memory)
        noted = self._noted
        state.t, state.plan, noted.rows, state.last = step, plan, rows, noted

    def learn(self, rows: Sequence[Row], tensors: Leaves | None) -> None:
        """Take note of the step that was just taken, the long way, with these rows.

        Tensors of PyTorch are given where nothing but compiled code has to look at them.
        """
        flags = tuple([row.flags for row in rows])
        if flags not in self._ways:
            repeaters = [bucket.repeater(tensors) for bucket in self._buckets]
            known = [repeater for repeater in repeaters if repeater is not None]
            are_joined = len({repeater.place for repeater in known}) == 1
            way = Way(known, sees_tensors=tensors is not None) if are_joined else None
            self._ways[flags] = way if len(known) == len(repeaters) else None
        way = self._ways[flags]
        if way is not None:
            way.begin(self._sums)
            way.watch(self._buckets)
        self.last = way


class _RowMaker:
    """Makes the rows of a group, or only their numbers, where no others are derived.

    Attributes
    ----------
    overridden
        The values that this part of the tree has in place of settings.
    """

    def __init__(
        self, program: Program, group: Group, derived: Derivation | None, first: int
    ) -> None:
        self._program, self._derived = program, derived
        overridden = {
            prefix + name: value
            for prefix, values in group.overrides.items()
            for name, value in values.items()
        }
        self._group, self.overridden = group, tuple(overridden.values())
        fields = [part.prefix + entry.name for part in program.parts for entry in part.fields]
        self._own = slice(first, first + len(fields))  # among the settings of all rules
        places = dict(zip(fields, count())) | dict(zip(overridden, count(len(fields) + 1)))
        names: list[str | None] = []
        self._steps: list[tuple[int, int]] = []  # where those of the rules are, and their periods
        self._of: list[tuple[Part, Hyperparameter | None]] = []  # what each number is
        for part in program.parts:
            names += [part.prefix + entry.name for entry in part.fields]
            self._steps.append((len(names), part.period))
            names.append(None)
            self._of += [(part, entry) for entry in (*part.fields, None)]
        self._pick = _reader([len(fields) if name is None else places[name] for name in names])
        self._row: list[Any] = []
        self._moving: list[tuple[int, Callable[[int], float], int]] = []

    def take(self, settings: tuple[Any, ...]) -> None:
        """Take the settings of the rules, in their order: numbers and schedules."""
        told = self._group.told
        self._row = list(self._pick((*settings[self._own], 0, *self.overridden)))
        self._moving = [
            (place, partial(entry.at, part.owner, told.to(value)), part.period)
            for place, (value, (part, entry)) in enumerate(zip(self._row, self._of, strict=True))
            if entry is not None and value.__class__ is not float
        ]

    def next_row(self) -> Numbers:
        """Return what the next row is, but for the number of its step, where nothing moves."""
        values: list[float | None] = [*self._row]
        for place, _ in self._steps:
            values[place] = None
        return Numbers(values, self._group.missed)

    def row(self, step: int, known: object) -> Any:
        """Return the row of a step, given the edition of settings that was taken."""
        if edition.present is not known:  # a schedule of another group has set something
            return _asked(self._program, self._group, step, derives=self._derived is not None)
        taken, numbers = step - self._group.missed, [*self._row]
        for place, value_at, period in self._moving:
            numbers[place] = value_at(step if period == 1 else -(-step // period))
            if edition.present is not known:  # a schedule has set what those after it are to see
                return self._rest(step, numbers[: place + 1])
        for place, period in self._steps:
            numbers[place] = taken if period == 1 else -(-taken // period)
        if self._derived is None:
            return numbers
        try:
            return self._derived.row(numbers, self._group.history.scalars)
        except _NO_VALUE:  # the rules raise their own
            return self._rest(step, numbers)

    def _rest(self, step: int, numbers: Sequence[float]) -> Any:
        """Return the row for which the rules are asked, but for these first numbers."""
        overrides = {prefix: dict(own) for prefix, own in self._group.overrides.items()}
        for number, (part, entry) in zip(numbers, self._of, strict=False):
            if entry is not None:
                overrides.setdefault(part.prefix, {})[entry.name] = number
        group = replace(self._group, overrides=overrides)
        return _asked(self._program, group, step, derives=self._derived is not None)


def _are_same(settings: Sequence[Any], before: Sequence[Any]) -> bool:
    """Return whether settings are what they were; arrays and schedules, the same objects."""
    return len(settings) == len(before) and all(
        one is other or (one.__class__ is other.__class__ is float and one == other)
        for one, other in zip(settings, before, strict=True)
    )


def _asked(program: Program, group: Group, step: int, *, derives: bool) -> Any:
    """Return the row of a step, or only its numbers where no others are derived."""
    return program.row(step, group) if derives else program.numbers(step, group)


def _reader(names: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Return the function from a dict or a sequence to the tuple of its values at `names`."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple([values[name] for name in names])

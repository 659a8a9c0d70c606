"""The plan of a step: made once for a signature of the trees, checked cheaply at every step."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

from instep import tree
from instep.engines.base import Fit, Repeater
from instep.engines.sums import SumTable, Verdicts
from instep.graph.program import Group, Program, Row
from instep.interrupts import Call, at_once, finish, require_frames
from instep.plan import slots, validation
from instep.plan.assignment import assign, resolve
from instep.plan.judging import Judging
from instep.plan.leaves import Numbers, stand_ins
from instep.plan.overlaps import Apart
from instep.state import Owner, State


class Plan:
    """Buckets of leaves, their state, and what it takes to run a step on them.

    Making a plan validates everything and allocates new state, but changes nothing in the
    optimizer: that happens when the step is certain. The optimizer and its state, which holds its
    plan, are given to each method: they are freed where nobody refers to them any more.
    """

    def __init__(self, owner: Owner, state: State, params: Any, grads: Any) -> None:
        # Settings that are changed from now on, by a schedule in the midst of a step too, end it.
        self._changes = state.changes
        self._is_kept = False
        leaves = validation.match(owner.name, params, grads)
        overrides, frozen = resolve(owner, leaves)
        free = [leaf for leaf in leaves if leaf.key not in frozen]
        self._active = [leaf for leaf in free if leaf.gradient is not None]
        self._idle = [leaf.position for leaf in free if leaf.gradient is None]
        validation.check(owner.name, self._active)
        seen = {leaf.position for leaf in self._active}
        unseen = [leaf.position for leaf in leaves if leaf.position not in seen]
        self._read_params = tree.LeafReader(params, unseen)
        self._read_grads = tree.LeafReader(grads, unseen)
        self._numbers_in = Numbers(self._active)
        self._seen: tuple[Sequence[Any], Sequence[Any]] = ((), ())

        self.program = Program(owner, is_kept=True)
        self._overrides = {pattern: dict(entry) for pattern, entry in owner.overrides.items()}
        given = assign(owner, state, self.program, self._active, overrides)
        self._groups = given.groups
        self.states = dict(state.leaves)
        self.buckets = [
            slots.bucket(given, own, self._active, self.states, owner.threads)
            for own in given.buckets
        ]
        self._sums = SumTable(len(leaves), len(self.buckets))
        self._judging = Judging(self.buckets, self._sums, self._groups)
        keys = {leaf.key for leaf in self._active}
        self._idle_states = [leaf for key, leaf in self.states.items() if key not in keys]

        self._apart = Apart(self.buckets, [(leaf.position, leaf.path) for leaf in self._active])
        # Whether the arrays that the buckets saw last have been looked at for overlaps: a step
        # that is refused leaves them unverified, and they are looked at again.
        self._verified = False
        self._repeater: Repeater | None = None
        # The optimizer in a chain; another one has its hyperparameters itself, and is not kept.
        self._main = None if owner.main is owner else owner.main
        self._numbers: Any = None
        self._read_numbers = _reader([entry.name for entry in self.program.parts[0].fields])
        for leaf in self._active:  # the arrays are the user's: keep none of them
            leaf.parameter = leaf.gradient = None
        if self._fit(params, grads) is Fit.DIFFERENT:
            raise RuntimeError(f"{owner.name}.update: the trees changed while they were looked at")

    # Whether a plan is for the step -----------------------------------------------------------

    def accepts(self, owner: Owner, state: State, params: Any, grads: Any) -> bool:
        """Return whether this plan can step these trees. Keeps their leaves until `release`."""
        # Overrides are compared, for the user's dict may have been changed in place.
        if not (
            state.changes == self._changes
            and self.program.is_current()
            and owner.overrides == self._overrides
        ):
            return False
        fit = self._fit(params, grads)
        if fit is not Fit.SAME:
            self._verified = False
        if fit is Fit.DIFFERENT:
            return False
        if not self._verified:
            self._apart.check(owner.name, *self._seen)
        return True

    def _fit(self, params: Any, grads: Any) -> Fit:
        leaves, gradients = self._read_params.read(params), self._read_grads.read(grads)
        if leaves is None or gradients is None or len(leaves) != len(gradients):
            return Fit.DIFFERENT
        if any(gradients[position] is not None for position in self._idle):
            return Fit.DIFFERENT
        if self._numbers_in.found:
            leaves, gradients = self._numbers_in.replaced(leaves), stand_ins(gradients)
            if leaves is None:
                return Fit.DIFFERENT
        self._seen = leaves, gradients
        worst = Fit.SAME
        for bucket in self.buckets:
            fit = bucket.fit(leaves, gradients)
            if fit is Fit.DIFFERENT:
                return fit
            worst = fit if fit is Fit.MOVED else worst
        return worst

    def release(self) -> None:
        """Keep no arrays of the user: the step is over, or an exception came in its way."""
        self._seen = (), ()
        for bucket in self.buckets:
            bucket.release()

    # The short way ----------------------------------------------------------------------------

    def repeat(self, owner: Owner, state: State, params: Any, grads: Any) -> bool:
        """Take the step if it is as the one before but for its number; else do nothing.

        The same trees of the same arrays, but for gradients that are new arrays of the same kind,
        and the same hyperparameters, all plain numbers: then nothing is left to validate, and the
        step takes a quarter of the time of `step`, which is what counts when arrays are small.
        """
        repeater = self._repeater
        if repeater is None or not self._verified or state.changes != self._changes:
            return False
        leaves, gradients = self._read_params.read(params), self._read_grads.read(grads)
        if leaves is None or gradients is None or len(leaves) != len(gradients):
            return False
        values = owner.__dict__
        own = values if self._main is None else self._main.__dict__
        numbers, step = self._read_numbers(own), state.t + 1
        if numbers != self._numbers or values["overrides"]:
            return False
        if not repeater.stage(leaves, gradients, (*numbers, step)):
            self._verified = False
            return False
        try:
            repeater.run()
            state.t = step
        except BaseException:  # from a handler of a signal: before the one call, or after it
            if repeater.has_run:
                state.t = step
            raise
        return True

    def look_again(self) -> None:
        """Take no short way at the next step, which is not to be a mere repetition."""
        self._verified = False

    def _find_repeater(self, owner: Owner, rows: Sequence[Row]) -> None:
        """Look for the short way to repeat the step that was just taken with these rows."""
        if len(self.buckets) != 1 or len(self._groups) != 1 or len(self.program.parts) != 1:
            return
        numbers = self._read_numbers(owner.main.__dict__)
        if self._repeater is not None and numbers == self._numbers:
            self._repeater.refresh()
            return
        self._numbers, self._repeater = numbers, None
        (group,), (part,) = self._groups, self.program.parts
        if rows[0].numbers[: len(numbers)] != numbers:  # set meanwhile: they are unchecked
            return
        plain = part.fixed and not (part.derives or part.has_forms or self._numbers_in.found)
        everyone = not (self._idle or self._idle_states or group.overrides or group.missed)
        if plain and everyone and all(type(number) is float for number in numbers):
            self._repeater = self.buckets[0].repeater()
            if self._repeater is not None:
                self._repeater.refresh()

    # The step ---------------------------------------------------------------------------------

    def step(self, owner: Owner, state: State, params: Any) -> Any:
        """Take the step that `accepts` has looked at."""
        sums, buckets = self._sums, self.buckets
        sums.begin()
        candidates = self._candidates(state)
        for bucket in buckets:
            bucket.stage(candidates, sums)
        while numbers := set().union(*(bucket.reduce(sums) for bucket in buckets)):
            sums.add_up(numbers)
        if self._judging.is_forbidden(candidates, partial(self._rows_after, state.t)):
            # A new plan is not kept: its state may start from what the user changes before the
            # first step that is taken, parameters or hyperparameters.
            state.skipped += 1
            return params
        require_frames()
        notes = self._notes(state, candidates[0])
        result = finish(partial(self._commit, state, params, notes))
        self._verified = True
        self._find_repeater(owner, candidates[0])
        return result

    def _commit(self, state: State, params: Any, notes: Sequence[Call]) -> Any:
        """Do what the step changes, or what is left of it: called again, it goes on."""
        replaced: dict[int, Any] = {}
        for bucket in self.buckets:
            replaced.update(bucket.commit(self._sums))
        replaced |= self._numbers_in.after(self._seen[0])
        if self.waits:
            # Whatever was set in the midst of the step: this plan is to hear of it.
            kept = {"plan": self} if self._is_kept else {}
            self._judging.judge([partial(state.__dict__.update, kept)])
            # The state of a new plan may start from what the user changes before the first step
            # that is taken: the first verdict is waited for. The others are not.
            if not self._is_kept:
                self.settle(state)
        else:
            at_once(notes)
        if replaced:
            leaves = [leaf for _, leaf in tree.flatten(params)]
            for position, array in replaced.items():
                leaves[position] = array
            params = tree.rebuild(params, leaves)
        return params

    def _notes(self, state: State, rows: Sequence[Row] = ()) -> list[Call]:
        """Return the calls that take note of a step: functions in C, which may be called again.

        With these rows, where it is not known yet what they remember.
        """
        new = {"t": state.t + 1, "leaves": self.states, "plan": self}
        notes: list[Call] = [partial(state.__dict__.update, new)]
        if not self._is_kept:
            notes.append(partial(self.__dict__.update, {"_is_kept": True}))
        notes.extend(
            partial(leaf.__dict__.update, {"missed": leaf.missed + 1}) for leaf in self._idle_states
        )
        for group, row in zip(self._groups, rows, strict=False):
            if row.memory:
                notes.append(partial(group.memory.update, row.memory))
        return notes

    def _candidates(self, state: State) -> list[list[Row]]:
        """Return the rows of the step, for every number of undecided steps that may be taken."""
        if self.waits:
            self.settle(state, Verdicts.MOST)
        found = self._judging.candidates(partial(self._rows_after, state.t))
        if found is None:
            self.settle(state)
            found = self._judging.candidates(partial(self._rows_after, state.t))
            assert found is not None
        return found

    def _rows_after(self, taken: int, more: int, groups: Sequence[Group]) -> list[Row]:
        return [self.program.row(taken + 1 + more, group) for group in groups]

    @property
    def waits(self) -> bool:
        """Whether there may be steps of which only a device knows whether they were taken."""
        return self._judging.waits

    def settle(self, state: State, most: int = 0) -> None:
        """Take note of what devices have judged, and wait until at most `most` calls are left."""
        while (taken := self._judging.hear(most)) is not None:
            skipped = [partial(state.__dict__.update, {"skipped": state.skipped + 1})]
            at_once([*self._judging.noting(taken), *(self._notes(state) if taken else skipped)])


def _reader(names: list[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return the function from a dict to the tuple of its values at `names`."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)

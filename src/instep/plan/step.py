"""The plan of a step: made once for a signature of the trees, checked cheaply at every step."""

import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from instep import tree
from instep.engines.base import Fit, Leaves
from instep.engines.sums import SumTable, Verdicts
from instep.graph.program import programs_of, rows_after
from instep.graph.rows import Row
from instep.graph.told import Told
from instep.interrupts import Call, at_once, finish, require_frames
from instep.plan import slots, validation
from instep.plan.assignment import assign
from instep.plan.judging import Judging
from instep.plan.last import LastStep
from instep.plan.meeting import check_names
from instep.plan.objective import Objective
from instep.plan.overlaps import Apart
from instep.plan.records import Records
from instep.plan.reducing import committed, reduce
from instep.plan.remembered import look, remember
from instep.plan.repetition import Repetition
from instep.plan.selection import select
from instep.plan.settings import Settings
from instep.plan.stand_ins import StandIns
from instep.plan.trees import Trees
from instep.plan.whole import Step, WholeSteps
from instep.state import LeafState, Owner, State

if TYPE_CHECKING:
    from instep.plan.ranks import Ranks

#: Parameters and gradients while there is no step.
_NOTHING: Leaves = ((), ())


class Plan:
    """Buckets of leaves, their state, and what it takes to run a step on them.

    Making a plan validates everything and allocates new state, but changes nothing in the
    optimizer: that happens when the step is certain. The optimizer and its state, which holds its
    plan, are given to each method: they are freed where nobody refers to them any more.
    """

    def __init__(self, owner: Owner, state: State, params: Any, grads: Any, value: Any) -> None:
        # Settings that are changed from now on, by a schedule in the midst of a step too, end it.
        self._changes = state.changes
        self.look = look(params, grads)
        # The plan of the step that came after one of this the last time: some take turns.
        self.next = self.reference = weakref.ref(self)
        leaves = validation.match(owner.name, params, grads)
        self._ranks: Ranks | None = state.ranks
        selection = select(owner, leaves, self._ranks)
        free = [leaf for leaf in leaves if leaf.key not in selection.frozen]
        self._active = [leaf for leaf in free if leaf.gradient is not None]
        check_names(f"{owner.name}.update", state, leaves, self._active)
        validation.check(owner.name, params, self._active)
        seen = {leaf.position for leaf in self._active}
        unseen = [leaf.position for leaf in leaves if leaf.position not in seen]
        idle = [leaf.position for leaf in free if leaf.gradient is None]
        self._trees = Trees(params, grads, unseen, idle)
        self._held = self._seen = _NOTHING  # by the user, and by the engines
        programs = programs_of(owner, is_kept=True, remembered=state.remembered)
        told = Told(owner.name, value)
        given = assign(owner, state, programs, self._active, selection, told)
        self._stand_ins = StandIns(self._active)
        self._settings = Settings(owner, [*programs.values()], with_arrays=bool(given.arrays))
        self._programs = given.programs
        self.buckets, states, numbers = slots.buckets(given, self._active, state, owner)
        self.objective = Objective(owner, numbers, told)
        self._records = Records(self._active, states, numbers, given, state)
        self.is_heavy = any(own.program.between for own in given.buckets)
        self._sums = SumTable(len(leaves), len(self.buckets))
        self._judging = Judging(self.buckets, self._sums, given.groups)
        self._apart = Apart(self.buckets, self._active, given.arrays)
        # Whether the arrays that buckets saw last were looked at for overlaps. Not if refused.
        self._verified = False
        self._repeats = not (self._stand_ins.hand_back or given.arrays or self._ranks)
        self._last = LastStep(given, self._active, self.buckets, self._sums)
        self.whole: Step | None = None  # takes the next step, if it is like the last
        is_more = given.arrays or self._stand_ins.are_needed or self.objective.is_needed
        wholes = None if is_more else WholeSteps.of(owner, self._settings, self._trees)
        self._repetition = Repetition(owner, given, self.buckets, self._sums, self._last, wholes)
        for leaf in self._active:  # the arrays are the user's: keep none of them
            leaf.forget()
        if self._fit(params, grads) is Fit.DIFFERENT:
            raise RuntimeError(f"{owner.name}.update: the trees changed while they were looked at")

    # Whether a plan is for the step -----------------------------------------------------------

    def accepts(self, owner: Owner, state: State, params: Any, grads: Any) -> bool:
        """Return whether this plan can step these trees. Keeps their leaves until `release`."""
        if state.changes != self._changes or not self._settings.are_those_of(owner):
            return False
        is_one = self._fit(params, grads) is not Fit.DIFFERENT
        if not is_one or (state.plan is not self and not self._resume(state)):
            self.release()
            return False
        if not self._verified:
            self._apart.check(owner.name, *self._seen)
        return True

    def _resume(self, state: State) -> bool:
        """Take over from another plan: return whether its steps have left this one of any use."""
        last = state.plan
        if not self._records.resume(state):
            return False
        self._judging.resume()
        if last is not None:
            last.next, last.whole = self.reference, None
        self.whole = None
        remember(state, self)
        return True

    def _fit(self, params: Any, grads: Any) -> Fit:
        held = self._trees.read(params, grads)
        seen = None if held is None else self._stand_ins.arrays(*held)
        if held is None or seen is None:
            return Fit.DIFFERENT
        return self._compare(held, seen)

    def _compare(self, held: Leaves, seen: Leaves) -> Fit:
        self._held, self._seen = held, seen
        worst = Fit.SAME
        for bucket in self.buckets:
            fit = bucket.fit(*seen)
            if fit is Fit.DIFFERENT:
                return fit
            if fit is Fit.MOVED:
                self._verified, self.whole, worst = False, None, fit
        return worst

    def release(self) -> None:
        """Keep no arrays of the user: the step is over, or an exception came in its way."""
        self._held, self._seen, self.objective.told.value = _NOTHING, _NOTHING, None
        for bucket in self.buckets:
            bucket.release()

    # The short way ----------------------------------------------------------------------------

    def repeat(self, owner: Owner, state: State, params: Any, grads: Any, value: Any) -> bool:
        """Take the step if it is like one before; else do nothing.

        The same parameters, and gradients that may be new arrays of the same kind: nothing is left
        to validate, and the step takes a fifth of the time of `step`.
        """
        last = self._repetition.ready(owner) if self._verified else None
        if last is None or state.changes != self._changes:  # after, for what was read may be new
            return False
        held = self._trees.read(params, grads)
        if held is None or not self._settings.are_those_of(owner):
            return False
        if state.plan is self:
            self.next = self.reference
        elif not self._resume(state):
            return False
        stand_ins = self._stand_ins
        as_held = last.sees_tensors or not stand_ins.are_needed
        seen = held if as_held else stand_ins.arrays(*held)
        if seen is None or not last.fits(*seen):
            return False
        if self.objective.is_needed:
            self.objective.place(value)
        if stand_ins.are_needed:
            stand_ins.announce(held[0])
        rows = self._repetition.step(state, self, value)
        if rows is not None:
            try:
                self._fit(params, grads)
                self.step(owner, state, params, rows)
            finally:
                self.release()
        elif self.next is self.reference:
            self.whole = None  # while what it reads is written
            with suppress(RecursionError):  # it takes more frames than the step, which was taken
                self.whole = self._repetition.next_whole(self._changes, self)
        return True

    def look_again(self) -> None:
        """Take no short way at the next step, which is not to be a mere repetition."""
        self.next, self._verified, self.whole = self.reference, False, None

    # The step ---------------------------------------------------------------------------------

    def step(self, owner: Owner, state: State, params: Any, rows: list[Row] | None = None) -> Any:
        """Take the step that `accepts` has looked at, with these rows where they are known."""
        sums, buckets = self._sums, self.buckets
        self._repetition.last = self.whole = None  # until it is known which way this step goes
        candidates = self._candidates(state) if rows is None else [rows]
        self._last.begin(state, candidates)
        sums.begin()
        for bucket in buckets:
            bucket.stage(candidates, sums)
        reduce(buckets, sums, self._ranks)
        after = partial(rows_after, self._programs, state.t)
        is_forbidden = self._judging.is_forbidden(candidates, after)
        require_frames()
        is_forbidden = self._ranks.agree(is_forbidden) if self._ranks else is_forbidden
        if is_forbidden:  # a new plan is not kept
            last = partial(state.__dict__.update, last=self._last)
            finish(partial(self._turn_away, [*self._records.turned_away(state), last]))
            return params
        if is_new := not self._records.are_kept:
            state.plan = None
            self._records.begin()
        notes = self._notes(state, candidates[0])
        result = finish(partial(self._commit, state, params, notes))
        self._verified = True
        if self._repeats and not self.waits:
            self._repetition.learn(candidates[0], self._stand_ins.tensors(self._held))
        if is_new and self._records.are_kept:
            remember(state, self, alone=self._records.have_moved)
        return result

    def _commit(self, state: State, params: Any, notes: Sequence[Call]) -> Any:
        """Do what the step changes, or what is left of it: called again, it goes on."""
        self._stand_ins.announce(self._held[0])
        new: dict[int, Any] = {}
        for bucket in self.buckets:
            new.update(committed(bucket, self._sums, self._ranks))
        replaced = self._stand_ins.handed_back(self._seen[0], new)
        if self.waits:
            # Whatever was set in the midst of the step: this plan is to hear of it.
            kept = {"plan": self} if self._records.are_kept else {}
            self._judging.judge([partial(state.__dict__.update, kept, last=self._last)])
            # The state of a new plan may start from what the user changes before the first step
            # that is taken: the first verdict is waited for. The others are not.
            if not self._records.are_kept:
                self.settle(state)
        else:
            at_once(notes)
        if replaced:
            leaves = [leaf for _, leaf in tree.flatten(params)]
            for position, array in replaced.items():
                leaves[position] = array
            params = tree.rebuild(params, leaves)
        return params

    def _turn_away(self, notes: Sequence[Call]) -> None:
        """Do what a step changes that is turned away, as `_commit` does."""
        for bucket in self.buckets:
            bucket.turn_away(self._sums)
        at_once(notes)

    def _notes(self, state: State, rows: Sequence[Row] = ()) -> list[Call]:
        """Return the calls that take note of a step."""
        note = partial(state.__dict__.update, {"t": state.t + 1, "plan": self, "last": self._last})
        return [note, *self._records.taken(state, rows), *state.follow]

    def _candidates(self, state: State) -> list[list[Row]]:
        """Return the rows of the step, for every number of undecided steps that may be taken."""
        if self.waits:  # a schedule that is told values is to know of which steps
            self.settle(state, 0 if self.objective.told.is_asked else Verdicts.MOST)
        found = self._judging.candidates(partial(rows_after, self._programs, state.t))
        if found is None:
            self.settle(state)
            found = self._judging.candidates(partial(rows_after, self._programs, state.t))
            assert found is not None
        return found

    @property
    def states(self) -> Mapping[str, LeafState]:
        """What the leaves have once the step is taken, by their keys."""
        return self._records.states

    @property
    def waits(self) -> bool:
        """Whether there may be steps of which only a device knows whether they were taken."""
        return self._judging.waits

    def settle(self, state: State, most: int = 0) -> None:
        """Take note of what devices have judged, and wait until at most `most` calls are left."""
        while (taken := self._judging.hear(most)) is not None:
            notes = self._notes(state) if taken else self._records.turned_away(state)
            at_once([*self._judging.noting(taken), *self._last.noting(state.t), *notes])

"""The plan of a step: made once for a signature of the trees, checked cheaply at every step."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from instep import arrays, engines, tree
from instep.engines.base import Fit, Member, Repeater, SumTable, Verdicts
from instep.engines.ranges import Range, Written
from instep.graph.program import Program, Row, Source
from instep.interrupts import Call, at_once, finish, require_frames
from instep.numerics import STATE_DTYPE
from instep.optimizer import LeafState
from instep.plan import overlaps, validation
from instep.plan.assignment import assign, resolve
from instep.plan.judging import Undecided
from instep.plan.validation import Leaf
from instep.tree import format_path

if TYPE_CHECKING:
    from instep.optimizer import Optimizer


class Plan:
    """Buckets of leaves, their state, and what it takes to run a step on them.

    Making a plan validates everything and allocates new state, but changes nothing in the
    optimizer: that happens when the step is certain. The optimizer, which holds its plan, is given
    to each method: it is freed with all its state where nobody refers to it any more.
    """

    def __init__(self, optimizer: "Optimizer", params: Any, grads: Any) -> None:
        owner = optimizer.name
        # Settings that are changed from now on, by a schedule in the midst of a step too, end it.
        self._changes = optimizer._changes
        self._is_kept = False
        leaves = validation.match(owner, params, grads)
        overrides, frozen = resolve(optimizer, leaves)
        self._active = [
            leaf for leaf in leaves if leaf.gradient is not None and leaf.key not in frozen
        ]
        self._idle = [
            leaf.position for leaf in leaves if leaf.gradient is None and leaf.key not in frozen
        ]
        validation.check(owner, self._active)
        seen = {leaf.position for leaf in self._active}
        unseen = [leaf.position for leaf in leaves if leaf.position not in seen]
        self._read_params = tree.LeafReader(params, unseen)
        self._read_grads = tree.LeafReader(grads, unseen)
        self.program = Program(optimizer, is_kept=True)
        self._overrides = {pattern: dict(entry) for pattern, entry in optimizer.overrides.items()}

        # Leaves that agree in everything a row depends on share it.
        sources: dict[Any, Source] = {}
        keys = []
        for leaf in self._active:
            state = optimizer._states.get(leaf.key)
            missed = optimizer.t if state is None else state.missed
            memory = self.program.memory() | ({} if state is None else state.scalars)
            key = (id(overrides[leaf.key]), missed, tuple(sorted(memory.items())))
            sources.setdefault(key, Source(overrides[leaf.key], missed, memory))
            keys.append(key)
        self._sources = list(sources.values())
        rows = self._rows(optimizer.t + 1, self._sources)
        numbers = {key: number for number, key in enumerate(sources)}
        row_of = [numbers[key] for key in keys]

        assignments = assign(optimizer, self.program, self._active, [rows[i] for i in row_of])
        self.states = dict(optimizer._states)
        self.buckets = []
        for (name, _, _, program), members in assignments.items():
            engine = engines.load(name)
            chosen = [self._active[i] for i in members]
            slots = self._slots(engine, program, chosen, rows, [row_of[i] for i in members])
            self.buckets.append(
                engine.bucket(
                    program,
                    [
                        Member(leaf.position, row_of[i], leaf.parameter, leaf.gradient, slot)
                        for i, leaf, slot in zip(members, chosen, slots, strict=True)
                    ],
                    optimizer.threads,
                )
            )
        self._written: Written | None = None
        # Whether the arrays that the buckets saw last have been looked at for overlaps: a step
        # that is refused leaves them unverified, and they are looked at again.
        self._verified = False
        self._repeater: Repeater | None = None
        # The optimizer in a chain; another one has its hyperparameters itself, and is not kept.
        self._main = None if optimizer.main is optimizer else optimizer.main
        self._numbers: Any = None
        self._undecided: Undecided | None = None
        self._read_numbers = _reader([entry.name for entry in self.program.parts[0].fields])
        self._sums = SumTable(len(leaves), len(self.buckets))
        active_keys = {leaf.key for leaf in self._active}
        self._idle_states = [state for key, state in self.states.items() if key not in active_keys]
        for leaf in self._active:  # the arrays are the user's: keep none of them
            leaf.parameter = leaf.gradient = None

        if self._fit(params, grads) is Fit.DIFFERENT:
            raise RuntimeError(f"{owner}.update: the trees changed while they were looked at")

    def _rows(self, step: int, sources: Sequence[Source]) -> list[Row]:
        return [self.program.row(step, source) for source in sources]

    def _slots(
        self,
        engine: engines.Engine,
        program: Program,
        leaves: Sequence[Leaf],
        rows: Sequence[Row],
        row_of: Sequence[int],
    ) -> list[dict[str, Any]]:
        """Return the slots of leaves, allocating what is not there yet.

        An engine that fuses gets the arrays between passes as well, which are no state.
        """
        names = program.slots
        dtype = STATE_DTYPE[leaves[0].dtype]
        states = [self.states.get(leaf.key) for leaf in leaves]
        found = [dict(state.slots) if state is not None else {} for state in states]
        for leaf, slots in zip(leaves, found, strict=True):
            _check_state(program, leaf, slots, dtype)
            _prepare_whole_slots(program, leaf, slots, dtype)
        fresh = [
            i
            for i, (leaf, slots) in enumerate(zip(leaves, found, strict=True))
            if not all(
                name in slots and engine.suits(slots[name], leaf.parameter) for name in names
            )
        ]
        allocated = engine.allocate([leaves[i].parameter for i in fresh], [dtype] * len(names))
        for i, new in zip(fresh, allocated, strict=True):
            initial = program.initial_values(rows[row_of[i]])
            for name, array in zip(names, new, strict=True):
                value = found[i].get(name, initial.get(name, 0.0))
                if isinstance(value, str):
                    value = leaves[i].parameter
                # Engines allocate zeros: touching them again would cost a sweep over memory.
                zero = isinstance(value, float) and value == 0.0
                found[i][name] = array if zero else arrays.filled(array, value)
        for leaf, slots, number in zip(leaves, found, row_of, strict=True):
            source = self._sources[number]
            self.states[leaf.key] = LeafState(slots, source.missed, source.memory)
        if not program.between or not engine.fuses:
            return found
        drafts = engine.allocate(
            [leaf.parameter for leaf in leaves], [dtype] * len(program.between)
        )
        return [
            slots | dict(zip(program.between, new, strict=True))
            for slots, new in zip(found, drafts, strict=True)
        ]

    def accepts(self, optimizer: "Optimizer", params: Any, grads: Any) -> bool:
        """Return whether this plan can step these trees. Keeps their leaves until `release`."""
        if not self._is_current(optimizer):
            return False
        fit = self._fit(params, grads)
        if fit is not Fit.SAME:
            self._verified = False
        if fit is Fit.DIFFERENT:
            return False
        if not self._verified and self._may_overlap():
            self._look_at_overlaps(optimizer.name, params, grads)
        return True

    def _is_current(self, optimizer: "Optimizer") -> bool:
        """Return whether the settings are those that the plan was made for."""
        # Overrides are compared, for the user's dict may have been changed in place.
        return (
            optimizer._changes == self._changes
            and self.program.is_current()
            and optimizer.overrides == self._overrides
        )

    def _fit(self, params: Any, grads: Any) -> Fit:
        leaves = self._read_params.read(params)
        gradients = self._read_grads.read(grads)
        if leaves is None or gradients is None or len(leaves) != len(gradients):
            return Fit.DIFFERENT
        if any(gradients[position] is not None for position in self._idle):
            return Fit.DIFFERENT
        worst = Fit.SAME
        for bucket in self.buckets:
            fit = bucket.fit(leaves, gradients)
            if fit is Fit.DIFFERENT:
                return fit
            worst = fit if fit is Fit.MOVED else worst
        return worst

    def _may_overlap(self) -> bool:
        written, read = zip(*(bucket.bounds() for bucket in self.buckets), strict=True)
        starts, stops = _joined(written)
        if self._written is None or not self._written.is_for(starts):
            self._written = Written(starts, stops)
        return self._written.may_touch(*_joined(read))

    def release(self) -> None:
        """Keep no arrays of the user: the step is over, or an exception came in its way."""
        for bucket in self.buckets:
            bucket.release()

    def _look_at_overlaps(self, owner: str, params: Any, grads: Any) -> None:
        """Raise if arrays share memory; else remember that parameters do not."""
        leaves, gradients = self._read_params.read(params), self._read_grads.read(grads)
        assert leaves is not None
        assert gradients is not None
        assert self._written is not None
        active = [
            Leaf(leaf.position, leaf.path, leaves[leaf.position], gradients[leaf.position])
            for leaf in self._active
        ]
        overlaps.check_overlaps(owner, active)
        self._written.is_settled = True

    def repeat(self, optimizer: "Optimizer", params: Any, grads: Any) -> bool:
        """Take the step if it is as the one before but for its number; else do nothing.

        The same trees of the same arrays, but for gradients that are new arrays of the same kind,
        and the same hyperparameters, all plain numbers: then nothing is left to validate, and the
        step takes a quarter of the time of `step`, which is what counts when arrays are small.
        """
        repeater = self._repeater
        values = optimizer.__dict__
        if repeater is None or not self._verified or values["_changes"] != self._changes:
            return False
        leaves, gradients = self._read_params.read(params), self._read_grads.read(grads)
        if leaves is None or gradients is None or len(leaves) != len(gradients):
            return False
        own = values if self._main is None else self._main.__dict__
        numbers, step = self._read_numbers(own), values["_t"] + 1
        if numbers != self._numbers or values["overrides"]:
            return False
        if not repeater.stage(leaves, gradients, (*numbers, step)):
            self._verified = False
            return False
        try:
            repeater.run()
            values["_t"] = step
        except BaseException:  # from a handler of a signal: before the one call, or after it
            if repeater.has_run:
                values["_t"] = step
            raise
        return True

    def _find_repeater(self, optimizer: "Optimizer", rows: Sequence[Row]) -> None:
        """Look for the short way to repeat the step that was just taken with these rows."""
        if len(self.buckets) != 1 or len(self._sources) != 1 or len(self.program.parts) != 1:
            return
        numbers = self._read_numbers(optimizer.main.__dict__)
        if self._repeater is not None and numbers == self._numbers:
            self._repeater.refresh()
            return
        self._numbers, self._repeater = numbers, None
        (source,), (part,) = self._sources, self.program.parts
        if rows[0].numbers[: len(numbers)] != numbers:  # set meanwhile: they are unchecked
            return
        plain = part.fixed and not part.derives and not part.has_forms
        everyone = not (self._idle or self._idle_states or source.overrides or source.missed)
        if plain and everyone and all(type(number) is float for number in numbers):
            self._repeater = self.buckets[0].repeater()
            if self._repeater is not None:
                self._repeater.refresh()

    def step(self, optimizer: "Optimizer", params: Any) -> Any:
        """Take the step that `accepts` has looked at."""
        sums, buckets = self._sums, self.buckets
        sums.begin()
        candidates = self._candidates(optimizer)
        for bucket in buckets:
            bucket.stage(candidates, sums)
        while numbers := set().union(*(bucket.reduce(sums) for bucket in buckets)):
            sums.add_up(numbers)
        self._undecided = self._judged_on_device(optimizer, candidates)
        if self._undecided is None and self._is_forbidden():
            # A new plan is not kept: its state may start from what the user changes before the
            # first step that is taken, parameters or hyperparameters.
            optimizer._skipped += 1
            return params
        require_frames()
        notes = self._notes(optimizer, candidates[0])
        result = finish(partial(self._commit, optimizer, params, notes))
        self._verified = True
        self._find_repeater(optimizer, candidates[0])
        return result

    def _commit(self, optimizer: "Optimizer", params: Any, notes: Sequence[Call]) -> Any:
        """Do what the step changes, or what is left of it: called again, it goes on."""
        replaced: dict[int, Any] = {}
        for bucket in self.buckets:
            replaced.update(bucket.commit(self._sums))
        if self._undecided is None:
            at_once(notes)
        else:
            self._judge(optimizer)
        if replaced:
            leaves = [leaf for _, leaf in tree.flatten(params)]
            for position, array in replaced.items():
                leaves[position] = array
            params = tree.rebuild(params, leaves)
        return params

    def _is_forbidden(self) -> bool:
        """Return whether a guard turns the step away. Waits for the device that has the sums."""
        sums = self._sums
        return any(sums.total(number) != 0 for bucket in self.buckets for number in bucket.guards)

    def _notes(self, optimizer: "Optimizer", rows: Sequence[Row] = ()) -> list[Call]:
        """Return the calls that take note of a step: functions in C, which may be called again.

        With these rows, where it is not known yet what they remember.
        """
        # Past `__setattr__`, which validates what users set and takes its time.
        values = optimizer.__dict__
        new = {"_t": values["_t"] + 1, "_states": self.states, "_plan": self}
        notes: list[Call] = [partial(values.update, new)]
        if not self._is_kept:
            notes.append(partial(self.__dict__.update, {"_is_kept": True}))
        notes.extend(
            partial(state.__dict__.update, {"missed": state.missed + 1})
            for state in self._idle_states
        )
        for source, row in zip(self._sources, rows, strict=False):
            if row.memory:
                notes.append(partial(source.memory.update, row.memory))
        return notes

    # Steps that a device judges --------------------------------------------------------------

    def _candidates(self, optimizer: "Optimizer") -> list[list[Row]]:
        """Return the rows of the step, for every number of undecided steps that may be taken."""
        if self._undecided is None:
            return [self._rows(optimizer._t + 1, self._sources)]
        self.settle(optimizer, Verdicts.MOST)
        rows_after = partial(self._rows_after, optimizer)
        found = self._undecided.candidates(rows_after)
        if found is None or not (
            len(found) == 1 or all(bucket.decides(found) for bucket in self.buckets)
        ):
            self.settle(optimizer)
            found = self._undecided.candidates(rows_after)
            assert found is not None
        return found

    def _rows_after(
        self, optimizer: "Optimizer", steps: int, sources: Sequence[Source]
    ) -> list[Row]:
        return self._rows(optimizer._t + 1 + steps, sources)

    def _judged_on_device(
        self, optimizer: "Optimizer", candidates: list[list[Row]]
    ) -> Undecided | None:
        """Return what remembers the calls that one device judges, if one can judge this call."""
        remote = self._sums.only_remote
        guarded = any(bucket.guards for bucket in self.buckets)
        # The passes of one call may need the host where those of another do not. Then there is one
        # candidate: nothing is undecided, and nothing is lost.
        if remote is None or not guarded or not all(b.decides(candidates) for b in self.buckets):
            return None
        if self._undecided is not None:
            return self._undecided
        undecided = Undecided(remote.verdicts, self._sources)
        undecided.candidates(partial(self._rows_after, optimizer))
        return undecided

    def _judge(self, optimizer: "Optimizer") -> None:
        """Let the device judge the step.

        The state of a new plan may start from what the user changes before the first step that
        is taken: the first verdict is waited for. The others are not.
        """
        assert self._undecided is not None
        if not self._undecided.is_judged:
            # Whatever was set in the midst of the step: this plan is to hear of it.
            kept = {"_plan": self} if self._is_kept else {}
            self._undecided.judge([partial(optimizer.__dict__.update, kept)])
        if not self._is_kept:
            self.settle(optimizer)

    @property
    def waits(self) -> bool:
        """Whether there may be steps of which only a device knows whether they were taken."""
        return self._undecided is not None

    def settle(self, optimizer: "Optimizer", most: int = 0) -> None:
        """Take note of what devices have judged, and wait until at most `most` calls are left."""
        if self._undecided is None:
            return
        while (taken := self._undecided.hear(most)) is not None:
            notes = self._notes(optimizer) if taken else [_skip(optimizer)]
            at_once([*self._undecided.noting(taken), *notes])


def _skip(optimizer: "Optimizer") -> Call:
    """Return the call that counts a call of `update` that was turned away."""
    return partial(optimizer.__dict__.update, {"_skipped": optimizer._skipped + 1})


def _reader(names: list[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return the function from a dict to the tuple of its values at `names`."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda values: tuple(values[name] for name in names)


def _joined(ranges: Sequence[Range]) -> Range:
    """Return the ranges of several buckets as one."""
    if len(ranges) == 1:
        return ranges[0]
    starts, stops = zip(*ranges, strict=True)
    return np.concatenate(starts), np.concatenate(stops)


def _prepare_whole_slots(program: Program, leaf: Leaf, slots: dict[str, Any], dtype: str) -> None:
    """Give a leaf its slots of other shapes, on the device of the parameter."""
    shapes = program.whole_shapes(tuple(leaf.parameter.shape)) if program.whole else {}
    for name, shape in shapes.items():
        w, slot = leaf.parameter, slots.get(name)
        if slot is None or (arrays.library(slot), arrays.device(slot)) != (
            arrays.library(w),
            arrays.device(w),
        ):
            xp = arrays.namespace(w)
            device = arrays.namespace_device(w)
            zeros = xp.zeros(shape, dtype=getattr(xp, dtype), device=device)
            slots[name] = zeros if slot is None else arrays.filled(zeros, slot)


def _check_state(program: Program, leaf: Leaf, slots: dict[str, Any], dtype: str) -> None:
    w_shape = tuple(leaf.parameter.shape)
    shapes = program.whole_shapes(w_shape) if program.whole else {}
    for name, slot in slots.items():
        if tuple(slot.shape) != shapes.get(name, w_shape) or arrays.dtype_name(slot) != dtype:
            raise ValueError(
                f"{program.name}.update: {format_path('params', leaf.path)} is "
                f"{arrays.describe(leaf.parameter)}, but its state {name!r} from earlier steps is "
                f"{arrays.dtype_name(slot)} {tuple(slot.shape)}; use a new key for a new "
                f"parameter, or forget all state with reset()"
            )

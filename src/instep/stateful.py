"""Rules that own what their steps change: whole steps are seen, copied, saved and loaded."""

import copy
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from instep.choices import Selector
from instep.copying import on_host
from instep.interrupts import Call
from instep.rule import Rule
from instep.state import Composed, LeafState, Owner, State
from instep.turns import is_within_another_call, new_lock

if TYPE_CHECKING:
    from instep.readings import Readings


class Stateful(Rule):
    """A rule, or several in order, with the state of the steps that it has taken.

    Attributes
    ----------
    t : int
        Number of steps taken.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._begin()

    def _begin(self) -> None:
        self._state = State()
        self._is_answering = False  # whether `answer_in_place` holds the user's parameters
        self._lock = new_lock()

    def __getstate__(self) -> dict[str, Any]:
        values = self._copied()
        state: State = values["_state"]
        leaves = {
            key: LeafState(on_host(leaf.slots), leaf.history, leaf.state_dtype)
            for key, leaf in state.leaves.items()
        }
        numbers = {name: np.asarray(float(x)) for name, x in state.numbers.items()}
        on_hosts = {name: on_host(value) for name, value in values.items()}
        return on_hosts | {"_state": replace(state, leaves=leaves, numbers=numbers)}

    def _copied(self) -> dict[str, Any]:
        with self._exclusive("copy"):
            self._check_ready("copy")
            self._settle()
            # A plan holds addresses of arrays and compiled code; the next step makes a new one.
            values = {
                **self.__dict__,
                "_state": replace(self._state, plan=None, plans={}, last=None),
            }
        del values["_lock"]
        return values

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values, _lock=new_lock())

    def __copy__(self) -> Self:
        """Return an optimizer with state of its own; schedules are shared."""
        values, new = self._copied(), type(self).__new__(type(self))
        new.__setstate__({**values, "_state": copy.deepcopy(values["_state"])})
        return new

    def _changed(self) -> None:
        state = self.__dict__.get("_state")
        if state is not None:
            self._settle()
            state.__dict__.update(plan=None, plans={}, changes=state.changes + 1)

    def _settle(self) -> None:
        """Wait until it is known of every call whether it was taken: a GPU may have to tell."""
        plan = self._state.plan
        if plan is not None and plan.waits:
            with self._lock:
                plan.settle(self._state)

    def _exclusive(self, call: str) -> threading.RLock:
        """Return the lock for a call that must see whole steps: other threads wait for it.

        Raises
        ------
        RuntimeError
            If this thread is in the midst of another such call.
        """
        lock = self._lock
        if lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001  (as in `threading`)
            if is_within_another_call(self):
                raise RuntimeError(
                    f"{self.name}.{call}: called in the midst of a step, by a schedule or the "
                    f"handler of a signal; let it set a flag, and call {call} after update has "
                    f"returned"
                )
            lock.release()  # an exception came between the lock and the block that it guards
        return lock

    def _check_ready(self, call: str) -> None:
        """Raise if the user's parameters are not what a step, or a save, is to work on."""
        if self._is_answering:
            raise RuntimeError(
                f"{self.name}.{call}: params are not the parameters, for the answer is in their "
                f"place; leave the `with` block of answer_in_place before"
            )

    def __repr__(self) -> str:
        # As Python shows what its source alone does not make. This waits for no device.
        t = self._state.t
        return f"<{self._as_source()} at t={t}>" if t else self._as_source()

    def _shown_title(self) -> str:
        return f"{self.name}, t = {self._state.t}"

    @property
    def parts(self) -> Mapping[str, Rule]:
        """The rules that a step applies, by the prefix of their names in the state."""
        return {"": self}

    @property
    def main(self) -> "Stateful":
        """The optimizer whose hyperparameters `overrides` calls by their names alone."""
        return self

    @property
    def compositions(self) -> Mapping[Selector, Composed]:
        """What a step does to which leaves; the first that chooses a leaf decides."""
        return {"*": self}

    @property
    def t(self) -> int:
        """Number of steps taken."""
        self._settle()
        return self._state.t

    @property
    def readings(self) -> "Readings":
        """What the last step has computed anyway, hyperparameters, norms and counts, by name.

        It has hyperparameters as they were at that step, schedules evaluated, what rules derive
        from them and remember, and what they let be read, such as the norm before clipping. In a
        chain and a partition the name of a rule stands before that of a number, as in the state.
        What differs from leaf to leaf is in the attribute `leaves`, by path. A call that was turned
        away is read as a step. Before a step, after `load`, and for a copy, it is empty; and where
        an exception came in the midst of an `update`.

        Reading waits for a device; a step costs the same whether it is read or not.
        """
        from instep.readings import readings

        with self._exclusive("readings"):
            self._settle()
            turn = partial(self._exclusive, "readings")
            return readings(
                self.name, self._state, turn, [prefix for prefix in self.parts if prefix]
            )

    def reset(self) -> None:
        """Forget all state and start again from step 1."""
        with self._exclusive("reset"):
            self._settle()
            self._state = State()

    @property
    def _owner(self) -> Owner:
        return self  # type: ignore[return-value]  # its settings are fields of what derives from it


def arrays_of(one: Stateful) -> dict[str, dict[str, Any]]:
    """Return the slots of what has been stepped, by path: the very dicts and arrays."""
    return {key: leaf.slots for key, leaf in one._state.leaves.items()}  # noqa: SLF001  (its own)


def share_arrays(one: Stateful, slots: Mapping[str, Mapping[str, Any]]) -> None:
    """Give one that took no step the slots that it is to work on, by path: arrays, not copies."""
    one._state = State(  # noqa: SLF001  (its own)
        leaves={key: LeafState(dict(own)) for key, own in slots.items()}
    )


def turning(one: Stateful, names: Mapping[str, str]) -> list[Call]:
    """Return the calls in C by which slots are given the arrays of others, with no new plan.

    `names` has, for a slot, the one whose array it gets.
    """
    state = one._state  # noqa: SLF001  (its own)
    plans = {id(plan): plan for some in state.plans.values() for plan in some}
    plans |= {id(state.plan): state.plan} if state.plan is not None else {}
    slots = {id(leaf.slots): leaf.slots for leaf in state.leaves.values()}
    calls: list[Call] = []
    for bucket in (bucket for plan in plans.values() for bucket in plan.buckets):
        slots |= {id(own): own for own in bucket.slots}
        found = bucket.turning(names)
        if found is None:  # where arrays do not lie alike
            calls.append(partial(state.__dict__.update, plan=None, plans={}))
        else:
            calls += found
    return calls + [
        partial(own.update, {new: own[old] for new, old in names.items()}) for own in slots.values()
    ]

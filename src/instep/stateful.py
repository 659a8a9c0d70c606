"""Rules that own what their steps change: whole steps are seen, copied, saved and loaded."""

import copy
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from instep.interrupts import Call, at_once
from instep.rule import Rule
from instep.state import Composed, LeafState, Owner, Selector, State
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
        values, new = self.__getstate__(), type(self).__new__(type(self))
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
            return readings(self.name, self._state, partial(self._exclusive, "readings"))

    def reset(self) -> None:
        """Forget all state and start again from step 1."""
        with self._exclusive("reset"):
            self._settle()
            self._state = State()

    @property
    def _owner(self) -> Owner:
        return self  # type: ignore[return-value]  # its settings are fields of what derives from it

    def state_dict(self) -> dict[str, Any]:
        """Return step number, hyperparameters, settings and copies of all state, as a plain dict.

        Of the settings it has `overrides`, `frozen` and `seed`. Schedules of the kit are copied;
        functions of the user are the very objects.
        """
        from instep.checkpoint import state_dict

        with self._exclusive("state_dict"):
            self._check_ready("state_dict")
            self._settle()
            settings = {name: self.__dict__[name] for name in ("overrides", "frozen", "seed")}
            return state_dict(self.name, self.parts, self._state, settings)

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> Self:
        """Take over what `state_dict` returned; the dict is neither changed nor kept.

        It must be of an optimizer of the same class, and of a chain of the same parts.
        Everything is checked before anything is changed.

        Parameters
        ----------
        state
            What `state_dict` returned. Its numbers replace those that the optimizer has. A schedule
            of the kit replaces a number, or a schedule of the same class, whose arguments it
            replaces. A function must be there already, by its name, and stays the object that it
            is. `overrides` and `frozen` are taken over where the optimizer has none, and must
            otherwise be the same.
        strict
            Whether what does not go together is an error, and parameters that were renamed, at
            the first `update`. If not, the optimizer keeps the settings that it has, and
            parameters of new names begin anew.

        Raises
        ------
        TypeError, ValueError
            If it is no such state, or does not go together with the optimizer.
        """
        with self._exclusive("load_state_dict"):
            self._take_over(f"{self.name}.load_state_dict", state, strict)
        return self

    def _take_over(self, call: str, state: Mapping[str, Any], strict: bool) -> None:
        from instep.checkpoint import read_state_dict

        new = read_state_dict(call, self._owner, state, is_strict=strict)
        self._settle()
        at_once(
            [
                *(partial(rule.__dict__.update, own) for rule, own in new.hyperparameters),
                *new.calls,
                partial(self.__dict__.update, new.settings | {"_state": new.state}),
            ]
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what `state_dict` returns into a file; the parameters are not in it.

        Parameters
        ----------
        path
            Its name. One that ends in ``.npz``, or has no suffix, becomes an archive of NumPy; one
            that ends in ``.safetensors`` a file of that format (``pip install
            'instep[safetensors]'``). A file of that name is replaced when the new one is complete.

        Raises
        ------
        ValueError
            If the name has another suffix.
        OSError
            If the file cannot be written. What was there is as it was.

        Notes
        -----
        Nothing is pickled. The file holds schedules of the kit, and of functions their names.
        """
        from instep.checkpoint import save

        save(self.name, self.state_dict(), path)

    def load(self, path: str | os.PathLike[str], *, strict: bool = True) -> Self:
        """Take over what `save` has written.

        Parameters
        ----------
        path
            Name of the file; what is in it tells of which format it is.
        strict
            As for `load_state_dict`.

        Raises
        ------
        ValueError
            If it is another kind of file, or damaged, or does not go together with the optimizer.
            Nothing has changed then.
        OSError
            If it cannot be read.
        """
        from instep.checkpoint import load

        call = f"{self.name}.load: {os.fspath(path)!r}"
        state = load(self.name, path)
        with self._exclusive("load"):
            try:
                self._take_over(call, state, strict)
            except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
                text = str(error)
                raise ValueError(text if text.startswith(call) else f"{call}: {text}") from error
        return self


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

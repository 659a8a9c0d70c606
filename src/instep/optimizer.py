"""The base class of all optimizers: the step, and state. Nothing about engines."""

import copy
import os
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from instep.rule import Rule

if TYPE_CHECKING:
    from types import FrameType

    from instep.explain import Explanation
    from instep.plan.step import Plan

Overrides = Mapping[str, Mapping[str, Any]]


def _validate_engine(owner: str, value: Any) -> str:
    from instep.engines import NAMES

    if value != "auto" and value not in NAMES:
        choices = ", ".join(repr(choice) for choice in ("auto", *NAMES))
        raise ValueError(f"{owner}: engine must be one of {choices}, got {value!r}")
    return str(value)


def _validate_threads(owner: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"{owner}: threads must be None or an integer >= 1, got {value!r}")


def _validate_overrides(owner: str, value: Any) -> Overrides:
    if not isinstance(value, Mapping) or not all(
        isinstance(pattern, str) and isinstance(entry, Mapping) for pattern, entry in value.items()
    ):
        raise TypeError(
            f"{owner}: overrides must be a dict of path patterns to dicts of hyperparameters, "
            f'such as {{"*/bias": {{"weight_decay": 0.0}}}}, got {value!r}'
        )
    return value


def _validate_frozen(owner: str, value: Any) -> tuple[str, ...]:
    patterns = tuple(value) if isinstance(value, Iterable) else (value,)
    if isinstance(value, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(
            f'{owner}: frozen must be a sequence of path patterns, such as ("encoder/*",), or () '
            f"for none, got {value!r}"
        )
    return patterns


class Optimizer(Rule):
    """An update rule with its hyperparameters and its state.

    A subclass declares its hyperparameters as annotated fields with defaults, names its state
    arrays in `slots`, and gives the mathematics as one pure function::

        class Signum(Optimizer):
            lr: float = 0.001
            beta: float = 0.9

            slots = ("m",)

            @staticmethod
            def rule(xp, w, g, s, h):
                m = h.beta * s.m + (1 - h.beta) * g
                return w - h.lr * xp.sign(m), {"m": m}

    `xp` is an array namespace, `w` a parameter, `g` its gradient, `s` the slots, `h` the
    hyperparameters at this step, with ``h.t`` the step number, from 1. The function returns the
    new parameter and a dict of new slots. It must compute each element from the same element of
    every array; `xp.sum` reduces over a tensor, `xp.tree_sum` over all tensors of the tree.
    Fields of type bool or str are options: the rule may branch on them.

    Parameters
    ----------
    engine
        What runs the step: ``"native"`` (compiled loop, NumPy), ``"blocked"`` (NumPy only),
        ``"cuda"`` (CuPy), ``"array_api"`` (any array library), or ``"auto"``, the fastest of
        them for the arrays at hand.
    threads
        Number of threads of the CPU engines. None: as many as the process may run on, bounded
        by the environment variable ``INSTEP_NUM_THREADS``. It never changes a result.
    overrides
        Hyperparameters of parts of the tree: path patterns, as in the module `fnmatch`, and
        what is other there. ``{"*/bias": {"weight_decay": 0.0}}`` speaks of every leaf whose
        path ends in ``/bias``. Where several patterns match, the later wins. All parts are
        still updated together.
    frozen
        Path patterns of leaves that are left alone, whatever their gradients.

    Attributes
    ----------
    t : int
        Number of steps taken.
    """

    _settings: ClassVar[Mapping[str, Any]] = {
        "engine": _validate_engine,
        "threads": _validate_threads,
        "overrides": _validate_overrides,
        "frozen": _validate_frozen,
    }

    engine: str = field(default="auto", kw_only=True)
    threads: int | None = field(default=None, kw_only=True)
    overrides: Overrides = field(default_factory=dict, kw_only=True)
    frozen: Sequence[str] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._t = 0
        self._skipped = 0
        self._states: dict[str, LeafState] = {}
        self._plan: Plan | None = None
        self._changes = 0  # of settings: plans made before one are not used after it
        self._lock = _new_lock()

    def __getstate__(self) -> dict[str, Any]:
        # A plan holds addresses of arrays and compiled code; the next step makes a new one.
        with self._exclusive("copy"):
            self._settle()
            values = {**self.__dict__, "_plan": None}
        del values["_lock"]
        return values

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values, _lock=_new_lock())

    def __copy__(self) -> Self:
        """Return an optimizer with state of its own; schedules are shared."""
        values, new = self.__getstate__(), type(self).__new__(type(self))
        new.__setstate__({**values, "_states": copy.deepcopy(values["_states"])})
        return new

    def _changed(self) -> None:
        self._settle()
        self.__dict__.update(_plan=None, _changes=self.__dict__.get("_changes", 0) + 1)

    def _settle(self) -> None:
        """Wait until it is known of every call whether it was taken: a GPU may have to tell."""
        plan = self.__dict__.get("_plan")
        if plan is not None and plan.waits:
            with self._lock:
                plan.settle(self)

    def _exclusive(self, call: str) -> "threading.RLock":
        """Return the lock for a call that must see whole steps: other threads wait for it.

        Raises
        ------
        RuntimeError
            If this thread is in the midst of another such call.
        """
        lock = self._lock
        if lock._is_owned():  # type: ignore[attr-defined]  # noqa: SLF001  (as in `threading`)
            if _is_within_another_call(self):
                raise RuntimeError(
                    f"{self.name}.{call}: called in the midst of a step, by a schedule or the "
                    f"handler of a signal; let it set a flag, and call {call} after update has "
                    f"returned"
                )
            lock.release()  # an exception came between the lock and the block that it guards
        return lock

    def _check_ready(self, call: str) -> None:
        """Raise if the parameters of the user are not what a step, or a save, is to work on."""

    def _start(self) -> dict[str, Any]:
        """Return the attributes of an optimizer that has taken no steps."""
        return {"_t": 0, "_skipped": 0, "_states": {}, "_plan": None}

    @property
    def t(self) -> int:
        """Number of steps taken."""
        self._settle()
        return self._t

    @property
    def main(self) -> "Optimizer":
        """The optimizer whose hyperparameters `overrides` calls by their names alone."""
        return self

    @property
    def parts(self) -> "Mapping[str, Rule]":
        """The rules that a step applies, by the prefix of their names in the state."""
        return {"": self}

    def update(self, params: Any, grads: Any) -> Any:
        """Take one step: change `params` in place along `grads`.

        Parameters
        ----------
        params
            A tree of arrays: a dict (nested or not), list or tuple of them, or one array.
            float16, float32 or float64, of any shape and layout.
        grads
            A tree of the same structure, shapes, dtypes and devices. None in the place of an
            array leaves its parameter alone. Gradients are never modified.

        Returns
        -------
        The tree `params`. Arrays that cannot be written by design (JAX) are replaced in it.

        Raises
        ------
        TypeError, ValueError
            If the trees do not match, or hold something that cannot be updated. Everything is
            checked before anything is changed: parameters, state and step number are as before.
        RuntimeError
            If it is called in the midst of a step of this optimizer, by a schedule or the handler
            of a signal.

        Notes
        -----
        What the handler of a signal raises - KeyboardInterrupt, a TimeoutError, SystemExit - comes
        out of `update` before the step or after it, never between: `t` tells which. Several threads
        may step one optimizer: each waits for the step of another.
        """
        with self._exclusive("update"):
            plan = self._plan
            if plan is not None and plan.repeat(self, params, grads):
                return params
            return self._step(plan, params, grads)

    def _step(self, plan: "Plan | None", params: Any, grads: Any) -> Any:
        """Take a step that is not a mere repetition of the one before."""
        if sys.is_finalizing():  # what a step needs may be gone, half of it
            raise RuntimeError(
                f"{self.name}.update: Python is shutting down, and no step can be taken any more; "
                f"take the last one before, for example in a function for atexit.register"
            )
        self._check_ready("update")
        try:
            if plan is None or not plan.accepts(self, params, grads):
                from instep.plan.step import Plan

                self._settle()
                plan = Plan(self, params, grads)
            return plan.step(self, params)
        finally:
            if plan is not None:
                plan.release()

    def explain(self, params: Any) -> "Explanation":
        """Say how a step on `params` runs: engines, passes, bytes an element, and the code.

        Nothing is changed. The result prints as text and has the same facts as attributes.
        """
        from instep.explain import explain

        return explain(self, params)

    def reset(self) -> None:
        """Forget all state and start again from step 1."""
        with self._exclusive("reset"):
            self._settle()
            self.__dict__.update(self._start())

    def state_dict(self) -> dict[str, Any]:
        """Return step number, hyperparameters and copies of all state, as a plain dict."""
        from instep.checkpoint import state_dict

        with self._exclusive("state_dict"):
            self._check_ready("state_dict")
            return state_dict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Take over what `state_dict` returned; the dict is neither changed nor kept.

        It must be of an optimizer of the same class, and of a chain of the same parts.
        Everything is checked before anything is changed.
        """
        from instep.checkpoint import load_state_dict

        with self._exclusive("load_state_dict"):
            load_state_dict(self, state)
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what `state_dict` returns into a file; the parameters are not in it.

        A file of that name is replaced when the new one is complete. It is one of `numpy.savez`,
        without pickled objects. Schedules cannot be in it: `load` leaves them as they are.
        """
        from instep.checkpoint import save

        save(self, path)

    def load(self, path: str | os.PathLike[str]) -> Self:
        """Take over what `save` has written; what was a schedule must be one here too."""
        from instep.checkpoint import load

        load(self, path)
        return self


_LOCKS: "weakref.WeakSet[threading.RLock]" = weakref.WeakSet()


def _new_lock() -> "threading.RLock":
    lock = threading.RLock()
    _LOCKS.add(lock)
    return lock


def _free_locks() -> None:
    """Free all locks in a forked process: the threads that held them are not in it."""
    for lock in _LOCKS:
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001  (as in `threading`)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)


def _is_within_another_call(optimizer: Optimizer) -> bool:
    """Return whether this thread is within an exclusive call other than the one that asks."""
    frame: FrameType | None = sys._getframe(3)  # noqa: SLF001  (beyond the call that asks)
    while frame is not None:
        takes_lock = not _LOCKING.isdisjoint(frame.f_code.co_names)
        if takes_lock and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False


#: What the methods name that hold the lock while they call others.
_LOCKING = frozenset({"_exclusive", "_lock"})


@dataclass(eq=False)
class LeafState:
    """State of one parameter.

    Attributes
    ----------
    slots
        The state arrays by name, of the shape of the parameter.
    missed
        Number of steps of the optimizer in which this parameter had no gradient. Its own step
        number, ``h.t``, is the optimizer's less this.
    scalars
        The numbers that the rule remembers (`Rule.scalar_slots`).
    """

    slots: dict[str, Any]
    missed: int = 0
    scalars: dict[str, float] = field(default_factory=dict)

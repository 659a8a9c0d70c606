"""The base class of all optimizers: hyperparameters, the step, and state. Nothing about engines."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self, dataclass_transform

from instep import hyperparameters

if TYPE_CHECKING:
    from instep.explain import Explanation
    from instep.plan import Plan

#: Fields of every optimizer that are not hyperparameters of its rule.
_SETTINGS = frozenset({"engine", "threads"})


@dataclass_transform(eq_default=False, field_specifiers=(dataclasses.field,))
@dataclass(eq=False, repr=False)
class Optimizer:
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
    every array; `xp.sum` reduces over a tensor. Fields of type bool or str are options: the rule
    may branch on them.

    Parameters
    ----------
    engine
        What runs the step: ``"native"`` (compiled loop, NumPy), ``"blocked"`` (NumPy only),
        ``"cuda"`` (CuPy), ``"array_api"`` (any array library), or ``"auto"``, the fastest of
        them for the arrays at hand.
    threads
        Number of threads of the CPU engines. None: as many as the process may run on, bounded
        by the environment variable ``INSTEP_NUM_THREADS``. It never changes a result.

    Attributes
    ----------
    t : int
        Number of steps taken.
    """

    #: Names of the state arrays of a parameter; they start as zeros (see `initial_state`).
    slots: ClassVar[tuple[str, ...]] = ()

    #: The mathematics. ``rule(xp, w, g, s, h)`` returns the new parameter and the new slots.
    rule: ClassVar[Callable[..., Any]]

    _hyperparameters: ClassVar[tuple[hyperparameters.Hyperparameter, ...]] = ()

    engine: str = field(default="auto", kw_only=True)
    threads: int | None = field(default=None, kw_only=True)

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        dataclass(eq=False, repr=False)(cls)
        cls._hyperparameters = hyperparameters.describe_fields(cls, _SETTINGS)

    def __post_init__(self) -> None:
        if not callable(getattr(type(self), "rule", None)):
            raise TypeError(
                f"{type(self).__name__} has no rule; define the static method "
                f"rule(xp, w, g, s, h), as the class Optimizer describes"
            )
        self._t = 0
        self._states: dict[str, LeafState] = {}
        self._plan: Plan | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        owner = type(self).__name__
        for hyperparameter in self._hyperparameters:
            if hyperparameter.name == name:
                value = hyperparameter.validate(owner, value)
                if hyperparameter.option:
                    object.__setattr__(self, "_plan", None)
                break
        else:
            if name in _SETTINGS:
                _validate_setting(owner, name, value)
                object.__setattr__(self, "_plan", None)
            elif name.startswith("_"):
                pass
            elif isinstance(getattr(type(self), name, None), property):
                pass
            else:
                known = ", ".join(entry.name for entry in self._hyperparameters)
                raise AttributeError(f"{owner} has no hyperparameter {name!r}; it has {known}")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        values = [f"{h.name}={getattr(self, h.name)!r}" for h in self._hyperparameters]
        settings = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(Optimizer)
            if getattr(self, f.name) != f.default
        ]
        return f"{type(self).__name__}({', '.join(values + settings)})"

    def __getstate__(self) -> dict[str, Any]:
        # A plan holds addresses of arrays and compiled code; the next step makes a new one.
        return {**self.__dict__, "_plan": None}

    @property
    def t(self) -> int:
        """Number of steps taken."""
        return self._t

    @property
    def name(self) -> str:
        """Name of the rule, in messages and in kernels."""
        return type(self).__name__

    def state_slots(self) -> tuple[str, ...]:
        """Return the names of the state arrays under the present options."""
        return self.slots

    def initial_state(self) -> Mapping[str, float | str]:
        """Return how slots start that do not start at zero.

        A number is the value of every element; ``"w"`` is a copy of the parameter; another
        string names the hyperparameter whose value at the first step is that of every element.
        """
        return {}

    @staticmethod
    def scalars(h: Any) -> Mapping[str, float | bool]:
        """Return further numbers for `h`, computed from the hyperparameters at every step.

        This runs in plain Python, once a step, so it may use the module math and branch. The
        rule may branch on values that are booleans: each is a kernel of its own.
        """
        return {}

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
        """
        plan = self._plan
        if plan is None or not plan.accepts(params, grads):
            from instep.plan import Plan

            plan = Plan(self, params, grads)
        return plan.step(params)

    def explain(self, params: Any) -> "Explanation":
        """Say how a step on `params` runs: engines, passes, bytes an element, and the code.

        Nothing is changed. The result prints as text and has the same facts as attributes.
        """
        from instep.explain import explain

        return explain(self, params)

    def reset(self) -> None:
        """Forget all state and start again from step 1."""
        self._t = 0
        self._states = {}
        self._plan = None

    def state_dict(self) -> dict[str, Any]:
        """Return step number, hyperparameters and copies of all state, as a plain dict."""
        from instep.checkpoint import state_dict

        return state_dict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        """Take over what `state_dict` returned; the dict is neither changed nor kept."""
        from instep.checkpoint import load_state_dict

        load_state_dict(self, state)
        return self


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
    """

    slots: dict[str, Any]
    missed: int = 0


def _validate_setting(owner: str, name: str, value: Any) -> None:
    if name == "engine":
        from instep.engines import NAMES

        if value != "auto" and value not in NAMES:
            choices = ", ".join(repr(choice) for choice in ("auto", *NAMES))
            raise ValueError(f"{owner}: engine must be one of {choices}, got {value!r}")
    elif name == "threads" and not (
        value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)
    ):
        raise ValueError(f"{owner}: threads must be None or an integer >= 1, got {value!r}")

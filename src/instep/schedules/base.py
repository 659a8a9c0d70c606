"""What schedules share: the call, the drawing, and the validation of their arguments."""

import math
import numbers
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from instep.correctly_rounded import cos
from instep.hyperparameters import Domain

#: A number, or a function from the step number to one.
Value = float | Callable[[int], float]

Finite = Annotated[float, Domain()]
NonNegative = Annotated[float, Domain(lower=0.0)]
Positive = Annotated[float, Domain(lower=0.0, open_lower=True)]
Share = Annotated[float, Domain(lower=0.0, upper=1.0)]
Shrinking = Annotated[float, Domain(lower=0.0, upper=1.0, open_lower=True, open_upper=True)]
Steps = Annotated[int, Domain(lower=1)]
StepsOrNone = Annotated[int, Domain(lower=0)]


class Schedule(ABC):
    """The base of all schedules: callable with a step number from 1, and drawn by `plot`."""

    def __call__(self, step: int) -> float:
        """Return the value at a step, counted from 1."""
        if step < 1:
            raise ValueError(f"{type(self).__name__}: steps count from 1, got step {step!r}")
        return self._at(step)

    @abstractmethod
    def _at(self, step: int) -> float:
        """Return the value at a step that is at least 1."""

    @property
    def span(self) -> int:
        """Number of steps after which nothing new happens; 100 for what has no end."""
        return 100

    def plot(self, steps: int | None = None, axes: Any = None) -> Any:
        """Draw the schedule with matplotlib, and return the axes.

        Parameters
        ----------
        steps
            Number of steps to draw; by default those in which something happens.
        axes
            Matplotlib axes to draw into; by default those of a new figure.

        Raises
        ------
        ModuleNotFoundError
            If matplotlib is not installed: ``pip install 'instep[plot]'``.
        """
        axes = _new_axes() if axes is None else axes
        last = self.span if steps is None else validate(self, "steps", steps, Steps)
        drawn = range(1, last + 1)
        axes.plot(drawn, [self(step) for step in drawn], marker="." if last <= 50 else None)
        axes.set_xlabel("step")
        axes.set_title(repr(self), fontsize="small", wrap=True)
        return axes

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self), include_extras=True).items():
            if typing.get_origin(kind) is Annotated:
                object.__setattr__(self, name, validate(self, name, getattr(self, name), kind))


def validate(owner: Schedule, name: str, value: Any, kind: Any) -> Any:
    """Return `value` as a number of an annotated type, or raise an error that says what fits."""
    number, domain = typing.get_args(kind)
    what = str(domain)
    if number is int:
        what = what.replace("a finite number", "an integer")
    expected = numbers.Integral if number is int else numbers.Real
    text = f"{type(owner).__name__}: {name} must be {what}, got {value!r}"
    if isinstance(value, bool) or not isinstance(value, expected):
        raise TypeError(text)
    if number(value) not in domain:
        raise ValueError(text)
    return number(value)


def validate_value(owner: Schedule, name: str, value: Any) -> Value:
    """Return a schedule as it is, and a number as a float, or raise."""
    checked: Value = value if callable(value) else validate(owner, name, value, Finite)
    return checked


def validate_choice(owner: Schedule, name: str, value: str, choices: Iterable[str]) -> None:
    """Raise if `value` is not among `choices`."""
    if value not in choices:
        names = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{type(owner).__name__}: {name} must be one of {names}, got {value!r}")


def progress(step: int, steps: int) -> float:
    """Return the share of `steps` that is done before `step`: 0 at step 1, at most 1."""
    return min(step - 1, steps) / steps


def along_line(start: float, end: float, done: float) -> float:
    """Return where a straight line is after the share `done` of its way."""
    return start * (1 - done) + end * done


def along_cosine(start: float, end: float, done: float) -> float:
    """Return where half a cosine is after the share `done` of its way."""
    return end + (start - end) * (1 + cos(math.pi * done)) / 2


def along_root(start: float, end: float, done: float) -> float:
    """Return where one less a square root is after the share `done` of its way."""
    return along_line(start, end, math.sqrt(done))


CURVES = {"linear": along_line, "cosine": along_cosine, "sqrt": along_root}


def evaluate(value: Value, step: int) -> float:
    """Return the value at a step of a schedule or a number."""
    return float(value(step)) if callable(value) else value


def span_of(value: Value) -> int:
    """Return the span of a schedule, or a few steps for a number."""
    return value.span if isinstance(value, Schedule) else 20


def _new_axes() -> Any:
    try:
        from matplotlib import pyplot as plt
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Schedule.plot needs matplotlib; install it with pip install 'instep[plot]'"
        ) from error
    return plt.figure().subplots()

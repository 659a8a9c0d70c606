"""What schedules share: the call, the drawing, and arithmetic with them."""

import math
import numbers
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Annotated, Any

from instep.hyperparameters import described, real
from instep.schedules.arguments import Finite, Steps, validate

#: A number, or a function from the step number to one.
Value = float | Callable[[int], float]

#: Steps from this on may be beyond the range of floats: they are looked at more closely.
_MOST_STEPS = 2**1000


class RangeError(ValueError, OverflowError):
    """The value of a schedule at a step is beyond the range of floats."""


class Schedule(ABC):
    """The base of all schedules: callable with a step number from 1, and drawn by `plot`."""

    def __call__(self, step: int) -> float:
        """Return the value at a step, counted from 1."""
        if type(step) is not int or not 1 <= step < _MOST_STEPS:
            step = self._checked_step(step)
        try:
            value = self._at(step)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise RangeError(
                f"{self!r}: its value at step {step} is beyond the range of floats; give arguments "
                f"nearer to 0 or 1, or end it before with Join"
            )
        return value

    def _checked_step(self, step: Any) -> Any:
        """Return the number of a step as arithmetic takes it, or raise."""
        try:
            number = real(step)
        except TypeError:
            raise TypeError(
                f"{type(self).__name__}: a step must be a number, counted from 1, got "
                f"{described(step)}"
            ) from None
        except OverflowError:
            number = math.inf
        if not number >= 1:
            raise ValueError(
                f"{type(self).__name__}: steps count from 1, got step {described(step)}"
            )
        if number == math.inf:
            raise ValueError(
                f"{type(self).__name__}: a step must be within the range of floats, got "
                f"{described(step)}"
            )
        return int(step) if isinstance(step, numbers.Integral) else number

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


def validate_value(owner: Schedule, name: str, value: Any) -> Value:
    """Return a schedule as it is, and a number as a float, or raise."""
    if isinstance(value, type) and issubclass(value, Schedule):
        raise TypeError(
            f"{type(owner).__name__}: {name} is the class {value.__name__}; write "
            f"{value.__name__}(...)"
        )
    checked: Value = value if callable(value) else validate(owner, name, value, Finite)
    return checked


def evaluate(owner: Schedule, value: Value, step: int) -> float:
    """Return the value at a step of a schedule, a function or a number, or raise."""
    if isinstance(value, Schedule):
        return value(step)
    if not callable(value):
        return value
    found = value(step)
    text = f"{type(owner).__name__}: {value!r} must return a finite number, got {described(found)}"
    try:
        number = real(found)
    except TypeError:
        raise TypeError(f"{text} at its step {step}") from None
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{text} at its step {step}")
    return number


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

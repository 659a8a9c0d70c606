"""What schedules share: the call, the drawing, and arithmetic with them."""

import math
import numbers
import operator
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any

from instep import arrays, calls
from instep.hyperparameters import described, is_array, real
from instep.schedules.arguments import Finite, Steps, validate, validate_list

#: A number, or a function from the step number to one.
Value = float | Callable[[int], float]

#: Steps from this on may be beyond the range of floats: they are looked at more closely.
_MOST_STEPS = 2**1000


class RangeError(ValueError, OverflowError):
    """The value of a schedule at a step is beyond the range of floats."""


class Schedule(ABC):
    """The base of all schedules: callable with a step number from 1, and drawn by `plot`.

    ``a + b`` and ``a * b`` are a `Sum` and a `Product`, of schedules, functions and numbers. One of
    your own is a frozen dataclass with a method `at`.
    """

    #: Arrays of NumPy leave ``array * schedule`` to the schedule, which refuses it once, in words.
    __array_ufunc__ = None

    def __call__(self, step: int, value: float | None = None) -> float:
        """Return what it is at a step, counted from 1, given the value of the objective or not."""
        if type(step) is not int or not 1 <= step < _MOST_STEPS:
            step = self._checked_step(step)
        try:
            found = self.at(step) if value is None else self.at(step, value)
        except OverflowError:
            found = math.inf
        if not math.isfinite(found):
            raise RangeError(
                f"{self!r}: its value at step {step} is beyond the range of floats; give arguments "
                f"nearer to 0 or 1, or end it before with Join"
            )
        return found

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

    def __add__(self, other: Value) -> "Sum":
        return Sum((*(self.parts if isinstance(self, Sum) else (self,)), other))

    def __radd__(self, other: Value) -> "Sum":
        return Sum((other, self))

    def __mul__(self, other: Value) -> "Product":
        return Product((*(self.parts if isinstance(self, Product) else (self,)), other))

    def __rmul__(self, other: Value) -> "Product":
        return Product((other, self))

    @abstractmethod
    def at(self, step: int, value: float | None = None) -> float:
        """Return what it is at a step that is at least 1; only what needs the value is given it."""

    @property
    def needs_value(self) -> bool:
        """Whether optimizers call it with the value of the objective, which `update` is given."""
        return False

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

    if not typing.TYPE_CHECKING:  # type checkers would take every name for one that there is

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # a property lacks something else: it says what
                return object.__getattribute__(self, name)
            text = f"{type(self).__name__} has no attribute {name!r}"
            remedy = calls.ATTRIBUTES_OF_SCHEDULES.get(name)
            raise AttributeError(f"{text}; {remedy}" if remedy else text, name=name, obj=self)

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self), include_extras=True).items():
            if typing.get_origin(kind) is Annotated:
                object.__setattr__(self, name, validate(self, name, getattr(self, name), kind))


@dataclass(frozen=True)
class _Combination(Schedule):
    parts: Sequence[Value]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", validate_values(self, "parts", self.parts))

    def _values(self, step: int, value: float | None) -> list[float]:
        return [evaluate(self, part, step, value) for part in self.parts]

    @property
    def needs_value(self) -> bool:
        return any(map(needs_value, self.parts))

    @property
    def span(self) -> int:
        return max(map(span_of, self.parts))


@dataclass(frozen=True)
class Sum(_Combination):
    """Schedules added to each other, from left to right: what ``a + b`` makes.

    Parameters
    ----------
    parts
        Schedules, functions and numbers.

    Examples
    --------
    >>> from instep.schedules import Cosine, Linear
    >>> schedule = Linear(1.0, 0.0, steps=2) + 0.25
    >>> schedule
    Sum(parts=(Linear(start=1.0, end=0.0, steps=2), 0.25))
    >>> [schedule(step) for step in (1, 2, 3)]
    [1.25, 0.75, 0.25]
    """

    def at(self, step: int, value: float | None = None) -> float:
        return reduce(operator.add, self._values(step, value))  # `sum` rounds as this Python does


@dataclass(frozen=True)
class Product(_Combination):
    """Schedules multiplied with each other, from left to right: what ``a * b`` makes.

    Parameters
    ----------
    parts
        Schedules, functions and numbers.

    Notes
    -----
    `torch.optim.lr_scheduler.ChainedScheduler` of schedulers that multiply the rate.

    Examples
    --------
    >>> from instep.schedules import Exponential, ReduceOnPlateau, WarmUp
    >>> schedule = 8 * Exponential(1.0, factor=0.5) * WarmUp(2, then=1.0)
    >>> [schedule(step) for step in (1, 2, 3, 4)]
    [0.0, 2.0, 2.0, 1.0]

    A part that is told something stays one object, in `parts`:

    >>> schedule = ReduceOnPlateau(0.1, patience=1) * WarmUp(100, then=1.0)
    >>> schedule.parts[0].report(3.0)
    """

    def at(self, step: int, value: float | None = None) -> float:
        return reduce(operator.mul, self._values(step, value))


def validate_values(owner: Schedule, name: str, values: Any) -> tuple[Value, ...]:
    """Return schedules and numbers, at least one, or raise."""
    parts = validate_list(owner, name, values, "schedules and numbers")
    if not parts:
        raise ValueError(f"{type(owner).__name__}: give at least one schedule, got none")
    return tuple([validate_value(owner, f"{name}[{i}]", part) for i, part in enumerate(parts)])


def validate_value(owner: Schedule, name: str, value: Any) -> Value:
    """Return a schedule as it is, and a number as a float, or raise."""
    if isinstance(value, type) and issubclass(value, Schedule):
        raise TypeError(
            f"{type(owner).__name__}: {name} is the class {value.__name__}; write "
            f"{value.__name__}(...)"
        )
    if is_array(value):
        raise TypeError(
            f"{type(owner).__name__}: {name} is {arrays.describe(value)}, and a schedule has one "
            f"value for all elements; set `array * schedule(step)` before each step"
        )
    checked: Value = value if callable(value) else validate(owner, name, value, Finite)
    return checked


def needs_value(part: Value) -> bool:
    """Return whether a part of a schedule asks for the value of the objective."""
    return getattr(part, "needs_value", False) is True


def evaluate(owner: Schedule, part: Value, step: int, value: float | None = None) -> float:
    """Return what a schedule, a function or a number is at a step, or raise.

    Given the value of the objective, what asks for it is told.
    """
    if not callable(part):
        return part
    told: tuple[float, ...] = () if value is None or not needs_value(part) else (value,)
    if isinstance(part, Schedule):
        return part(step, *told)
    found = part(step, *told)
    text = f"{type(owner).__name__}: {part!r} must return a finite number, got {described(found)}"
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

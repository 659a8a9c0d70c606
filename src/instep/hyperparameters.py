"""Hyperparameters: the numbers and options of a rule, their domains, and schedules of them."""

import dataclasses
import math
import numbers
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

#: A function from the step number, counted from 1, to the value of a hyperparameter.
Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Domain:
    """The values that a hyperparameter may take: finite, within an interval.

    They are finite in the dtype of the arithmetic too: 1e39 is refused at the first step on
    float32 parameters, in which it would be infinite. With `infinite`, infinities are allowed,
    and so is what becomes one. With `integer`, only whole numbers are. With `survives_rounding`,
    a value that is not zero must not become zero when it is rounded to the dtype of the
    arithmetic, as an eps of 1e-50 does in float32. With `fixed`, the value is given once, as a
    number.
    """

    lower: float = -math.inf
    upper: float = math.inf
    open_lower: bool = False
    open_upper: bool = False
    survives_rounding: bool = False
    infinite: bool = False
    integer: bool = False
    fixed: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.lower if self.open_lower else value >= self.lower
        below = value < self.upper if self.open_upper else value <= self.upper
        finite = math.isfinite(value) or (self.infinite and not math.isnan(value))
        whole = not self.integer or value.is_integer()
        return finite and above and below and whole

    def __str__(self) -> str:
        if self.integer:
            return f"an integer >= {self.lower:g}"
        if self.lower > -math.inf and self.upper < math.inf:
            left, right = "[("[self.open_lower], "])"[self.open_upper]
            return f"a finite number in {left}{self.lower:g}, {self.upper:g}{right}"
        what = "a number" if self.infinite else "a finite number"
        if self.lower > -math.inf:
            return f"{what} {'>' if self.open_lower else '>='} {self.lower:g}"
        return what


#: Learning rates, weight decays.
NonNegative = Annotated[float | Schedule, Domain(lower=0.0)]
#: Factors that must not be zero.
Positive = Annotated[float | Schedule, Domain(lower=0.0, open_lower=True, survives_rounding=True)]
#: Decay rates of running means: 1 would never forget and divide by zero in bias corrections.
DecayRate = Annotated[float | Schedule, Domain(lower=0.0, upper=1.0, open_upper=True)]
#: Small terms that keep a division finite.
Epsilon = Annotated[float | Schedule, Domain(lower=0.0, survives_rounding=True)]


@dataclass(frozen=True)
class Hyperparameter:
    """What is known of one field of an optimizer: its name, domain, and whether it is an option.

    An option is a boolean or a string. A rule may branch on it, and each value is a kernel of
    its own; all other hyperparameters are numbers that are handed to the kernel at every step.
    """

    name: str
    domain: Domain
    option: bool

    def validate(self, owner: str, value: Any) -> Any:
        """Return `value` as a float, an option or a schedule, or raise."""
        if isinstance(value, np.bool_) or (isinstance(value, np.ndarray) and value.ndim == 0):
            value = value.item()  # NumPy's other numbers are numbers to Python too
        if self.option:
            if not isinstance(value, bool | str):
                raise TypeError(f"{owner}: {self.name} must be True or False, got {value!r}")
            return value
        if not isinstance(value, bool):
            if isinstance(value, numbers.Real):
                return self.number(owner, value)
            if callable(value) and not self.domain.fixed:
                return value
        schedule = ", or a schedule (a function from the step number to a float)"
        raise TypeError(
            f"{owner}: {self.name} must be {self.domain}"
            f"{'' if self.domain.fixed else schedule}, got {value!r}"
        )

    def number(self, owner: str, value: Any) -> float:
        """Return `value` as a float of the domain, or raise."""
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"{owner}: {self.name} must be a number, got {value!r}") from error
        if number not in self.domain:
            raise ValueError(f"{owner}: {self.name} must be {self.domain}, got {value!r}")
        return number

    def at(self, owner: str, value: Any, step: int) -> float:
        """Return the value at `step`, following a schedule."""
        if isinstance(value, float):
            return value
        return self.number(f"{owner}, schedule at step {step}", value(step))


def describe_fields(cls: type, excluded: frozenset[str]) -> tuple[Hyperparameter, ...]:
    """Return the hyperparameters that the fields of the dataclass `cls` declare."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:  # postponed annotations that name something local to a function
        hints = {}
    described = []
    for field in dataclasses.fields(cls):
        if field.name not in excluded:
            metadata = getattr(hints.get(field.name), "__metadata__", ())
            domain = next((entry for entry in metadata if isinstance(entry, Domain)), Domain())
            option = hints.get(field.name) in (bool, str) or isinstance(field.default, bool | str)
            described.append(Hyperparameter(field.name, domain, option))
    return tuple(described)

"""Schedules as data: what a state has of them, and how they come back.

Those of the kit are their class, their arguments, and what they have been told. Functions of the
user are known by their names: no file holds one.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from instep.schedules.base import Product, Schedule, Sum
from instep.schedules.composition import After, Join, WarmUp
from instep.schedules.convex import Chebyshev, NesterovMomentum
from instep.schedules.cycles import CosineRestarts, Cyclic, OneCycle, WarmUpStableDecay
from instep.schedules.decay import (
    REX,
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    Linear,
    Polynomial,
    StepDecay,
)
from instep.schedules.plateau import ReduceOnPlateau, told_of, told_so

_KIT: tuple[type[Schedule], ...] = (
    *(Sum, Product, After, Join, WarmUp, Chebyshev, NesterovMomentum, CosineRestarts, Cyclic),
    *(OneCycle, WarmUpStableDecay, REX, Constant, Cosine, Exponential, InverseTime, Linear),
    *(Polynomial, StepDecay, ReduceOnPlateau),
)
_BY_NAME = {cls.__name__: cls for cls in _KIT}


class Named:
    """Stands for a function of the user that a file names."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def __call__(self, *arguments: Any) -> Any:
        """Raise: there is only the name."""
        raise TypeError(f"{self.name} is only a name here")


def is_of_the_kit(value: Any) -> bool:
    """Return whether a value is a schedule that files hold: those of classes derived are not."""
    return type(value) in _KIT


def name_of(function: Any) -> str:
    """Return the module and the name of a function, or those of the class of what is called."""
    if isinstance(function, Named):
        return function.name
    if isinstance(function, partial):
        return f"partial({name_of(function.func)})"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{getattr(named, '__module__', None) or 'builtins'}.{named.__qualname__}"


def arguments_of(schedule: Schedule) -> dict[str, Any]:
    """Return what a schedule of the kit was made with, by name."""
    return {
        field.name: getattr(schedule, field.name)
        for field in fields(schedule)  # type: ignore[arg-type]  # each is a dataclass
        if field.init
    }


def remade(schedule: Schedule, arguments: Mapping[str, Any]) -> Schedule:
    """Return a schedule of the same kind, which has been told the same, with these arguments."""
    new = copy.copy(schedule)
    new.__dict__.update(arguments)
    return new


def each(change: Callable[[Any], Any], value: Any) -> Any:
    """Return an argument of a schedule, with `change` made of what is called in it."""
    if isinstance(value, tuple):
        return tuple([each(change, part) for part in value])
    return change(value) if callable(value) else value


def snapshot(value: Any, memo: dict[int, Any]) -> Any:
    """Return a copy of what a schedule is now: functions of the user are no part of it.

    The memo has the copies by the ids of what they are of: what stands in two places stays one.
    """
    if not is_of_the_kit(value):
        return value
    if id(value) not in memo:
        change = partial(snapshot, memo=memo)
        arguments = {name: each(change, x) for name, x in arguments_of(value).items()}
        memo[id(value)] = remade(value, arguments)
    return memo[id(value)]


def functions_in(value: Any) -> list[Any]:
    """Return the functions of the user in a schedule, or in what else may be one."""
    if isinstance(value, tuple):
        return [found for part in value for found in functions_in(part)]
    if is_of_the_kit(value):
        return functions_in(tuple(arguments_of(value).values()))
    return [value] if callable(value) else []


class Table:
    """Schedules as what JSON knows, each object once, however many places it has.

    Attributes
    ----------
    rows
        One for each schedule of the kit.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no other object has the same id

    def packed(self, value: Any) -> Any:
        """Return a number, an option, a schedule or a function as what JSON knows."""
        if isinstance(value, tuple):
            return [self.packed(part) for part in value]
        if is_of_the_kit(value):
            if id(value) not in self._numbers:
                row = {
                    "class": type(value).__name__,
                    "arguments": {k: self.packed(x) for k, x in arguments_of(value).items()},
                }
                if isinstance(value, ReduceOnPlateau):
                    row["told"] = [self.packed(x) for x in told_of(value)]
                self._numbers[id(value)] = len(self.rows)
                self.rows.append(row)
                self._kept.append(value)
            return {"schedule": self._numbers[id(value)]}
        if callable(value):
            return {"function": name_of(value)}
        if isinstance(value, float) and not math.isfinite(value):  # JSON has no infinity
            return {"number": repr(value)}
        return value


def unpacked(rows: Any) -> Callable[[Any], Any]:
    """Return the function that makes of what `Table.packed` returned what it was, given its rows.

    It raises ValueError, TypeError or LookupError where these are no such things.
    """
    made: list[Schedule] = []

    def back(value: Any) -> Any:
        if isinstance(value, list):
            return tuple([back(part) for part in value])
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "schedule":
            if type(content) is not int or content < 0:
                raise ValueError(f"no number of a schedule: {content!r}")
            return made[content]
        if kind == "number":
            return float(content)
        if kind != "function" or not isinstance(content, str):
            raise ValueError(f"no schedule, function or number: {value!r}")
        return Named(content)

    for row in rows:  # those that stand in others come before them
        arguments = {name: back(x) for name, x in row["arguments"].items()}
        schedule = _BY_NAME[row["class"]](**arguments)
        if isinstance(schedule, ReduceOnPlateau):
            told_so(schedule, back(row["told"]))
        made.append(schedule)
    return back

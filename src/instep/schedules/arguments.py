"""The arguments of schedules: what is asked of them, and the errors that say so."""

import numbers
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import numpy as np

from instep.hyperparameters import Domain, described

Finite = Annotated[float, Domain()]
NonNegative = Annotated[float, Domain(lower=0.0)]
Positive = Annotated[float, Domain(lower=0.0, open_lower=True)]
Share = Annotated[float, Domain(lower=0.0, upper=1.0)]
Shrinking = Annotated[float, Domain(lower=0.0, upper=1.0, open_lower=True, open_upper=True)]
Steps = Annotated[int, Domain(lower=1)]
StepsOrNone = Annotated[int, Domain(lower=0)]


def validate(owner: object, name: str, value: Any, kind: Any) -> Any:
    """Return `value` as a number of an annotated type, or raise an error that says what fits."""
    number, domain = typing.get_args(kind)
    what = str(domain)
    if number is int:
        what = what.replace("a finite number", "an integer")
    expected = numbers.Integral if number is int else numbers.Real
    text = f"{type(owner).__name__}: {name} must be {what}, got {described(value)}"
    if isinstance(value, bool | np.timedelta64) or not isinstance(value, expected):
        raise TypeError(text)
    try:
        fits = number(value) in domain
    except OverflowError:
        fits = False
    if not fits:
        raise ValueError(text)
    return number(value)


def validate_list(owner: object, name: str, value: Any, what: str) -> list[Any]:
    """Return the entries of a sequence, or raise."""
    if not isinstance(value, str | bytes | Mapping | set | frozenset):
        try:
            return list(value)
        except TypeError:  # it has no entries
            pass
    raise TypeError(
        f"{type(owner).__name__}: {name} must be a list of {what}, got {described(value)}"
    )


def validate_choice(owner: object, name: str, value: Any, choices: Iterable[str]) -> None:
    """Raise if `value` is not among `choices`."""
    if not isinstance(value, str) or value not in choices:
        names = ", ".join(repr(choice) for choice in choices)
        error = ValueError if isinstance(value, str) else TypeError
        raise error(
            f"{type(owner).__name__}: {name} must be one of {names}, got {described(value)}"
        )

"""Schedules that see the value of the objective, and what they are told."""

from dataclasses import dataclass
from typing import Any, NoReturn

from instep import arrays
from instep.hyperparameters import described, real


@dataclass(eq=False)
class Told:
    """What schedules are told of the objective.

    Attributes
    ----------
    owner
        Name of the optimizer.
    value
        What `update` was given, which is looked at when a schedule asks for it.
    is_asked
        Whether one ever did.
    """

    owner: str
    value: Any
    is_asked: bool = False

    def to(self, schedule: Any) -> Any:
        """Return a schedule, which may ask for the value, as a function of the step alone."""
        return _Telling(schedule, self) if asks(schedule) else schedule

    def number(self, schedule: Any) -> float:
        """Return the value for a schedule, a number of the host, or raise."""
        self.is_asked = True
        if self.value.__class__ is not float:
            given, self.value = self.value, None  # no array of the user's is kept
            self.value = self._number(schedule, given)
        number: float = self.value
        return number

    def _number(self, schedule: Any, given: Any) -> float:
        if given is None:
            what = "it is missing; give it, as in update(params, grads, value=loss)"
            self._refuse(schedule, ValueError, what)
        if _is_elsewhere(given):
            what = f"{arrays.describe(given)} is on a device; wait for it, as in value=float(loss)"
            self._refuse(schedule, TypeError, what)
        try:
            return real(given)
        except TypeError:
            self._refuse(schedule, TypeError, f"it is {described(given)}")
        except OverflowError:
            self._refuse(schedule, ValueError, f"it is {described(given)}")

    def _refuse(self, schedule: Any, error: type[Exception], what: str) -> NoReturn:
        raise error(
            f"{self.owner}.update: {schedule!r} needs the value of the objective, a number of the "
            f"host, and {what}"
        )


def asks(schedule: Any) -> bool:
    """Return whether a schedule is called with the value of the objective, too."""
    return getattr(schedule, "needs_value", False) is True


def _is_elsewhere(value: Any) -> bool:
    """Return whether a value is an array that is not in the memory of the host."""
    if arrays.library(value) in (None, "numpy") or arrays.is_traced(value):
        return False
    return "cpu" not in arrays.device(value).lower()


class _Telling:
    """A schedule that asks for the value, as a function of the step."""

    def __init__(self, schedule: Any, told: Told) -> None:
        self._schedule, self._told = schedule, told

    def __call__(self, step: int) -> float:
        found: float = self._schedule(step, self._told.number(self._schedule))
        return found

    def __repr__(self) -> str:
        return repr(self._schedule)

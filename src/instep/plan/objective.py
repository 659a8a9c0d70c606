"""The value of the objective, where a rule or a schedule asks for it."""

from typing import Any

from instep import arrays
from instep.graph.remembered import OBJECTIVE
from instep.graph.told import Told
from instep.hyperparameters import real
from instep.state import Owner


class Objective:
    """Where the engines of a plan find the value, as a number that no step changes.

    Parameters
    ----------
    numbers
        Those of the tree, as arrays of no dimensions. The value, which is no state, is taken out.

    Attributes
    ----------
    is_needed
        Whether a rule asks for it.
    told
        What schedules are told.
    """

    def __init__(self, owner: Owner, numbers: dict[str, Any], told: Told) -> None:
        self._name, self.told = owner.name, told
        self._rules = [rule.name for rule in owner.parts.values() if rule.needs_value]
        self._place = numbers.pop(OBJECTIVE, None)
        self.is_needed = self._place is not None

    def take(self, value: Any) -> None:
        """Take the value for a step, for rules and schedules."""
        self.told.value = value
        if self.is_needed:
            self.place(value)

    def place(self, value: Any) -> None:
        """Take the value for rules. That of a device is not waited for, if the place is there."""
        if value is None:
            raise ValueError(
                f"{self._name}.update: {self._rules[0]} needs the value of the objective; give "
                f"it, as in update(params, grads, value=loss)"
            )
        if arrays.library(self._place) != "cupy":
            self._place[...] = self._number(value)
            return
        from instep.engines.cuda.foreign import number_there

        with self._place.device:
            found = number_there(value)
            self._place[...] = self._number(value) if found is None else found

    def _number(self, value: Any) -> float:
        try:
            return real(value)
        except (TypeError, OverflowError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                f"{self._name}.update: the value must be a real number, or an array of no "
                f"dimensions that holds one; {error}"
            ) from error

"""What is minimized: a function of the parameters, counted and checked."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from instep.hyperparameters import described, real

#: Returns the value of the objective and a tree of gradients; or there is a function for each.
ValueAndGrad = Callable[[Any], tuple[Any, Any]] | tuple[Callable[[Any], Any], Callable[[Any], Any]]


class Evaluation(NamedTuple):
    """An objective at one point: its value, and the gradients."""

    value: float
    grads: Any


class Objective:
    """An objective, as methods of minimization ask for it.

    Attributes
    ----------
    count
        How often it was evaluated.
    """

    def __init__(self, function: Any, *, call: str = "minimize") -> None:
        self._call = call
        self.count: int = 0
        if callable(function):
            self._functions: Sequence[Callable[[Any], Any]] = (function,)
        elif (
            isinstance(function, tuple | list)
            and len(function) == 2
            and all(map(callable, function))
        ):
            self._functions = tuple(function)
        else:
            raise TypeError(
                f"{call}: value_and_grad must be a function that returns the value and the "
                f"gradients, or a pair of functions, got {described(function)}"
            )

    def at(self, params: Any) -> Evaluation:
        """Return the objective at a point, or raise if it is none."""
        return self._evaluated(params, self._functions)

    def value_at(self, params: Any) -> Evaluation:
        """Return the value at a point, and the gradients if one function returns both."""
        return self._evaluated(params, self._functions[:1])

    def _evaluated(self, params: Any, functions: Sequence[Callable[[Any], Any]]) -> Evaluation:
        self.count += 1
        found: Any = functions[0](params)
        if len(self._functions) == 2:
            value, grads = found, None
            if len(functions) == 1:
                return Evaluation(self._number(value), None)
            grads = functions[1](params)
        elif isinstance(found, tuple | list) and len(found) == 2:
            value, grads = found
        else:
            raise TypeError(
                f"{self._call}: value_and_grad must return two things, the value and a tree of "
                f"gradients, got {described(found)}"
            )
        if grads is None:
            raise TypeError(
                f"{self._call}: value_and_grad returned None in the place of the gradients; return "
                f"a tree like the parameters, with None only in the place of arrays that are to "
                f"stay as they are"
            )
        return Evaluation(self._number(value), grads)

    def _number(self, value: Any) -> float:
        try:
            return real(value)
        except TypeError as error:
            raise TypeError(
                f"{self._call}: the value of the objective must be a real number, or an array of "
                f"no dimensions that holds one; {error}"
            ) from error
        except OverflowError:
            return math.inf

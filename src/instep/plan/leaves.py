"""Leaves of the trees that a step is given."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from instep import arrays
from instep.tree import Path, join_path


@dataclass(eq=False)
class Leaf:
    """A parameter and its gradient, at one position of the tree.

    Attributes
    ----------
    parameter, gradient
        Arrays; those that stand for numbers have no dimensions.
    number
        The parameter, where it is a number: it cannot be written, and another takes its place.
    has_numbers
        Whether parameter or gradient are.
    """

    position: int
    path: Path
    parameter: Any
    gradient: Any
    number: Any = None
    has_numbers: bool = False

    def __post_init__(self) -> None:
        if arrays.is_number(self.parameter):
            self.number, self.has_numbers = self.parameter, True
        if arrays.is_number(self.gradient):
            self.has_numbers = True
        if self.has_numbers:
            self.parameter, self.gradient = stand_ins([self.parameter, self.gradient])

    @property
    def is_replaced(self) -> bool:
        """Whether the tree gets another object in the place of the parameter."""
        return self.number is not None or arrays.is_immutable(self.parameter)

    @cached_property
    def key(self) -> str:
        """Name of the leaf in the state."""
        return join_path(self.path)

    @cached_property
    def dtype(self) -> str:
        """Storage dtype."""
        return arrays.dtype_name(self.parameter)

    @cached_property
    def gradient_dtype(self) -> str:
        """Dtype of the gradient, which is that of the parameter where none is given."""
        return self.dtype if self.gradient is None else arrays.dtype_name(self.gradient)


class Numbers:
    """The numbers among leaves, in the place of arrays.

    Attributes
    ----------
    found
        Whether there are any, gradients among them.
    """

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self.found = any(leaf.has_numbers for leaf in leaves)
        self._types = [
            (leaf.position, type(leaf.number)) for leaf in leaves if leaf.number is not None
        ]

    def replaced(self, params: Sequence[Any]) -> list[Any] | None:
        """Return parameters with arrays in the place of numbers; None where other numbers are."""
        found = list(params)
        for position, kind in self._types:
            if type(found[position]) is not kind:
                return None
            found[position] = np.array(found[position])
        return found

    def after(self, params: Sequence[Any]) -> dict[int, Any]:
        """Return new numbers by their positions, from the arrays that stood for them in a step."""
        return {i: arrays.number_of_type(kind, params[i]) for i, kind in self._types}


def stand_ins(leaves: Sequence[Any]) -> list[Any]:
    """Return leaves with arrays of no dimensions in the place of numbers."""
    return [np.array(leaf) if arrays.is_number(leaf) else leaf for leaf in leaves]

"""Leaves of the trees that a step is given."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from instep import arrays
from instep.plan.kinds import NOBODY, Number, Pair, Parts, StandIn, arrays_of
from instep.tree import Path, join_path


class NumberBeside(StandIn):
    """A gradient that is a number, where the library of its parameter has to see it."""

    def __init__(self, w: Any) -> None:
        self._namespace, self._device = arrays.namespace(w), arrays.namespace_device(w)

    def array(self, held: Any) -> Any:
        if not arrays.is_number(held):
            return held
        return self._namespace.asarray(np.array(held), device=self._device)


@dataclass(eq=False)
class Leaf:
    """A parameter and its gradient, at one position of the tree.

    Attributes
    ----------
    parameter, gradient
        Arrays as engines see them; those that stand for numbers have no dimensions.
    held
        Parameter and gradient as the user holds them.
    stand_ins
        What makes the one of the other, from step to step.
    in_parts
        Whether parts of complex numbers stand for them.
    shown
        What functions that choose leaves are shown: the parameter, or all of it where another part
        belongs to another process.
    """

    position: int
    path: Path
    parameter: Any
    gradient: Any
    held: tuple[Any, Any] = field(init=False)
    stand_ins: Pair = field(init=False)
    in_parts: bool = False
    shown: Any = None

    def __post_init__(self) -> None:
        self.held = self.parameter, self.gradient
        self.put(NOBODY)

    def put(self, pair: Pair) -> None:
        """Put arrays in the place of what is held. Numbers are always stood for."""
        (w, g), (held, gradient) = pair, self.held
        if w is None and arrays.is_number(held):
            w = Number(held, written=True)
        if g is None and arrays.is_number(gradient):
            is_other = pair == NOBODY and arrays.library(held) in ("torch", "jax")
            g = NumberBeside(held) if is_other else Number(gradient, written=False)
        if self.in_parts:
            w, g = Parts(w), None if self.held[1] is None else Parts(g)
        self.stand_ins = w, g
        self.parameter, self.gradient = arrays_of(self.stand_ins, self.held)

    def take_apart(self, pair: Pair) -> None:
        """Let parts stand for complex numbers from now on, whatever else does, as these do."""
        self.in_parts = True
        self.put(pair)

    def forget(self) -> None:
        """Keep no arrays of the user."""
        self.held, self.parameter, self.gradient = (None, None), None, None
        self.shown = None

    @property
    def number(self) -> Any:
        """The parameter, where it is a number: it cannot be written, and another replaces it."""
        return self.held[0] if arrays.is_number(self.held[0]) else None

    @property
    def is_replaced(self) -> bool:
        """Whether the tree gets another object in the place of the parameter."""
        return self.number is not None or arrays.is_immutable(self.held[0])

    @cached_property
    def key(self) -> str:
        """Name of the leaf in the state."""
        return join_path(self.path)

    @property
    def dtype(self) -> str:
        """Storage dtype."""
        return arrays.dtype_name(self.parameter)

    @property
    def gradient_dtype(self) -> str:
        """Dtype of the gradient, which is that of the parameter where none is given."""
        return self.dtype if self.gradient is None else arrays.dtype_name(self.gradient)

"""Leaves of the trees that a step is given."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from instep import arrays
from instep.tree import Path, join_path


@dataclass(eq=False)
class Leaf:
    """A parameter and its gradient, at one position of the tree."""

    position: int
    path: Path
    parameter: Any
    gradient: Any

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

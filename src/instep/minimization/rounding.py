"""What is less than rounding leaves to be seen of a descent."""

from typing import Any

import numpy as np

from instep import arrays, tree
from instep.graph.dtypes import DTYPES, itemsize

#: Roundings of a value that a sum of many terms may be wrong by.
ROUNDINGS = 100


def resolution(params: Any) -> float:
    """Return the relative spacing of numbers of the coarsest dtype of parameters.

    That of the arithmetic in which steps are computed; infinite where parameters have 16 bits, for
    steps are less than these are rounded long before that can be seen in a value.
    """
    found = []
    for _, leaf in tree.flatten(params):
        name = "float64" if arrays.is_number(leaf) else arrays.dtype_name(leaf)
        is_coarse = itemsize(name) < itemsize("float32")
        found.append(np.inf if is_coarse else float(np.finfo(DTYPES[name].compute).eps))
    return max(found)


def rounding(params: Any, value: float) -> float:
    """Return by how much the value of an objective of these parameters may be rounded."""
    spacing = resolution(params)
    return spacing if np.isinf(spacing) else ROUNDINGS * spacing * abs(value)

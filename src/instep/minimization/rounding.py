"""What rounding leaves of a descent: whether a value that does not fall could have been seen to."""

from collections.abc import Sequence
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


def leads_up(value: float, trials: Sequence[tuple[float, float]], resolution: float) -> bool:
    """Return whether a function rises along a line, for as little as one can see, from a value on.

    `trials` are lengths and values along the line. The slope at its start follows from the two
    shortest of those whose values differ by more than rounding.
    """
    rounded = ROUNDINGS * resolution * abs(value)
    seen = sorted(
        (length, (other - value) / length)
        for length, other in trials
        if abs(other - value) > rounded
    )
    if len(seen) < 2 or seen[0][0] == seen[1][0]:
        return False
    (a, first), (b, second) = seen[:2]
    return (first * b - second * a) / (b - a) > 0.5 * rounded / a

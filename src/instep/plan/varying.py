"""Hyperparameters that are arrays: whether a leaf can be updated with them."""

from collections.abc import Sequence

import numpy as np

from instep import arrays
from instep.graph import FusionError
from instep.graph.dtypes import BOUNDS, DTYPES
from instep.graph.program import Program
from instep.graph.rows import Flags, Varying
from instep.hyperparameters import elements
from instep.plan import validation
from instep.plan.leaves import Leaf
from instep.tree import format_path


def check(call: str, leaf: Leaf, varying: Sequence[Varying]) -> None:
    """Raise unless arrays are like a parameter, and their elements fit the arithmetic."""
    for found in varying:
        where = f"{call}: {found.title}"
        w, x = leaf.parameter, found.array
        validation.check_readable(where, x)
        comparison = (
            f"{where} is {arrays.describe(x)}, and {format_path('params', leaf.path)} is "
            f"{arrays.describe(w)}"
        )
        if tuple(x.shape) != tuple(w.shape):
            raise ValueError(
                f"{comparison}; an array is for parameters of its shape alone: say in `overrides` "
                f"for which, or give a number"
            )
        library = arrays.library(w)
        if arrays.library(x) != library:
            raise TypeError(f"{comparison}; convert it with {library}.asarray")
        if arrays.device(x) != arrays.device(w):
            raise ValueError(f"{comparison}; move it to the device of the parameter")
        if arrays.dtype_name(x) not in DTYPES:
            raise TypeError(f"{comparison}; convert it to {leaf.dtype}")
        if getattr(x, "requires_grad", False):
            raise ValueError(f"{where} requires grad; give it without its graph, with .detach()")
        if library == "torch" and x.is_neg():  # a copy would not be read anew at each step
            raise ValueError(
                f"{where} is the negative of what lies in memory; give it with .resolve_neg()"
            )
        _check_rounding(where, found, DTYPES[leaf.dtype].compute)


def _check_rounding(where: str, found: Varying, compute: str) -> None:
    """Raise if an element that must not becomes 0 or infinite in the dtype of the arithmetic."""
    domain, own = found.entry.domain, arrays.dtype_name(found.array)
    if DTYPES[own].itemsize <= DTYPES[compute].itemsize:
        return
    x, (least, most) = elements(found.array), BOUNDS[compute]
    vanish = (x != 0) & (np.abs(x) <= least) & domain.survives_rounding
    overflow = (np.abs(x) >= most) & (not domain.infinite)
    for which, becomes in ((vanish, "0"), (overflow, "infinite")):
        if which.any():
            place = tuple(np.argwhere(which)[0].tolist())
            raise ValueError(
                f"{where} at {place} is {float(x[place])!r}, which is "
                f"{becomes} in {compute}, the dtype of the arithmetic; give another number there"
            )


def check_use(plain: Program, program: Program, dtype: str, flags: Flags) -> None:
    """Raise TypeError if a rule cannot use arrays where a program takes them."""
    if not program.varying:
        return
    try:
        program.passes(dtype, flags)
    except FusionError as error:
        try:
            plain.passes(dtype, flags)
        except FusionError:
            return  # whatever it is given: it is called with arrays
        names, are = (
            ", ".join(program.varying),
            "are arrays" if len(program.varying) > 1 else "is an array",
        )
        raise TypeError(
            f"{program.name}: {names} {are}, which {program.name}.rule cannot take there: "
            f"{error.what}; give a number"
        ) from error

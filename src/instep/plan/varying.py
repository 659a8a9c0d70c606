"""Hyperparameters that are arrays: whether a leaf can be updated with them."""

from collections.abc import Sequence

import numpy as np

from instep import arrays
from instep.graph import FusionError
from instep.graph.dtypes import BOUNDS, DTYPES, is_complex, itemsize, loaded_as
from instep.graph.program import Program
from instep.graph.rows import Flags, Varying
from instep.hyperparameters import MASKS, elements
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
        dtype = arrays.dtype_name(x)
        if dtype not in DTYPES and dtype not in MASKS:
            raise TypeError(f"{comparison}; convert it to {leaf.dtype}")
        if is_complex(dtype) and not is_complex(leaf.dtype):
            raise TypeError(f"{comparison}, which is real; give real numbers")
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
    if itemsize(loaded_as(own, in_parts=True)) <= itemsize(compute):
        return
    x, (least, most) = elements(found.array), BOUNDS[compute]
    sizes = [np.abs(part) for part in ((x.real, x.imag) if is_complex(own) else (x,))]
    vanish = [(size != 0) & (size <= least) & domain.survives_rounding for size in sizes]
    overflow = [(size >= most) & (not domain.infinite) for size in sizes]
    for which, becomes in ((vanish, "0"), (overflow, "infinite")):
        if places := np.argwhere(np.logical_or.reduce(which)).tolist():
            place = tuple(places[0])
            raise ValueError(
                f"{where} at {place} is {x[place].item()!r}, which is "
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

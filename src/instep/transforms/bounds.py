"""Bounds of elements, which rules have as the hyperparameters `lower` and `upper`."""

from collections.abc import Mapping
from typing import Annotated, Any

from instep import arrays
from instep.hyperparameters import Domain, RealArray, Schedule, elements, is_array, source

#: Where a bound is infinite, there is none.
Bound = Annotated[float | Schedule | RealArray, Domain(infinite=True)]


def within_bounds(xp, w, h):
    """Return the nearest point within the bounds."""
    # A bound beyond the dtype of the arithmetic comes as an infinity, a lower one as the wrong one:
    # what is clipped to an infinity has met no bound.
    clipped = xp.clip(w, h.lower, h.upper)
    return xp.where(xp.isfinite(clipped), clipped, w)


def check_values(
    owner: str,
    values: Mapping[str, Any],
    remedy: str = "to move both, set first the one that gives way",
) -> None:
    """Raise if the bounds among hyperparameters cross."""
    if not callable(values["lower"]) and not callable(values["upper"]):
        _check_bounds(owner, values["lower"], values["upper"], remedy)


def check_step(owner: str, h: Any) -> Mapping[str, float | bool]:
    """Return no numbers; raise if the bounds of a step cross, as those of schedules may."""
    if "lower" in h and "upper" in h:  # as numbers
        remedy = "give schedules and overrides that do not cross"
        _check_bounds(f"{owner}, step {h.t:.0f}", h.lower, h.upper, remedy)
    return {}


def _check_bounds(owner: str, lower: Any, upper: Any, remedy: str) -> None:
    if is_array(lower) and is_array(upper) and not _are_alike(lower, upper):
        return  # one of them is not like the parameter: the step says which
    crosses = lower > upper
    if elements(crosses).any() if is_array(crosses) else crosses:
        raise ValueError(
            f"{owner}: lower must not be above upper, got {source(lower)} and {source(upper)}; "
            f"{remedy}"
        )


def _are_alike(a: Any, b: Any) -> bool:
    return arrays.library(a) == arrays.library(b) and tuple(a.shape) == tuple(b.shape)

"""The passes over the last points and gradients, as rules: products, and steps along a direction.

A rule sees the points before the present one as slots ``point0``, ``point1``, ..., from the oldest
on, and the gradients there. In the last of them the present point is kept, or was kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from instep.minimization.ring import OnRing, roles
from instep.optimizers.momo import inner
from instep.transforms.bounds import Bound, check_values, within_bounds


def _history(s):
    """Return the number of points before the present one."""
    count = 0
    while f"point{count}" in s:
        count += 1
    return count - 1


def _kept(s):
    """Return the point and the gradient that were kept."""
    last = _history(s)
    return getattr(s, f"point{last}"), getattr(s, f"gradient{last}")


def _pairs(w, g, s):
    """Return the steps and the changes of gradients, up to this point."""
    found = []
    for kind, last in (("point", w), ("gradient", g)):
        known = [getattr(s, f"{kind}{i}") for i in range(_history(s))]
        found.append([b - a for a, b in pairwise([*known, last])])
    return found


def _moved(w, g, s, h):
    """Return what the direction adds to a point."""
    steps, changes = _pairs(w, g, s)
    moved = h.c * g
    for name, vector in zip(_coefficients(len(steps)), (*steps, *changes), strict=False):
        moved = moved + getattr(h, name) * vector
    return moved


def _coefficients(history: int) -> tuple[str, ...]:
    """Return the names of the coefficients of steps, of changes, and of the gradient."""
    return (*(f"{kind}{i}" for kind in ("p", "y") for i in range(history)), "c")


def back(xp, w, g, s, h):
    """Go back to the point that was kept."""
    return _kept(s)[0], {}


# Without bounds ---------------------------------------------------------------------------------


def start(xp, w, g, s, h):
    """Measure the first gradient."""
    return w, {"gradient_square": xp.tree_sum(inner(xp, g, g))}


def products(xp, w, g, s, h):
    """Take the products of all pairs with the gradient, and those of the newest."""
    steps, changes = _pairs(w, g, s)
    p, y = steps[-1], changes[-1]
    pairs = _with_gradient(steps, changes, g)
    pairs |= dict(zip(OF_LAST, ((g, g), (p, y), (p, p), (y, y)), strict=True))
    return w, _summed(xp, pairs)


def _with_gradient(steps, changes, g):
    """Return the pairs of vectors of each step, and of each change, with the gradient."""
    found = {f"step{i}": (p, g) for i, p in enumerate(steps)}
    return found | {f"change{i}": (y, g) for i, y in enumerate(changes)}


def _summed(xp, pairs):
    """Return the inner products of pairs of vectors."""
    sums = xp.tree_sums(*(inner(xp, a, b) for a, b in pairs.values()))
    return dict(zip(pairs, sums, strict=True))


def advance(xp, w, g, s, h):
    """Keep the present point and its gradient, and go along the direction."""
    kept = {f"point{_history(s)}": w, f"gradient{_history(s)}": g}
    return w + _moved(w, g, s, h), kept


def again(xp, w, g, s, h):
    """Go along the direction from the point that was kept."""
    w, g = _kept(s)
    return w + _moved(w, g, s, h), {}


#: Products of the gradient, and of the newest pair.
OF_LAST = ("gradient_square", "curvature", "step_square", "change_square")


# With bounds ------------------------------------------------------------------------------------


def _is_led(aim, g, h):
    """Return whether the gradient leads elements to a bound, if it leads them so far."""
    return ((aim <= h.lower) & (g > 0)) | ((aim >= h.upper) & (g < 0))


def _free(xp, w, g, h, *vectors):
    """Return vectors without the elements that the gradient leads to a bound within its reach."""
    is_led = _is_led(w - h.reach * g, g, h)
    return [xp.where(is_led, 0.0, vector) for vector in vectors]


def _moved_within(xp, w, g, s, h):
    """Return what the direction adds to a point, before that is put within the bounds.

    Elements that the gradient leads to a bound follow it.
    """
    return xp.where(_is_led(w - h.reach * g, g, h), -h.pull * g, _moved(w, g, s, h))


def enter(xp, w, g, s, h):
    """Go to the nearest point within the bounds."""
    return within_bounds(xp, w, h), {}


def start_within(xp, w, g, s, h):
    """Measure the first gradient, and what of it leads inside."""
    return w, _summed(xp, _of_gradient(xp, w, g, h))


def _of_gradient(xp, w, g, h):
    free = xp.where(_is_led(w, g, h), 0.0, g)
    # Where no bound is met it is the gradient itself, which may be less than `w` is rounded.
    aim = w - g
    held = within_bounds(xp, aim, h)
    way = xp.where(held == aim, g, w - held)
    return {"steepest_square": (free, free), "way_square": (way, way)}


def products_within(xp, w, g, s, h):
    """Take all products of the pairs, of the elements that are not held at a bound."""
    steps, changes = (_free(xp, w, g, h, *vectors) for vectors in _pairs(w, g, s))
    (free,) = _free(xp, w, g, h, g)
    pairs = _with_gradient(steps, changes, g) | {"gradient_square": (free, free)}
    for j, y in enumerate(changes):
        for i in range(j + 1):
            pairs[f"sy{i}_{j}"], pairs[f"yy{i}_{j}"] = (steps[i], y), (changes[i], y)
    return w, _summed(xp, pairs | _of_gradient(xp, w, g, h))


def along(xp, w, g, s, h):
    """Measure the way from the point that was kept, and how far the gradient there leads along."""
    point, gradient = _kept(s)
    way, change = w - point, g - gradient
    pairs = ((gradient, way), (way, way), (way, change), (change, change))
    return w, _summed(xp, dict(zip(ALONG, pairs, strict=True)))


def advance_within(xp, w, g, s, h):
    """Keep the present point and its gradient, and go along the direction, within the bounds."""
    kept = {f"point{_history(s)}": w, f"gradient{_history(s)}": g}
    return within_bounds(xp, w + _moved_within(xp, w, g, s, h), h), kept


def again_within(xp, w, g, s, h):
    """Go along the direction from the point that was kept, within the bounds."""
    w, g = _kept(s)
    return within_bounds(xp, w + _moved_within(xp, w, g, s, h), h), {}


def first_bound(xp, w, g, s, h):
    """Measure how many times as long the direction is as the way along it to the first bound."""
    point, gradient = _kept(s)
    (moved,) = _free(xp, point, gradient, h, _moved(point, gradient, s, h))
    falls, rises = (moved < 0) & (point > h.lower), (moved > 0) & (point < h.upper)
    room = xp.where(falls, h.lower - point, h.upper - point)
    return w, {"times": xp.tree_max(xp.where(falls | rises, moved / room, 0.0))}


#: Products of the gradient where a way began and of the way, and those of a pair.
ALONG = ("along", "step_square", "curvature", "change_square")


# Rules ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Passes:
    """The rules of a method, for so many pairs."""

    start: type[OnRing]
    products: type[OnRing]
    advance: type[OnRing]
    again: type[OnRing]
    back: type[OnRing]


@dataclass(frozen=True)
class PassesWithin(Passes):
    """Those within bounds."""

    enter: type[OnRing]
    along: type[OnRing]
    first_bound: type[OnRing]


@cache
def passes(history: int) -> Passes:
    """Return the rules for so many pairs."""
    read = [f"{kind}{i}" for kind in ("step", "change") for i in range(history)]
    names = _coefficients(history)
    return Passes(
        _rule(start, history, ["gradient_square"]),
        _rule(products, history, [*read, *OF_LAST]),
        _rule(advance, history, coefficients=names),
        _rule(again, history, coefficients=names),
        _rule(back, history),
    )


@cache
def passes_within(history: int) -> PassesWithin:
    """Return the rules for so many pairs, within bounds: ``lower`` and ``upper``."""
    read = [f"{kind}{i}" for kind in ("step", "change") for i in range(history)]
    read += [
        f"{kind}{i}_{j}" for kind in ("sy", "yy") for j in range(history) for i in range(j + 1)
    ]
    of_gradient = ["steepest_square", "way_square"]
    bounds = {"lower": float("-inf"), "upper": float("inf")}
    names, reach = (*_coefficients(history), "reach", "pull"), ("reach",)
    return PassesWithin(
        _rule(start_within, history, of_gradient, bounds=bounds),
        _rule(
            products_within,
            history,
            [*read, "gradient_square", *of_gradient],
            coefficients=reach,
            bounds=bounds,
        ),
        _rule(advance_within, history, coefficients=names, bounds=bounds),
        _rule(again_within, history, coefficients=names, bounds=bounds),
        _rule(back, history, bounds=bounds),
        _rule(enter, history, bounds=bounds),
        _rule(along, history, ALONG, bounds=bounds),
        _rule(first_bound, history, ["times"], coefficients=names, bounds=bounds),
    )


def _rule(
    function: Callable[..., Any],
    history: int,
    read: Sequence[str] = (),
    *,
    coefficients: tuple[str, ...] = (),
    bounds: dict[str, float] | None = None,
) -> type[OnRing]:
    """Return the class of a rule."""
    slots = (*roles("point", history), *roles("gradient", history))
    values = dict.fromkeys(coefficients, 0.0) | (bounds or {})
    attributes: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": function.__doc__,
        "__annotations__": dict.fromkeys(coefficients, float) | dict.fromkeys(bounds or {}, Bound),
        "history": history,
        "coefficients": coefficients,
        "slots": slots,
        "exact_slots": slots,
        "positive_slots": (),
        "tree_readings": tuple(read),
        "rule": staticmethod(function),
        **values,
    }
    if bounds is not None:
        attributes["check_values"] = lambda self, values: check_values(self.name, values)
    return type("LBFGS", (OnRing,), attributes)  # so it is called in messages

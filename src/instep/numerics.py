"""The numerics contract: the operations on which libraries disagree.

Every function here is written with operations that IEEE 754 rounds exactly, on the names of the
array API. Both the tracer and the namespace that the `array_api` engine hands to a rule use these
definitions, so an operation has one meaning on every engine.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

#: Elements of a tile of the canonical sum, and lanes of a tile.
TILE, LANES = 16_384, 1_024


def maximum(xp: Any, a: Any, b: Any) -> Any:
    """Return the larger; NaN if either is NaN; `b` if they are equal (also -0.0 and 0.0)."""
    return xp.where((a > b) | (a != a), a, b)


def minimum(xp: Any, a: Any, b: Any) -> Any:
    """Return the smaller; NaN if either is NaN; `b` if they are equal (also -0.0 and 0.0)."""
    return xp.where((a < b) | (a != a), a, b)


def sign(xp: Any, x: Any) -> Any:
    """Return -1, 0 or 1; 0.0 for -0.0; NaN for NaN (PyTorch's is 0 there, JAX keeps -0.0)."""
    return xp.where(x > 0, 1.0, xp.where(x < 0, -1.0, xp.where(x == 0, 0.0, x)))


def copysign(xp: Any, a: Any, b: Any) -> Any:
    """Return `a` with the sign of `b`, which is positive if it is NaN: processors differ there."""
    return xp.copysign(a, xp.where(b != b, 0.0, b))


def isfinite(xp: Any, x: Any) -> Any:
    """Return whether `x` is neither infinite nor NaN."""
    return abs(x) < float("inf")


def isnan(xp: Any, x: Any) -> Any:
    """Return whether `x` is NaN."""
    return x != x


def isinf(xp: Any, x: Any) -> Any:
    """Return whether `x` is infinite."""
    return abs(x) == float("inf")


def square(xp: Any, x: Any) -> Any:
    """Return ``x * x``."""
    return x * x


def abs_sq(xp: Any, x: Any) -> Any:
    """Return the square of the magnitude: of a real number, ``x * x``."""
    return x * x


def clip(xp: Any, x: Any, min: Any = None, max: Any = None) -> Any:  # noqa: A002 - the standard's
    """Return `x` held between `min` and `max`; NaN stays NaN."""
    if min is not None:
        x = xp.where(x < min, min, x)
    if max is not None:
        x = xp.where(x > max, max, x)
    return x


def hypot(xp: Any, a: Any, b: Any) -> Any:
    """Return ``sqrt(a * a + b * b)``, of which no square overflows or vanishes.

    Where one might, both are scaled by a power of two, which rounds nothing.
    """
    limit, shift = (500, 600) if a.dtype == xp.float64 else (62, 88)
    largest = maximum(xp, abs(a), abs(b))
    is_large, is_small = largest > 2.0**limit, largest < 2.0**-limit
    one, up, down = (xp.full_like(a, 2.0**power) for power in (0, shift, -shift))
    factor = xp.where(is_large, down, xp.where(is_small, up, one))
    a, b = factor * a, factor * b
    return xp.where(is_large, up, xp.where(is_small, down, one)) * xp.sqrt(a * a + b * b)


def norm(xp: Any, *parts: Any) -> Any:
    """Return the Euclidean norm of a tensor; of complex numbers both parts are given.

    It neither overflows nor vanishes where a float64 can hold it: see `_heaps`.
    """
    large, common, small = _heaps(xp, parts)
    if large is None:
        return xp.sqrt(xp.sum(common))
    return _root(xp, xp.sum(large), xp.sum(common), xp.sum(small))


def tree_norm(xp: Any, *parts: Any) -> Any:
    """Return the Euclidean norm of all tensors of the tree, taken as one vector. See `norm`."""
    return _root(xp, *xp.tree_sums(*_heaps(xp, parts)))


def _heaps(xp: Any, parts: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Return squares, to be summed: of large, of common and of small numbers (Blue 1978).

    The squares of float32 numbers are exact in float64: all are common, and there are no others.
    Those of float64 may overflow or vanish. There large and small numbers are scaled by a power of
    two, which rounds nothing.
    """
    wide = [xp.astype(x, xp.float64) for x in parts]
    if all(x.dtype != xp.float64 for x in parts):
        return None, _squares(wide), None
    sizes = [abs(x) for x in wide]
    is_large, is_small = [x > 2.0**480 for x in sizes], [x < 2.0**-480 for x in sizes]
    large, small = (
        [xp.where(chosen, x * factor, 0.0) for chosen, x in zip(conditions, sizes, strict=True)]
        for conditions, factor in ((is_large, 2.0**-600), (is_small, 2.0**600))
    )
    # NaN is here.
    common = [xp.where(a | b, 0.0, x) for a, b, x in zip(is_large, is_small, sizes, strict=True)]
    return _squares(large), _squares(common), _squares(small)


def _squares(parts: Iterable[Any]) -> Any:
    return functools.reduce(operator.add, (x * x for x in parts))


def _root(xp: Any, large: Any, common: Any, small: Any) -> Any:
    """Return the norm of the numbers whose squares are in these heaps."""
    down, up = 2.0**-600, 2.0**600
    of_large = up * xp.sqrt(large + common * down * down)
    of_common = xp.sqrt(common + small * down * down)
    return xp.where(large != 0, of_large, xp.where(common != 0, of_common, down * xp.sqrt(small)))


#: Operations on elements that all namespaces define by the functions above.
ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "maximum": maximum,
    "minimum": minimum,
    "sign": sign,
    "isfinite": isfinite,
    "isnan": isnan,
    "isinf": isinf,
    "square": square,
    "abs_sq": abs_sq,
    "clip": clip,
}

NORMS: dict[str, Callable[..., Any]] = {"norm": norm, "tree_norm": tree_norm}

#: And with these, which reduce, and one that is of arrays, all that they define so.
CANONICAL: dict[str, Callable[..., Any]] = {**ELEMENTWISE, "hypot": hypot, **NORMS}


def canonical_sum(xp: Any, x: Any) -> Any:
    """Return the canonical sum of an array: a float64 array of no dimensions.

    The elements, in C order, are cut into tiles of 16,384. In a tile, element `i` goes to lane
    ``i % 1024``; a lane adds its elements in increasing order in float64, from +0.0; the lanes
    are folded by halves (lane `k` += lane `k + 512`, then 256, ... 1). The sums of the tiles are
    summed in the same way until one is left.

    This is the specification, in whole-array operations. Elements that pad the last tile are
    +0.0: a lane that starts from +0.0 never holds -0.0, so adding +0.0 changes nothing.
    """
    x = xp.reshape(xp.astype(x, xp.float64), (-1,))
    while True:
        tiles = max(1, -(-x.shape[0] // TILE))
        padding = xp.zeros(tiles * TILE - x.shape[0], dtype=xp.float64, device=x.device)
        rows = xp.reshape(xp.concat([x, padding]), (tiles, TILE // LANES, LANES))
        lanes = xp.zeros((tiles, LANES), dtype=xp.float64, device=x.device)
        for row in range(TILE // LANES):
            lanes = lanes + rows[:, row, :]
        width = LANES
        while width > 1:
            width //= 2
            lanes = lanes[:, :width] + lanes[:, width : 2 * width]
        x = lanes[:, 0]
        if tiles == 1:
            return xp.reshape(x, ())


def canonical_maximum(xp: Any, x: Any) -> float:
    """Return the largest element of an array: NaN if one is NaN, -inf if there is none.

    It is exact in any order; of two zeros it is +0.0.
    """
    if 0 in x.shape:
        return float("-inf")
    is_nan = bool(xp.any(x != x))
    return float("nan") if is_nan else float(xp.max(x)) + 0.0

"""Parameters that are shares of a whole, or whose magnitudes have a bounded sum."""

import math
from typing import Annotated, Any, Literal

from instep.hyperparameters import Domain, Schedule
from instep.rule import Form
from instep.transform import Transform
from instep.transforms.units import folded_sums

_Units = Literal["tensor", "first", "last"]
_Total = Annotated[float | Schedule, Domain(lower=0.0, open_lower=True, survives_rounding=True)]


class project_simplex(Transform):
    r"""Make each parameter tensor shares of a total, after the step.

    .. math:: w_i \leftarrow \max(w_i - \theta,\, 0), \qquad \sum_i w_i = s

    With the :math:`\theta` of this sum it is the nearest point of the simplex
    :math:`\{w \ge 0, \sum_i w_i = s\}` (Duchi et al. 2008, doi:10.1145/1390156.1390191, figure 1).

    Parameters
    ----------
    total
        The sum :math:`s` of the elements, above 0.
    units
        What adds up to it: ``"tensor"``, all of a tensor; ``"first"``, what lies at each index of
        the first axis, so that each row of a matrix does; ``"last"``, at each index of the last
        one. Arrays of less than two dimensions are one unit.

    Notes
    -----
    The same as `optax.projections.projection_simplex` for a tensor. Elements are sorted, which
    rounds nothing, and their sums are added in pairs, in float64, from the greatest element on: so
    the bits are the same on every engine, and on NumPy and CuPy. :math:`\theta` is found among the
    sums in as many look-ups as they have levels, without a wait for a device. An array of the size
    of the parameter is kept between two passes.

    The sum is right to the rounding of the elements. A unit with NaN or a positive infinity becomes
    NaN; negative infinities become 0. Complex numbers have no order and are refused, unless
    ``complex="pairs"`` makes their parts one more axis, the last.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import project_simplex
    >>> optimizer = chain(SGD(lr=1.0), project_simplex())
    >>> optimizer.update(np.full(3, 0.25), np.array([-0.5, -0.25, 0.25]))
    array([0.625, 0.375, 0.   ])
    """

    stage = "parameter"
    constrains = True

    total: _Total = 1.0
    units: _Units = "tensor"

    def form_for(self, shape: tuple[int, ...]) -> Form:
        """Return a place for the shares, where there are elements."""
        return _form(shape, "shares")

    @staticmethod
    def rule(xp, w, g, s, h):
        if h.kind == "empty":
            return w, {}
        return xp.maximum(xp.apply(shares, w, total=h.total, units=h.units), 0.0), {}


class project_l1(Transform):
    r"""Shrink each parameter tensor to magnitudes with a sum of at most `radius`, after the step.

    .. math:: w_i \leftarrow \max(|w_i| - \theta,\, 0)\, \frac{w_i}{|w_i|}

    With the least :math:`\theta \ge 0` that leaves :math:`\sum_i |w_i| \le r`, it is the nearest
    point of the :math:`\ell_1` ball (Duchi et al. 2008, doi:10.1145/1390156.1390191, figure 2).

    Parameters
    ----------
    radius
        The bound :math:`r`, above 0.
    units
        What it bounds: ``"tensor"``, all of a tensor; ``"first"``, what lies at each index of the
        first axis, so that each row of a matrix is bounded by itself; ``"last"``, at each index of
        the last one. Arrays of less than two dimensions are one unit.

    Notes
    -----
    The same as `optax.projections.projection_l1_ball`, for a tensor. A unit within the ball is not
    changed, not in the last bit. Of complex numbers the moduli are bounded, and the phases kept.
    Bits, costs, and what is NaN are as for `project_simplex`; a negative infinity counts as a
    positive one.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import project_l1
    >>> optimizer = chain(SGD(lr=1.0), project_l1(radius=1.0))
    >>> optimizer.update(np.zeros(3), np.array([-1.0, 0.5, -0.125]))
    array([ 0.75, -0.25,  0.  ])
    """

    stage = "parameter"
    constrains = True

    radius: _Total = 1.0
    units: _Units = "tensor"

    real_slots = ("moduli",)

    def form_for(self, shape: tuple[int, ...]) -> Form:
        """Return a place for the moduli, where there are elements."""
        return _form(shape, "moduli")

    @staticmethod
    def rule(xp, w, g, s, h):
        if h.kind == "empty":
            return w, {}
        moduli = abs(w)
        shrunk = xp.apply(within_sum, moduli, radius=h.radius, units=h.units)
        return xp.where(shrunk == moduli, w, shrunk * xp.sign(w)), {}


def _form(shape: tuple[int, ...], between: str) -> Form:
    if 0 in shape:
        return Form(slots=(), kind="empty")
    return Form(slots=(), between=(between,))


def shares(xp: Any, x: Any, *, total: float, units: str) -> Any:
    """Return ``x - theta`` for each unit, whose positive elements have this sum."""
    if xp.isdtype(x.dtype, "complex floating"):
        raise TypeError(
            'project_simplex: complex numbers have no order; set complex="pairs" to take their '
            "parts as numbers, or project_l1 for their moduli"
        )
    return _back(xp, _less_threshold(xp, _rows(xp, x, units), total), x, units)


def within_sum(xp: Any, x: Any, *, radius: float, units: str) -> Any:
    """Return magnitudes `x`, shrunk by one number for each unit to a sum of at most `radius`."""
    rows = xp.astype(_rows(xp, x, units), xp.float64)
    shrunk = _less_threshold(xp, rows, radius)
    # By a number that is not negative, but for roundings.
    shrunk = xp.minimum(xp.maximum(shrunk, xp.zeros_like(shrunk[:1, :1])), rows)
    is_within = folded_sums(rows, 1) <= radius
    return _back(xp, xp.where(is_within, rows, shrunk), x, units)


def _rows(xp: Any, x: Any, units: str) -> Any:
    """Return a matrix whose rows are the units."""
    if units == "tensor" or x.ndim < 2:
        return xp.reshape(x, (1, -1))
    if units == "first":
        return xp.reshape(x, (x.shape[0], -1))
    return xp.matrix_transpose(xp.reshape(x, (-1, x.shape[-1])))


def _back(xp: Any, rows: Any, x: Any, units: str) -> Any:
    """Return the elements of a matrix of units in the places that they have in `x`."""
    is_last = units == "last" and x.ndim > 1
    return xp.reshape(xp.matrix_transpose(rows) if is_last else rows, x.shape)


def _less_threshold(xp: Any, rows: Any, total: float) -> Any:
    """Return rows less a number, in float64, by which their positive elements have this sum."""
    rising = xp.sort(rows, axis=1, stable=False)
    top = xp.astype(rising[:, -1:], xp.float64)
    top = xp.where(xp.isfinite(top), top, xp.full_like(top, xp.nan))
    # How far elements lie below the greatest: what counts is below the total, so nothing overflows,
    # and what is a small share of the elements is a large one of this.
    depths = _capped(xp, top - xp.astype(xp.flip(rising, axis=1), xp.float64), total)
    own = _capped(xp, top - xp.astype(rows, xp.float64), total)
    return _level(xp, depths, total) - own


def _capped(xp: Any, depths: Any, total: float) -> Any:
    return xp.minimum(depths, xp.asarray(total, dtype=depths.dtype, device=depths.device))


def _level(xp: Any, depths: Any, total: float) -> Any:
    """Return how high water of this volume stands over the rising steps of each row.

    The steps under water are the first ones. Their number is found by a descent through the sums of
    2, 4, 8, ... steps, which are added in this order on every library.
    """
    rows, length = depths.shape
    levels = length.bit_length()  # 2 to this power is more than the steps: the last is dry
    dry = xp.full((rows, 2**levels - length), math.inf, dtype=depths.dtype, device=depths.device)
    sums = [xp.concat([depths, dry], axis=1)]
    for _ in range(levels):
        sums.append(sums[-1][:, 0::2] + sums[-1][:, 1::2])
    flat = [xp.reshape(x, (-1,)) for x in sums]
    row = xp.arange(rows, dtype=xp.int64, device=depths.device)
    count = xp.zeros_like(row)
    volume = xp.zeros((rows,), dtype=depths.dtype, device=depths.device)
    for power in reversed(range(levels)):
        more = count + 2**power
        block = xp.take(flat[power], row * 2 ** (levels - power) + count // 2**power, axis=0)
        last = xp.take(flat[0], row * 2**levels + more - 1, axis=0)
        is_wet = xp.astype(more, depths.dtype) * last < volume + block + total
        volume = xp.where(is_wet, volume + block, volume)
        count = xp.where(is_wet, more, count)
    return ((volume + total) / xp.astype(count, depths.dtype))[:, None]

"""Proximal steps: minimizers of a penalty that has no gradient, near to where a step has led."""

import math
from typing import Annotated, Any, Literal

from instep.hyperparameters import Domain, NonNegative, Schedule
from instep.rule import Form
from instep.transform import Transform
from instep.transforms.units import unit_norms

_Rate = Annotated[float | Schedule, Domain(lower=0.0)]
_Iterations = Annotated[float | Schedule, Domain(lower=1, integer=True)]


class soft_threshold(Transform):
    r"""Shrink every element towards zero: the proximal step of :math:`\lambda \lVert w \rVert_1`.

    .. math:: w \leftarrow \max(|w'| - \gamma \lambda,\, 0)\, \frac{w'}{|w'|}

    :math:`w'` is the parameter that the optimizer proposes and :math:`\gamma` its learning rate.

    Parameters
    ----------
    rate
        Strength :math:`\lambda` of the penalty: a number, or an array of the shape of the
        parameter.

    Notes
    -----
    Daubechies et al. 2004, doi:10.1002/cpa.20042. After `SGD` it is ISTA: what is small becomes 0.
    Of complex numbers the moduli shrink, and the phases are kept. What is NaN stays NaN, and a
    complex number with an infinity becomes NaN. With a rate or learning rate of 0 nothing changes,
    but that -0.0 becomes 0.0.

    After an optimizer that scales each element in its own way, as `Adam` does, this is the proximal
    step of plain distances, with the learning rate alone: not that of the distances by which such
    an optimizer measures its step.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import soft_threshold
    >>> chain(SGD(lr=0.5), soft_threshold(1.0)).update(np.ones(2), np.array([-1.0, 2.0]))
    array([1., 0.])
    """

    stage = "step"

    rate: NonNegative = 0.01

    @staticmethod
    def rule(xp, w, new, g, s, h):
        threshold = h.lr * h.rate
        return xp.where(abs(new) <= threshold, 0.0, new - threshold * xp.sign(new)), {}


class group_soft_threshold(Transform):
    r"""Shrink groups of elements towards zero: the proximal step of a sum of norms.

    .. math::
        w_i \leftarrow \max\left(1 - \frac{\gamma \lambda}{\lVert w'_i \rVert},\, 0\right) w'_i

    :math:`w'_i` are the groups of the parameter that the optimizer proposes and :math:`\gamma` its
    learning rate. The penalty is :math:`\lambda \sum_i \lVert w_i \rVert`, the
    :math:`\ell_{2,1}` norm (Yuan & Lin 2006, doi:10.1111/j.1467-9868.2005.00532.x), which leaves
    whole groups at zero.

    Parameters
    ----------
    rate
        Strength :math:`\lambda` of the penalty. Groups of other sizes may ask for others, such as
        the root of the size times one: give them by `overrides`.
    units
        The groups: ``"tensor"``, each tensor is one; ``"first"``, what lies at each index of the
        first axis is one, as the rows of a matrix, or kernels of convolutions; ``"last"``, at each
        index of the last one. Arrays of less than two dimensions are one group.

    Notes
    -----
    Norms of tensors are canonical sums, and those of units are folded by halves in float64, as in
    `adaptive_clip`: the same bits on every engine, and on NumPy and CuPy; for units, an array of
    the size of the parameter is kept between two passes. A group with an infinity or NaN becomes
    NaN; no other does. With a rate or learning rate of 0 nothing changes.

    With ``complex="pairs"``, the two parts are one more axis, the last.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import group_soft_threshold
    >>> optimizer = chain(SGD(lr=0.5), group_soft_threshold(5.0, units="first"))
    >>> optimizer.update(np.array([[3.0, 4.0], [1.0, 2.0]]), np.zeros((2, 2)))
    array([[1.5, 2. ],
           [0. , 0. ]])
    """

    stage = "step"

    rate: _Rate = 0.01
    units: Literal["tensor", "first", "last"] = "tensor"

    real_slots = ("norms",)

    def form_for(self, shape: tuple[int, ...]) -> Form:
        """Return a place for norms of units, where there are some."""
        if self.units == "tensor" or len(shape) < 2 or 0 in shape:
            return Form(slots=())
        return Form(slots=(), between=("norms",), kind="units")

    @staticmethod
    def scalars(h):
        """Return by how much norms shrink."""
        return {"threshold": h.lr * h.rate}

    @staticmethod
    def rule(xp, w, new, g, s, h):
        is_apart = h.kind == "units"
        norm = xp.apply(unit_norms, abs(new), units=h.units) if is_apart else xp.norm(new)
        return xp.where(norm <= h.threshold, 0.0, (1 - h.threshold / norm) * new), {}


class total_variation(Transform):
    r"""Smooth each tensor and keep its edges: the proximal step of its total variation.

    .. math::
        w \leftarrow \arg\min_x \tfrac{1}{2} \lVert x - w' \rVert^2
            + \gamma \lambda \sum_i \lVert (\nabla x)_i \rVert

    :math:`w'` is the parameter that the optimizer proposes and :math:`\gamma` its learning rate.
    :math:`(\nabla x)_i` are the differences of an element to the next one along each axis, 0 at the
    end: the variation is isotropic (Rudin, Osher & Fatemi 1992, doi:10.1016/0167-2789(92)90242-F).

    Parameters
    ----------
    rate
        Strength :math:`\lambda` of the penalty.
    iterations
        How often the dual problem is improved. It starts anew at every step.
    channels
        Whether the last axis holds channels, such as colours: elements are no neighbours along it,
        and :math:`(\nabla x)_i` has the differences of all channels, which share their edges.

    Notes
    -----
    The minimizer is :math:`w' - \gamma \lambda \nabla^* p`, for a field `p` of vectors of at most
    length 1, which fast gradient projection finds (Beck & Teboulle 2009,
    doi:10.1109/TIP.2009.2028250), with the step :math:`1 / (4 d \gamma \lambda)` in `d` dimensions.
    After `k` iterations it is off by a term of order :math:`1 / k^2`; the fixed point of Chambolle
    (2004, doi:10.1023/B:JMIV.0000011325.36760.1e), which takes as much time an iteration, by one of
    order :math:`1 / k`.

    Every operation is one of the array library on whole arrays, rounded once, in one order: the
    engines give the same bits, and so do NumPy and CuPy, but that CuPy's functions take subnormal
    numbers of float32 for 0. While it runs it takes the memory of about :math:`5 d + 4` parameters.
    Complex numbers are one number: differences are measured by their moduli. What is infinite or
    NaN spreads to as many neighbours as there are iterations. Arrays of no dimensions stay as they
    are.

    With ``complex="pairs"``, the two parts are one more axis, the last: say ``channels=True``.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import total_variation
    >>> optimizer = chain(SGD(lr=1.0), total_variation(0.5, iterations=100))
    >>> optimizer.update(np.array([0.0, 1.0, 8.0, 9.0]), np.zeros(4)).round(3)
    array([0.5, 1. , 8. , 8.5])
    """

    stage = "step"

    rate: _Rate = 0.01
    iterations: _Iterations = 20
    channels: bool = False

    def form_for(self, shape: tuple[int, ...]) -> Form:
        """Return a place for what is smoothed, where there are neighbours."""
        if max((0, *(shape[:-1] if self.channels else shape))) < 2 or 0 in shape:
            return Form(slots=())
        return Form(slots=(), between=("smooth",), kind="neighbours")

    @staticmethod
    def scalars(h):
        """Return the weight of the penalty."""
        return {"weight": h.lr * h.rate}

    @staticmethod
    def rule(xp, w, new, g, s, h):
        if h.kind != "neighbours":
            return new, {}
        numbers = {"weight": h.weight, "iterations": h.iterations, "channels": h.channels}
        return xp.apply(smoothed, new, **numbers), {}


def smoothed(xp: Any, x: Any, *, weight: float, iterations: float, channels: bool) -> Any:
    """Return the minimizer of half of the squared distance to `x` and a weighted variation."""
    if weight == 0:
        return x
    layers = xp.moveaxis(x, -1, 0) if channels else x[None, ...]
    is_complex = xp.isdtype(x.dtype, "complex floating")
    if is_complex:  # parts are layers of their own, which share their edges
        layers = xp.concat([xp.real(layers), xp.imag(layers)])
    smooth = _minimizer(xp, layers, weight, int(iterations))
    if is_complex:
        half = smooth.shape[0] // 2
        smooth = xp.astype(smooth[:half, ...], x.dtype) + 1j * xp.astype(
            smooth[half:, ...], x.dtype
        )
    return xp.moveaxis(smooth, 0, -1) if channels else smooth[0, ...]


def _minimizer(xp: Any, x: Any, weight: float, iterations: int) -> Any:
    """Return the same of layers along the first axis, by fast gradient projection."""
    axes = [axis for axis in range(1, x.ndim) if x.shape[axis] > 1]
    size = min(1 / (4 * len(axes) * weight), _LONGEST)
    ahead = old = [xp.zeros_like(x) for _ in axes]
    t = 1.0
    for _ in range(iterations):
        smooth = x - weight * _adjoint(xp, ahead, axes)
        new = [
            p + size * _difference(xp, smooth, axis) for p, axis in zip(ahead, axes, strict=True)
        ]
        new = _at_most_one(xp, new)
        t, before = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
        momentum = (before - 1) / t
        ahead = [p + momentum * (p - q) for p, q in zip(new, old, strict=True)]
        old = new
    return x - weight * _adjoint(xp, old, axes)


#: The longest step and component with which squares stay in the range of float32. What it takes
#: away from a larger one is beyond the last place of the result.
_LONGEST = 1e18


def _difference(xp: Any, x: Any, axis: int) -> Any:
    """Return the differences to the next elements along an axis, and 0 at the end."""
    first, rest = _cut(x, axis, slice(None, -1)), _cut(x, axis, slice(1, None))
    return xp.concat([rest - first, xp.zeros_like(_cut(x, axis, slice(1)))], axis=axis)


def _adjoint(xp: Any, fields: list[Any], axes: list[int]) -> Any:
    """Return what `_difference` is the adjoint of, summed over axes: fields are 0 at their ends."""
    total: Any = None
    for p, axis in zip(fields, axes, strict=True):
        before, first = _cut(p, axis, slice(None, -1)), _cut(p, axis, slice(1))
        own = xp.concat([-first, before - _cut(p, axis, slice(1, None))], axis=axis)
        total = own if total is None else total + own
    return total


def _at_most_one(xp: Any, fields: list[Any]) -> list[Any]:
    """Return fields whose vectors, over all axes and layers, are shortened to length 1."""
    fields = [xp.clip(p, -_LONGEST, _LONGEST) for p in fields]
    total: Any = None
    for p in fields:
        for layer in range(p.shape[0]):
            square = p[layer, ...] * p[layer, ...]
            total = square if total is None else total + square
    length = xp.sqrt(total)
    length = xp.where(length < 1, xp.ones_like(length), length)[None, ...]
    return [p / length for p in fields]


def _cut(x: Any, axis: int, where: slice) -> Any:
    """Return a part of an array along an axis."""
    return x[(*[slice(None)] * axis, where, ...)]

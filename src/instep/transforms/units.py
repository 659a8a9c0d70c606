"""Gradients seen unit by unit: what leads to one output of a layer."""

from typing import Any, Literal

from instep.hyperparameters import Epsilon, Positive
from instep.rule import Form
from instep.transform import Transform

_Axis = Literal["first", "last"]


class centralize(Transform):
    r"""Subtract from the gradient of each unit its mean (Yong et al. 2020, arXiv:2004.01461).

    .. math:: g_i \leftarrow g_i - \mathrm{mean}(g_i)

    The units :math:`g_i` of an array of two and more dimensions are those that lie along one axis:
    each is what leads to one output. Other arrays stay as they are.

    Parameters
    ----------
    units
        The axis along which units lie: ``"first"``, as in kernels of convolutions and in what is
        used as ``W @ x``, so that a unit of a matrix is a row; ``"last"``, as in ``x @ W``.

    Notes
    -----
    The same as `optax.centralize`. Sums are folded by halves in float64, in additions of whole
    arrays, so that they are the same bits on NumPy and CuPy; but CuPy's own functions take
    subnormal numbers of float32 for 0. An array of the size of the gradient is kept between the
    passes.

    With ``complex="pairs"``, the two parts are one more axis, the last.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import centralize
    >>> optimizer = chain(centralize(), SGD(lr=1.0))
    >>> optimizer.update(np.zeros((2, 2)), np.array([[1.0, 3.0], [5.0, 5.0]]))
    array([[ 1., -1.],
           [ 0.,  0.]])
    """

    stage = "gradient"

    units: _Axis = "first"

    def form_for(self, shape: tuple[int, ...]) -> Form:
        """Return a place for the means, where there are units."""
        return _form(shape, "mean")

    @staticmethod
    def rule(xp, w, g, s, h):
        return g - xp.apply(unit_means, g, units=h.units) if h.kind == "units" else g, {}


class adaptive_clip(Transform):
    r"""Bound the norm of the gradient of each unit by that of the unit (Brock et al. 2021).

    .. math::
        c_i = \lambda \max(\lVert w_i \rVert, \epsilon), \qquad
        g_i \leftarrow \frac{c_i}{\max(\lVert g_i \rVert, c_i)}\, g_i

    The units :math:`w_i` of an array of two and more dimensions are those that lie along one axis:
    each is what leads to one output. Any other array is one unit.

    Parameters
    ----------
    threshold
        Largest norm :math:`\lambda` of a gradient beside that of its unit. A gradient within it is
        not changed, not in the last bit. A norm that is not finite makes the gradient NaN or 0.
    eps
        Least norm :math:`\epsilon` that a unit counts with, so that zeros can move.
    units
        The axis along which units lie: ``"first"``, as in kernels of convolutions and in what is
        used as ``W @ x``, so that a unit of a matrix is a row; ``"last"``, as in ``x @ W``.

    Notes
    -----
    arXiv:2102.06171, equation 3. With ``units="last"``, the same as `optax.adaptive_grad_clip` for
    kernels and matrices; timm has the units first. Norms of units are the same bits on NumPy and
    CuPy, as the means of `centralize` are, and two arrays are kept between the passes.

    With ``complex="pairs"``, the two parts are one more axis, the last.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import adaptive_clip
    >>> optimizer = chain(adaptive_clip(0.5), SGD(lr=1.0))
    >>> optimizer.update(np.array([[6.0, 8.0], [6.0, 8.0]]), np.array([[30.0, 40.0], [3.0, 4.0]]))
    array([[3., 4.],
           [3., 4.]])
    """

    stage = "gradient"

    threshold: Positive = 0.01
    eps: Epsilon = 1e-3
    units: _Axis = "first"

    real_slots = ("w_norm", "g_norm")

    def form_for(self, shape: tuple[int, ...]) -> Form:
        """Return places for norms of units, where there are some."""
        return _form(shape, "w_norm", "g_norm")

    @staticmethod
    def rule(xp, w, g, s, h):
        if h.kind == "units":
            w_norm, g_norm = (xp.apply(unit_norms, abs(x), units=h.units) for x in (w, g))
        else:
            w_norm, g_norm = xp.norm(w), xp.norm(g)
        limit = h.threshold * xp.maximum(w_norm, h.eps)
        return xp.where(g_norm <= limit, g, limit * (g / g_norm)), {}


def _form(shape: tuple[int, ...], *between: str) -> Form:
    if len(shape) < 2 or 0 in shape:
        return Form(slots=())
    return Form(slots=(), between=between, kind="units")


def unit_means(xp: Any, x: Any, *, units: str) -> Any:
    """Return `x` with the mean of its unit in the place of each element."""
    if xp.isdtype(x.dtype, "complex floating"):  # by parts, for libraries divide each in their way
        re, im = (unit_means(xp, part, units=units) for part in (xp.real(x), xp.imag(x)))
        return xp.astype(re, x.dtype) + 1j * xp.astype(im, x.dtype)
    table, axis = _table(xp, x, units)
    return _spread(xp, folded_sums(table, axis) / table.shape[axis], x, axis)


def unit_norms(xp: Any, x: Any, *, units: str) -> Any:
    """Return magnitudes `x` with the norm of its unit in the place of each element."""
    table, axis = _table(xp, x, units)
    if x.dtype != xp.float64:  # whose squares neither overflow nor vanish
        return _spread(xp, xp.sqrt(folded_sums(table * table, axis)), x, axis)
    largest = xp.max(table, axis=axis, keepdims=True)
    size = xp.where(largest > 0, largest, xp.ones_like(largest))
    table = table / size
    return _spread(xp, size * xp.sqrt(folded_sums(table * table, axis)), x, axis)


def _table(xp: Any, x: Any, units: str) -> tuple[Any, int]:
    """Return a matrix of float64 whose rows or columns are the units, and the axis along these."""
    shape, axis = ((x.shape[0], -1), 1) if units == "first" else ((-1, x.shape[-1]), 0)
    return xp.astype(xp.reshape(x, shape), xp.float64), axis


def folded_sums(table: Any, axis: int) -> Any:
    """Return sums along an axis: folded by halves, in an order that no library chooses."""
    rest = 0.0
    while (length := table.shape[axis]) > 1:
        half = length // 2
        a, b, last = (
            table[:, cut] if axis else table[cut, :]
            for cut in (slice(half), slice(half, 2 * half), slice(2 * half, None))
        )
        rest = rest + last if length % 2 else rest
        table = a + b
    return table + rest


def _spread(xp: Any, sums: Any, x: Any, axis: int) -> Any:
    """Return the numbers of units in the places of their elements in `x`."""
    others = (1,) * (x.ndim - 1)
    numbers = xp.reshape(xp.astype(sums, x.dtype), (-1, *others) if axis else (*others, -1))
    return xp.broadcast_to(numbers, x.shape)

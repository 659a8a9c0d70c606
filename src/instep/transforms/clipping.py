"""Gradients kept from being too large."""

from typing import Annotated, Any

from instep.hyperparameters import Domain, Positive, Schedule
from instep.transform import Transform

_Limit = Annotated[
    float | Schedule, Domain(lower=0.0, open_lower=True, infinite=True, survives_rounding=True)
]


class clip_by_value(Transform):
    r"""Keep every element of the gradient in an interval; of a complex one, the modulus below `c`.

    .. math:: g \leftarrow \min(\max(g, -c), c)

    The phase of complex gradients is kept: :math:`g \leftarrow c\, g / |g|` where :math:`|g| > c`.

    Parameters
    ----------
    limit
        Largest magnitude :math:`c` of an element. NaN stays NaN. A limit that is infinite, or
        beyond the dtype of the arithmetic, as 1e39 is beyond float32, is none.

    Notes
    -----
    The same as `torch.nn.utils.clip_grad_value_` and `optax.clip`.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import clip_by_value
    >>> chain(clip_by_value(1.0), SGD(lr=1.0)).update(np.zeros(2), np.array([3.0, -0.5]))
    array([-1. ,  0.5])
    """

    stage = "gradient"

    limit: _Limit = 1.0

    @staticmethod
    def rule(xp, w, g, s, h):
        return xp.clip_abs(g, h.limit), {}


class clip_by_norm(Transform):
    r"""Scale the gradient of each tensor to a norm of at most `max_norm`.

    .. math:: g \leftarrow \frac{c}{\max(\lVert g \rVert, c)}\, g

    Parameters
    ----------
    max_norm
        Largest Euclidean norm :math:`c` of the gradient of a tensor. A gradient within it is
        not changed, not in the last bit. A norm that is not finite makes the gradient NaN or 0.
        It must be neither 0 nor infinite in the dtype of the arithmetic.

    Notes
    -----
    The same as `optax.clip_by_block_rms` but for the norm, which is not divided by the size.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import clip_by_norm
    >>> chain(clip_by_norm(1.0), SGD(lr=1.0)).update(np.zeros(2), np.array([3.0, 4.0]))
    array([-0.6, -0.8])
    """

    stage = "gradient"
    tensor_readings = ("norm",)

    max_norm: Positive = 1.0

    @staticmethod
    def rule(xp, w, g, s, h):
        norm = xp.norm(g)
        return within(xp, g, norm, h.max_norm), {"norm": norm}


class clip_by_global_norm(Transform):
    r"""Scale all gradients together to a norm of at most `max_norm` (Pascanu et al. 2013).

    .. math::
        r &= \lVert (g_1, g_2, \dots) \rVert \\
        g_i &\leftarrow \frac{c}{\max(r, c)}\, g_i

    Parameters
    ----------
    max_norm
        Largest Euclidean norm :math:`c` of all gradients of the tree, taken as one vector.
        Gradients within it are not changed, not in the last bit. It must be neither 0 nor
        infinite in the dtype of the arithmetic.

    Notes
    -----
    The same as `optax.clip_by_global_norm`; `torch.nn.utils.clip_grad_norm_` divides by the norm
    plus 1e-6. The norm is a canonical sum: the same bits on every engine, for any number of
    threads. All tensors of the tree must be of one device.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import clip_by_global_norm
    >>> optimizer = chain(clip_by_global_norm(1.0), SGD(lr=1.0))
    >>> optimizer.update([np.zeros(1), np.zeros(1)], [np.array([3.0]), np.array([4.0])])
    [array([-0.6]), array([-0.8])]
    """

    stage = "gradient"
    tree_readings = ("norm",)

    max_norm: Positive = 1.0

    @staticmethod
    def rule(xp, w, g, s, h):
        norm = xp.tree_norm(g)
        return within(xp, g, norm, h.max_norm), {"norm": norm}


def within(xp: Any, x: Any, norm: Any, limit: Any) -> Any:
    """Return `x`, an array of this norm, scaled to one of at most `limit`."""
    factor = limit / xp.maximum(norm, limit)
    # Of two factors neither vanishes in the dtype of `x`, as 1 / 4e38 does in float32.
    part = xp.where(factor < 2.0**-100, 2.0**-100, 1.0)
    return factor / part * (part * x)

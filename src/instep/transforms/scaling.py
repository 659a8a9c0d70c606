"""Losses that are scaled, so that nothing of their gradients is lost in 16 bits."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from instep.hyperparameters import Domain, Schedule
from instep.transform import Transform

#: Between these, a scale and its reciprocal are normal numbers of float32.
_LEAST, _MOST = 2.0**-126, 2.0**126


class dynamic_scale(Transform):
    r"""Undo the scale of the loss, and keep it about as large as the gradients allow.

    .. math::
        g &\leftarrow \tfrac{1}{c}\, g \\
        c &\leftarrow \begin{cases}
            b\, c & \text{if that is not finite anywhere in the tree} \\
            a\, c & \text{after } n \text{ calls in a row in which it is} \\
            c & \text{else}
        \end{cases}

    The loss is to be multiplied by the scale :math:`c`, the attribute `scale` of the chain, before
    its gradient is computed in float16, where small elements would be rounded to zero. In the first
    case the call is turned away, as by `skip_nonfinite`.

    Parameters
    ----------
    initial
        The scale at the first call. It cannot be changed later.
    growth, backoff
        The factors :math:`a` and :math:`b`. With powers of two nothing is rounded.
    interval
        The number :math:`n` of calls after which the scale grows.

    Notes
    -----
    The scale is that of `torch.amp.GradScaler`, step by step, but that PyTorch's is rounded to
    float32 and may become 0. This one stays between :math:`2^{-126}` and :math:`2^{126}`, so that
    it and its reciprocal are normal numbers of float32: a change that would lead out of there is
    not made. optax has none.

    Put it first, so that what follows, such as clipping, sees the gradient of the loss itself. It
    cannot stand after `accumulate`: gradients of several calls may have been scaled differently.
    Before it, each call counts for `interval`, and one that is turned away is not accumulated.
    The attribute `skipped` of the chain counts the calls that were turned away.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import dynamic_scale
    >>> optimizer, w = chain(dynamic_scale(2.0**16), SGD(lr=1.0)), np.zeros(1, "float16")
    >>> for _ in range(3):  # the gradient of 3 w, in float16
    ...     with np.errstate(over="ignore"):
    ...         gradient = np.array([3.0 * optimizer.scale]).astype("float16")
    ...     print(optimizer.update(w, gradient), optimizer.scale)
    [0.] 32768.0
    [0.] 16384.0
    [-3.] 16384.0
    """

    stage = "gradient"
    guarded = True

    initial: Annotated[float, Domain(lower=_LEAST, upper=_MOST, fixed=True)] = 2.0**16
    growth: Annotated[float | Schedule, Domain(lower=1.0)] = 2.0
    backoff: Annotated[float | Schedule, Domain(lower=0.0, upper=1.0, open_lower=True)] = 0.5
    interval: Annotated[float | Schedule, Domain(lower=1, integer=True)] = 2000

    tree_numbers: ClassVar[Mapping[str, float | str]] = {"loss_scale": "initial", "streak": 0.0}
    lasting_numbers = ("loss_scale", "streak")
    number_domains: ClassVar[Mapping[str, Domain]] = {
        "loss_scale": Domain(lower=_LEAST, upper=_MOST),
        "streak": Domain(lower=0, integer=True),
    }
    tree_readings = ("count",)

    @staticmethod
    def rule(xp, w, g, s, h):
        g = 1 / s.loss_scale * g
        count = xp.require(xp.isfinite(g))
        streak = xp.where(count == 0, s.streak + 1, 0.0)
        grows = streak >= h.interval
        factor = xp.where(grows, h.growth, xp.where(count == 0, 1.0, h.backoff))
        scale = factor * s.loss_scale
        fits = (scale >= _LEAST) & (scale <= _MOST)
        return g, {
            "loss_scale": xp.where(fits, scale, s.loss_scale),
            "streak": xp.where(grows, 0.0, streak),
            "count": count,
        }

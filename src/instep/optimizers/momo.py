"""Momentum that takes its rate from a model of the objective, made of its own past."""

from collections.abc import Mapping
from typing import ClassVar

from instep.hyperparameters import DecayRate, Epsilon, NonNegative, RealArray, Schedule
from instep.optimizer import Optimizer


class MoMo(Optimizer):
    r"""Momentum models (Schaipp et al. 2023, arXiv:2305.07583, algorithm 1).

    The value `f` of the objective, which `update` is given, gradients and points of the past make
    a model that is linear; the step goes where it reaches the lowest value, and no farther:

    .. math::
        \bar f &\leftarrow \beta \bar f + (1 - \beta)\, f \\
        \gamma &\leftarrow \beta \gamma + (1 - \beta) \langle g, w \rangle \\
        m &\leftarrow \beta m + (1 - \beta)\, g \\
        w &\leftarrow w - \min\left(\eta, \frac{\max(\bar f - f^* - \gamma + \langle m, w \rangle,
            0)}{\lVert m \rVert^2}\right) m

    with means that start as the first `f`, :math:`\langle g, w \rangle` and `g`. Products and
    the norm are over all arrays of the tree.

    Parameters
    ----------
    lr
        The largest rate :math:`\eta`.
    beta
        Decay rate :math:`\beta` of the means.
    lowest
        The least value :math:`f^*` that the objective can have, or a bound below it: 0 for most
        losses.

    Notes
    -----
    optax.contrib has the same rule, and options to estimate the lowest value and to decay
    weights. A tensor without a gradient adds nothing to the products of that step.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import MoMo
    >>> w = np.array([3.0, -4.0])
    >>> MoMo().update(w, 2 * w, value=w @ w)
    array([ 1.5, -2. ])
    """

    lr: NonNegative = 1.0
    beta: DecayRate = 0.9
    lowest: float | Schedule | RealArray = 0.0

    slots = ("m",)
    positive_slots = ()
    tree_numbers: ClassVar[Mapping[str, float]] = {"begun": 0.0, "mean": 0.0, "gamma": 0.0}
    needs_value = True

    @staticmethod
    def rule(xp, w, g, s, h):
        beta = s.begun * h.beta  # 0 in the first step
        mean = beta * s.mean + (1 - beta) * h.value
        gamma = beta * s.gamma + (1 - beta) * xp.tree_sum(inner(xp, g, w))
        m = beta * s.m + (1 - beta) * g
        norm, along = xp.tree_norm(m), xp.tree_sum(inner(xp, m, w))
        above = xp.maximum(mean - h.lowest - gamma + along, 0.0)
        rate = xp.where(above == 0, 0.0, xp.minimum(h.lr, above / (norm * norm)))
        return w - rate * m, {"m": m, "begun": 1.0, "mean": mean, "gamma": gamma}


class MoMoAdam(Optimizer):
    r"""Adam with the rate of momentum models (Schaipp et al. 2023, arXiv:2305.07583, algorithm 2).

    As in `MoMo`, with means that start at 0, and distances in which Adam steps:

    .. math::
        \bar f &\leftarrow \beta_1 \bar f + (1 - \beta_1)\, f \\
        \gamma &\leftarrow \beta_1 \gamma + (1 - \beta_1) \langle g, w \rangle \\
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        u &= \frac{m}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} \\
        h &= \bar f - (1 - \beta_1^t) f^* - \gamma + \langle m, w \rangle \\
        w &\leftarrow w - \min\left(\frac{\eta}{1 - \beta_1^t}, \frac{\max(h, 0)}
            {\langle m, u \rangle} \right) u

    The products are over all arrays of the tree.

    Parameters
    ----------
    lr
        The largest rate :math:`\eta`.
    beta1
        Decay rate of the mean gradient, and of the model.
    beta2
        Decay rate of the mean squared gradient.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    lowest
        The least value :math:`f^*` that the objective can have, or a bound below it: 0 for most
        losses.

    Notes
    -----
    optax.contrib has the same rule, and options to estimate the lowest value and to decay
    weights. A tensor without a gradient adds nothing to the products of that step.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import MoMoAdam
    >>> w = np.array([3.0, -4.0])
    >>> MoMoAdam(eps=0).update(w, 2 * w, value=w @ w).round(2)
    array([ 2.99, -3.99])
    """

    lr: NonNegative = 0.01
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-8
    lowest: float | Schedule | RealArray = 0.0

    slots = ("m", "v")
    real_slots = positive_slots = ("v",)
    tree_numbers: ClassVar[Mapping[str, float]] = {"mean": 0.0, "gamma": 0.0}
    needs_value = True

    @staticmethod
    def rule(xp, w, g, s, h):
        mean = h.beta1 * s.mean + (1 - h.beta1) * h.value
        gamma = h.beta1 * s.gamma + (1 - h.beta1) * xp.tree_sum(inner(xp, g, w))
        m = h.beta1 * s.m + (1 - h.beta1) * g
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(g)
        step = m / (xp.sqrt(v / (1 - h.beta2_t)) + h.eps)
        weights = 1 - h.beta1_t
        along, square = xp.tree_sum(inner(xp, m, w)), xp.tree_sum(inner(xp, m, step))
        above = xp.maximum(mean - weights * h.lowest - gamma + along, 0.0)
        rate = xp.where(above == 0, 0.0, xp.minimum(h.lr / weights, above / square))
        return w - rate * step, {"m": m, "v": v, "mean": mean, "gamma": gamma}


def inner(xp, x, y):
    """Return what an inner product sums: in float64, where those of float32 are exact."""
    return xp.real(xp.conj(xp.astype(x, xp.float64)) * xp.astype(y, xp.float64))

"""AdamW on gradients whose noise is lowered by what the last ones said."""

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class MARS(Optimizer):
    r"""MARS, variance reduction for AdamW (Yuan et al. 2024, arXiv:2411.10438, algorithm 2).

    With the gradient :math:`g_{t-1}` of the step before (at the first, :math:`g` itself):

    .. math::
        c &= g + \gamma\, \frac{\beta_1}{1 - \beta_1}\, (g - g_{t-1}) \\
        c &\leftarrow \frac{c}{\max(1, \lVert c \rVert)} \\
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, c \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, c \odot c \\
        w &\leftarrow (1 - \eta \lambda)\, w
            - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    The norm is over each array of the tree.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean squared gradient.
    gamma
        Strength of the correction; 0: AdamW on clipped gradients.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    weight_decay
        Strength :math:`\lambda` of the decay, in units of the learning rate.

    Notes
    -----
    This is the approximate form, as people train with it: the exact one takes :math:`g_{t-1}` on
    the data of this step, a second gradient. The authors' code takes 0 for the gradient before
    the first, and steps arrays of less than two dimensions by AdamW. PyTorch, optax and Keras
    have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import MARS
    >>> MARS(lr=0.5, eps=0).update(np.array([1.0, 1.0]), np.array([4.0, -0.1]))
    array([0.5, 1.5])
    """

    lr: NonNegative = 0.003
    beta1: DecayRate = 0.95
    beta2: DecayRate = 0.99
    gamma: NonNegative = 0.025
    eps: Epsilon = 1e-8
    weight_decay: NonNegative = 0.0

    slots = ("m", "v", "previous")
    real_slots = positive_slots = ("v",)

    @staticmethod
    def scalars(h):
        """Return whether this is the first step, which has no gradient before it."""
        return {"first": h.t == 1}

    @staticmethod
    def rule(xp, w, g, s, h):
        change = xp.zeros_like(g) if h.first else g - s.previous
        c = g + h.gamma * h.beta1 / (1 - h.beta1) * change
        c = c / xp.maximum(1.0, xp.norm(c))
        m = h.beta1 * s.m + (1 - h.beta1) * c
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(c)
        rate = h.lr / (1 - h.beta1_t)
        v_hat = v / (1 - h.beta2_t)
        new = (1 - h.lr * h.weight_decay) * w - rate * m / (xp.sqrt(v_hat) + h.eps)
        return new, {"m": m, "v": v, "previous": g}

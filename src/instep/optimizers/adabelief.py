"""Adam whose steps grow where the gradient is as predicted."""

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class AdaBelief(Optimizer):
    r"""AdaBelief (Zhuang et al. 2020, arXiv:2010.07468, algorithm 2).

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        s &\leftarrow \beta_2 s + (1 - \beta_2)\, (g - m) \odot (g - m) + \epsilon \\
        w &\leftarrow w - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{s / (1 - \beta_2^t)} + \epsilon}

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    beta1
        Decay rate of the mean gradient, which is the prediction.
    beta2
        Decay rate of the mean squared error of the prediction.
    eps
        Term :math:`\epsilon`, added to `s` at every step and to its root.

    Notes
    -----
    optax has the same rule (its two terms eps and eps_root are this one). PyTorch and Keras
    have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import AdaBelief
    >>> AdaBelief(lr=0.5, beta1=0.5, eps=0).update(np.array([1.0]), np.array([4.0]))
    array([0.])
    """

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-16

    slots = ("m", "s")
    real_slots = positive_slots = ("s",)

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.beta1 * s.m + (1 - h.beta1) * g
        error = g - m
        variance = h.beta2 * s.s + (1 - h.beta2) * xp.abs_sq(error) + h.eps
        rate = h.lr / (1 - h.beta1_t)
        corrected = variance / (1 - h.beta2_t)
        return w - rate * m / (xp.sqrt(corrected) + h.eps), {"m": m, "s": variance}

"""Adam with a learning rate that never grows."""

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class AMSGrad(Optimizer):
    r"""AMSGrad (Reddi, Kale & Kumar 2018, arXiv:1904.09237, algorithm 2), bias-corrected.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        x &\leftarrow \max(x, v) \\
        w &\leftarrow w - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{x / (1 - \beta_2^t)} + \epsilon}

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean squared gradient.
    eps
        Term :math:`\epsilon` that keeps the division finite.

    Notes
    -----
    PyTorch (``Adam(amsgrad=True)``) and Keras have the same rule. The paper has no bias
    corrections and no eps; optax keeps the maximum of the corrected mean, ``max(x, v/c2)``.
    `Adam`, `AdamW` and `NAdam` have the maximum as an option.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import AMSGrad
    >>> AMSGrad(lr=0.5, eps=0).update(np.array([1.0, 1.0]), np.array([4.0, -0.1]))
    array([0.5, 1.5])
    """

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-8

    slots = ("m", "v", "x")
    real_slots = positive_slots = ("v", "x")

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.beta1 * s.m + (1 - h.beta1) * g
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(g)
        x = xp.maximum(s.x, v)
        rate = h.lr / (1 - h.beta1_t)
        x_hat = x / (1 - h.beta2_t)
        return w - rate * m / (xp.sqrt(x_hat) + h.eps), {"m": m, "v": v, "x": x}

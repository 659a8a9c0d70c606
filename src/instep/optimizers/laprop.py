"""Adam that normalizes gradients first, and takes their mean then."""

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class LaProp(Optimizer):
    r"""LaProp (Ziyin, Wang & Ueda 2020, arXiv:2002.04839, algorithm 1).

    .. math::
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        m &\leftarrow \beta_1 m
            + (1 - \beta_1)\, \frac{g}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} \\
        w &\leftarrow w - \eta\, \frac{m}{1 - \beta_1^t}

    Any pair of decay rates is stable: with :math:`\beta_2 = 0`, it is momentum of signs.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`: about the size of a step.
    beta1
        Decay rate of the mean of normalized gradients.
    beta2
        Decay rate of the mean squared gradient.
    eps
        Term :math:`\epsilon` that keeps the division finite.

    Notes
    -----
    The authors' code keeps the learning rate inside of the mean, the same path while it is
    constant. PyTorch, optax and Keras have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import LaProp
    >>> LaProp(lr=0.5, eps=0).update(np.array([1.0, 1.0]), np.array([4.0, -0.1]))
    array([0.5, 1.5])
    """

    lr: NonNegative = 4e-4
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-15

    slots = ("m", "v")
    real_slots = positive_slots = ("v",)

    @staticmethod
    def rule(xp, w, g, s, h):
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(g)
        v_hat = v / (1 - h.beta2_t)
        m = h.beta1 * s.m + (1 - h.beta1) * g / (xp.sqrt(v_hat) + h.eps)
        return w - h.lr / (1 - h.beta1_t) * m, {"m": m, "v": v}

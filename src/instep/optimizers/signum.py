"""Steps of one size, along the sign of the momentum."""

from instep.hyperparameters import DecayRate, NonNegative
from instep.optimizer import Optimizer


class Signum(Optimizer):
    r"""Signum, sign descent with momentum (Bernstein et al. 2018, arXiv:1802.04434).

    .. math::
        m &\leftarrow \beta m + (1 - \beta)\, g \\
        w &\leftarrow w - \eta\, \mathrm{sign}(m)

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`: the size of every step of every element.
    beta
        Decay rate of the mean gradient; 0 gives signSGD.

    Notes
    -----
    In optax it is ``chain(ema(beta, debias=False), sign_sgd(lr))``. PyTorch and Keras have
    none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Signum
    >>> Signum(lr=0.25).update(np.array([1.0, 1.0, 1.0]), np.array([4.0, -0.1, 0.0]))
    array([0.75, 1.25, 1.  ])
    """

    lr: NonNegative = 0.001
    beta: DecayRate = 0.9

    slots = ("m",)
    positive_slots = ()

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.beta * s.m + (1 - h.beta) * g
        return w - h.lr * xp.sign(m), {"m": m}

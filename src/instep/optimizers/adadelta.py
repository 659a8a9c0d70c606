"""Steps in the units of the parameters: no learning rate to tune."""

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class AdaDelta(Optimizer):
    r"""AdaDelta (Zeiler 2012, arXiv:1212.5701, algorithm 1).

    .. math::
        v &\leftarrow \rho v + (1 - \rho)\, g \odot g \\
        d &= \frac{\sqrt{u + \epsilon}}{\sqrt{v + \epsilon}} \odot g \\
        u &\leftarrow \rho u + (1 - \rho)\, d \odot d \\
        w &\leftarrow w - \eta\, d

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`: a factor on the step, 1 in the paper.
    rho
        Decay rate :math:`\rho` of the running means of squared gradients and squared steps.
    eps
        Term :math:`\epsilon` that lets the first steps happen: they are of its root.

    Notes
    -----
    PyTorch has the same rule with rho 0.9; optax the same with rho 0.9; Keras the same with lr
    0.001 and eps 1e-7.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import AdaDelta
    >>> AdaDelta(rho=0.75, eps=0.75).update(np.array([1.0]), np.array([3.0]))
    array([-0.5])
    """

    lr: NonNegative = 1.0
    rho: DecayRate = 0.95
    eps: Epsilon = 1e-6

    slots = ("v", "u")
    real_slots = positive_slots = ("v", "u")

    @staticmethod
    def rule(xp, w, g, s, h):
        v = h.rho * s.v + (1 - h.rho) * xp.abs_sq(g)
        d = xp.sqrt(s.u + h.eps) / xp.sqrt(v + h.eps) * g
        u = h.rho * s.u + (1 - h.rho) * xp.abs_sq(d)
        return w - h.lr * d, {"v": v, "u": u}

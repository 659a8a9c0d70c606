"""Momentum with a rate for each layer, for large batches."""

from instep.hyperparameters import DecayRate, NonNegative
from instep.optimizer import Optimizer


class LARS(Optimizer):
    r"""Layer-wise adaptive rate scaling (You, Gitman & Ginsburg 2017, arXiv:1708.03888).

    .. math::
        r &= \eta\, \frac{\lVert w \rVert}{\lVert g \rVert + \lambda \lVert w \rVert} \\
        v &\leftarrow \alpha v + \gamma r\, (g + \lambda w) \\
        w &\leftarrow w - v

    The norms are over each array of the tree, which stands for a layer; :math:`r = 1` where one
    of them is 0.

    Parameters
    ----------
    lr
        Learning rate :math:`\gamma`.
    momentum
        Share :math:`\alpha` of the velocity that a step keeps.
    eta
        Trust coefficient :math:`\eta`: the share of its norm by which a layer changes in a step.
    weight_decay
        Strength :math:`\lambda` of the decay that is added to the gradient.

    Notes
    -----
    optax divides by the norm of the sum :math:`g + \lambda w` instead of the sum of norms: the
    same without decay. PyTorch and Keras have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import LARS
    >>> LARS(lr=1.0, eta=0.5).update(np.array([3.0, 4.0]), np.array([0.0, 0.1]))
    array([3. , 1.5])
    """

    lr: NonNegative = 1.0
    momentum: DecayRate = 0.9
    eta: NonNegative = 0.001
    weight_decay: NonNegative = 0.0

    slots = ("v",)
    positive_slots = ()

    @staticmethod
    def rule(xp, w, g, s, h):
        w_norm, g_norm = xp.norm(w), xp.norm(g)
        ratio = h.eta * w_norm / (g_norm + h.weight_decay * w_norm)
        ratio = xp.where((w_norm > 0) & (g_norm > 0), ratio, 1.0)
        v = h.momentum * s.v + h.lr * ratio * (g + h.weight_decay * w)
        return w - v, {"v": v}

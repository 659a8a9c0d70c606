"""Learning rates that adapt to the sum of squared gradients."""

from instep.hyperparameters import Epsilon, NonNegative
from instep.optimizer import Optimizer


class AdaGrad(Optimizer):
    r"""AdaGrad (Duchi, Hazan & Singer 2011, JMLR 12:2121-2159).

    .. math::
        h &\leftarrow h + g \odot g \\
        w &\leftarrow w - \eta\, \frac{g}{\sqrt{h} + \epsilon}

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    eps
        Term :math:`\epsilon` that keeps the division finite.

    Notes
    -----
    PyTorch has eps 1e-10 and a decay of the learning rate of its own; optax and Keras start `h`
    at 0.1 and have eps inside the root.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import AdaGrad
    >>> AdaGrad(lr=0.5, eps=0).update(np.array([1.0, 1.0]), np.array([4.0, -0.1]))
    array([0.5, 1.5])
    """

    lr: NonNegative = 0.01
    eps: Epsilon = 1e-7

    slots = ("h",)
    real_slots = positive_slots = ("h",)

    @staticmethod
    def rule(xp, w, g, s, h):
        total = s.h + xp.abs_sq(g)
        return w - h.lr * g / (xp.sqrt(total) + h.eps), {"h": total}

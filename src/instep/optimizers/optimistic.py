"""Gradient descent that expects the next gradient to change as the last one did."""

from instep.hyperparameters import NonNegative
from instep.optimizer import Optimizer


class OptimisticGD(Optimizer):
    r"""Optimistic gradient descent (Daskalakis et al. 2017, arXiv:1711.00141).

    .. math:: w \leftarrow w - \eta\, (g + \omega (g - g_{t-1}))

    The difference is 0 at the first step. In a game, where each player's gradient depends on the
    other's parameters, plain descent circles the equilibrium, and this rule comes to it.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    optimism
        Share :math:`\omega` of the last change that is expected to come again.

    Notes
    -----
    The generalized form of Mokhtari, Ozdaglar & Pattathil (2019, arXiv:1901.08511) has two rates,
    here :math:`\alpha = \eta` and :math:`\beta = \eta \omega`; optax multiplies both by a learning
    rate. PyTorch and Keras have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import OptimisticGD
    >>> optimizer, w = OptimisticGD(lr=0.5), np.array([1.0])
    >>> w = optimizer.update(w, np.array([1.0]))
    >>> optimizer.update(w, np.array([0.5]))
    array([0.5])
    """

    lr: NonNegative = 0.01
    optimism: NonNegative = 1.0

    slots = ("previous",)
    positive_slots = ()

    @staticmethod
    def scalars(h):
        """Return whether this is the first step, which has no gradient before it."""
        return {"first": h.t == 1}

    @staticmethod
    def rule(xp, w, g, s, h):
        change = xp.zeros_like(g) if h.first else g - s.previous
        return w - (h.lr * g + h.lr * h.optimism * change), {"previous": g}

"""Stochastic gradient descent."""

from instep.hyperparameters import NonNegative
from instep.optimizer import Optimizer


class SGD(Optimizer):
    r"""Stochastic gradient descent (Robbins & Monro 1951, doi:10.1214/aoms/1177729586).

    .. math:: w \leftarrow w - \eta\, g

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.

    Notes
    -----
    The same rule as `torch.optim.SGD` and `optax.sgd` without momentum.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> SGD(lr=0.5).update(params, {"w": np.array([1.0, -1.0])})
    {'w': array([0.5, 2.5])}
    """

    lr: NonNegative = 0.01

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.lr * g, {}

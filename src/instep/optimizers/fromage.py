"""Steps that change each layer by a given share of itself."""

from instep.hyperparameters import NonNegative
from instep.optimizer import Optimizer


class Fromage(Optimizer):
    r"""Fromage, Frobenius matched gradient descent (Bernstein et al. 2020, arXiv:2002.03432).

    .. math::
        w \leftarrow \frac{1}{\sqrt{1 + \eta^2}}
            \left( w - \eta\, \frac{\lVert w \rVert}{\lVert g \rVert}\, g \right)

    The norms are over each array of the tree, which stands for a layer; their ratio is 1 where
    one of them is 0. The root keeps the norm of a layer from growing where `g` is orthogonal to
    it.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`: the share of its norm by which a layer changes in a step.

    Notes
    -----
    optax has the same rule, and the authors' code, which may bound norms too. PyTorch and Keras
    have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Fromage
    >>> Fromage(lr=0.75).update(np.array([3.0, 4.0]), np.array([0.8, -0.6]))
    array([0., 5.])
    """

    lr: NonNegative = 0.01

    @staticmethod
    def rule(xp, w, g, s, h):
        w_norm, g_norm = xp.norm(w), xp.norm(g)
        ratio = xp.where((w_norm > 0) & (g_norm > 0), w_norm / g_norm, 1.0)
        return (w - h.lr * ratio * g) / xp.sqrt(1 + h.lr * h.lr), {}

"""Gradient descent with a velocity."""

from instep.hyperparameters import DecayRate, NonNegative, Share
from instep.optimizer import Optimizer


class Momentum(Optimizer):
    r"""Momentum, the heavy ball (Polyak 1964, doi:10.1016/0041-5553(64)90137-5).

    .. math::
        v &\leftarrow \alpha v - (1 - \tau)\, \eta\, g \\
        w &\leftarrow w + v

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    momentum
        Share :math:`\alpha` of the velocity that a step keeps.
    dampening
        Share :math:`\tau` of a gradient that does not get into the velocity. The first gradient
        does as a whole, as in PyTorch.

    Notes
    -----
    Keras has the same rule. PyTorch and optax keep the velocity without the learning rate,
    ``b = momentum*b + g; w -= lr*b``: the same path only while the learning rate is constant.
    Dampening is PyTorch's.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Momentum
    >>> optimizer, params = Momentum(lr=0.5), {"w": np.array([1.0])}
    >>> for _ in range(2):
    ...     params = optimizer.update(params, {"w": np.array([1.0])})
    >>> params
    {'w': array([-0.45])}
    """

    lr: NonNegative = 0.01
    momentum: DecayRate = 0.9
    dampening: Share = 0.0

    slots = ("v",)
    positive_slots = ()

    @staticmethod
    def rule(xp, w, g, s, h):
        rate = h.lr * xp.where(h.t == 1, 1.0, 1 - h.dampening)
        v = h.momentum * s.v - rate * g
        return w + v, {"v": v}


class Nesterov(Optimizer):
    r"""Nesterov's accelerated gradient (Nesterov 1983), as Sutskever et al. (2013) write it.

    .. math::
        v &\leftarrow \alpha v - \eta\, g \\
        w &\leftarrow w + \alpha v - \eta\, g

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    momentum
        Share :math:`\alpha` of the velocity that a step keeps.

    Notes
    -----
    The parameters are the look-ahead point, where the gradient is taken. Keras has the same
    rule; PyTorch and optax write ``w -= lr*(g + momentum*b)``, the same path while the learning
    rate is constant.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Nesterov
    >>> Nesterov(lr=0.5).update(np.array([1.0]), np.array([1.0]))
    array([0.05])
    """

    lr: NonNegative = 0.01
    momentum: DecayRate = 0.9

    slots = ("v",)
    positive_slots = ()

    @staticmethod
    def rule(xp, w, g, s, h):
        step = h.lr * g
        v = h.momentum * s.v - step
        return w + (h.momentum * v - step), {"v": v}

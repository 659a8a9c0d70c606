"""Steps of one size along the sign of the momentum, and decay."""

from instep.hyperparameters import DecayRate, NonNegative
from instep.optimizer import Optimizer


class Tiger(Optimizer):
    r"""Tiger, a tight-fisted optimizer (Su 2023, https://kexue.fm/archives/9512).

    .. math::
        m &\leftarrow \beta m + (1 - \beta)\, g \\
        w &\leftarrow (1 - \eta \lambda)\, w - \eta\, \mathrm{sign}(m)

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`: the size of every step of every element.
    beta
        Decay rate of the mean gradient.
    weight_decay
        Strength :math:`\lambda` of the decay, in units of the learning rate.

    Notes
    -----
    `Lion` with equal decay rates, and `Signum` with decay. The author's code scales the rate of a
    matrix by its root mean square, halves that of biases, and decays neither those nor gains.
    PyTorch, optax and Keras have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Tiger
    >>> optimizer = Tiger(lr=0.25, weight_decay=0.5)
    >>> optimizer.update(np.array([1.0, 1.0, 1.0]), np.array([4.0, -0.1, 0.0]))
    array([0.625, 1.125, 0.875])
    """

    lr: NonNegative = 0.001
    beta: DecayRate = 0.965
    weight_decay: NonNegative = 0.01

    slots = ("m",)
    positive_slots = ()

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.beta * s.m + (1 - h.beta) * g
        return (1 - h.lr * h.weight_decay) * w - h.lr * xp.sign(m), {"m": m}

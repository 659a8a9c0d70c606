"""Gradient descent with a velocity."""

from typing import ClassVar

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
    lr_in_velocity
        Whether the velocity contains the learning rate, as above. Else it is
        :math:`b \leftarrow \alpha b + (1 - \tau)\, g`, and the step
        :math:`w \leftarrow w - \eta\, b`: a change of the learning rate is felt at once.

    Notes
    -----
    Keras, scikit-learn and DeZero have the same rule; PyTorch (its momentum_buffer is `b`) and
    optax (its trace) have ``lr_in_velocity=False``, the same path only while the learning rate is
    constant. Dampening is PyTorch's.

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
    lr_in_velocity: bool = True

    slots = ("v", "b")
    positive_slots = ()
    optional_slots: ClassVar = {"v": ("lr_in_velocity", True), "b": ("lr_in_velocity", False)}

    @staticmethod
    def rule(xp, w, g, s, h):
        share = xp.where(h.t == 1, 1.0, 1 - h.dampening)
        if not h.lr_in_velocity:
            b = h.momentum * s.b + share * g
            return w - h.lr * b, {"b": b}
        v = h.momentum * s.v - h.lr * share * g
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
    lr_in_velocity
        Whether the velocity contains the learning rate, as above. Else it is
        :math:`b \leftarrow \alpha b + g`, and the step
        :math:`w \leftarrow w - \eta\, (g + \alpha b)`.

    Notes
    -----
    The parameters are the look-ahead point, where the gradient is taken. Keras and scikit-learn
    have the same rule; PyTorch and optax have ``lr_in_velocity=False``, the same path while the
    learning rate is constant.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Nesterov
    >>> Nesterov(lr=0.5).update(np.array([1.0]), np.array([1.0]))
    array([0.05])
    """

    lr: NonNegative = 0.01
    momentum: DecayRate = 0.9
    lr_in_velocity: bool = True

    slots = ("v", "b")
    positive_slots = ()
    optional_slots: ClassVar = {"v": ("lr_in_velocity", True), "b": ("lr_in_velocity", False)}

    @staticmethod
    def rule(xp, w, g, s, h):
        if not h.lr_in_velocity:
            b = h.momentum * s.b + g
            return w - h.lr * (g + h.momentum * b), {"b": b}
        step = h.lr * g
        v = h.momentum * s.v - step
        return w + (h.momentum * v - step), {"v": v}

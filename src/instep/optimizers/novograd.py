"""Gradients divided by a running mean of their norm, one number for a layer."""

from collections.abc import Mapping
from typing import ClassVar

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class NovoGrad(Optimizer):
    r"""NovoGrad (Ginsburg et al. 2019, arXiv:1905.11286, algorithm 1).

    .. math::
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, \lVert g \rVert^2 \\
        m &\leftarrow \beta_1 m + \frac{g}{\sqrt{v} + \epsilon} + \lambda w \\
        w &\leftarrow w - \eta\, m

    with `v` starting at the square of the first norm. Norms are over each array of the tree,
    which stands for a layer, and `v` is one number for each: half the state of Adam.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    beta1
        Share :math:`\beta_1` of the momentum that a step keeps.
    beta2
        Decay rate of the mean squared norm.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    weight_decay
        Strength :math:`\lambda` of the decay.

    Notes
    -----
    optax has the same rule with beta1 0.9, beta2 0.25 and eps 1e-6. PyTorch and Keras have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import NovoGrad
    >>> NovoGrad(lr=0.5, eps=0).update(np.zeros(2), np.array([3.0, -4.0]))
    array([-0.3,  0.4])
    """

    lr: NonNegative = 0.01
    beta1: DecayRate = 0.95
    beta2: DecayRate = 0.98
    eps: Epsilon = 1e-8
    weight_decay: NonNegative = 0.0

    slots = ("m",)
    positive_slots = ()
    tensor_numbers: ClassVar[Mapping[str, float]] = {"v": 0.0}

    @staticmethod
    def rule(xp, w, g, s, h):
        norm = xp.norm(g)
        square = norm * norm
        v = xp.where(h.t == 1, square, h.beta2 * s.v + (1 - h.beta2) * square)
        m = h.beta1 * s.m + (g / (xp.sqrt(v) + h.eps) + h.weight_decay * w)
        return w - h.lr * m, {"m": m, "v": v}

"""AdamW that steps less far where its mean square is out of date."""

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class StableAdamW(Optimizer):
    r"""AdamW with Adafactor's clipping (Wortsman et al. 2023, arXiv:2304.13013, algorithm 2).

    With the shares :math:`c_i = (1 - \beta_i) / (1 - \beta_i^t)`, in which no bias arises:

    .. math::
        m &\leftarrow (1 - c_1)\, m + c_1\, g \\
        v &\leftarrow (1 - c_2)\, v + c_2\, g \odot g \\
        r &= \mathrm{rms}\left( \frac{g}{\max(\sqrt{v}, \epsilon)} \right) \\
        \eta_t &= \frac{\eta}{\max(1, r)} \\
        w &\leftarrow (1 - \eta_t \lambda)\, w - \eta_t\, \frac{m}{\sqrt{v} + \epsilon}

    The root mean square :math:`r` is over each array of the tree. It grows when gradients come
    that are larger than the mean square has yet learned.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean squared gradient.
    eps
        Term :math:`\epsilon` that keeps the divisions finite.
    weight_decay
        Strength :math:`\lambda` of the decay, in units of the learning rate.

    Notes
    -----
    The equation is Adam's with :math:`\hat m` and :math:`\hat v` as the state. PyTorch, optax and
    Keras have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import StableAdamW
    >>> optimizer = StableAdamW(lr=0.5, eps=0, weight_decay=0.5)
    >>> optimizer.update(np.array([1.0]), np.array([4.0]))
    array([0.25])
    """

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.99
    eps: Epsilon = 1e-8
    weight_decay: NonNegative = 0.01

    slots = ("m", "v")
    real_slots = positive_slots = ("v",)

    @staticmethod
    def rule(xp, w, g, s, h):
        share1 = (1 - h.beta1) / (1 - h.beta1_t)
        share2 = (1 - h.beta2) / (1 - h.beta2_t)
        m = (1 - share1) * s.m + share1 * g
        v = (1 - share2) * s.v + share2 * xp.abs_sq(g)
        root = xp.sqrt(v)
        surprise = xp.norm(g / xp.maximum(root, h.eps)) / xp.sqrt(xp.sum(xp.ones_like(v)))
        rate = h.lr / xp.maximum(1.0, surprise)
        return (1 - rate * h.weight_decay) * w - rate * m / (root + h.eps), {"m": m, "v": v}

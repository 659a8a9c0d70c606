"""Adam with a rate for each layer, for large batches."""

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class LAMB(Optimizer):
    r"""Layer-wise adaptive moments (You et al. 2019, arXiv:1904.00962, algorithm 2).

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        u &= \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda w \\
        w &\leftarrow w - \eta\, \frac{\lVert w \rVert}{\lVert u \rVert}\, u

    The norms are over each array of the tree, which stands for a layer; their ratio is 1 where
    one of them is 0.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`: the share of its norm by which a layer changes in a step.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean squared gradient.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    weight_decay
        Strength :math:`\lambda` of the decay.

    Notes
    -----
    optax has the same rule with weight_decay 0; Keras the same without decay. PyTorch has none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import LAMB
    >>> LAMB(lr=0.5, eps=0, weight_decay=0).update(np.array([3.0]), np.array([0.1]))
    array([1.5])
    """

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-6
    weight_decay: NonNegative = 0.01

    slots = ("m", "v")
    real_slots = positive_slots = ("v",)

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.beta1 * s.m + (1 - h.beta1) * g
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(g)
        v_hat = v / (1 - h.beta2_t)
        u = 1 / (1 - h.beta1_t) * m / (xp.sqrt(v_hat) + h.eps) + h.weight_decay * w
        w_norm, u_norm = xp.norm(w), xp.norm(u)
        ratio = xp.where((w_norm > 0) & (u_norm > 0), w_norm / u_norm, 1.0)
        return w - h.lr * ratio * u, {"m": m, "v": v}

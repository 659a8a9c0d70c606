"""Adam with a second mean of the gradient, one that remembers for long."""

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class AdEMAMix(Optimizer):
    r"""AdEMAMix, a mixture of two means (Pagliardini et al. 2024, arXiv:2409.03137, algorithm 1).

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        s &\leftarrow \beta_3 s + (1 - \beta_3)\, g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        w &\leftarrow (1 - \eta \lambda)\, w
            - \eta\, \frac{m / (1 - \beta_1^t) + \alpha s}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    beta1
        Decay rate of the fast mean gradient `m`.
    beta2
        Decay rate of the mean squared gradient.
    beta3
        Decay rate of the slow mean gradient `s`, whose bias is not corrected: it fills slowly.
    alpha
        Weight of the slow mean beside the fast one.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    weight_decay
        Strength :math:`\lambda` of the decay, in units of the learning rate.

    Notes
    -----
    The paper warms up the slow mean over all `T` steps, which keeps large learning rates stable:
    ``alpha=WarmUp(T, then=5.0)``, and a beta3 of which ``1 / log(beta3)`` goes along a line from
    beta1, ``lambda t: 0.9 ** (1 / (1 + min(t / T, 1) * (log(0.9) / log(0.9999) - 1)))``.

    optax has the same rule and defaults. The authors' code has alpha 2, and warms up a half-life
    less 1. PyTorch and Keras have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import AdEMAMix
    >>> AdEMAMix(lr=0.5, alpha=0, eps=0).update(np.array([1.0, 1.0]), np.array([4.0, -0.1]))
    array([0.5, 1.5])
    """

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    beta3: DecayRate = 0.9999
    alpha: NonNegative = 5.0
    eps: Epsilon = 1e-8
    weight_decay: NonNegative = 0.0

    slots = ("m", "slow", "v")
    real_slots = positive_slots = ("v",)

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.beta1 * s.m + (1 - h.beta1) * g
        slow = h.beta3 * s.slow + (1 - h.beta3) * g
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(g)
        step = h.lr / (1 - h.beta1_t) * m + h.lr * h.alpha * slow
        v_hat = v / (1 - h.beta2_t)
        decayed = (1 - h.lr * h.weight_decay) * w
        return decayed - step / (xp.sqrt(v_hat) + h.eps), {"m": m, "slow": slow, "v": v}

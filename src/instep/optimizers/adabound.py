"""Adam whose rates are held between bounds that close in on one rate."""

from instep.hyperparameters import DecayRate, Epsilon, NonNegative, Positive
from instep.optimizer import Optimizer


class AdaBound(Optimizer):
    r"""AdaBound (Luo, Xiong, Liu & Sun 2019, arXiv:1902.09843, algorithm 2), bias-corrected.

    Adam at first, momentum in the end: each element has a rate :math:`r`, within bounds that come
    together at :math:`\eta_\infty`.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        a &= \eta_\infty \left(1 - \frac{1}{\gamma t + 1}\right), \quad
            b = \eta_\infty \left(1 + \frac{1}{\gamma t}\right) \\
        r &= \mathrm{clip}\left(
            \frac{\eta \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)}{\sqrt{v} + \epsilon}, a, b \right) \\
        w &\leftarrow w - r \odot m

    Parameters
    ----------
    lr
        Learning rate :math:`\eta` of Adam.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean squared gradient.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    final
        Learning rate :math:`\eta_\infty` of momentum in the end. It does not follow a schedule of
        lr; give it one, too.
    gamma
        How fast the bounds close: in about :math:`1 / \gamma` steps.

    Notes
    -----
    The authors' code has the same rule, and multiplies `final` by ``lr`` over its first value.
    The paper has no bias corrections and divides the rates by :math:`\sqrt{t}`. PyTorch, optax
    and Keras have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import AdaBound
    >>> optimizer = AdaBound(lr=0.5, beta1=0, final=0.5, gamma=1, eps=0)  # rates 0.25 to 1
    >>> optimizer.update(np.array([1.0, 1.0]), np.array([0.125, 4.0]))
    array([0.875, 0.   ])
    """

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-8
    final: NonNegative = 0.1
    gamma: Positive = 1e-3

    slots = ("m", "v")
    real_slots = positive_slots = ("v",)

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.beta1 * s.m + (1 - h.beta1) * g
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(g)
        rate = h.lr * xp.sqrt(1 - h.beta2_t) / (1 - h.beta1_t) / (xp.sqrt(v) + h.eps)
        lower = h.final * (1 - 1 / (h.gamma * h.t + 1))
        upper = h.final * (1 + 1 / (h.gamma * h.t))
        return w - xp.clip(rate, lower, upper) * m, {"m": m, "v": v}

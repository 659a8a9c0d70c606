"""Adam that bounds the distance to the solution from below, and takes its rate from that."""

from collections.abc import Mapping
from typing import ClassVar

from instep.hyperparameters import DecayRate, NonNegative, Positive
from instep.optimizer import Optimizer
from instep.optimizers.momo import inner


class DAdaptAdamW(Optimizer):
    r"""D-Adaptation (Defazio & Mishchenko 2023, arXiv:2301.07733), the form of AdamW.

    The distance `d` from the start to a solution is estimated from below, and the rate is in its
    units:

    .. math::
        \eta_t &= \eta\, d\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}, \qquad
            \beta = \sqrt{\beta_2} \\
        r &\leftarrow \beta r + (1 - \beta)\, \eta_t
            \left\langle g, \frac{s}{\sqrt{v} + \epsilon} \right\rangle \\
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, \eta_t\, g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        s &\leftarrow \beta s + (1 - \beta)\, \eta_t\, g \\
        d &\leftarrow \max\left(d, \frac{r}{(1 - \beta) \lVert s \rVert_1}\right) \\
        w &\leftarrow (1 - \eta_t \lambda)\, w - \frac{m}{\sqrt{v} + \epsilon}

    with `d` starting at :math:`d_0`. The product and the norm are over all arrays of the tree.

    Parameters
    ----------
    lr
        Factor :math:`\eta` of the steps: 1, or a schedule that comes down from 1.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean squared gradient; the estimate forgets at that of its root.
    eps
        Term :math:`\epsilon` that keeps the divisions finite.
    weight_decay
        Strength :math:`\lambda` of the decay, in units of the rate.
    initial
        The first estimate :math:`d_0`, which must be below the distance: it has little influence
        as long as it is small.

    Notes
    -----
    optax.contrib has the same rule. A tensor without a gradient adds nothing to the product and
    the norm of that step. `Prodigy` came out of this rule.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import DAdaptAdamW
    >>> optimizer, w = DAdaptAdamW(initial=0.1), np.array([8.0, -4.0])
    >>> for _ in range(100):
    ...     w = optimizer.update(w, np.sign(w))
    >>> bool(np.abs(w).max() < 2)
    True
    """

    lr: NonNegative = 1.0
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    initial: Positive = 1e-6

    slots = ("m", "v", "s")
    real_slots = positive_slots = ("v",)
    tree_numbers: ClassVar[Mapping[str, float | str]] = {"d": "initial", "r": 0.0}

    @staticmethod
    def rule(xp, w, g, s, h):
        rate = s.d * (h.lr * xp.sqrt(1 - h.beta2_t) / (1 - h.beta1_t))
        decay = xp.sqrt(h.beta2)
        scaled = s.s / (xp.sqrt(s.v) + h.eps)
        # The rate may be another for another tensor, and so is a factor of what is summed.
        r = decay * s.r + (1 - decay) * xp.tree_sum(rate * inner(xp, g, scaled))
        m = h.beta1 * s.m + (1 - h.beta1) * rate * g
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(g)
        total = decay * s.s + (1 - decay) * rate * g
        norm = (1 - decay) * xp.tree_sum(xp.abs(total))
        d = xp.maximum(s.d, xp.where(norm == 0, 0.0, r / norm))
        new = (1 - rate * h.weight_decay) * w - m / (xp.sqrt(v) + h.eps)
        return new, {"m": m, "v": v, "s": total, "d": d, "r": r}

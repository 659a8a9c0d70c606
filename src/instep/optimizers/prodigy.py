"""Adam that estimates how far away the solution is, and takes its rate from that."""

from collections.abc import Mapping
from typing import ClassVar

from instep.hyperparameters import DecayRate, Epsilon, NonNegative, Positive
from instep.optimizer import Optimizer
from instep.optimizers.momo import inner


class Prodigy(Optimizer):
    r"""Prodigy (Mishchenko & Defazio 2023, arXiv:2306.06101), the form of Adam.

    The distance `d` from the start to a solution is estimated from below, and the rate is in its
    units:

    .. math::
        \eta_t &= \eta\, d\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \\
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, d\, g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, d^2\, g \odot g \\
        r &\leftarrow \sqrt{\beta_2}\, r + \frac{d}{d_0}\, \eta_t \langle g, w_0 - w \rangle \\
        s &\leftarrow \sqrt{\beta_2}\, s + \frac{d}{d_0}\, \eta_t\, g \\
        d &\leftarrow \max(d, r / \lVert s \rVert_1) \\
        w &\leftarrow (1 - \eta_t \lambda)\, w - \eta_t \frac{m}{\sqrt{v} + d \epsilon}

    with `d` starting at :math:`d_0`, and :math:`\eta_t` that of the old `d`. The product and the
    norm are over all arrays of the tree.

    Parameters
    ----------
    lr
        Factor :math:`\eta` of the steps: 1, or a schedule that comes down from 1.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean squared gradient; the estimate forgets at that of its root.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    weight_decay
        Strength :math:`\lambda` of the decay, in units of the rate.
    initial
        The first estimate :math:`d_0`, which must be below the distance: it has little influence
        as long as it is small.

    Notes
    -----
    optax.contrib has the same rule. The authors' code corrects the bias of the means only where it
    is asked to. A tensor without a gradient adds nothing to the product and the norm of that step.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Prodigy
    >>> optimizer, w = Prodigy(initial=0.1), np.array([8.0, -4.0])
    >>> for _ in range(60):
    ...     w = optimizer.update(w, np.sign(w))
    >>> bool(np.abs(w).max() < 2)
    True
    """

    lr: NonNegative = 1.0
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-8
    weight_decay: NonNegative = 0.0
    initial: Positive = 1e-6

    slots = ("m", "v", "s", "start")
    real_slots = positive_slots = ("v",)
    tree_numbers: ClassVar[Mapping[str, float | str]] = {"d": "initial", "r": 0.0}

    def initial_state(self) -> Mapping[str, float | str]:
        """Return the parameter for ``start``."""
        return {"start": "w"}

    @staticmethod
    def rule(xp, w, g, s, h):
        rate = s.d * (h.lr * xp.sqrt(1 - h.beta2_t) / (1 - h.beta1_t))
        weight, decay = s.d / h.initial * rate, xp.sqrt(h.beta2)
        m = h.beta1 * s.m + (1 - h.beta1) * (s.d * g)
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(s.d * g)
        # The rate may be another for another tensor, and so is a factor of what is summed.
        r = decay * s.r + xp.tree_sum(weight * inner(xp, g, s.start - w))
        total = decay * s.s + weight * g
        norm = xp.tree_sum(xp.abs(total))
        d = xp.maximum(s.d, xp.where(norm == 0, 0.0, r / norm))
        new = (1 - rate * h.weight_decay) * w - rate * (m / (xp.sqrt(v) + d * h.eps))
        return new, {"m": m, "v": v, "s": total, "d": d, "r": r}

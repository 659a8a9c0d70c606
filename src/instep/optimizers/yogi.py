"""Adam whose mean square moves by steps of its own size."""

from collections.abc import Mapping

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class Yogi(Optimizer):
    r"""Yogi (Zaheer et al. 2018, Adaptive Methods for Nonconvex Optimization), bias-corrected.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        v &\leftarrow v - (1 - \beta_2)\, \mathrm{sign}(v - g \odot g) \odot g \odot g \\
        w &\leftarrow w - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    with `m` and `v` starting at 1e-6.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    beta1
        Decay rate of the mean gradient.
    beta2
        1 less the share of a squared gradient by which `v` moves.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    bias_correction
        Whether `m` and `v` are divided by :math:`1 - \beta^t`.

    Notes
    -----
    optax has the same rule. The paper has no bias corrections, ``bias_correction=False``, and
    leaves the start of `v` to an average over a batch.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Yogi
    >>> Yogi(lr=0.5).update(np.array([1.0]), np.array([4.0])).round(3)
    array([0.5])
    """

    lr: NonNegative = 0.01
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-3
    bias_correction: bool = True

    slots = ("m", "v")
    real_slots = positive_slots = ("v",)

    def initial_state(self) -> Mapping[str, float | str]:
        """Return 1e-6 for both."""
        return {"m": 1e-6, "v": 1e-6}

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.beta1 * s.m + (1 - h.beta1) * g
        # The share of a square, and no square itself: that of 1e20 is beyond float32.
        share = xp.abs_sq(xp.sqrt(1 - h.beta2) * g)
        v = s.v - xp.sign((1 - h.beta2) * s.v - share) * share
        if not h.bias_correction:
            return w - h.lr * m / (xp.sqrt(v) + h.eps), {"m": m, "v": v}
        rate = h.lr / (1 - h.beta1_t)
        root = xp.sqrt(v) / xp.sqrt(1 - h.beta2_t)
        return w - rate * m / (root + h.eps), {"m": m, "v": v}

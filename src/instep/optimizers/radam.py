"""Adam that warms up by itself."""

import math
from typing import Annotated, Literal

from instep.hyperparameters import DecayRate, Domain, Epsilon, NonNegative, Schedule
from instep.optimizer import Optimizer


class RAdam(Optimizer):
    r"""Rectified Adam (Liu et al. 2019, arXiv:1908.03265, algorithm 2).

    With :math:`\rho_\infty = 2 / (1 - \beta_2) - 1` and
    :math:`\rho = \rho_\infty - 2 t \beta_2^t / (1 - \beta_2^t)`:

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        r &= \sqrt{\frac{(\rho - 4) (\rho - 2)\, \rho_\infty}
            {(\rho_\infty - 4) (\rho_\infty - 2)\, \rho}} \\
        w &\leftarrow w - \eta\, \frac{m}{1 - \beta_1^t} \odot
            \begin{cases}
                r \sqrt{1 - \beta_2^t} / (\sqrt{v} + \epsilon) & \rho > \rho_0 \\
                1 & \text{otherwise}
            \end{cases}

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean squared gradient. 0.8 and less never adapt.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    threshold
        Length :math:`\rho_0` of the average from which on steps adapt: 4, as in the paper, or more.
    form
        Where :math:`\epsilon` stands: ``"epsilon_hat"``, beside the root of `v`, as above, or
        ``"epsilon"``, beside the root of the corrected `v`:
        :math:`r / (\sqrt{v / (1 - \beta_2^t)} + \epsilon)`.

    Notes
    -----
    The first steps (five, with these defaults) are those of momentum, in units of the
    gradient. PyTorch has the same rule. The paper has ``threshold=4, eps=0``, and optax
    ``form="epsilon"``; it adapts where :math:`\rho` is the threshold, too.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import RAdam
    >>> RAdam(lr=0.5).update(np.array([1.0]), np.array([4.0]))
    array([-1.])
    """

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-8
    threshold: Annotated[float | Schedule, Domain(lower=4.0)] = 5.0
    form: Literal["epsilon", "epsilon_hat"] = "epsilon_hat"

    slots = ("m", "v")
    real_slots = positive_slots = ("v",)

    @staticmethod
    def scalars(h):
        """Return whether the variance can be trusted, and the factor on the step if so."""
        limit = 2 / (1 - h.beta2) - 1
        correction = 1 - h.beta2_t
        rho = limit - 2 * h.t * h.beta2_t / correction
        if rho <= h.threshold:
            return {"rectified": False, "factor": 1.0}
        r = math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
        outside = math.sqrt(correction) if h.form == "epsilon_hat" else 1.0
        return {"rectified": True, "factor": r * outside}

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.beta1 * s.m + (1 - h.beta1) * g
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(g)
        step = h.factor * h.lr / (1 - h.beta1_t) * m
        if h.rectified:
            v_hat = v if h.form == "epsilon_hat" else v / (1 - h.beta2_t)
            step = step / (xp.sqrt(v_hat) + h.eps)
        return w - step, {"m": m, "v": v}

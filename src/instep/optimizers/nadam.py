"""Adam with Nesterov's look-ahead."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from instep.hyperparameters import DecayRate, Domain, Epsilon, NonNegative, Schedule
from instep.optimizer import Optimizer


class NAdam(Optimizer):
    r"""Nesterov-accelerated Adam (Dozat 2016, Incorporating Nesterov Momentum into Adam).

    With :math:`\mu_t = \beta_1 (1 - 0.5 \cdot 0.96^{\psi t})`, a decay rate that grows to
    :math:`\beta_1`, and the product :math:`P = \mu_1 \cdots \mu_t`:

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        w &\leftarrow w - \eta\, \frac{\mu_{t+1} m / (1 - \mu_{t+1} P) + (1 - \mu_t)\, g / (1 - P)}
            {\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean squared gradient.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    psi
        How fast :math:`\mu_t` grows; infinity: it is :math:`\beta_1` from the first step on.
    amsgrad
        Divide by the root of the largest `v` so far, `x`, as `AMSGrad` does.

    Notes
    -----
    PyTorch has the same rule (its momentum_decay is psi); Keras, too, with psi 1, lr 0.001 and eps
    1e-7. optax has no such schedule: it is ``psi=math.inf``, with which the numerator is
    :math:`\beta_1 m / (1 - \beta_1^{t+1}) + (1 - \beta_1)\, g / (1 - \beta_1^t)`.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import NAdam
    >>> NAdam(lr=0.5, beta1=0, eps=0).update(np.array([1.0, 1.0]), np.array([4.0, -0.1]))
    array([0.5, 1.5])
    """

    lr: NonNegative = 0.002
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-8
    psi: Annotated[float | Schedule, Domain(lower=0.0, infinite=True)] = 0.004
    amsgrad: bool = False

    slots = ("m", "v", "x")
    real_slots = positive_slots = ("v", "x")
    optional_slots: ClassVar[Mapping[str, str]] = {"x": "amsgrad"}
    scalar_slots: ClassVar[Mapping[str, float]] = {"product": 1.0}

    @staticmethod
    def scalars(h):
        """Return the decay rates of this step and of the next, and their product so far."""
        mu, mu_next = (h.beta1 * (1 - 0.5 * 0.96 ** (t * h.psi)) for t in (h.t, h.t + 1))
        return {"mu": mu, "mu_next": mu_next, "product": h.product * mu}

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.beta1 * s.m + (1 - h.beta1) * g
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(g)
        ahead = h.lr * h.mu_next / (1 - h.mu_next * h.product) * m
        step = ahead + h.lr * (1 - h.mu) / (1 - h.product) * g
        slots = {"m": m, "v": v}
        if "x" in s:
            v = slots["x"] = xp.maximum(s.x, v)
        v_hat = v / (1 - h.beta2_t)
        return w - step / (xp.sqrt(v_hat) + h.eps), slots

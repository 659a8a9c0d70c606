"""Adam with a Nesterov momentum that is estimated from differences of gradients."""

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class Adan(Optimizer):
    r"""Adan, adaptive Nesterov momentum (Xie et al. 2022, arXiv:2208.06677, algorithm 1).

    With :math:`d = g - g_{t-1}`, the change of the gradient since the step before (0 at the
    first):

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        u &\leftarrow \beta_2 u + (1 - \beta_2)\, d \\
        n &\leftarrow \beta_3 n + (1 - \beta_3)\, (g + \beta_2 d)^2 \\
        w &\leftarrow \frac{1}{1 + \eta \lambda} \left(w - \eta\,
            \frac{m / (1 - \beta_1^t) + \beta_2 u / (1 - \beta_2^t)}
                 {\sqrt{n / (1 - \beta_3^t)} + \epsilon} \right)

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean change of the gradient.
    beta3
        Decay rate of the mean square.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    weight_decay
        Strength :math:`\lambda` of the decay, which is implicit: it divides.

    Notes
    -----
    The decay rates and eps are those of the authors' code; the paper writes 1 less them, and has
    eps inside the root. optax has :math:`1 - \beta_2` in the place of the factor
    :math:`\beta_2` of `d` and `u`. PyTorch and Keras have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Adan
    >>> Adan(lr=0.5, eps=0).update(np.array([1.0, 1.0]), np.array([4.0, -0.1]))
    array([0.5, 1.5])
    """

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.98
    beta2: DecayRate = 0.92
    beta3: DecayRate = 0.99
    eps: Epsilon = 1e-8
    weight_decay: NonNegative = 0.0

    slots = ("m", "u", "n", "previous")
    real_slots = positive_slots = ("n",)

    @staticmethod
    def scalars(h):
        """Return whether this is the first step, which has no gradient before it."""
        return {"first": h.t == 1}

    @staticmethod
    def rule(xp, w, g, s, h):
        d = xp.zeros_like(g) if h.first else g - s.previous
        ahead = g + h.beta2 * d
        m = h.beta1 * s.m + (1 - h.beta1) * g
        u = h.beta2 * s.u + (1 - h.beta2) * d
        n = h.beta3 * s.n + (1 - h.beta3) * xp.abs_sq(ahead)
        step = h.lr / (1 - h.beta1_t) * m + h.lr * h.beta2 / (1 - h.beta2_t) * u
        n_hat = n / (1 - h.beta3_t)
        new = (w - step / (xp.sqrt(n_hat) + h.eps)) / (1 + h.lr * h.weight_decay)
        return new, {"m": m, "u": u, "n": n, "previous": g}

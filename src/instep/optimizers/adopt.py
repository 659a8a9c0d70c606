"""Adam that divides a gradient by what was known before it came."""

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class ADOPT(Optimizer):
    r"""ADOPT (Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2), with clipping.

    The first step only sets :math:`v = g \odot g`. Those after it, with the bound
    :math:`c = (t - 1)^{1/4}`:

    .. math::
        n &= \mathrm{clip}\left( \frac{g}{\max(\sqrt{v}, \epsilon)}, -c, c \right) \\
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, n \\
        w &\leftarrow w - \eta\, m \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g

    So no gradient is divided by itself, and the rule converges with any :math:`\beta_2`.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    beta1
        Decay rate of the mean of normalized gradients.
    beta2
        Decay rate of the mean squared gradient.
    eps
        Smallest divisor :math:`\epsilon`.

    Notes
    -----
    Of complex gradients, the modulus is clipped. optax has the same rule and defaults; the paper
    counts its steps from the second. PyTorch and Keras have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import ADOPT
    >>> optimizer, w = ADOPT(lr=0.5, beta1=0), np.array([1.0, 1.0])
    >>> for _ in range(2):
    ...     w = optimizer.update(w, np.array([4.0, -0.1]))
    >>> w
    array([0.5, 1.5])
    """

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.9999
    eps: Epsilon = 1e-6

    slots = ("m", "v")
    real_slots = positive_slots = ("v",)

    @staticmethod
    def scalars(h):
        """Return whether this is the first step, which has no mean square before it."""
        return {"first": h.t == 1}

    @staticmethod
    def rule(xp, w, g, s, h):
        square = xp.abs_sq(g)
        if h.first:
            return w, {"v": square}
        n = g / xp.maximum(xp.sqrt(s.v), h.eps)
        clipped = xp.clip_abs(n, (h.t - 1) ** 0.25)
        m = h.beta1 * s.m + (1 - h.beta1) * clipped
        return w - h.lr * m, {"m": m, "v": h.beta2 * s.v + (1 - h.beta2) * square}

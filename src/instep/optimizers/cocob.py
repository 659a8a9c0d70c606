"""A bet on every gradient, with what earlier bets have won."""

from collections.abc import Mapping

from instep.hyperparameters import NonNegative, Positive
from instep.optimizer import Optimizer


class COCOB(Optimizer):
    r"""Continuous coin betting, backprop (Orabona & Tommasi 2017, arXiv:1705.07795, algorithm 2).

    With the start :math:`w_0`, and for every element its largest gradient `L`, the sum `G` of
    their magnitudes, the sum `C` of their negatives, and the reward `R` so far:

    .. math::
        g &\leftarrow \eta\, g \\
        L &\leftarrow \max(L, |g|) \\
        G &\leftarrow G + |g| \\
        R &\leftarrow \max(R - g \odot (w - w_0), 0) \\
        C &\leftarrow C - g \\
        w &\leftarrow w_0 + \frac{C}{L \odot \max(G + L, \alpha L)} \odot (L + R)

    Parameters
    ----------
    lr
        Weight :math:`\eta` of a gradient beside the others. The rule is invariant to the scale of
        gradients, so only a schedule has an effect.
    alpha
        Bound of the first bets: the first step of an element is of size :math:`1 / \alpha`.
    eps
        Start of `L`, so that an element without gradients bets nothing.

    Notes
    -----
    optax has the same rule; the paper has no lr. PyTorch and Keras have none. For complex
    parameters, the reward is the real part of :math:`\bar g\, (w - w_0)`.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import COCOB
    >>> COCOB().update(np.array([1.0, 1.0]), np.array([4.0, -0.1]))
    array([0.99, 1.01])
    """

    lr: NonNegative = 1.0
    alpha: NonNegative = 100.0
    eps: Positive = 1e-8

    slots = ("start", "largest", "total", "reward", "bets")
    real_slots = positive_slots = ("largest", "total", "reward")

    def initial_state(self) -> Mapping[str, float | str]:
        """Return the parameter for the start, and eps for the largest gradients."""
        return {"start": "w", "largest": "eps"}

    @staticmethod
    def rule(xp, w, g, s, h):
        g = h.lr * g
        largest = xp.maximum(s.largest, xp.abs(g))
        total = s.total + xp.abs(g)
        reward = xp.maximum(s.reward - xp.real(xp.conj(g) * (w - s.start)), 0.0)
        bets = s.bets - g
        # The equation's divisor, the product of two small numbers, could underflow.
        share = (largest + reward) / xp.maximum(total + largest, h.alpha * largest)
        slots = {"largest": largest, "total": total, "reward": reward, "bets": bets}
        return s.start + share * (bets / largest), slots

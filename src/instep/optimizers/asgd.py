"""Gradient descent that answers with the mean of its path."""

from instep.hyperparameters import NonNegative
from instep.optimizer import Optimizer


class ASGD(Optimizer):
    r"""Averaged stochastic gradient descent (Polyak & Juditsky 1992, doi:10.1137/0330046).

    With the rate :math:`\eta_t = \eta / (1 + \lambda \eta (t - 1))^\alpha` of Bottou (2012):

    .. math::
        w &\leftarrow (1 - \lambda \eta_t)\, w - \eta_t\, g \\
        a &\leftarrow a + \frac{w - a}{\max(1, t - 1 - t_0)}

    `answer` gives `a`: the parameters themselves up to step :math:`t_0 + 2`, and from then on the
    mean of what they have been since.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta` at the first step.
    weight_decay
        Strength :math:`\lambda` of the decay, by which the rate falls too.
    alpha
        Power with which the rate falls.
    t0
        Number of steps before the mean begins.

    Notes
    -----
    PyTorch has the same rule and defaults, and calls :math:`\lambda` lambd. optax and Keras have
    none; `average` makes a mean of this kind beside any optimizer.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import ASGD
    >>> optimizer, w = ASGD(lr=1.0, weight_decay=0, t0=0), np.array([0.0])
    >>> for _ in range(3):
    ...     w = optimizer.update(w, np.array([-1.0]))  # 1, 2, 3
    >>> w, optimizer.answer(w)
    (array([3.]), array([2.5]))
    """

    lr: NonNegative = 0.01
    weight_decay: NonNegative = 1e-4
    alpha: NonNegative = 0.75
    t0: NonNegative = 1e6

    slots = exact_slots = ("mean",)

    @staticmethod
    def scalars(h):
        """Return the rate, and whether there is a mean already."""
        rate = h.lr / (1 + h.weight_decay * h.lr * (h.t - 1)) ** h.alpha
        return {"rate": rate, "averaged": h.t - 1 - h.t0 > 1}

    @staticmethod
    def rule(xp, w, g, s, h):
        new = (1 - h.weight_decay * h.rate) * w - h.rate * g
        mean = s.mean + (new - s.mean) / (h.t - 1 - h.t0) if h.averaged else new
        return new, {"mean": mean}

    @staticmethod
    def answer_rule(xp, w, s, h):
        return s.mean

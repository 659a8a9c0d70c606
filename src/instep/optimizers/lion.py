"""Steps of one size, along the sign of an interpolated momentum."""

from instep.hyperparameters import DecayRate, NonNegative
from instep.optimizer import Optimizer


class Lion(Optimizer):
    r"""Lion, evolved sign momentum (Chen et al. 2023, arXiv:2302.06675, algorithm 2).

    .. math::
        u &= \mathrm{sign}(\beta_1 m + (1 - \beta_1)\, g) \\
        m &\leftarrow \beta_2 m + (1 - \beta_2)\, g \\
        w &\leftarrow (1 - \eta \lambda)\, w - \eta\, u

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`: the size of every step of every element. A third to a tenth
        of what suits AdamW.
    beta1
        Share of the momentum in the direction of the step.
    beta2
        Decay rate of the momentum.
    weight_decay
        Strength :math:`\lambda` of the decay, in units of the learning rate.

    Notes
    -----
    Keras has the same rule with lr 0.001; optax, too, with weight_decay 1e-3. PyTorch has none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Lion
    >>> Lion(lr=0.25).update(np.array([1.0, 1.0, 1.0]), np.array([4.0, -0.1, 0.0]))
    array([0.75, 1.25, 1.  ])
    """

    lr: NonNegative = 1e-4
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.99
    weight_decay: NonNegative = 0.0

    slots = ("m",)
    positive_slots = ()

    @staticmethod
    def rule(xp, w, g, s, h):
        u = xp.sign(h.beta1 * s.m + (1 - h.beta1) * g)
        m = h.beta2 * s.m + (1 - h.beta2) * g
        return (1 - h.lr * h.weight_decay) * w - h.lr * u, {"m": m}

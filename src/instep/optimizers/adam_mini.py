"""Adam with one mean square for a whole array."""

from collections.abc import Mapping
from typing import ClassVar

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class AdamMini(Optimizer):
    r"""Adam-mini (Zhang et al. 2024, arXiv:2406.16793, algorithm 1).

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, \mathrm{mean}(g \odot g) \\
        w &\leftarrow w - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    The mean is over each array of the tree, so that `v` is one number for each: half the state of
    Adam.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`: about the size of a step.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean squared gradient.
    eps
        Term :math:`\epsilon` that keeps the division finite.

    Notes
    -----
    The paper has a number for each block of the Hessian, such as a head of queries and keys, or a
    row of embeddings. Here an array is a block; for several, give it as a list of its parts, which
    may be views of one array. The paper decays weights, too, as AdamW does. PyTorch, optax and
    Keras have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import AdamMini
    >>> AdamMini(lr=0.5, eps=0).update(np.zeros(2), np.array([1.0, -7.0]))
    array([-0.1,  0.7])
    """

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-8

    slots = ("m",)
    positive_slots = ()
    tensor_numbers: ClassVar[Mapping[str, float]] = {"v": 0.0}

    @staticmethod
    def rule(xp, w, g, s, h):
        # The mean over no elements is 0, as their norm is.
        norm, size = xp.norm(g), xp.maximum(xp.sum(xp.ones_like(xp.abs(g))), 1.0)
        m = h.beta1 * s.m + (1 - h.beta1) * g
        v = h.beta2 * s.v + (1 - h.beta2) * (norm * norm / size)
        rate = h.lr / (1 - h.beta1_t) / (xp.sqrt(v / (1 - h.beta2_t)) + h.eps)
        return w - rate * m, {"m": m, "v": v}

"""Adam with a maximum norm in the place of a root mean square."""

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class AdaMax(Optimizer):
    r"""AdaMax (Kingma & Ba 2014, arXiv:1412.6980, section 7.1, algorithm 2).

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        u &\leftarrow \max(\beta_2 u, |g|) \\
        w &\leftarrow w - \frac{\eta}{1 - \beta_1^t}\, \frac{m}{u + \epsilon}

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`: no step is larger.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the largest gradient.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    eps_in_max
        Add :math:`\epsilon` to the gradient inside of the maximum,
        :math:`u \leftarrow \max(\beta_2 u, |g| + \epsilon)`, and not to `u`.

    Notes
    -----
    The paper has no eps, Keras adds it as here; PyTorch and optax have it inside the maximum,
    ``eps_in_max=True``.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import AdaMax
    >>> AdaMax(lr=0.5, eps=0).update(np.array([1.0, 1.0]), np.array([4.0, -0.1]))
    array([0.5, 1.5])
    """

    lr: NonNegative = 0.002
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-8
    eps_in_max: bool = False

    slots = ("m", "u")
    real_slots = positive_slots = ("u",)

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.beta1 * s.m + (1 - h.beta1) * g
        u = xp.maximum(h.beta2 * s.u, abs(g) + h.eps if h.eps_in_max else abs(g))
        rate = h.lr / (1 - h.beta1_t)
        return w - rate * m / (u if h.eps_in_max else u + h.eps), {"m": m, "u": u}

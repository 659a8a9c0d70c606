"""Learning rates that adapt to the sum of squared gradients."""

from collections.abc import Mapping

from instep.hyperparameters import Epsilon, NonNegative
from instep.optimizer import Optimizer


class AdaGrad(Optimizer):
    r"""AdaGrad (Duchi, Hazan & Singer 2011, JMLR 12:2121-2159).

    .. math::
        h &\leftarrow h + g \odot g \\
        w &\leftarrow w - \eta\, \frac{g}{\sqrt{h} + \epsilon}

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    eps_in_sqrt
        Add :math:`\epsilon` inside of the root, :math:`\sqrt{h + \epsilon}`, and not to it.
    initial_accumulator_value
        What `h` starts at.

    Notes
    -----
    PyTorch has eps 1e-10; its lr_decay is a schedule here,
    ``lr=lambda t: lr / (1 + (t - 1) * lr_decay)``. optax and Keras have ``eps_in_sqrt=True`` and
    ``initial_accumulator_value=0.1``. DeZero has eps 1e-8.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import AdaGrad
    >>> AdaGrad(lr=0.5, eps=0).update(np.array([1.0, 1.0]), np.array([4.0, -0.1]))
    array([0.5, 1.5])
    """

    lr: NonNegative = 0.01
    eps: Epsilon = 1e-7
    eps_in_sqrt: bool = False
    initial_accumulator_value: NonNegative = 0.0

    slots = ("h",)
    real_slots = positive_slots = ("h",)

    def initial_state(self) -> Mapping[str, float | str]:
        """Return the initial value of the sum."""
        return {"h": "initial_accumulator_value"}

    @staticmethod
    def rule(xp, w, g, s, h):
        total = s.h + xp.abs_sq(g)
        root = xp.sqrt(total + h.eps) if h.eps_in_sqrt else xp.sqrt(total) + h.eps
        return w - h.lr * g / root, {"h": total}

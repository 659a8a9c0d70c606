"""A step size for every element, steered by the signs of gradients alone."""

from collections.abc import Mapping
from typing import Annotated

from instep.hyperparameters import Domain, NonNegative, Schedule
from instep.optimizer import Optimizer

Shrinking = Annotated[float | Schedule, Domain(0.0, 1.0, open_lower=True, open_upper=True)]
Growing = Annotated[float | Schedule, Domain(1.0, open_lower=True)]


class Rprop(Optimizer):
    r"""Resilient propagation (Riedmiller & Braun 1993), as iRprop- (Igel & Huesken 2000).

    .. math::
        (\Delta, g) &\leftarrow \begin{cases}
            (\min(\eta^+ \Delta, \Delta_\text{max}), g) & g \odot g_{t-1} > 0 \\
            (\max(\eta^- \Delta, \Delta_\text{min}), 0) & g \odot g_{t-1} < 0 \\
            (\Delta, g) & \text{otherwise} \end{cases} \\
        w &\leftarrow w - \Delta \odot \mathrm{sign}(g)

    For gradients of the whole problem: the noise of small batches turns signs and shrinks steps.

    Parameters
    ----------
    lr
        Size :math:`\Delta` of the first step of every element. Later values have no effect.
    shrink
        Factor :math:`\eta^-` on the size where the gradient has changed its sign.
    grow
        Factor :math:`\eta^+` on the size where it has kept it.
    smallest, largest
        Bounds of the size.

    Notes
    -----
    PyTorch has the same rule and defaults. optax has the same sizes, but takes each step one call
    later. Keras has none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Rprop
    >>> optimizer, w = Rprop(lr=0.5), np.array([1.0, 1.0])
    >>> w = optimizer.update(w, np.array([3.0, 3.0]))
    >>> optimizer.update(w, np.array([0.1, -0.1]))
    array([-0.1,  0.5])
    """

    lr: NonNegative = 0.01
    shrink: Shrinking = 0.5
    grow: Growing = 1.2
    smallest: NonNegative = 1e-6
    largest: NonNegative = 50.0

    slots = ("size", "previous")
    positive_slots = ("size",)

    def initial_state(self) -> Mapping[str, float | str]:
        """Return lr for the sizes."""
        return {"size": "lr"}

    @staticmethod
    def rule(xp, w, g, s, h):
        # The product of signs cannot underflow, as that of gradients can.
        agreement = xp.sign(g) * xp.sign(s.previous)
        factor = xp.where(agreement > 0, h.grow, xp.where(agreement < 0, h.shrink, 1.0))
        size = xp.clip(factor * s.size, h.smallest, h.largest)
        g = xp.where(agreement < 0, 0.0, g)
        return w - size * xp.sign(g), {"size": size, "previous": g}

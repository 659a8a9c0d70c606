"""Gradient descent that learns the curvature from its last step."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from instep.hyperparameters import NonNegative
from instep.optimizer import Optimizer
from instep.optimizers.momo import inner


class BarzilaiBorwein(Optimizer):
    r"""Gradient descent with the step sizes of Barzilai and Borwein (1988).

    With what has changed since the step before, :math:`p = w - w_{t-1}` of the parameters and
    :math:`y = g - g_{t-1}` of the gradients:

    .. math::
        \eta_t &= \frac{|\langle p, y \rangle|}{\lVert y \rVert^2}
            \quad \text{(short)} \qquad \text{or} \qquad
        \eta_t = \frac{\lVert p \rVert^2}{|\langle p, y \rangle|} \quad \text{(long)} \\
        w &\leftarrow w - \eta_t\, g

    The products and norms are over all arrays of the tree, and :math:`\eta_1 = \eta`.

    Parameters
    ----------
    lr
        Rate :math:`\eta` of the first step, and until gradients change.
    size
        ``"short"`` or ``"long"``: which of the two, of which the second is never the smaller.

    Notes
    -----
    It is for gradients of all the data: noise passes for curvature. A step may go up. By the
    magnitude it is along the negative gradient where the curvature is negative, too. Where nothing
    has changed, or no rate comes of it, the rate stays what it was. PyTorch, optax and Keras have
    none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import BarzilaiBorwein
    >>> optimizer, w = BarzilaiBorwein(lr=0.1), np.array([3.0, -4.0])
    >>> for _ in range(8):
    ...     w = optimizer.update(w, np.array([1.0, 2.0]) * w)
    >>> bool(np.abs(w).max() < 1e-3)
    True
    """

    lr: NonNegative = 0.001
    size: Literal["short", "long"] = "short"

    slots = exact_slots = ("point", "gradient")
    tree_numbers: ClassVar[Mapping[str, float]] = {"rate": 0.0}

    def initial_state(self) -> Mapping[str, float | str]:
        """Return the parameter for ``point``: before the first step, nothing has changed."""
        return {"point": "w"}

    @staticmethod
    def rule(xp, w, g, s, h):
        p, y = w - s.point, g - s.gradient
        product = xp.abs(xp.tree_sum(inner(xp, p, y)))
        if h.size == "short":
            norm = xp.tree_norm(y)
            found = product / (norm * norm)
        else:
            norm = xp.tree_norm(p)
            found = norm * norm / product
        rate = xp.where((found > 0) & xp.isfinite(found), found, s.rate)
        new = w - xp.where(rate == 0, h.lr, rate) * g  # 0: none was found yet
        return new, {"point": w, "gradient": g, "rate": rate}

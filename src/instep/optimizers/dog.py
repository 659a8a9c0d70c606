"""Gradient descent that measures how far it has come, and takes its rate from that."""

from collections.abc import Mapping
from typing import ClassVar

from instep.hyperparameters import Epsilon, NonNegative, Positive
from instep.optimizer import Optimizer


class DoG(Optimizer):
    r"""Distance over gradients (Ivgi, Hinder & Carmon 2023, arXiv:2302.12022).

    .. math::
        r &\leftarrow \max(r, \lVert w - w_0 \rVert) \\
        G &\leftarrow G + \lVert g \rVert^2 \\
        w &\leftarrow w - \eta\, \frac{r}{\sqrt{G + \epsilon}}\, g

    with `r` starting at :math:`\rho\, (1 + \lVert w_0 \rVert)` and `G` at 0. The norms are over
    all arrays of the tree, so that both are one number for all of them.

    Parameters
    ----------
    lr
        Factor :math:`\eta` of the steps: 1, unless they are to be tuned after all.
    movement
        Share :math:`\rho` of its norm by which the tree is moved at first. It has little influence
        as long as it is small.
    eps
        Term :math:`\epsilon` that keeps the division finite.

    Notes
    -----
    optax.contrib has the same rule. The authors answer with a mean of the path:
    ``chain(DoG(), average(0.999))``.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import DoG
    >>> optimizer, w = DoG(movement=0.1, eps=0), np.array([3.0, 4.0])
    >>> for _ in range(2):
    ...     w = optimizer.update(w, np.array([0.0, 2.0]))
    >>> w.round(3)
    array([3.   , 2.976])
    """

    lr: NonNegative = 1.0
    movement: Positive = 1e-6
    eps: Epsilon = 1e-8

    slots = ("start",)
    tree_numbers: ClassVar[Mapping[str, float]] = {"distance": 0.0, "total": 0.0}

    def initial_state(self) -> Mapping[str, float | str]:
        """Return the parameter for ``start``."""
        return {"start": "w"}

    @staticmethod
    def rule(xp, w, g, s, h):
        norm, moved = xp.tree_norm(g), xp.tree_norm(w - s.start)
        # It is 0 before the first step alone, where nothing has moved yet.
        least = xp.where(s.distance == 0, h.movement * (1 + xp.tree_norm(w)), s.distance)
        distance = xp.maximum(least, moved)
        total = s.total + norm * norm
        new = w - h.lr * distance / xp.sqrt(total + h.eps) * g
        return new, {"distance": distance, "total": total}

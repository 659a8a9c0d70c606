"""Gradient descent that takes its rate from how far it has come, late gradients weighing most."""

from collections.abc import Mapping
from typing import ClassVar

from instep.hyperparameters import Epsilon, NonNegative, Positive
from instep.optimizer import Optimizer


class DoWG(Optimizer):
    r"""Distance over weighted gradients (Khaled, Mishchenko & Jin 2023, arXiv:2305.16284).

    .. math::
        r &\leftarrow \max(r, \lVert w - w_0 \rVert) \\
        G &\leftarrow G + r^2 \lVert g \rVert^2 \\
        w &\leftarrow w - \eta\, \frac{r^2}{\sqrt{G} + \epsilon}\, g

    with `G` starting at 0. The norms are over all arrays of the tree, so that `r` and `G` are one
    number each for all of them.

    Parameters
    ----------
    lr
        Factor :math:`\eta` of the steps: 1, unless they are to be tuned after all.
    distance
        What `r` starts at: the length of the first step. It has little influence as long as it is
        small.
    eps
        Term :math:`\epsilon` that keeps the division finite.

    Notes
    -----
    optax.contrib has the same rule. It gives the square of `distance`, 1e-4 as here.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import DoWG
    >>> optimizer, w = DoWG(distance=0.1, eps=0), np.array([3.0, 4.0])
    >>> for _ in range(2):
    ...     w = optimizer.update(w, np.array([0.0, 2.0]))
    >>> w.round(3)
    array([3.   , 3.829])
    """

    lr: NonNegative = 1.0
    distance: Positive = 0.01
    eps: Epsilon = 1e-4

    slots = ("start",)
    tree_numbers: ClassVar[Mapping[str, float | str]] = {"farthest": "distance", "total": 0.0}

    def initial_state(self) -> Mapping[str, float | str]:
        """Return the parameter for ``start``."""
        return {"start": "w"}

    @staticmethod
    def rule(xp, w, g, s, h):
        farthest = xp.maximum(s.farthest, xp.tree_norm(w - s.start))
        norm = farthest * xp.tree_norm(g)
        total = s.total + norm * norm
        new = w - h.lr * farthest * farthest / (xp.sqrt(total) + h.eps) * g
        return new, {"farthest": farthest, "total": total}

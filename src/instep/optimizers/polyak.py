"""Gradient descent that knows how far there is to go, and takes its rate from that."""

from instep.hyperparameters import Epsilon, NonNegative, RealArray, Schedule
from instep.optimizer import Optimizer


class PolyakSGD(Optimizer):
    r"""Gradient descent with Polyak's step size (Loizou et al. 2020, arXiv:2002.10542).

    .. math::
        w \leftarrow w - \min\left(\eta,
            \frac{\max(f - f^*, 0)}{\lVert g \rVert^2 + \epsilon}\right) g

    with the value `f` of the objective, which `update` is given: ``update(params, grads,
    value=f)``. The norm is over all arrays of the tree.

    Parameters
    ----------
    lr
        The largest rate :math:`\eta`.
    lowest
        The least value :math:`f^*` that the objective can have, or a bound below it: 0 for most
        losses.
    eps
        Term :math:`\epsilon` that keeps steps short where gradients vanish above the minimum.

    Notes
    -----
    optax has the same rule as ``polyak_sgd(variant="sps+")``; its default goes up the gradient
    where a value is below `lowest`. The paper divides by a constant `c`, too, which is 1 here.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import PolyakSGD
    >>> w = np.array([3.0, -4.0])
    >>> PolyakSGD().update(w, 2 * w, value=w @ w)
    array([ 1.5, -2. ])
    """

    lr: NonNegative = 1.0
    lowest: float | Schedule | RealArray = 0.0
    eps: Epsilon = 0.0

    needs_value = True

    @staticmethod
    def rule(xp, w, g, s, h):
        norm, above = xp.tree_norm(g), xp.maximum(h.value - h.lowest, 0.0)
        # At the minimum both may be 0.
        rate = xp.where(above == 0, 0.0, xp.minimum(h.lr, above / (norm * norm + h.eps)))
        return w - rate * g, {}

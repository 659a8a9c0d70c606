"""Means of the parameters along the path."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from instep.hyperparameters import DecayRate, Domain, Schedule
from instep.transform import Transform


class average(Transform):
    r"""Keep an exponential moving average of the parameters, with bias correction.

    .. math::
        a &\leftarrow \gamma a + (1 - \gamma)\, w \\
        \bar{w} &= a / (1 - \gamma^t)

    The parameters themselves are not changed. `Optimizer.answer` returns the averages as a tree,
    and `Optimizer.answer_in_place` puts them in the place of the parameters, and these back.

    Parameters
    ----------
    decay
        Decay rate :math:`\gamma`. If it is a schedule, the correction is by the sum of the
        weights so far.

    Notes
    -----
    The same as `optax.ema` on parameters with debias; torch's `get_ema_multi_avg_fn` starts the
    average at the first parameters instead.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import average
    >>> optimizer, w = chain(SGD(lr=1.0), average(0.5)), np.zeros(1)
    >>> for _ in range(2):
    ...     w = optimizer.update(w, np.array([-3.0]))
    >>> optimizer.answer(w)
    array([5.])
    """

    stage = "parameter"

    decay: DecayRate = 0.999

    slots = exact_slots = ("average",)
    scalar_slots: ClassVar[Mapping[str, float]] = {"weight": 0.0}

    @staticmethod
    def scalars(h: Any) -> Mapping[str, float | bool]:
        return {"weight": h.decay * h.weight + (1 - h.decay)}

    @staticmethod
    def rule(xp, w, g, s, h):
        return w, {"average": h.decay * s.average + (1 - h.decay) * w}

    @staticmethod
    def answer_rule(xp, w, s, h):
        return xp.where(h.weight == 0, w, s.average / h.weight)


class lookahead(Transform):
    r"""Every `k` steps, go back to a point between (Zhang et al. 2019, arXiv:1907.08610).

    .. math::
        \phi &\leftarrow \phi + \alpha (w - \phi) \\
        w &\leftarrow \phi

    Parameters
    ----------
    k
        Number of steps of the optimizer between two such moves.
    alpha
        How far the slow weights :math:`\phi` go towards the parameters, from 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import lookahead
    >>> optimizer, w = chain(SGD(lr=1.0), lookahead(k=2, alpha=0.5)), np.zeros(1)
    >>> for _ in range(2):
    ...     w = optimizer.update(w, np.array([-1.0]))
    >>> w
    array([1.])
    """

    stage = "parameter"

    k: Annotated[float | Schedule, Domain(lower=1, integer=True)] = 5
    alpha: Annotated[float | Schedule, Domain(lower=0, upper=1)] = 0.5

    slots = ("slow",)

    def initial_state(self) -> Mapping[str, float | str]:
        """Start the slow weights at the parameters."""
        return {"slow": "w"}

    @staticmethod
    def scalars(h: Any) -> Mapping[str, float | bool]:
        return {"returns": h.t % h.k == 0}

    @staticmethod
    def rule(xp, w, g, s, h):
        if not h.returns:
            return w, {}
        slow = s.slow + h.alpha * (w - s.slow)
        return slow, {"slow": slow}

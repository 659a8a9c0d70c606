"""Rules that average their path, so that no schedule need lower the learning rate."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from instep.hyperparameters import DecayRate, Domain, Epsilon, NonNegative, Schedule
from instep.optimizer import Optimizer

Interpolation = Annotated[
    float | Schedule, Domain(lower=0.0, upper=1.0, open_lower=True, open_upper=True)
]


class ScheduleFreeAdamW(Optimizer):
    r"""Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682, algorithm 1).

    The parameters are the points `y`, where gradients are taken; they lie between the fast
    iterates `z` and their mean `x`, the answer. With the weight
    :math:`p = t^r \max_{i \le t} \eta_i^2` of a step and its share :math:`c = p / \sum p`:

    .. math::
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        z &\leftarrow z - \eta \left( \frac{g}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}
            + \lambda y \right) \\
        x &\leftarrow (1 - c)\, x + c\, z \\
        y &\leftarrow (1 - \beta_1)\, z + \beta_1 x

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`. A warm-up helps; nothing need lower it later.
    beta1
        Place of `y` between `z` (0) and `x` (1), in (0, 1). It should stay as it is.
    beta2
        Decay rate of the mean squared gradient.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    weight_decay
        Strength :math:`\lambda` of the decay, which is taken at `y`.
    r
        Power of the step number in the weights: larger values forget the start sooner.

    Notes
    -----
    The authors' code has the same rule; optax, too, without `r`. PyTorch and Keras have none.

    `x` is not stored: it follows from `y` and `z`, at the precision of the parameters, so
    parameters of 16 bits lose most of the mean. In a chain, projections and other constraints
    after it are put to `z` as well, so that `x` is the mean of points of the set; other transforms
    of steps and parameters, which would move `y` alone, are refused.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import ScheduleFreeAdamW
    >>> optimizer, w = ScheduleFreeAdamW(lr=0.5, beta1=0.5), np.array([0.0])
    >>> for _ in range(2):
    ...     w = optimizer.update(w, np.array([-1.0]))  # z: 0.5, 1.0
    >>> w.round(6), optimizer.answer(w).round(6)
    (array([0.875]), array([0.75]))
    """

    lr: NonNegative = 0.0025
    beta1: Interpolation = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-8
    weight_decay: NonNegative = 0.0
    r: NonNegative = 0.0

    slots = ("z", "v")
    points = ("z",)
    real_slots = positive_slots = ("v",)
    scalar_slots: ClassVar[Mapping[str, float]] = {"largest_lr": 0.0, "total": 0.0, "place": 1.0}

    def initial_state(self) -> Mapping[str, float | str]:
        """Return that `z` starts at the parameter."""
        return {"z": "w"}

    @staticmethod
    def scalars(h: Any) -> Mapping[str, float | bool]:
        """Return the share of this step in the mean, and what it follows from."""
        return {**_share("ScheduleFreeAdamW", h), "place": h.beta1}

    @staticmethod
    def rule(xp, w, g, s, h):
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(g)
        v_hat = v / (1 - h.beta2_t)
        direction = g / (xp.sqrt(v_hat) + h.eps) + h.weight_decay * w
        y, z = _moved(xp, w, s.z, direction, h.beta1, h)
        return y, {"z": z, "v": v}

    @staticmethod
    def answer_rule(xp, w, s, h):
        return w / h.place + (1 - 1 / h.place) * s.z


class ScheduleFreeSGD(Optimizer):
    r"""Schedule-free gradient descent (Defazio et al. 2024, arXiv:2405.15682).

    The parameters are the points `y`, where gradients are taken; they lie between the fast
    iterates `z` and their mean `x`, the answer. With the weight
    :math:`p = t^r \max_{i \le t} \eta_i^2` of a step and its share :math:`c = p / \sum p`:

    .. math::
        z &\leftarrow z - \eta\, (g + \lambda y) \\
        x &\leftarrow (1 - c)\, x + c\, z \\
        y &\leftarrow (1 - \beta)\, z + \beta x

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`, several times what suits plain descent. Nothing need lower it
        later.
    beta
        Place of `y` between `z` (0) and `x` (1), in (0, 1). It should stay as it is.
    weight_decay
        Strength :math:`\lambda` of the decay, which is taken at `y`.
    r
        Power of the step number in the weights: larger values forget the start sooner.

    Notes
    -----
    The authors' code has the same rule and defaults; optax, too, without `r`. PyTorch and Keras
    have none.

    `x` is not stored: it follows from `y` and `z`, at the precision of the parameters, so
    parameters of 16 bits lose most of the mean. In a chain, projections and other constraints
    after it are put to `z` as well, so that `x` is the mean of points of the set; other transforms
    of steps and parameters, which would move `y` alone, are refused.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import ScheduleFreeSGD
    >>> optimizer, w = ScheduleFreeSGD(lr=0.5, beta=0.5), np.array([0.0])
    >>> for _ in range(2):
    ...     w = optimizer.update(w, np.array([-1.0]))  # z: 0.5, 1.0
    >>> w, optimizer.answer(w)
    (array([0.875]), array([0.75]))
    """

    lr: NonNegative = 1.0
    beta: Interpolation = 0.9
    weight_decay: NonNegative = 0.0
    r: NonNegative = 0.0

    slots = points = ("z",)
    scalar_slots: ClassVar[Mapping[str, float]] = ScheduleFreeAdamW.scalar_slots

    def initial_state(self) -> Mapping[str, float | str]:
        """Return that `z` starts at the parameter."""
        return {"z": "w"}

    @staticmethod
    def scalars(h: Any) -> Mapping[str, float | bool]:
        """Return the share of this step in the mean, and what it follows from."""
        return {**_share("ScheduleFreeSGD", h), "place": h.beta}

    @staticmethod
    def rule(xp, w, g, s, h):
        direction = g + h.weight_decay * w
        y, z = _moved(xp, w, s.z, direction, h.beta, h)
        return y, {"z": z}

    answer_rule = staticmethod(ScheduleFreeAdamW.answer_rule)


def _moved(xp: Any, y: Any, z: Any, direction: Any, beta: Any, h: Any) -> tuple[Any, Any]:
    """Return the new `y` and `z`: the last lines of the equation without x, which they determine.

    Constraints are put to `z`. Their mean `x`, and `y` between both, are then in a convex set too.
    """
    new = z - h.lr * direction
    kept = xp.constrained(new)
    mean, place = (1 - h.share) * y + h.share * z, 1 - beta * (1 - h.share)
    if kept is new:
        return mean - h.lr * place * direction, new
    return mean + place * (kept - z), kept


def _share(owner: str, h: Any) -> dict[str, float]:
    """Return the share of a step in the mean, and the largest rate and sum of weights so far."""
    largest = max(h.largest_lr, h.lr)
    try:
        weight = h.t**h.r * largest**2
        total = h.total + weight
    except OverflowError:
        total = math.inf
    if total == math.inf:
        raise ValueError(
            f"{owner}: the weights t**r * lr**2 are beyond the range of floats at step {h.t:.0f}, "
            f"with r={h.r!r} and lr={largest!r}; give a smaller r or lr"
        )
    return {"largest_lr": largest, "total": total, "share": weight / total if total > 0 else 0.0}

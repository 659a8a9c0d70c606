"""Changes of the step that an optimizer proposes."""

from typing import Annotated, ClassVar

from instep.hyperparameters import Domain, NonNegative, RealArray, Schedule
from instep.transform import Transform

_Change = Annotated[
    float | Schedule | RealArray, Domain(lower=0.0, infinite=True, survives_rounding=True)
]


class decoupled_weight_decay(Transform):
    r"""Shrink the parameter beside the step: :math:`w \leftarrow w' - \gamma \lambda w`.

    :math:`w` is the parameter before the step, :math:`w'` the one that the optimizer proposes,
    :math:`\gamma` its learning rate (Loshchilov, Hutter 2017, arXiv:1711.05101). Corrected (Defazio
    2025, arXiv:2506.02285), so that norms of weights do not drift as the learning rate falls:

    .. math:: w \leftarrow w' - \frac{\gamma^2}{\gamma_\mathrm{max}} \lambda w

    Parameters
    ----------
    rate
        Strength :math:`\lambda`.
    corrected
        Whether decay falls with the square of the learning rate.
        :math:`\gamma_\mathrm{max}` is the largest learning rate so far, which is remembered.

    Notes
    -----
    After `Adam`, it is the decay of `AdamW`. timm takes the learning rate from before any schedule
    as the largest one.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import decoupled_weight_decay
    >>> chain(SGD(lr=0.5), decoupled_weight_decay(0.5)).update(np.ones(1), np.ones(1))
    array([0.25])
    """

    stage = "step"

    rate: NonNegative = 0.01
    corrected: bool = False

    scalar_slots: ClassVar = {"largest": 0.0}

    @staticmethod
    def scalars(h):
        if not h.corrected:
            return {"largest": h.largest, "correction": 1.0}
        largest = max(h.largest, h.lr)
        return {"largest": largest, "correction": h.lr / largest if largest > 0 else 1.0}

    @staticmethod
    def rule(xp, w, new, g, s, h):
        return new - h.lr * h.correction * h.rate * w, {}


class clip_change(Transform):
    r"""Bound the change of every element in a step.

    .. math::
        d = w' - w, \qquad w \leftarrow w + d \min\left(1, \frac{c}{|d|}\right)

    :math:`w` is the parameter before the step and :math:`w'` the one that the optimizer proposes.
    The direction of each complex number is kept.

    Parameters
    ----------
    limit
        The most :math:`c` by which an element moves: a number, or an array of the shape of the
        parameter. Where it is infinite, or beyond the dtype of the arithmetic, there is no bound;
        where it is 0, nothing moves.

    Notes
    -----
    An element that moves by less is not changed, not in the last bit. What is NaN stays NaN; a real
    change that is infinite is one of :math:`c`, and a complex one is NaN. `clip_by_value` bounds
    the gradient instead, which an optimizer may scale by anything.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import clip_change
    >>> chain(SGD(lr=0.5), clip_change(1.0)).update(np.ones(2), np.array([4.0, -1.0]))
    array([0. , 1.5])
    >>> chain(SGD(lr=0.5), clip_change(1.0)).update(np.zeros(1, complex), np.array([-6 - 8j]))
    array([0.6+0.8j])
    """

    stage = "step"

    limit: _Change = 1.0

    @staticmethod
    def rule(xp, w, new, g, s, h):
        change = new - w
        return xp.where(abs(change) > h.limit, w + h.limit * xp.sign(change), new), {}


class cautious(Transform):
    r"""Keep those elements of the step that agree in sign with descent (Liang et al. 2024).

    .. math::
        a = [(w - w') \, g > 0], \qquad
        w \leftarrow w + \frac{n}{\sum a + 1} \, a \, (w' - w)

    :math:`w` is the parameter before the step, :math:`w'` the one that the optimizer proposes,
    :math:`g` the gradient that it was given and :math:`n` the number of elements of the tensor:
    what is kept grows as if all of them had stepped.

    Notes
    -----
    arXiv:2411.16085. pytorch_optimizer scales alike; timm divides by the mean of :math:`a`, of at
    least 0.001. A complex number agrees where the real part of
    :math:`\overline{(w - w')} g` is positive.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Momentum, chain
    >>> from instep.transforms import cautious
    >>> optimizer = chain(Momentum(lr=1.0, momentum=0.5), cautious())
    >>> w = optimizer.update(np.zeros(2), np.array([4.0, 4.0]))
    >>> optimizer.update(np.zeros(2), np.array([4.0, -1.0])).tolist()
    [-6.0, 0.0]
    """

    stage = "step"

    @staticmethod
    def rule(xp, w, new, g, s, h):
        agrees = xp.real(xp.conj(xp.sign(w - new)) * xp.sign(g)) > 0
        size = xp.sum(xp.ones_like(xp.real(w)))
        scale = size / (xp.sum(agrees) + 1)
        return xp.where(agrees, w + scale * (new - w), w), {}


class trust_ratio(Transform):
    r"""Let the step be as long as the parameter, times the learning rate (You et al. 2017, 2019).

    .. math:: w \leftarrow w + \gamma \, \eta \frac{\lVert w \rVert}{\lVert w' - w \rVert} (w' - w)

    :math:`w` is the parameter before the step, :math:`w'` the one that the optimizer proposes and
    :math:`\gamma` its learning rate. Where a norm is 0, the step stays as it is.

    Parameters
    ----------
    eta
        Trust coefficient :math:`\eta`.

    Notes
    -----
    After `Adam`, it is `LAMB` without decay. The same as `optax.scale_by_trust_ratio` before the
    learning rate.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import trust_ratio
    >>> chain(SGD(lr=0.5), trust_ratio()).update(np.array([3.0, 4.0]), np.array([0.0, 0.1]))
    array([3. , 1.5])
    """

    stage = "step"
    tensor_readings = ("ratio",)

    eta: NonNegative = 1.0

    @staticmethod
    def rule(xp, w, new, g, s, h):
        change = new - w
        w_norm, norm = xp.norm(w), xp.norm(change)
        ratio = xp.where((w_norm > 0) & (norm > 0), h.lr * h.eta * w_norm / norm, 1.0)
        return w + ratio * change, {"ratio": ratio}

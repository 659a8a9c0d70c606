"""Adam and its relatives: running means of the gradient and of its square."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class Adam(Optimizer):
    r"""Adam (Kingma & Ba 2014, arXiv:1412.6980, algorithm 1).

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        w &\leftarrow w - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`: about the size of a step.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean squared gradient.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    amsgrad
        Divide by the root of the largest `v` so far, `x`, as `AMSGrad` does.
    form
        Where :math:`\epsilon` stands: ``"epsilon"``, beside the root of the corrected `v`, or
        ``"epsilon_hat"``, beside the root of `v`, as in the paper's section 2: the step is
        :math:`\eta\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\,
        \frac{m}{\sqrt{v} + \epsilon}`.

    Notes
    -----
    PyTorch and optax have the same rule. With ``form="epsilon_hat"`` it is that of Keras (eps
    1e-7 there), scikit-learn, DeZero, thinc, and of listings that correct the learning rate instead
    of `m` and `v`. The forms differ in the first steps, where eps is not small beside the root.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Adam
    >>> Adam(lr=0.5, eps=0).update(np.array([1.0, 1.0]), np.array([4.0, -0.1]))
    array([0.5, 1.5])
    """

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-8
    amsgrad: bool = False
    form: Literal["epsilon", "epsilon_hat"] = "epsilon"

    slots = ("m", "v", "x")
    real_slots = positive_slots = ("v", "x")
    optional_slots: ClassVar[Mapping[str, str]] = {"x": "amsgrad"}

    @staticmethod
    def rule(xp, w, g, s, h):
        # Not beta1 * m: the two weights, each rounded, would not add up to 1. Not so for v, where
        # a square that overflows must stay infinite, and inf - inf is NaN.
        m = (s.m - (1 - h.beta1) * s.m) + (1 - h.beta1) * g
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(g)
        slots = {"m": m, "v": v}
        if "x" in s:
            v = slots["x"] = xp.maximum(s.x, v)
        if h.form == "epsilon_hat":
            rate = h.lr * xp.sqrt(1 - h.beta2_t) / (1 - h.beta1_t)
            return w - rate * m / (xp.sqrt(v) + h.eps), slots
        rate = h.lr / (1 - h.beta1_t)
        v_hat = v / (1 - h.beta2_t)
        return w - rate * m / (xp.sqrt(v_hat) + h.eps), slots


class AdamW(Optimizer):
    r"""Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101).

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        w &\leftarrow (1 - \eta \lambda)\, w
            - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean squared gradient.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    weight_decay
        Strength :math:`\lambda` of the decay, in units of the learning rate.
    amsgrad
        Divide by the root of the largest `v` so far, `x`, as `AMSGrad` does.
    form
        Where :math:`\epsilon` stands: ``"epsilon"``, beside the root of the corrected `v`, or
        ``"epsilon_hat"``, beside the root of `v`, as in the paper's section 2: the step is
        :math:`\eta\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\,
        \frac{m}{\sqrt{v} + \epsilon}`.

    Notes
    -----
    PyTorch has the same rule and defaults; optax has weight_decay 1e-4. Keras has that with
    ``form="epsilon_hat"``, with weight_decay 0.004 and eps 1e-7. The paper scales the decay by a
    schedule alone, not by the learning rate.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import AdamW
    >>> AdamW(lr=0.5, eps=0, weight_decay=0.5).update(np.array([1.0]), np.array([4.0]))
    array([0.25])
    """

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-8
    weight_decay: NonNegative = 0.01
    amsgrad: bool = False
    form: Literal["epsilon", "epsilon_hat"] = "epsilon"

    slots = ("m", "v", "x")
    real_slots = positive_slots = ("v", "x")
    optional_slots: ClassVar[Mapping[str, str]] = {"x": "amsgrad"}

    @staticmethod
    def rule(xp, w, g, s, h):
        decayed = (1 - h.lr * h.weight_decay) * w
        return Adam.rule(xp, decayed, g, s, h)

"""Adam with a learning rate that never grows."""

from collections.abc import Mapping
from typing import Any, Literal

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class AMSGrad(Optimizer):
    r"""AMSGrad (Reddi, Kale & Kumar 2018, arXiv:1904.09237, algorithm 2), bias-corrected.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g \odot g \\
        x &\leftarrow \max(x, v) \\
        w &\leftarrow w - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{x / (1 - \beta_2^t)} + \epsilon}

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
    form
        Where :math:`\epsilon` stands: ``"epsilon"``, beside the root of the corrected `x`, or
        ``"epsilon_hat"``, beside the root of `x`, as `Adam` has it, too: the step is
        :math:`\eta\, \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\,
        \frac{m}{\sqrt{x} + \epsilon}`.
    bias_correction
        When `v` is corrected: ``"after"`` the maximum, as above; ``"before"`` it, so that
        :math:`x \leftarrow \max(x, v / (1 - \beta_2^t))` and the root is of `x`; or ``"none"``:
        neither is it ever, nor is `m`.

    Notes
    -----
    PyTorch (``Adam(amsgrad=True)``) has the same rule, Keras that with ``form="epsilon_hat"``,
    optax that with ``bias_correction="before"``. The paper has no bias corrections, and no eps.
    `Adam`, `AdamW` and `NAdam` have the maximum as an option.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import AMSGrad
    >>> AMSGrad(lr=0.5, eps=0).update(np.array([1.0, 1.0]), np.array([4.0, -0.1]))
    array([0.5, 1.5])
    """

    lr: NonNegative = 0.001
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.999
    eps: Epsilon = 1e-8
    form: Literal["epsilon", "epsilon_hat"] = "epsilon"
    bias_correction: Literal["after", "before", "none"] = "after"

    slots = ("m", "v", "x")
    real_slots = positive_slots = ("v", "x")

    def check_values(self, values: Mapping[str, Any]) -> None:
        """Raise unless there is a correction that eps can stand beside."""
        if values["form"] == "epsilon_hat" and values["bias_correction"] != "after":
            raise ValueError(
                f"{self.name}: form='epsilon_hat' goes with bias_correction='after', got "
                f"{values['bias_correction']!r}, which leaves nothing to correct beside eps; use "
                f"form='epsilon'"
            )

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.beta1 * s.m + (1 - h.beta1) * g
        v = h.beta2 * s.v + (1 - h.beta2) * xp.abs_sq(g)
        x = xp.maximum(s.x, v / (1 - h.beta2_t) if h.bias_correction == "before" else v)
        slots = {"m": m, "v": v, "x": x}
        if h.bias_correction == "none":
            return w - h.lr * m / (xp.sqrt(x) + h.eps), slots
        if h.form == "epsilon_hat":
            rate = h.lr * xp.sqrt(1 - h.beta2_t) / (1 - h.beta1_t)
            return w - rate * m / (xp.sqrt(x) + h.eps), slots
        rate = h.lr / (1 - h.beta1_t)
        x_hat = x if h.bias_correction == "before" else x / (1 - h.beta2_t)
        return w - rate * m / (xp.sqrt(x_hat) + h.eps), slots

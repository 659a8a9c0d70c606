"""Learning rates that adapt to a running mean of squared gradients."""

from collections.abc import Mapping
from typing import Any

from instep.hyperparameters import DecayRate, Epsilon, NonNegative
from instep.optimizer import Optimizer


class RMSProp(Optimizer):
    r"""RMSProp (Hinton 2012, lecture 6e of Neural Networks for Machine Learning).

    .. math::
        h &\leftarrow \gamma h + (1 - \gamma)\, g \odot g \\
        w &\leftarrow w - \eta\, \frac{g}{\sqrt{h} + \epsilon}

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    decay
        Decay rate :math:`\gamma` of the running means.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    centered
        Divide by the standard deviation of the gradients around their running mean `a` (Graves
        2013, arXiv:1308.0850), instead of their root mean square. With `a` as it was before this
        gradient, :math:`\sigma \leftarrow \sqrt{\gamma \sigma^2 + \gamma (1 - \gamma) |g - a|^2}`.
    momentum
        Share of the velocity that a step keeps; 0: no velocity.
    nesterov
        Step along the velocity that the next step will keep, as `Nesterov` does.
    eps_in_sqrt
        Add :math:`\epsilon` inside of the root, :math:`\sqrt{h + \epsilon}` or
        :math:`\sqrt{\sigma^2 + \epsilon}`, and not to it.
    initial_accumulator_value
        What `h` starts at. With `centered` it is zero.
    lr_in_velocity
        Whether the velocity contains the learning rate, as in `Momentum`; else steps are
        multiplied by it.

    Notes
    -----
    PyTorch has decay 0.99, eps 1e-8 and ``lr_in_velocity=False``, which is the same path while the
    learning rate is constant. optax and Keras have ``eps_in_sqrt=True``; optax has eps 1e-8, and
    calls the start of `h` initial_scale. The squared deviation is `h` less the square
    of the mean, as others compute it; here nothing cancels, and no square can overflow.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import RMSProp
    >>> RMSProp(lr=0.5, decay=0.75, eps=0).update(np.array([1.0]), np.array([3.0]))
    array([0.])
    """

    lr: NonNegative = 0.01
    decay: DecayRate = 0.9
    eps: Epsilon = 1e-7
    centered: bool = False
    momentum: DecayRate = 0.0
    nesterov: bool = False
    eps_in_sqrt: bool = False
    initial_accumulator_value: NonNegative = 0.0
    lr_in_velocity: bool = True

    slots = ("h", "mean", "deviation", "velocity", "buffer")
    real_slots = positive_slots = ("h", "deviation")

    def state_slots(self) -> tuple[str, ...]:
        """Return ``h``, or what takes its place, and the velocity where it is asked for."""
        spread = ("mean", "deviation") if self.centered else ("h",)
        velocity = "velocity" if self.lr_in_velocity else "buffer"
        return (*spread, velocity) if self.momentum != 0 else spread

    def initial_state(self) -> Mapping[str, float | str]:
        """Return the initial value of the mean square."""
        return {"h": "initial_accumulator_value"}

    def check_values(self, values: Mapping[str, Any]) -> None:
        """Raise where a mean square would start of which only the deviation is kept."""
        start = values["initial_accumulator_value"]
        if values["centered"] and not (isinstance(start, float) and start == 0):
            raise ValueError(
                f"{self.name}: initial_accumulator_value is what the mean square starts at, and "
                f"centered=True keeps none; leave it at 0, or set centered=False"
            )

    @staticmethod
    def rule(xp, w, g, s, h):
        if h.centered:
            share = xp.sqrt(h.decay * (1 - h.decay))
            size = xp.hypot(xp.sqrt(h.decay) * s.deviation, share * abs(g - s.mean))
            slots = {"mean": h.decay * s.mean + (1 - h.decay) * g, "deviation": size}
            root = xp.hypot(size, xp.sqrt(h.eps)) if h.eps_in_sqrt else size + h.eps
        else:
            mean_square = h.decay * s.h + (1 - h.decay) * xp.abs_sq(g)
            slots = {"h": mean_square}
            root = xp.sqrt(mean_square + h.eps) if h.eps_in_sqrt else xp.sqrt(mean_square) + h.eps
        if "buffer" in s:
            buffer = slots["buffer"] = h.momentum * s.buffer + g / root
            return w - h.lr * (h.momentum * buffer + g / root if h.nesterov else buffer), slots
        step = h.lr * g / root
        if "velocity" in s:
            velocity = slots["velocity"] = h.momentum * s.velocity + step
            step = h.momentum * velocity + step if h.nesterov else velocity
        return w - step, slots

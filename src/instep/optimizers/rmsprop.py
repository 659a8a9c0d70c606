"""Learning rates that adapt to a running mean of squared gradients."""

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

    Notes
    -----
    PyTorch has decay 0.99 and eps 1e-8; optax and Keras have eps inside the root. The velocity
    contains the learning rate, as in `Momentum` and in Keras; PyTorch multiplies by it later,
    the same path while the learning rate is constant. The squared deviation is `h` less the square
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

    slots = ("h", "mean", "deviation", "velocity")
    real_slots = positive_slots = ("h", "deviation")

    def state_slots(self) -> tuple[str, ...]:
        """Return ``h``, or what takes its place, and the velocity where it is asked for."""
        spread = ("mean", "deviation") if self.centered else ("h",)
        return (*spread, "velocity") if self.momentum != 0 else spread

    @staticmethod
    def rule(xp, w, g, s, h):
        if h.centered:
            share = xp.sqrt(h.decay * (1 - h.decay))
            size = xp.hypot(xp.sqrt(h.decay) * s.deviation, share * abs(g - s.mean))
            slots = {"mean": h.decay * s.mean + (1 - h.decay) * g, "deviation": size}
        else:
            slots = {"h": h.decay * s.h + (1 - h.decay) * xp.abs_sq(g)}
            size = xp.sqrt(slots["h"])
        step = h.lr * g / (size + h.eps)
        if "velocity" in s:
            velocity = slots["velocity"] = h.momentum * s.velocity + step
            step = h.momentum * velocity + step if h.nesterov else velocity
        return w - step, slots

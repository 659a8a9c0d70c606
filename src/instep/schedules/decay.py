"""From one value to another, or ever smaller."""

from dataclasses import dataclass

from instep.correctly_rounded import power
from instep.schedules.arguments import Finite, NonNegative, Positive, Steps
from instep.schedules.base import Schedule
from instep.schedules.curves import along_cosine, along_line, progress


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at every step.

    Parameters
    ----------
    value
        That value.

    Notes
    -----
    `optax.constant_schedule`.

    Examples
    --------
    >>> from instep.schedules import Constant
    >>> Constant(0.1)(1000)
    0.1
    """

    value: Finite

    def at(self, step: int, value: float | None = None) -> float:
        return self.value


@dataclass(frozen=True)
class Linear(Schedule):
    """From `start` to `end` along a straight line.

    Parameters
    ----------
    start
        Value at step 1.
    end
        Value from step ``steps + 1`` on.
    steps
        Number of steps on the way.

    Notes
    -----
    `optax.linear_schedule`; `torch.optim.lr_scheduler.LinearLR`.

    Examples
    --------
    >>> from instep.schedules import Linear
    >>> schedule = Linear(1.0, 0.0, steps=4)
    >>> [schedule(step) for step in (1, 2, 3, 4, 5, 6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    start: Finite
    end: Finite
    steps: Steps

    def at(self, step: int, value: float | None = None) -> float:
        return along_line(self.start, self.end, progress(step, self.steps))

    @property
    def span(self) -> int:
        return self.steps + 1


@dataclass(frozen=True)
class Polynomial(Schedule):
    r"""From `start` to `end` along a power of the time that is left.

    .. math::
        y_\text{end} + (y_\text{start} - y_\text{end}) \left(1 - \frac{t - 1}{n}\right)^p

    Parameters
    ----------
    start
        Value at step 1.
    end
        Value from step ``steps + 1`` on.
    steps
        Number of steps :math:`n` on the way.
    power
        The power :math:`p`: 1 is a straight line, more is steeper at the start.

    Notes
    -----
    `optax.polynomial_schedule`; `torch.optim.lr_scheduler.PolynomialLR` with end 0.

    Examples
    --------
    >>> from instep.schedules import Polynomial
    >>> schedule = Polynomial(1.0, 0.0, steps=4, power=2)
    >>> [schedule(step) for step in (1, 2, 3, 4, 5, 6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    start: Finite
    end: Finite
    steps: Steps
    power: Positive = 1.0

    def at(self, step: int, value: float | None = None) -> float:
        left = power(1 - progress(step, self.steps), self.power)
        return self.end + (self.start - self.end) * left

    @property
    def span(self) -> int:
        return self.steps + 1


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Multiplied by `factor` every so many steps.

    Parameters
    ----------
    start
        Value of the first `every` steps.
    factor
        What each drop multiplies by.
    every
        Number of steps between two drops.

    Notes
    -----
    `torch.optim.lr_scheduler.StepLR`; `optax.exponential_decay` with ``staircase=True``. For
    drops at other places, `Join` constants.

    Examples
    --------
    >>> from instep.schedules import StepDecay
    >>> schedule = StepDecay(1.0, factor=0.5, every=2)
    >>> [schedule(step) for step in (1, 2, 3, 4, 5)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """

    start: Finite
    factor: NonNegative
    every: Steps

    def at(self, step: int, value: float | None = None) -> float:
        return self.start * power(self.factor, (step - 1) // self.every)

    @property
    def span(self) -> int:
        return 5 * self.every


@dataclass(frozen=True)
class Exponential(Schedule):
    r"""Multiplied by `factor` at every step: :math:`y_\text{start}\, \gamma^{t - 1}`.

    Parameters
    ----------
    start
        Value at step 1.
    factor
        The factor :math:`\gamma`.

    Notes
    -----
    `torch.optim.lr_scheduler.ExponentialLR`; `optax.exponential_decay`.

    Examples
    --------
    >>> from instep.schedules import Exponential
    >>> schedule = Exponential(1.0, factor=0.5)
    >>> [schedule(step) for step in (1, 2, 3)]
    [1.0, 0.5, 0.25]
    """

    start: Finite
    factor: NonNegative

    def at(self, step: int, value: float | None = None) -> float:
        return self.start * power(self.factor, step - 1)


@dataclass(frozen=True)
class InverseTime(Schedule):
    r"""Divided by the time: :math:`y_\text{start} / (1 + k (t - 1))^p`.

    With power 1 this is the condition of Robbins and Monro (1951) for convergence; with power 0.5
    and rate 1 it is :math:`y_\text{start} / \sqrt{t}`.

    Parameters
    ----------
    start
        Value at step 1.
    rate
        How fast it falls, :math:`k`.
    power
        The power :math:`p`.

    Notes
    -----
    Keras' `InverseTimeDecay`, and the `lr_decay` of `torch.optim.Adagrad`.

    Examples
    --------
    >>> from instep.schedules import InverseTime
    >>> schedule = InverseTime(1.0, rate=0.5)
    >>> [schedule(step) for step in (1, 3, 7)]
    [1.0, 0.5, 0.25]
    """

    start: Finite
    rate: NonNegative
    power: Positive = 1.0

    def at(self, step: int, value: float | None = None) -> float:
        return self.start / power(1 + self.rate * (step - 1), self.power)


@dataclass(frozen=True)
class Cosine(Schedule):
    r"""From `start` to `end` along half a cosine (Loshchilov & Hutter 2016, arXiv:1608.03983).

    .. math::
        y_\text{end} + (y_\text{start} - y_\text{end})
            \left(\frac{1}{2} + \frac{1}{2} \cos \frac{\pi (t - 1)}{n}\right)^p

    Parameters
    ----------
    start
        Value at step 1.
    steps
        Number of steps :math:`n` on the way.
    end
        Value from step ``steps + 1`` on.
    power
        The power :math:`p`: more than 1 is steeper at the start.

    Notes
    -----
    `optax.cosine_decay_schedule`, whose `exponent` is the power;
    `torch.optim.lr_scheduler.CosineAnnealingLR`, which rises again after `steps` steps.

    Examples
    --------
    >>> from instep.schedules import Cosine
    >>> schedule = Cosine(1.0, steps=4)
    >>> [round(schedule(step), 3) for step in (1, 2, 3, 4, 5, 6)]
    [1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    start: Finite
    steps: Steps
    end: Finite = 0.0
    power: Positive = 1.0

    def at(self, step: int, value: float | None = None) -> float:
        left = along_cosine(1.0, 0.0, progress(step, self.steps))
        if self.power != 1:  # which would take as long as the cosine
            left = power(left, self.power)
        return self.end + (self.start - self.end) * left

    @property
    def span(self) -> int:
        return self.steps + 1


@dataclass(frozen=True)
class REX(Schedule):
    r"""From `start` to `end`, the steeper the later (Chen et al. 2021, arXiv:2107.04197).

    .. math::
        y_\text{end} + (y_\text{start} - y_\text{end})
            \frac{1 - z}{\frac{1}{2} + \frac{1}{2} (1 - z)}, \qquad z = \frac{t - 1}{n}

    Parameters
    ----------
    start
        Value at step 1.
    steps
        Number of steps :math:`n` on the way.
    end
        Value from step ``steps + 1`` on.

    Examples
    --------
    >>> from instep.schedules import REX
    >>> schedule = REX(1.0, steps=4)
    >>> [round(schedule(step), 3) for step in (1, 2, 3, 4, 5, 6)]
    [1.0, 0.857, 0.667, 0.4, 0.0, 0.0]
    """

    start: Finite
    steps: Steps
    end: Finite = 0.0

    def at(self, step: int, value: float | None = None) -> float:
        left = 1 - progress(step, self.steps)
        return self.end + (self.start - self.end) * (left / (0.5 + 0.5 * left))

    @property
    def span(self) -> int:
        return self.steps + 1

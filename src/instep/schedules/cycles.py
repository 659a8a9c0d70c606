"""Up and down again."""

from dataclasses import dataclass
from typing import Annotated, Literal

from instep.correctly_rounded import power
from instep.hyperparameters import Domain
from instep.schedules.arguments import (
    Finite,
    NonNegative,
    Positive,
    Share,
    Steps,
    StepsOrNone,
    validate,
    validate_choice,
)
from instep.schedules.base import Schedule
from instep.schedules.curves import CURVES, along_cosine, along_line, progress


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """`Cosine` again and again (SGDR; Loshchilov & Hutter 2016, arXiv:1608.03983).

    Parameters
    ----------
    start
        Value at the first step of each cycle.
    steps
        Number of steps of the first cycle.
    end
        What each cycle comes down to; its last step stops short of it.
    growth
        Each cycle is so many times longer than the one before.

    Notes
    -----
    `torch.optim.lr_scheduler.CosineAnnealingWarmRestarts`; `optax.sgdr_schedule` takes a list of
    cycles.

    Examples
    --------
    >>> from instep.schedules import CosineRestarts
    >>> schedule = CosineRestarts(1.0, steps=2, growth=2)
    >>> [round(schedule(step), 3) for step in range(1, 8)]
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]
    """

    start: Finite
    steps: Steps
    end: Finite = 0.0
    growth: Steps = 1

    def at(self, step: int, value: float | None = None) -> float:
        done, length = step - 1, self.steps
        if self.growth == 1:
            done %= length
        while done >= length:
            done -= length
            length *= self.growth
        return along_cosine(self.start, self.end, done / length)

    @property
    def span(self) -> int:
        return self.steps * (1 + self.growth + self.growth**2)


@dataclass(frozen=True)
class Cyclic(Schedule):
    r"""Up and down again and again, in straight lines (Smith 2015, arXiv:1506.01186).

    .. math::
        y_\text{start} + \gamma^n (y_\text{peak} - y_\text{start})\, s_t

    where :math:`s_t` goes from 0 to 1 in `up` steps and back to 0 in `down` steps, and :math:`n`
    is the number of cycles, or of steps, before this one.

    Parameters
    ----------
    start
        Value at the first step of each cycle, :math:`y_\text{start}`.
    peak
        Value after the first `up` steps, :math:`y_\text{peak}`.
    up
        Number of steps on the way up.
    down
        Number of steps on the way down; None for as many.
    factor
        What the height of the peak is multiplied by, :math:`\gamma`.
    each
        When: with each ``"cycle"`` or with each ``"step"``.

    Notes
    -----
    `torch.optim.lr_scheduler.CyclicLR`: its mode "triangular" is a factor of 1, "triangular2" one
    of 0.5, and "exp_range" one of its gamma with each step.

    Examples
    --------
    >>> from instep.schedules import Cyclic
    >>> schedule = Cyclic(0.0, 1.0, up=2, factor=0.5)
    >>> [schedule(step) for step in range(1, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25, 0.0]
    """

    start: Finite
    peak: Finite
    up: Steps
    down: int | None = None
    factor: NonNegative = 1.0
    each: Literal["cycle", "step"] = "cycle"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.down is not None:
            object.__setattr__(self, "down", validate(self, "down", self.down, Steps))
        validate_choice(self, "each", self.each, ("cycle", "step"))

    def at(self, step: int, value: float | None = None) -> float:
        down = self.up if self.down is None else self.down
        cycle, done = divmod(step - 1, self.up + down)
        share = done / self.up if done <= self.up else (self.up + down - done) / down
        height = power(self.factor, cycle if self.each == "cycle" else step - 1)
        return self.start + (self.peak - self.start) * share * height

    @property
    def span(self) -> int:
        return 3 * (self.up + (self.down or self.up))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to `peak`, and down far below the start (Smith & Topin 2017, arXiv:1708.07120).

    Parameters
    ----------
    peak
        Largest value.
    steps
        Number of steps of the whole cycle; step `steps` has the smallest value, and so have all
        later ones.
    rising
        Share of the steps in which it rises.
    start_divisor
        The value at step 1 is the peak divided by this.
    end_divisor
        The last value is the first divided by this.
    curve
        How it goes: ``"cosine"`` or ``"linear"``.
    phases
        2, or 3 as in the paper: down to the start in as many steps as up, and only then below.
        So `rising` is at most 0.5 with 3.

    Notes
    -----
    `torch.optim.lr_scheduler.OneCycleLR`, whose `three_phase` are 3 phases;
    `optax.cosine_onecycle_schedule` arrives one step later, and its end is the peak divided by
    end_divisor.

    Examples
    --------
    >>> from instep.schedules import OneCycle
    >>> schedule = OneCycle(1.0, steps=11, rising=0.4, start_divisor=4, curve="linear")
    >>> [round(schedule(step), 3) for step in (1, 2, 11)]
    [0.25, 0.471, 0.0]
    """

    peak: Finite
    steps: Annotated[int, Domain(lower=2)]
    rising: Share = 0.3
    start_divisor: Positive = 25.0
    end_divisor: Positive = 1e4
    curve: Literal["cosine", "linear"] = "cosine"
    phases: Annotated[int, Domain(lower=2, upper=3)] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_choice(self, "curve", self.curve, ("cosine", "linear"))
        if self.phases == 3 and self.rising > 0.5:
            raise ValueError(
                f"OneCycle: rising must be at most 0.5 with 3 phases, of which the second takes "
                f"as long, got {self.rising!r}"
            )

    def at(self, step: int, value: float | None = None) -> float:
        start = self.peak / self.start_divisor
        done, top, last = min(step, self.steps) - 1, self.rising * self.steps - 1, self.steps - 1
        curve, begun, highest = CURVES[self.curve], top, self.peak
        if done <= top:
            return curve(start, self.peak, done / top if top > 0 else 1.0)
        # The peak may lie before the first step, when nothing rises.
        if self.phases == 3:
            if done <= 2 * top:
                return curve(self.peak, start, (done - top) / top)
            begun, highest = 2 * top, start
        return curve(highest, start / self.end_divisor, (done - begun) / (last - begun))

    @property
    def span(self) -> int:
        return self.steps


@dataclass(frozen=True)
class WarmUpStableDecay(Schedule):
    """Up, level, and down (Hu et al. 2024, arXiv:2404.06395, section 4).

    The number of steps need not be known at the start: a longer level part continues the same run.

    Parameters
    ----------
    peak
        Value of the level part.
    warm_up, stable, decay
        Numbers of steps of the three parts.
    start
        Value at step 1.
    end
        Value from step ``warm_up + stable + decay + 1`` on.
    curve
        How it goes down: ``"linear"``, ``"cosine"``, or ``"sqrt"``, one less the root of the time.

    Notes
    -----
    `optax.join_schedules` of linear, constant and linear (or cosine decay) schedules.

    Examples
    --------
    >>> from instep.schedules import WarmUpStableDecay
    >>> schedule = WarmUpStableDecay(1.0, warm_up=2, stable=3, decay=4)
    >>> [schedule(step) for step in range(1, 11)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    peak: Finite
    warm_up: StepsOrNone
    stable: StepsOrNone
    decay: Steps
    start: Finite = 0.0
    end: Finite = 0.0
    curve: Literal["linear", "cosine", "sqrt"] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_choice(self, "curve", self.curve, CURVES)

    def at(self, step: int, value: float | None = None) -> float:
        if step <= self.warm_up:
            return along_line(self.start, self.peak, progress(step, self.warm_up))
        done = progress(max(step - self.warm_up - self.stable, 1), self.decay)
        return CURVES[self.curve](self.peak, self.end, done)

    @property
    def span(self) -> int:
        return self.warm_up + self.stable + self.decay + 1

"""Up and down again."""

from dataclasses import dataclass
from typing import Annotated, Literal

from instep.hyperparameters import Domain
from instep.schedules.arguments import Finite, Positive, Share, Steps, StepsOrNone, validate_choice
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

    def _at(self, step: int) -> float:
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

    Notes
    -----
    `torch.optim.lr_scheduler.OneCycleLR`; `optax.cosine_onecycle_schedule` arrives one step later,
    and its end is the peak divided by end_divisor.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        validate_choice(self, "curve", self.curve, ("cosine", "linear"))

    def _at(self, step: int) -> float:
        start = self.peak / self.start_divisor
        done, top, last = min(step, self.steps) - 1, self.rising * self.steps - 1, self.steps - 1
        curve = CURVES[self.curve]
        if done <= top:
            return curve(start, self.peak, done / top if top > 0 else 1.0)
        # The peak may lie before the first step, when nothing rises.
        return curve(self.peak, start / self.end_divisor, (done - top) / (last - top))

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

    def _at(self, step: int) -> float:
        if step <= self.warm_up:
            return along_line(self.start, self.peak, progress(step, self.warm_up))
        done = progress(max(step - self.warm_up - self.stable, 1), self.decay)
        return CURVES[self.curve](self.peak, self.end, done)

    @property
    def span(self) -> int:
        return self.warm_up + self.stable + self.decay + 1

"""Down when nothing gets better."""

import math
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

from instep.hyperparameters import described, real
from instep.schedules.arguments import (
    Finite,
    NonNegative,
    Shrinking,
    StepsOrNone,
    validate,
    validate_choice,
)
from instep.schedules.base import Schedule


class _Told(NamedTuple):
    """What reports have come to."""

    value: float
    best_metric: float
    bad_reports: int = 0  # since the best one
    cooling: int = 0  # reports that are not judged yet
    total: float = 0.0  # of values that make no report yet
    values: int = 0  # their number


@dataclass
class ReduceOnPlateau(Schedule):
    """Multiplied by `factor` when a metric that `report` is told no longer gets better.

    The value is the same at every step until a report lowers it. Unlike the other schedules this
    one changes; equal ones have been told the same. What it was told is saved with an optimizer,
    and loaded into the schedule that the optimizer has then.

    Parameters
    ----------
    start
        Value until the first drop.
    factor
        What a drop multiplies by, in (0, 1).
    patience
        Number of reports without an improvement that are tolerated; the next one drops.
    threshold
        An improvement counts if it is larger than this times the absolute value of the best metric.
    cooldown
        Number of reports after a drop that are not judged. The best metric is still noted.
    smallest
        The value does not fall below this.
    best
        Which metric is the best: ``"smallest"``, as of a loss, or ``"largest"``, as of an accuracy.
    values
        If not 0, the reports are made of the values of the objective that ``update(params, grads,
        value=loss)`` is given: the mean over so many steps is one. A call that is repeated, for it
        failed or was turned away, counts once, and of those that `accumulate` gathers the last.

    Notes
    -----
    `torch.optim.lr_scheduler.ReduceLROnPlateau`, but for its eps, below which it makes no drops,
    and but for negative metrics: there ``best * (1 - threshold)`` is worse than the best, so that
    for torch -1 again and again gets better each time. `optax.contrib.reduce_on_plateau` scales
    updates.

    Examples
    --------
    >>> from instep.schedules import ReduceOnPlateau
    >>> schedule = ReduceOnPlateau(0.1, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     schedule.report(loss)
    >>> schedule(5)
    0.05
    """

    start: Finite
    factor: Shrinking = 0.1
    patience: StepsOrNone = 10
    threshold: NonNegative = 1e-4
    cooldown: StepsOrNone = 0
    smallest: Finite = 0.0
    best: Literal["smallest", "largest"] = "smallest"
    values: StepsOrNone = 0
    _told: _Told = field(init=False, repr=False)
    # The last step of which a value was told, and what had been told before it.
    _before: tuple[int, _Told] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._told = _Told(self.start, math.inf if self.best == "smallest" else -math.inf)
        self._before = 0, self._told

    @property
    def needs_value(self) -> bool:
        return self.values > 0

    def __setattr__(self, name: str, value: Any) -> None:
        hint = typing.get_type_hints(type(self), include_extras=True).get(name)
        if typing.get_origin(hint) is Annotated:
            value = validate(self, name, value, hint)
        elif name == "best":
            validate_choice(self, name, value, ("smallest", "largest"))
        super().__setattr__(name, value)

    def at(self, step: int, value: float | None = None) -> float:
        if value is not None and self.values:
            last, before = self._before
            before = self._told if step > last else before
            self.__dict__.update(_before=(step, before), _told=self._heard(before, value))
        return self._told.value

    def _heard(self, told: _Told, value: float) -> _Told:
        """Return what reports have come to with one more value."""
        total, count = told.total + value, told.values + 1
        if count < self.values:
            return told._replace(total=total, values=count)
        return self._reported(told, total / count)

    def report(self, metric: float) -> None:
        """Tell the metric of an epoch: a number, whose NaN counts as no improvement."""
        if self.values:
            raise TypeError(
                f"ReduceOnPlateau.report: with values={self.values}, the values that `update` is "
                f"given are the metric; leave `values` out to report one"
            )
        try:
            metric = real(metric)
        except TypeError:
            raise TypeError(
                f"ReduceOnPlateau.report: the metric must be a number, got {described(metric)}"
            ) from None
        except OverflowError:
            raise ValueError(
                f"ReduceOnPlateau.report: the metric must be within the range of floats, got "
                f"{described(metric)}"
            ) from None
        self._told = self._reported(self._told, metric)

    def _reported(self, told: _Told, metric: float) -> _Told:
        """Return what reports have come to with one more."""
        value, best_metric, bad_reports, cooling = told[:4]
        if self._improves(best_metric, metric):
            best_metric, bad_reports = metric, 0
        else:
            bad_reports += 1
        if cooling > 0:
            cooling, bad_reports = cooling - 1, 0
        if bad_reports > self.patience:
            value = max(value * self.factor, self.smallest)
            cooling, bad_reports = self.cooldown, 0
        return _Told(value, best_metric, bad_reports, cooling)

    def _improves(self, best: float, metric: float) -> bool:
        margin = self.threshold * abs(best) if math.isfinite(best) else 0.0
        return metric < best - margin if self.best == "smallest" else metric > best + margin


def told_of(schedule: ReduceOnPlateau) -> tuple[Any, ...]:
    """Return what a schedule has been told, as numbers: what changes of it."""
    step, before = vars(schedule)["_before"]
    return (*vars(schedule)["_told"], step, *before)


def told_so(schedule: ReduceOnPlateau, numbers: Any) -> None:
    """Let a schedule have been told what `told_of` returned, or raise ValueError."""
    kinds = (float, float, int, int, float, int)
    expected = (*kinds, int, *kinds)
    fits = len(numbers) == len(expected) and all(map(_is_told, numbers, expected))
    if not fits or not (math.isfinite(numbers[0]) and math.isfinite(numbers[7])):
        raise ValueError(f"ReduceOnPlateau: it cannot have been told {numbers!r}")
    told, before = (
        _Told(float(some[0]), float(some[1]), some[2], some[3], float(some[4]), some[5])
        for some in (numbers[:6], numbers[7:])
    )
    vars(schedule).update(_told=told, _before=(numbers[6], before))


def _is_told(number: Any, kind: type) -> bool:
    if isinstance(number, bool):
        return False
    return isinstance(number, float) if kind is float else isinstance(number, int) and number >= 0

"""Down when nothing gets better."""

import math
import typing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

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


@dataclass
class ReduceOnPlateau(Schedule):
    """Multiplied by `factor` when a metric that `report` is told no longer gets better.

    The value is the same at every step until a report lowers it. Unlike the other schedules this
    one changes; equal ones have been told the same. `load_state_dict` gives an optimizer a copy of
    the schedule that was saved: report to ``optimizer.lr``.

    Parameters
    ----------
    start
        Value until the first drop.
    factor
        What a drop multiplies by, in (0, 1).
    patience
        Number of reports without an improvement that are tolerated; the next one drops.
    threshold
        Smallest improvement that counts, relative to the best metric.
    cooldown
        Number of reports after a drop that are not judged.
    smallest
        The value does not fall below this.
    best
        Which metric is the best: ``"smallest"``, as of a loss, or ``"largest"``, as of an accuracy.

    Notes
    -----
    `torch.optim.lr_scheduler.ReduceLROnPlateau`, but for its eps, below which it makes no drops;
    `optax.contrib.reduce_on_plateau` scales updates.

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
    _value: float = field(init=False, repr=False)
    _best_metric: float = field(init=False, repr=False)
    _bad_reports: int = field(default=0, init=False, repr=False)
    _cooling: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._value = self.start
        self._best_metric = math.inf if self.best == "smallest" else -math.inf

    def __setattr__(self, name: str, value: Any) -> None:
        hint = typing.get_type_hints(type(self), include_extras=True).get(name)
        if typing.get_origin(hint) is Annotated:
            value = validate(self, name, value, hint)
        elif name == "best":
            validate_choice(self, name, value, ("smallest", "largest"))
        super().__setattr__(name, value)

    def _at(self, step: int) -> float:
        return self._value

    def report(self, metric: float) -> None:
        """Tell the metric of an epoch: a number, whose NaN counts as no improvement."""
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
        if self._improves(metric):
            self._best_metric, self._bad_reports = metric, 0
        else:
            self._bad_reports += 1
        if self._cooling > 0:
            self._cooling -= 1
            self._bad_reports = 0
        if self._bad_reports > self.patience:
            self._value = max(self._value * self.factor, self.smallest)
            self._cooling, self._bad_reports = self.cooldown, 0

    def _improves(self, metric: float) -> bool:
        if self.best == "smallest":
            return metric < self._best_metric * (1 - self.threshold)
        return metric > self._best_metric * (1 + self.threshold)

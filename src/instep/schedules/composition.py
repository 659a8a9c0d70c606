"""Schedules made of schedules."""

from collections.abc import Sequence
from dataclasses import dataclass

from instep.schedules.arguments import Finite, Steps, StepsOrNone, validate, validate_list
from instep.schedules.base import (
    Schedule,
    Value,
    evaluate,
    needs_value,
    span_of,
    validate_value,
    validate_values,
)
from instep.schedules.curves import along_line, progress


@dataclass(frozen=True)
class WarmUp(Schedule):
    """Up along a straight line, then any other schedule.

    Parameters
    ----------
    steps
        Number of steps on the way up.
    then
        What follows from step ``steps + 1`` on: a schedule, whose own steps count from 1, or a
        number. Its first value is where the line goes.
    start
        Value at step 1.

    Notes
    -----
    `optax.join_schedules` of a linear schedule and `then`; in PyTorch a `SequentialLR` of
    `LinearLR` and another.

    Examples
    --------
    >>> from instep.schedules import WarmUp
    >>> schedule = WarmUp(4, then=0.1)
    >>> [schedule(step) for step in (1, 2, 3, 4, 5, 6)]
    [0.0, 0.025, 0.05, 0.075..., 0.1, 0.1]
    """

    steps: Steps
    then: Value
    start: Finite = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "then", validate_value(self, "then", self.then))

    def at(self, step: int, value: float | None = None) -> float:
        if step > self.steps:
            return evaluate(self, self.then, step - self.steps, value)
        then = evaluate(self, self.then, 1, value)
        return along_line(self.start, then, progress(step, self.steps))

    @property
    def needs_value(self) -> bool:
        return needs_value(self.then)

    @property
    def span(self) -> int:
        return self.steps + span_of(self.then)


@dataclass(frozen=True)
class Join(Schedule):
    """One schedule after the other.

    Parameters
    ----------
    schedules
        Schedules, each of whose own steps count from 1, or numbers.
    boundaries
        Increasing step numbers, one fewer than schedules: a boundary is the last step of the
        schedule before it.

    Notes
    -----
    `optax.join_schedules` with the same boundaries; `torch.optim.lr_scheduler.SequentialLR` with
    these milestones, and of numbers `MultiStepLR`.

    Examples
    --------
    >>> from instep.schedules import Join, Linear
    >>> schedule = Join([1.0, Linear(0.5, 0.0, steps=2)], boundaries=[3])
    >>> [schedule(step) for step in range(1, 8)]
    [1.0, 1.0, 1.0, 0.5, 0.25, 0.0, 0.0]
    """

    schedules: Sequence[Value]
    boundaries: Sequence[int]

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "schedules", validate_values(self, "schedules", self.schedules))
        boundaries = validate_list(self, "boundaries", self.boundaries, "step numbers")
        ends = (validate(self, f"boundaries[{i}]", end, Steps) for i, end in enumerate(boundaries))
        set_field(self, "boundaries", tuple(ends))
        if len(self.boundaries) != len(self.schedules) - 1:
            raise ValueError(
                f"Join: {len(self.schedules)} schedules have {len(self.schedules) - 1} boundaries "
                f"between them, got {len(self.boundaries)}"
            )
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"Join: boundaries must increase, got {self.boundaries!r}")

    def at(self, step: int, value: float | None = None) -> float:
        begun = [0, *(end for end in self.boundaries if step > end)]
        return evaluate(self, self.schedules[len(begun) - 1], step - begun[-1], value)

    @property
    def needs_value(self) -> bool:
        return any(map(needs_value, self.schedules))

    @property
    def span(self) -> int:
        return (0, *self.boundaries)[-1] + span_of(self.schedules[-1])


@dataclass(frozen=True)
class After(Schedule):
    """A schedule from its midst on: step 1 is the one after so many steps of its own.

    For a run that is continued with an optimizer that counts from 1 again.

    Parameters
    ----------
    steps
        Number of steps that are left out.
    of
        The schedule whose steps they are, or a function or a number.

    Examples
    --------
    >>> from instep.schedules import After, Linear
    >>> schedule = After(3, of=Linear(1.0, 0.0, steps=4))
    >>> [schedule(step) for step in (1, 2)]
    [0.25, 0.0]
    """

    steps: StepsOrNone
    of: Value

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "of", validate_value(self, "of", self.of))

    def at(self, step: int, value: float | None = None) -> float:
        return evaluate(self, self.of, step + self.steps, value)

    @property
    def needs_value(self) -> bool:
        return needs_value(self.of)

    @property
    def span(self) -> int:
        return max(span_of(self.of) - self.steps, 1)

"""Searches along a line: how far to go, from values and slopes of an objective on the way.

A search is a generator: it yields the steps at which it wants to know the objective, is sent a
`Trial` for each, and returns whether the last one is taken. It deals with numbers of Python alone.
"""

import math
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol


class Trial(NamedTuple):
    """An objective on a line, at a step from where the line begins.

    Attributes
    ----------
    step
        The step.
    value, slope
        The objective there, and its derivative by the step.
    noise
        At the start of a line: less than this, a difference of values says nothing, for they are
        rounded.
    """

    step: float
    value: float
    slope: float
    noise: float = 0.0

    @property
    def is_finite(self) -> bool:
        """Whether the objective is a number there."""
        return math.isfinite(self.value) and math.isfinite(self.slope)


#: What yields steps and is sent trials. It returns None if the last trial is to be taken, or why
#: there is none to be taken.
Search = Generator[float, Trial, str | None]


class LineSearch(Protocol):
    """What a method of minimization asks for steps."""

    def search(self, start: Trial, step: float) -> Search:
        """Return a search from where a line begins, the trial at step 0, with a first step."""
        ...


#: Trials of a search at most. More than five are rare.
MOST_TRIALS = 40

#: How much farther the next step may be than the last one, in steps to it from the best, while no
#: minimum is enclosed.
_NEAREST, _FARTHEST = 1.1, 4.0

NO_DESCENT = "no step along the line lowers the objective"
NOT_FINITE = "the objective, or its gradient, is not finite at any step along the line"


@dataclass(frozen=True)
class StrongWolfe:
    r"""The line search of Moré and Thuente (1994): cubic steps in an interval that shrinks.

    It ends with a step :math:`\alpha` for which, with the objective :math:`\varphi` on the line,

    .. math::
        \varphi(\alpha) &\le \varphi(0) + c_1\, \alpha\, \varphi'(0) \\
        |\varphi'(\alpha)| &\le c_2\, |\varphi'(0)|

    or, where it finds none, with the lowest that it has found. Near a minimum the difference of
    values drowns in their rounding, and slopes are what is left: half their sum is taken for the
    rate at which the objective has changed from one trial to the next, which makes of the first
    condition that of Hager and Zhang (2005), :math:`\varphi'(\alpha) \le (2 c_1 - 1) \varphi'(0)`.

    Parameters
    ----------
    decrease, curvature
        The constants :math:`c_1` and :math:`c_2`, with :math:`0 < c_1 < c_2 < 1`.
    width
        Width of an interval, of the larger of its ends, in which a search looks no further.

    Examples
    --------
    >>> from instep import LBFGS, StrongWolfe
    >>> method = LBFGS(line_search=StrongWolfe(curvature=0.5))
    """

    decrease: float = 1e-3
    curvature: float = 0.9
    width: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.decrease < self.curvature < 1:
            raise ValueError(
                f"StrongWolfe: decrease and curvature must be in order, 0 < decrease < curvature "
                f"< 1, got decrease={self.decrease!r} and curvature={self.curvature!r}"
            )
        if not 0 <= self.width < 1:
            raise ValueError(f"StrongWolfe: width must be in [0, 1), got {self.width!r}")

    def search(self, start: Trial, step: float) -> Search:
        """Return a search from where a line begins, the trial at step 0, with a first step."""
        interval, asked = _Interval(start), self.decrease * start.slope
        interval.reach = 0.0, step + _FARTHEST * step
        is_first_stage, is_last, trial = True, False, start
        is_lower = is_seen_lower = False
        for _ in range(MOST_TRIALS):
            trial = yield step
            if not trial.is_finite:
                step = interval.back_from(step)
                continue
            is_seen_lower = trial.value < start.value
            if abs(trial.value - start.value) < start.noise:
                trial = interval.from_slopes(trial)
            bound = start.value + trial.step * asked
            is_lower = trial.value <= bound
            if is_lower and abs(trial.slope) <= -self.curvature * start.slope:
                return None
            if is_last:  # a value that is the same is no better, if the slope is no less
                return None if is_lower and is_seen_lower else NO_DESCENT
            is_first_stage = is_first_stage and not (is_lower and trial.slope >= 0)
            # Until a step is as low as is asked for, what is below that line is searched for.
            if is_first_stage and bound < trial.value <= interval.best.value:
                step = interval.next(trial, asked)
            else:
                step = interval.next(trial, 0.0)
            if interval.is_closed and not interval.is_within(step, self.width):
                step, is_last = interval.best.step, True
                if step == 0:
                    return NO_DESCENT
        if not trial.is_finite:
            return NOT_FINITE
        # It is lower and lower: there is no minimum on the line.
        return None if is_lower and is_seen_lower and not interval.is_closed else NO_DESCENT


@dataclass(frozen=True)
class Backtracking:
    r"""Shorter and shorter steps, until one lowers the objective enough (Armijo 1966).

    .. math:: \varphi(\alpha) \le \varphi(0) + c_1\, \alpha\, \varphi'(0)

    Parameters
    ----------
    decrease
        The constant :math:`c_1`.
    factor
        By which a step is made shorter; None: to the minimum of the parabola through what is known,
        but by no less than 0.1 and no more than 0.5.
    """

    decrease: float = 1e-4
    factor: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.decrease < 1:
            raise ValueError(f"Backtracking: decrease must be in (0, 1), got {self.decrease!r}")
        if self.factor is not None and not 0 < self.factor < 1:
            raise ValueError(f"Backtracking: factor must be in (0, 1), got {self.factor!r}")

    def search(self, start: Trial, step: float) -> Search:
        """Return a search from where a line begins, the trial at step 0, with a first step."""
        trial = start
        for _ in range(MOST_TRIALS):
            trial = yield step
            bound = start.value + self.decrease * step * start.slope
            if trial.is_finite and trial.value <= bound and trial.value < start.value:
                return None
            step *= self.factor or shortened(start, trial)
        return NO_DESCENT if trial.is_finite else NOT_FINITE


def description(search: Any) -> dict[str, Any]:
    """Return how a search was made, as JSON knows it; one of the user's is any other."""
    if not isinstance(search, _OF_THE_KIT):
        return {"name": "one of your own"}
    return {"name": type(search).__name__, **asdict(search)}


def as_described(search: Any, found: Mapping[str, Any]) -> Any:
    """Return a search that is made as another; a function of the user's stays what it is.

    Raises
    ------
    ValueError
        If it is of another kind.
    """
    name, its_name = description(search)["name"], found["name"]
    if name != its_name:
        raise ValueError(
            f"minimize: it is of a run with line_search={its_name}, and this is one with {name}; "
            f"resume with the same"
        )
    numbers = {key: value for key, value in found.items() if key != "name"}
    return replace(search, **numbers) if isinstance(search, _OF_THE_KIT) else search


#: Searches whose numbers are known.
_OF_THE_KIT = StrongWolfe, Backtracking


def shortened(start: Trial, trial: Trial) -> float:
    """Return how much shorter than a trial the next step is.

    It goes to the minimum of the parabola through what is known.
    """
    if not trial.is_finite:
        return 0.1
    above = trial.value - start.value - trial.step * start.slope
    return min(max(-0.5 * trial.step * start.slope / above, 0.1), 0.5) if above > 0 else 0.5


class _Interval:
    """What a search knows: the best trial, and another, between which a minimum may be enclosed.

    Attributes
    ----------
    best, other
        The trials. The slope at the best leads to the other, if the interval is closed.
    is_closed
        Whether there is a minimum between them.
    reach
        The least and the largest next step.
    """

    def __init__(self, start: Trial) -> None:
        self.best = self.other = start
        self.is_closed = False
        self.reach = 0.0, math.inf
        self._longest = math.inf  # beyond, the objective is not finite
        self._width = self._width_before = math.inf

    def back_from(self, step: float) -> float:
        """Return a step nearer to the best, where there was no number."""
        self._longest = step
        return (self.best.step + step) / 2

    def from_slopes(self, trial: Trial) -> Trial:
        """Return a trial with the value that follows from that of the best and both slopes."""
        rise = (trial.step - self.best.step) * (trial.slope + self.best.slope) / 2
        return trial._replace(value=self.best.value + rise)

    def is_within(self, step: float, width: float) -> bool:
        """Return whether a step is inside of the closed interval, and that is wide enough."""
        least, most = self.reach
        return least < step < most and most - least > width * most

    def next(self, trial: Trial, asked: float) -> float:
        """Take a trial, and return the next step.

        What is searched for is the function without the decrease that is `asked` for, a slope.
        """
        best, other, new = (_less(one, asked) for one in (self.best, self.other, trial))
        step, closes = _step(best, other, new, self.is_closed, self.reach)
        if new.value > best.value:
            other = new
        else:
            if new.slope * best.slope < 0:
                other = best
            best = new
        self.best, self.other = _less(best, -asked), _less(other, -asked)
        self.is_closed = self.is_closed or closes
        if self.is_closed:
            ends = self.best.step, self.other.step
            width = abs(ends[1] - ends[0])
            if width >= 0.66 * self._width_before:  # two steps have not made it much narrower
                step = (ends[0] + ends[1]) / 2
            self._width_before, self._width = self._width, width
            self.reach = min(ends), max(ends)
        else:
            way = step - self.best.step
            self.reach = step + _NEAREST * way, step + _FARTHEST * way
        if step >= self._longest:
            step = self.back_from(self._longest)
        return step


def _less(trial: Trial, slope: float) -> Trial:
    """Return a trial of the function without a line of this slope."""
    return Trial(trial.step, trial.value - slope * trial.step, trial.slope - slope)


def _step(
    best: Trial, other: Trial, new: Trial, is_closed: bool, reach: tuple[float, float]
) -> tuple[float, bool]:
    """Return where the minimum may be, and whether it is enclosed by now.

    The four cases of section 4 of the paper.
    """
    cubic = _cubic(best, new)
    if new.value > best.value:  # it is between the two
        parabola = best.step + best.slope / (
            (best.value - new.value) / (new.step - best.step) + best.slope
        ) / 2 * (new.step - best.step)
        near = abs(cubic - best.step) < abs(parabola - best.step)
        return (cubic if near else cubic + (parabola - cubic) / 2), True
    secant = _secant(best, new)
    if new.slope * best.slope < 0:  # it is between the two
        far = abs(cubic - new.step) > abs(secant - new.step)
        return (cubic if far else secant), True
    if abs(new.slope) < abs(best.slope):  # it may be beyond: the slope is less
        way = new.step - best.step
        is_minimum = math.isfinite(cubic) and (cubic - new.step) * way > 0
        if not is_minimum:
            cubic = reach[1] if way > 0 else reach[0]
        near = abs(cubic - new.step) < abs(secant - new.step)
        if is_closed:
            step = cubic if near else secant
            limit = new.step + 0.66 * (other.step - new.step)
            return (min(limit, step) if way > 0 else max(limit, step)), True
        step = secant if near else cubic
        return min(max(step, reach[0]), reach[1]), False
    if is_closed:
        return _cubic(new, other), True
    return (reach[1] if new.step > best.step else reach[0]), False


def _cubic(a: Trial, b: Trial) -> float:
    """Return the minimum of the cubic with these values and slopes; infinite if there is none.

    See Nocedal and Wright, equation 3.59.
    """
    way = b.step - a.step
    theta = 3 * (a.value - b.value) / way + a.slope + b.slope
    scale = max(abs(theta), abs(a.slope), abs(b.slope))
    square = (theta / scale) ** 2 - (a.slope / scale) * (b.slope / scale) if scale else 0.0
    if square <= 0:
        return math.inf
    gamma = math.copysign(scale * math.sqrt(square), way)
    below = b.slope - a.slope + 2 * gamma
    return math.inf if below == 0 else b.step - way * (b.slope + gamma - theta) / below


def _secant(a: Trial, b: Trial) -> float:
    """Return where a parabola with these two slopes has its minimum."""
    below = b.slope - a.slope
    return math.inf if below == 0 else b.step - b.slope / below * (b.step - a.step)

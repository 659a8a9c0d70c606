"""Why a search along the direction of steepest descent has led nowhere."""

import math
from collections.abc import Callable, Sequence

from instep.minimization.descent import Ending
from instep.minimization.line_search import NOT_FINITE, Trial
from instep.minimization.result import Status

#: How far a slope is looked for, in the change of the value, of what that is rounded by: the change
#: is seen, and no more than a slope, as it is taken to both sides.
_CLEARLY = 1000.0


def nowhere(
    why: str,
    start: Trial,
    trials: Sequence[tuple[float, float]],
    value_at: Callable[[float], float],
    rounded: float,
) -> Ending:
    """Return why the direction of steepest descent leads nowhere.

    Parameters
    ----------
    why
        What the search says.
    start
        Where the line begins.
    trials
        Steps that were tried, and the values there.
    value_at
        Returns the value at a step on the line.
    rounded
        By how much a value may be wrong, for it is rounded.
    """
    if why == NOT_FINITE:
        return Ending(Status.NOT_FINITE, f"{why}, the shortest of which is {trials[-1][0]:.3g}")
    if is_wrong(start, trials, value_at, rounded):
        return Ending(
            Status.NO_DESCENT,
            f"{why}, for it does not fall there as the gradient says; see whether that is right, "
            f"with instep.check_gradient",
        )
    return Ending(
        Status.PRECISION, "no step lowers the objective by more than its value is rounded"
    )


def is_wrong(
    start: Trial,
    trials: Sequence[tuple[float, float]],
    value_at: Callable[[float], float],
    rounded: float,
) -> bool:
    """Return whether an objective does not have the slope that its gradient gives it.

    That is measured to both sides of where the line begins, as near as rounding allows.
    """
    steps = sorted(abs(step) for step, _ in trials if step)
    if not steps or not start.slope < 0:
        return False
    step = min(-_CLEARLY * rounded / start.slope, steps[-1]) if rounded > 0 else steps[0]
    expected = -2 * step * start.slope
    if not (math.isfinite(expected) and expected > 10 * rounded):
        return False
    whole, half = (value_at(way) - value_at(-way) for way in (step, step / 2))
    # Where it bends, or is bounded, that is no slope.
    return whole > -expected / 2 and abs(whole - 2 * half) <= abs(whole) / 2

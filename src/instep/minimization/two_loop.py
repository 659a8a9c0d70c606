"""The two loops of L-BFGS on inner products alone.

A direction is a sum of steps, of changes of gradients, and of the gradient: what the loops compute
are the coefficients. So the vectors are read to take their products, and once more to sum them up.

Source: Nocedal, "Updating quasi-Newton matrices with limited storage" (1980), as in Nocedal and
Wright, algorithm 7.4; and Chen, Wang, Zhou, "Large-scale L-BFGS using MapReduce" (2014), for the
products.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

#: A pair counts where its curvature is more than this, of what it could be: the slope along the
#: step where it began, or, within bounds, what it is in other pairs, of the square of the change.
_LEAST_CURVATURE = sys.float_info.epsilon


class Direction(NamedTuple):
    """A direction: the coefficients of what it is the sum of, and its slope."""

    of_steps: Sequence[float]
    of_changes: Sequence[float]
    of_gradient: float
    slope: float

    def times(self, length: float) -> list[float]:
        """Return the coefficients of so many times the direction: steps, changes, gradient."""
        return [length * x for x in (*self.of_steps, *self.of_changes, self.of_gradient)]


class News(NamedTuple):
    """What the pass over all pairs leaves at a new point: inner products.

    Attributes
    ----------
    steps, changes
        Of the step and the change of each pair with the gradient, the newest pair last.
    gradient_square
        Of the gradient with itself.
    curvature, step_square, change_square
        Of the newest pair: of its step with its change, and of each with itself.
    """

    steps: Sequence[float]
    changes: Sequence[float]
    gradient_square: float
    curvature: float = 0.0
    step_square: float = 0.0
    change_square: float = 0.0


@dataclass(frozen=True)
class Pairs:
    """Inner products of pairs: of steps `s` and changes `y` of gradients, from the oldest on.

    Attributes
    ----------
    sy, yy
        Of step i and change j, and of change i and change j, where i is up to j.
    sg, yg
        Of steps and changes with the gradient.
    gg
        Of the gradient with itself.
    used
        Numbers of the pairs that count: their curvature is positive.
    count
        How many there are.
    """

    sy: list[list[float]]
    yy: list[list[float]]
    sg: list[float]
    yg: list[float]
    gg: float
    used: list[int]
    count: int = 0

    @classmethod
    def none(cls, history: int, gradient_square: float) -> Self:
        """Return room for so many pairs of which there are none yet."""
        row = [0.0] * history
        sy, yy = [[*row] for _ in row], [[*row] for _ in row]
        return cls(sy, yy, [*row], [*row], gradient_square, [])

    def with_news(self, news: News) -> Self:
        """Return these with the newest pair, and the gradient at its end, without the oldest.

        Products of the newest change are those with the new gradient, less those with the old.
        """
        last = len(self.sg) - 1

        def grown(
            table: list[list[float]], new: Sequence[float], old: list[float], own: float
        ) -> list[list[float]]:
            rows = [[*table[i + 1][1:], new[i] - old[i + 1]] for i in range(last)]
            return [*rows, [*[0.0] * last, own]]

        used = [i - 1 for i in self.used if i > 0]
        before = news.steps[-1] - news.curvature  # the slope along the step, where it began
        if news.curvature > _LEAST_CURVATURE * abs(before):
            used.append(last)
        return type(self)(
            grown(self.sy, news.steps, self.sg, news.curvature),
            grown(self.yy, news.changes, self.yg, news.change_square),
            [*news.steps],
            [*news.changes],
            news.gradient_square,
            used,
            min(self.count + 1, last + 1),
        )

    def without_pairs(self) -> Self:
        """Return these where no pair counts."""
        return replace(self, used=[], count=0)

    def direction(self) -> Direction:
        """Return the direction of L-BFGS: without pairs, that of steepest descent."""
        used, sy, yy = self.used, self.sy, self.yy
        first, second = [0.0] * len(self.sg), [0.0] * len(self.sg)
        for i in reversed(used):
            rest = sum(first[j] * sy[i][j] for j in used if j > i)
            first[i] = (self.sg[i] - rest) / sy[i][i]
        scale = sy[used[-1]][used[-1]] / yy[used[-1]][used[-1]] if used else 1.0
        for i in used:
            along = self.yg[i] - sum(first[j] * yy[min(i, j)][max(i, j)] for j in used)
            along = scale * along + sum(second[j] * sy[j][i] for j in used if j < i)
            second[i] = first[i] - along / sy[i][i]
        of_steps, of_changes = [-x for x in second], [scale * x for x in first]
        along = sum(of_steps[i] * self.sg[i] + of_changes[i] * self.yg[i] for i in used)
        return Direction(of_steps, of_changes, -scale, along - scale * self.gg)


@dataclass(frozen=True)
class PairsWithin(Pairs):
    """Those within bounds: without the elements that the gradient leads to a bound.

    Attributes
    ----------
    reach
        How far it leads, in gradients.
    steepest
        The product of the gradient with itself where it leads nowhere but along bounds.
    """

    reach: float = 0.0
    steepest: float = 0.0

    def with_all(
        self,
        sy: list[list[float]],
        yy: list[list[float]],
        news: News,
        reach: float,
        steepest: float,
    ) -> Self:
        """Return these with the newest pair, all of whose products were taken anew."""
        size = len(self.sg)
        count = min(self.count + 1, size)
        # Of a step that is held at a bound, or nearly all of it, little is left.
        radius = {i: sy[i][i] / yy[i][i] for i in range(size - count, size) if yy[i][i] > 0}
        least = _LEAST_CURVATURE * max(radius.values(), default=0.0)
        used = [i for i, own in radius.items() if own > max(least, 0.0)]
        gradient = [*news.steps], [*news.changes], news.gradient_square
        return type(self)(sy, yy, *gradient, used, count, reach, steepest)

    def without_pairs(self) -> Self:
        return replace(super().without_pairs(), gg=self.steepest, reach=0.0)

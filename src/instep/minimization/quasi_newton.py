"""Runs of L-BFGS, on arrays that turn."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from instep import arrays, tree
from instep.interrupts import at_once
from instep.minimization.bounds import is_complex
from instep.minimization.descent import (
    AT_START,
    Descent,
    Ending,
    Saved,
    not_finite,
    nothing_moves,
)
from instep.minimization.failures import nowhere
from instep.minimization.line_search import NO_DESCENT, NOT_FINITE, LineSearch, Trial, shortened
from instep.minimization.objective import Evaluation, Objective
from instep.minimization.passes import OF_LAST, Passes, PassesWithin, passes, passes_within
from instep.minimization.ring import OnRing, Ring
from instep.minimization.rounding import rounding
from instep.minimization.trees import below, like, named, put
from instep.minimization.two_loop import Direction, News, Pairs, PairsWithin


class QuasiNewton(Descent):
    """A run: what does not depend on whether there are bounds.

    Parameters
    ----------
    history
        Number of pairs.
    first_length
        Length of the first step, and of the first after pairs were forgotten.
    settings
        What the passes are made with.
    line_search
        What gives the step, where there are no bounds.
    """

    _passes: Passes

    def __init__(
        self,
        objective: Objective,
        params: Any,
        history: int,
        first_length: float,
        settings: Mapping[str, Any],
        line_search: LineSearch,
    ) -> None:
        super().__init__(objective, params)
        self._history, self._first_length, self._line_search = history, first_length, line_search
        self._passes = self._for_pairs(history)
        self._ring = Ring(history, settings)
        self._pairs = self._no_pairs(math.nan)
        self._like: Any = None  # gradients of the right kind, whatever their values
        self._leaving: tuple[OnRing, int] | None = None  # what left the present point; steps before
        self._trials: list[tuple[float, float]] = []  # of the last search: length and value

    @staticmethod
    @abstractmethod
    def _for_pairs(history: int) -> Passes:
        """Return the passes for so many pairs."""

    def _no_pairs(self, gradient_square: float) -> Pairs:
        """Return room for pairs, of which there are none."""
        return Pairs.none(self._history, gradient_square)

    def begin(self) -> None:
        evaluation = self._first_evaluation()
        square, norm = self._measured(evaluation.grads)
        if not math.isfinite(square):
            raise not_finite(evaluation.grads, AT_START)
        self._take(evaluation, self._no_pairs(square), norm)

    def _measured(self, grads: Any) -> tuple[float, float]:
        """Return the square of gradients, and the norm of what leads inside.

        The arrays of the ring are made.
        """
        self._like = grads
        first = self._ring.rule(self._passes.start)
        self.params = first.update(self.params, grads)
        self._ring.begin(first)
        found = first.readings
        if not found:
            raise nothing_moves()
        return self._steepest_square(found), self._norm(found)

    def _steepest_square(self, found: Mapping[str, float]) -> float:
        """Return the square of the direction of steepest descent."""
        return found["gradient_square"]

    def _norm(self, found: Mapping[str, float]) -> float:
        """Return the norm of the gradient, or with bounds, of what of it leads inside."""
        return math.sqrt(found["gradient_square"])

    def _take(
        self, evaluation: Evaluation, pairs: Pairs, norm: float, square: float | None = None
    ) -> None:
        """Make the point where the parameters are the present one, at once.

        `square` is that of the length of the step there.
        """
        value, grads = evaluation
        taken = {"value": value, "grads": grads, "gradient_norm": norm, "_like": grads}
        taken |= {"_pairs": pairs, "_leaving": None}
        taken |= {} if square is None else {"length": math.sqrt(square)}
        turning = [] if square is None else self._ring.turning()
        at_once([*turning, partial(self.__dict__.update, taken)])

    @property
    def _is_kept(self) -> bool:
        """Whether the present point is in the ring, and may not be in the parameters."""
        # A signal may have come right after the step that left it: its count tells.
        return self._leaving is not None and self._leaving[0].t != self._leaving[1]

    def step(self) -> None:
        while True:
            direction = self._pairs.direction()
            why = self._search(direction) if self._descends(direction) else NO_DESCENT
            if why is None:
                return
            if not self._pairs.count:
                raise self._ending(why, direction)
            self._pairs = self._pairs.without_pairs()

    def _descends(self, direction: Direction) -> bool:
        """Return whether a direction leads downhill."""
        return direction.slope < 0

    @abstractmethod
    def _search(self, direction: Direction) -> str | None:
        """Go along a direction to the next point; return None, or why there is none."""

    def _first(self, direction: Direction) -> float:
        """Return the first step of a search, in directions."""
        self._trials = []
        norm = math.sqrt(self._pairs.gg)
        return 1.0 if self._pairs.used or norm == 0 else self._first_length / norm

    def _coefficients(self, direction: Direction, length: float) -> list[float]:
        """Return what a pass along a direction is told."""
        return direction.times(length)

    def _go(self, direction: Direction, length: float) -> Evaluation:
        """Go from the present point along a direction; return the objective there."""
        coefficients = self._coefficients(direction, length)
        if self._is_kept:
            rule = self._ring.rule(self._passes.again, coefficients)
            self.params = rule.update(self.params, self._like)
        else:
            rule = self._ring.rule(self._passes.advance, coefficients)
            self._leaving = rule, rule.t
            self.params = rule.update(self.params, self.grads)
            self._ring.keep(rule)
        evaluation = self._objective.at(self.params)
        self._trials.append((length, evaluation.value))
        return evaluation

    def _products(self, evaluation: Evaluation, *reach: float) -> Mapping[str, float]:
        """Return the products at a point where the one that was kept is the newest before."""
        products = self._ring.rule(self._passes.products, reach, ahead=True)
        products.update(self.params, evaluation.grads)
        return products.readings

    def _with_gradient(self, found: Mapping[str, float]) -> tuple[list[float], list[float]]:
        """Return the products of steps, and of changes, with the gradient."""
        numbers = range(self._history)
        return [found[f"step{i}"] for i in numbers], [found[f"change{i}"] for i in numbers]

    def _ending(self, why: str, direction: Direction) -> Ending:
        """Return why the steepest descent leads nowhere."""
        start = Trial(0.0, self.value, direction.slope)

        def value_at(length: float) -> float:
            return self._go(direction, length).value

        return nowhere(why, start, self._trials, value_at, rounding(self.params, self.value))

    def back(self) -> None:
        if self._leaving is not None and self._is_kept:
            self._ring.keep(self._leaving[0])
            self.params = self._ring.rule(self._passes.back).update(self.params, self._like)
            self._leaving, self.grads = None, None

    def saved(self) -> Saved:
        found = named("params", self.params)
        if self.grads is None:
            own = self._ring.arrays(f"gradient{self._history}")
            found |= {f"grads/{key}": arrays.to_numpy(x) for key, x in self._whole(own).items()}
        else:
            found |= named("grads", self.grads)
        for role in self._ring.roles_before():
            own = self._ring.arrays(role)
            found |= {f"{role}/{key}": arrays.to_numpy(x) for key, x in own.items()}
        numbers = {name: getattr(self, name) for name in ("value", "gradient_norm", "length")}
        return {"pairs": asdict(self._pairs), **numbers}, found

    def _whole(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return arrays like those of the parameters, of the parts that pairs are kept in."""
        pairs = {
            tree.join_path(path)
            for path, leaf in tree.flatten(self.params)
            if is_complex(leaf) and not arrays.is_complex(own.get(tree.join_path(path), leaf))
        }
        return {key: arrays.from_parts(x) if key in pairs else x for key, x in own.items()}

    def restore(self, header: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        self.params = put(self.params, below(found, "params"))
        grads = like(self.params, below(found, "grads"))
        self._measured(grads)
        for role in self._ring.roles_before():
            self._ring.fill(role, below(found, role))
        evaluation = Evaluation(header["value"], grads)
        pairs = type(self._pairs)(**header["pairs"])
        self._take(evaluation, pairs, header["gradient_norm"])
        self.length = header["length"]


class Free(QuasiNewton):
    """A run without bounds."""

    @staticmethod
    def _for_pairs(history: int) -> Passes:
        return passes(history)

    def _leave(
        self, direction: Direction, length: float
    ) -> tuple[float, Evaluation, dict[str, float]]:
        """Go the first step; a longer one where parameters are rounded by more than that."""
        for _ in range(_MOST_TRIALS):
            evaluation = self._go(direction, length)
            found = dict(self._products(evaluation))
            if found["step_square"] != 0 or self._pairs.used:
                break
            length *= 10
        return length, evaluation, found

    def _search(self, direction: Direction) -> str | None:
        length, noise = self._first(direction), rounding(self.params, self.value)
        start = Trial(0.0, self.value, direction.slope, noise if math.isfinite(noise) else 0.0)
        length, evaluation, found = self._leave(direction, length)
        search = self._line_search.search(start, length)
        try:
            asked = next(search)
            while True:
                if asked != length:
                    length, evaluation = asked, self._go(direction, asked)
                    found = dict(self._products(evaluation))
                if found["step_square"] == 0:  # the step is less than the parameters are rounded
                    is_finite = math.isfinite(evaluation.value + found["gradient_square"])
                    return NO_DESCENT if is_finite else NOT_FINITE
                slope = found[f"step{self._history - 1}"] / length
                asked = search.send(Trial(length, evaluation.value, slope))
        except StopIteration as stop:
            if stop.value is not None:
                return str(stop.value)
        news = News(*self._with_gradient(found), *(found[name] for name in OF_LAST))
        self._take(evaluation, self._pairs.with_news(news), self._norm(found), news.step_square)
        return None


class Within(QuasiNewton):
    """A run within bounds: the projected method of Kim, Sra and Dhillon (2010).

    Elements that the gradient leads to a bound, when it leads as far as L-BFGS does along it, are
    left out of all vectors, and so out of all products; they go to their bounds (Bertsekas 1982).
    The search is along the path of points within the bounds that are nearest to those of the
    direction, backwards from its end, until the objective is as low as the gradient along the way
    promises. Where a step past the first bound leads too high, that bound is tried.
    """

    _passes: PassesWithin
    _pairs: PairsWithin

    @staticmethod
    def _for_pairs(history: int) -> PassesWithin:
        return passes_within(history)

    def _no_pairs(self, gradient_square: float) -> PairsWithin:
        return PairsWithin.none(self._history, gradient_square)

    def begin(self) -> None:
        self._enter()
        super().begin()

    def _enter(self) -> None:
        """Put the parameters within the bounds."""
        copies = like(self.params, below(named("params", self.params), "params"))
        self.params = self._ring.rule(self._passes.enter).update(self.params, copies)

    def restore(self, header: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        super().restore(header, found)
        self._enter()  # the bounds may be others

    def _steepest_square(self, found: Mapping[str, float]) -> float:
        return found["steepest_square"]

    def _norm(self, found: Mapping[str, float]) -> float:
        return math.sqrt(found["way_square"])

    def _descends(self, direction: Direction) -> bool:
        return direction.slope < 0 or self._pairs.reach > 0

    def _coefficients(self, direction: Direction, length: float) -> list[float]:
        reach = self._pairs.reach
        return [*direction.times(length), reach, length * reach]

    def _reach(self, way: Mapping[str, float]) -> float:
        """Return how far the gradient leads at the end of a way: the scale of L-BFGS there."""
        curvature, square = way["curvature"], way["change_square"]
        return curvature / square if curvature > 0 and square > 0 else self._pairs.reach

    def _to_first_bound(self, direction: Direction) -> float:
        """Return the length at which a direction meets the first bound."""
        rule = self._ring.rule(self._passes.first_bound, self._coefficients(direction, 1.0))
        rule.update(self.params, self._like)
        times = rule.readings["times"]
        return 1 / times if times > 0 else math.inf

    def _search(self, direction: Direction) -> str | None:
        start, length = Trial(0.0, self.value, direction.slope), self._first(direction)
        has_moved, first_bound = False, math.nan
        for _ in range(_MOST_TRIALS):
            evaluation = self._go(direction, length)
            if math.isfinite(evaluation.value):
                along = self._ring.rule(self._passes.along)
                along.update(self.params, evaluation.grads)
                way = along.readings
                if way["step_square"] == 0:  # it is less than the parameters are rounded
                    if self._pairs.used or has_moved:
                        break
                    length *= 10
                    continue
                has_moved = True
                if evaluation.value <= start.value + _DECREASE * way["along"]:
                    reach = self._reach(way)
                    found = self._products(evaluation, reach)
                    if not math.isfinite(found["steepest_square"]):
                        return NOT_FINITE
                    # A value that is the same is no better, if the gradient is no less.
                    if evaluation.value < self.value or self._norm(found) < self.gradient_norm:
                        self._accept(evaluation, way["step_square"], found, reach)
                        return None
            if math.isnan(first_bound):
                first_bound = self._to_first_bound(direction)
            shorter = length * shortened(start, Trial(length, evaluation.value, 0.0))
            length = first_bound if shorter < first_bound < length else shorter
        return NO_DESCENT if math.isfinite(evaluation.value) else NOT_FINITE

    def _accept(
        self,
        evaluation: Evaluation,
        step_square: float,
        found: Mapping[str, float],
        reach: float,
    ) -> None:
        sy, yy = (
            [
                [found[f"{kind}{i}_{j}"] if i <= j else 0.0 for j in range(self._history)]
                for i in range(self._history)
            ]
            for kind in ("sy", "yy")
        )
        news = News(*self._with_gradient(found), found["gradient_square"])
        pairs = self._pairs.with_all(sy, yy, news, reach, self._steepest_square(found))
        self._take(evaluation, pairs, self._norm(found), step_square)


#: The part of the promised decrease that is enough, and how often a way is shortened.
_DECREASE, _MOST_TRIALS = 1e-4, 40

"""L-BFGS: quasi-Newton steps from the last pairs of steps and changes of gradients."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from instep import arrays, tree
from instep.graph.dtypes import DTYPES
from instep.minimization.descent import (
    SETTINGS_OF_PASSES,
    Descent,
    Ending,
    Method,
    Saved,
    check_finite,
)
from instep.minimization.line_search import NOT_FINITE, LineSearch, StrongWolfe, Trial
from instep.minimization.objective import Evaluation, Objective
from instep.minimization.result import Status
from instep.minimization.ring import Ring
from instep.minimization.trees import below, like, named, put
from instep.minimization.two_loop import Direction, News, Pairs
from instep.settings import SETTINGS
from instep.state import Selector


@dataclass(frozen=True)
class LBFGS(Method):
    r"""Limited-memory BFGS (Nocedal 1980; Liu and Nocedal 1989).

    With the steps :math:`s_i = w_{i+1} - w_i` and changes :math:`y_i = g_{i+1} - g_i` of the last
    `history` points, :math:`\rho_i = 1 / \langle s_i, y_i \rangle` and
    :math:`\gamma = \langle s_k, y_k \rangle / \langle y_k, y_k \rangle` of the newest pair,

    .. math::
        H_{i+1} &= (I - \rho_i s_i y_i^\top) H_i (I - \rho_i y_i s_i^\top) + \rho_i s_i s_i^\top \\
        w &\leftarrow w - \alpha H g

    from :math:`\gamma I` on, where a line search gives :math:`\alpha`. Inner products are over all
    arrays of the tree; of complex numbers, the real part :math:`\mathrm{Re} \langle x, y \rangle`.

    Parameters
    ----------
    history
        Number of pairs. The state is `history + 1` points and as many gradients.
    line_search
        What gives :math:`\alpha`: `StrongWolfe`, or `Backtracking`.
    first_length
        Euclidean length of the first step that is tried.
    engine, threads, complex, frozen
        As for `Optimizer`.

    Notes
    -----
    All pairs are read once for their products and once more for the step, whatever their number;
    a vector of the state is written twice a step. Inner products are canonical sums, so that the
    path is the same on all engines, bit for bit. Where no step along the direction is found, the
    pairs are forgotten, and the next direction is that of steepest descent.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import LBFGS, minimize
    >>> w = np.array([3.0, -4.0])
    >>> scales = np.array([1.0, 100.0])
    >>> result = minimize(lambda w: (0.5 * (scales * w**2).sum(), scales * w), w, LBFGS())
    >>> result.success, bool(abs(w).max() < 1e-6)
    (True, True)
    """

    history: int = 10
    line_search: LineSearch = field(default_factory=StrongWolfe)
    first_length: float = 1.0
    engine: str = field(default="auto", kw_only=True)
    threads: int | None = field(default=None, kw_only=True)
    complex: str = field(default="modulus", kw_only=True)
    frozen: Sequence[Selector] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        history: Any = self.history
        if isinstance(history, bool) or not isinstance(history, int) or history < 1:
            raise ValueError(f"LBFGS: history must be an integer >= 1, got {self.history!r}")
        if not 0 < self.first_length < math.inf:
            raise ValueError(f"LBFGS: first_length must be > 0, got {self.first_length!r}")
        for name in SETTINGS_OF_PASSES:
            object.__setattr__(self, name, SETTINGS[name]("LBFGS", getattr(self, name)))

    def descent(self, objective: Objective, params: Any) -> Descent:
        """Return a run of the method, from these parameters on."""
        return QuasiNewton(objective, params, self)


class QuasiNewton(Descent):
    """A run of L-BFGS."""

    def __init__(self, objective: Objective, params: Any, method: LBFGS) -> None:
        super().__init__(objective, params)
        self._method = method
        settings = {name: getattr(method, name) for name in SETTINGS_OF_PASSES}
        self._ring = Ring(method.history, settings)
        self._pairs = Pairs.none(method.history, math.nan)
        self._like: Any = None  # gradients of the right kind, whatever their values
        self._expected = self._shortest = 0.0  # of the last search, for messages
        self._is_kept = False  # whether the present point is in the ring, and may not be in params

    def begin(self) -> None:
        evaluation = self._objective.at(self.params)
        check_finite(evaluation, "at the start; begin where it is")
        self._like = evaluation.grads
        square = self._measured(evaluation.grads)
        if not math.isfinite(square):
            raise Ending(
                Status.NOT_FINITE, "the gradient is not finite at the start; begin where it is"
            )
        self._pairs = Pairs.none(self._method.history, square)
        self._take(evaluation)

    def _measured(self, grads: Any) -> float:
        """Return the square of the norm of gradients; the arrays of the ring are made."""
        first = self._ring.start()
        first.update(self.params, grads)
        self._ring.share(first)
        return first.readings["gradient_square"]

    def _take(self, evaluation: Evaluation) -> None:
        """Make the point where the parameters are the present one."""
        self.value, self.grads = evaluation
        self._like, self._is_kept = evaluation.grads, False
        self.gradient_norm = math.sqrt(self._pairs.gg)

    def step(self) -> None:
        while True:
            direction, pairs = self._pairs.direction(), self._pairs
            why = self._search(direction) if direction.slope < 0 else "the direction leads up"
            if why is None:
                return
            if not pairs.used:
                raise self._ending(why)
            pairs.forget()

    def _search(self, direction: Direction) -> str | None:
        """Go along a direction; return None, or why no point there is taken."""
        start = Trial(0.0, self.value, direction.slope)
        length = 1.0 if self._pairs.used else self._method.first_length / self.gradient_norm
        self._expected = -length * direction.slope
        search, trial, found = self._method.line_search.search(start, length), start, None
        try:
            length = next(search)
            while True:
                self._go(direction.times(length))
                evaluation = self._objective.at(self.params)
                trial, found = self._trial(length, evaluation)
                self._shortest = length
                length = search.send(trial)
        except StopIteration as stop:
            if stop.value is not None:
                return str(stop.value)
        assert found is not None
        self.length = math.sqrt(found.step_square)
        self._pairs.take(found)
        self._ring.turn()
        self._take(evaluation)
        return None

    def _go(self, coefficients: Sequence[float]) -> None:
        """Go from the present point along a direction that has these coefficients."""
        if self._is_kept:
            self.params = self._ring.again(coefficients).update(self.params, self._like)
            return
        rule = self._ring.advance(coefficients)
        self.params = rule.update(self.params, self.grads)
        self._ring.share(rule)
        self._is_kept = True

    def _trial(self, length: float, evaluation: Evaluation) -> tuple[Trial, News]:
        """Return what is known of a point on the line."""
        products = self._ring.products()
        products.update(self.params, evaluation.grads)
        news = self._ring.news(products.readings)
        return Trial(length, evaluation.value, news.steps[-1] / length), news

    def _ending(self, why: str) -> Ending:
        """Return why the steepest descent leads nowhere."""
        if why == NOT_FINITE:
            return Ending(
                Status.NOT_FINITE, f"{why}, the shortest of which is {self._shortest:.3g}"
            )
        least = _ROUNDED * abs(self.value) * precision(self.params)
        if self._expected <= least:
            return Ending(
                Status.PRECISION,
                "no step lowers the objective by more than its value is rounded",
            )
        return Ending(
            Status.NO_DESCENT,
            f"{why}, and that of steepest descent should: by {self._expected:.3g} for the first "
            f"step that was tried; see whether the gradient is right, with instep.check_gradient",
        )

    def back(self) -> None:
        if self._is_kept:
            self.params = self._ring.back().update(self.params, self._like)
            self._is_kept, self.grads = False, None

    def saved(self) -> Saved:
        found = named("params", self.params)
        if self.grads is None:
            found |= {f"grads/{key}": arrays.to_numpy(x) for key, x in self._ring.kept().items()}
        else:
            found |= named("grads", self.grads)
        for role, own in self._ring.before():
            found |= {f"{role}/{key}": arrays.to_numpy(x) for key, x in own.items()}
        numbers = {name: getattr(self, name) for name in ("value", "gradient_norm", "length")}
        return {"pairs": asdict(self._pairs), **numbers}, found

    def restore(self, header: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        self.params = put(self.params, below(found, "params"))
        grads = like(self.params, below(found, "grads"))
        self._measured(grads)
        for role, own in self._ring.before():
            for key, x in own.items():
                arrays.filled(x, found[f"{role}/{key}"])
        self._pairs = Pairs(**header["pairs"])
        self._take(Evaluation(header["value"], grads))
        self.length = header["length"]


#: Roundings of a value that a sum of many terms may be wrong by.
_ROUNDED = 100


def precision(params: Any) -> float:
    """Return the relative spacing of numbers of the coarsest dtype in which steps are computed."""
    found = [
        "float64" if arrays.is_number(leaf) else DTYPES[arrays.dtype_name(leaf)].compute
        for _, leaf in tree.flatten(params)
    ]
    return max(float(np.finfo(dtype).eps) for dtype in found)

"""Nonlinear conjugate gradients: each direction is made of the gradient and the last direction."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from instep import arrays
from instep.hyperparameters import described, real
from instep.minimization.descent import (
    AT_START,
    Descent,
    Ending,
    Method,
    Saved,
    not_finite,
)
from instep.minimization.failures import nowhere
from instep.minimization.line_passes import Advance, Back, Line, Products
from instep.minimization.line_search import (
    NO_DESCENT,
    NOT_FINITE,
    LineSearch,
    Search,
    StrongWolfe,
    Trial,
    description,
)
from instep.minimization.objective import Evaluation, Objective
from instep.minimization.rounding import rounding
from instep.minimization.trees import below, like, named, put
from instep.optimizer import Optimizer

#: Returns how far to go from a point, given the tree of parameters and one of the direction.
ExactSearch = Callable[[Any, Any], Any]

#: Inner products at a point, by name: of gradient g, the direction d that led there, and the change
#: y of the gradient on the way.
Inner = Mapping[str, float]


def _polak_ribiere(now: Inner, square_before: float) -> float:
    return max(now["gy"] / square_before, 0.0)


def _dai_yuan(now: Inner, square_before: float) -> float:
    return now["gg"] / now["dy"] if now["dy"] > 0 else 0.0


#: By how much of itself a value may be wrong, so that slopes tell more: of Hager and Zhang, too.
_NOISE = 1e-6

#: How short a gradient may be before the bound of Hager and Zhang does not go with it: their eta.
_LEAST_NORM = 0.01


def _hager_zhang(now: Inner, square_before: float) -> float:
    if now["dy"] <= 0:
        return 0.0
    beta = (now["gy"] - 2 * now["yy"] / now["dy"] * now["gd"]) / now["dy"]
    reach = math.sqrt(now["dd"]) * min(_LEAST_NORM, math.sqrt(square_before))
    return max(beta, -1 / reach) if reach > 0 else beta


#: Of the slope at the start of a line, what is left where a search has come near to the minimum.
_NEAR = 0.5


def _loses_conjugacy(now: Inner) -> bool:
    """Return whether gradients in a row are far from orthogonal (Powell 1977).

    After steps to a minimum they would be, if the function was quadratic.
    """
    return abs(now["gg"] - now["gy"]) >= 0.2 * now["gg"]


BETAS = {"PR+": _polak_ribiere, "DY": _dai_yuan, "HZ": _hager_zhang}


@dataclass(frozen=True)
class ConjugateGradient(Method):
    r"""Nonlinear conjugate gradients (Fletcher and Reeves 1964, with later :math:`\beta`).

    From the direction :math:`d_0 = -g_0` on,

    .. math::
        w_{k+1} &= w_k + \alpha_k d_k \\
        d_{k+1} &= -g_{k+1} + \beta_k d_k

    where a line search gives :math:`\alpha_k` and, with the change :math:`y_k = g_{k+1} - g_k`,

    .. math::
        \beta^{PR+} &= \max\left(\frac{\langle g_{k+1}, y_k \rangle}
            {\lVert g_k \rVert^2}, 0\right) \\
        \beta^{DY} &= \frac{\lVert g_{k+1} \rVert^2}{\langle d_k, y_k \rangle} \\
        h_k &= \left\langle y_k - 2 d_k \frac{\lVert y_k \rVert^2}
            {\langle d_k, y_k \rangle}, \frac{g_{k+1}}{\langle d_k, y_k \rangle} \right\rangle \\
        \beta^{HZ} &= \max\left(h_k,
            \frac{-1}{\lVert d_k \rVert \min(0.01, \lVert g_k \rVert)} \right)

    of Polak and Ribière (1969) with Powell's bound, Dai and Yuan (1999), and Hager and Zhang
    (2005). Inner products are over all arrays of the tree; of complex numbers, the real part
    :math:`\mathrm{Re} \langle x, y \rangle`. On a quadratic function of n parameters, with exact
    steps, each of them arrives after n steps.

    Parameters
    ----------
    beta
        ``"PR+"``, ``"DY"`` or ``"HZ"``.
    line_search
        What gives :math:`\alpha`: `StrongWolfe`, `Backtracking`, or a function of one's own, as
        where the objective on a line is a polynomial whose minimum is known:
        ``line_search(params, direction)`` is called with the tree of parameters at the start of a
        line and a tree of copies of its direction, None for parameters that are left alone, and
        returns the step. That is taken, unless the objective is higher there.
    first_length
        Euclidean length of the first step that is tried.
    engine, threads, complex, frozen
        As for `Optimizer`.

    Notes
    -----
    The state is three arrays for each parameter. An iteration reads and writes them in one pass,
    and in one more takes all products at the new point; where that is not taken at once, each
    further one costs two passes more, which write nothing but the parameters.

    The first step that is tried on a line is the one with which a parabola of the present slope
    would fall as far as the one through the last two slopes did on the last line (Nocedal and
    Wright, equation 3.60, whose difference of values would be rounded), but at least a tenth of
    the one with the same change to first order, and at most twice that.

    Where values differ by less than 1e-6 of themselves, slopes decide (see `StrongWolfe`).

    A direction that does not lead down, or along which nothing is found, gives way to that of
    steepest descent. There is no restart after every n steps: n is more than the steps one takes in
    large problems (Nocedal and Wright, section 5.2), and PR+ and HZ forget by themselves where a
    step was short. DY does not: it begins anew where gradients in a row are not nearly orthogonal
    (Powell 1977), if the search has come near to the minimum on the line.
    DY and HZ go with ``line_search=Backtracking(factor=0.5)`` as well, PR+ badly. SciPy's fmin_cg
    is PR+, with a looser search, ``StrongWolfe(decrease=1e-4, curvature=0.4)``.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import ConjugateGradient, minimize
    >>> scales = np.array([1.0, 100.0])
    >>> def value_and_grad(w):
    ...     return 0.5 * (scales * w**2).sum(), scales * w
    >>> w = np.array([3.0, -4.0])
    >>> result = minimize(value_and_grad, w, ConjugateGradient(), tolerance=1e-6)
    >>> result.success, bool(abs(w).max() < 1e-6)
    (True, True)

    An exact step, where one knows it:

    >>> def step(w, d):
    ...     return -(scales * w * d).sum() / (scales * d * d).sum()
    >>> w = np.array([3.0, -4.0])
    >>> result = minimize(value_and_grad, w, ConjugateGradient(line_search=step), tolerance=1e-9)
    >>> result.nit, result.nfev
    (2, 3)
    """

    adopted = "beta", "first_length", "line_search"

    beta: str = "PR+"
    line_search: LineSearch | ExactSearch = field(
        default_factory=lambda: StrongWolfe(decrease=1e-4, curvature=0.1)
    )
    first_length: float = 1.0

    def __post_init__(self) -> None:
        name, search = self.name, self.line_search
        if self.beta not in BETAS:
            choices = ", ".join(map(repr, BETAS))
            raise ValueError(f"{name}: beta must be one of {choices}, got {self.beta!r}")
        if isinstance(search, type) or not (hasattr(search, "search") or callable(search)):
            raise TypeError(
                f"{name}: line_search must be StrongWolfe(), Backtracking(), or a function "
                f"of parameters and direction that returns a step, got {described(search)}"
            )
        if not 0 < self.first_length < math.inf:
            raise ValueError(f"{name}: first_length must be > 0, got {self.first_length!r}")
        super().__post_init__()

    @property
    def made_with(self) -> dict[str, Any]:
        """How it was made, but for what its rules hold."""
        numbers = {"beta": self.beta, "first_length": self.first_length}
        return {**numbers, "line_search": description(self.line_search)}

    def holder(self) -> Optimizer:
        """Return a rule that holds the frozen leaves."""
        return Back(**self.settings)

    def held_by(self, holder: Optimizer) -> dict[str, Any]:
        """Return nothing: there are no hyperparameters."""
        return {}

    def descent(self, objective: Objective, params: Any) -> Descent:
        """Return a run of the method, from these parameters on."""
        return Conjugate(objective, params, self)

    def passes(self) -> Mapping[str, Optimizer]:
        """Return what a step runs over the trees, by name, where its first trial is taken."""
        return {"advance": Advance(**self.settings), "products": Products(**self.settings)}


class _Course(NamedTuple):
    """Where to go from a point.

    Attributes
    ----------
    beta
        How much of the last direction is in the new one.
    slope
        The derivative of the objective by the step along it.
    is_second
        Whether it is that of steepest descent, after another has led nowhere.
    """

    beta: float
    slope: float
    is_second: bool = False


class Conjugate(Descent):
    """A run of conjugate gradients."""

    def __init__(self, objective: Objective, params: Any, method: ConjugateGradient) -> None:
        super().__init__(objective, params)
        self._method, self._beta = method, BETAS[method.beta]
        self._line = Line(method.name, method.settings)
        self._course = _Course(0.0, math.nan)
        self._fall: float | None = None  # what the first step of a line is to lower the value by
        self._like: Any = None  # gradients of the right kind, whatever their values
        self._counts = self._line.counts  # when the present point was taken
        self._trials: list[tuple[float, float]] = []  # of the last search: step and value

    def begin(self) -> None:
        evaluation = self._first_evaluation()
        square = self._line.begin(self.params, evaluation.grads)
        if not math.isfinite(square):
            raise not_finite(evaluation.grads, AT_START)
        self._take(evaluation, square, _Course(0.0, -square), None, 0.0)

    def _take(
        self,
        evaluation: Evaluation,
        square: float,
        course: _Course,
        fall: float | None,
        length: float,
    ) -> None:
        """Make the point where the parameters are the present one.

        A function in C does it: an interrupt comes before or after.
        """
        value, grads = evaluation
        vars(self).update(
            value=value,
            grads=grads,
            gradient_norm=math.sqrt(square),
            length=length,
            _like=grads,
            _course=course,
            _fall=fall,
            _counts=self._line.counts,
        )

    def step(self) -> None:
        while (why := self._search()) is not None:
            if self._course.beta == 0:
                raise self._ending(why)
            self._course = _Course(0.0, -(self.gradient_norm**2), is_second=True)

    def _search(self) -> str | None:
        """Go along the line; return None, or why no point there is taken."""
        noise = _NOISE * abs(self.value)
        start, self._trials = Trial(0.0, self.value, self._course.slope, noise), []
        search, trial = self._searching(start), start
        try:
            step = next(search)
            while True:
                self._go(step)
                evaluation = self._objective.at(self.params)
                found = self._line.products(self.params, evaluation.grads)
                self._trials.append((step, evaluation.value))
                if found["yy"] == 0 and evaluation.value == self.value:
                    return NO_DESCENT  # the step is less than the parameters are rounded
                trial = Trial(step, evaluation.value, found["gd"])
                step = search.send(trial)
        except StopIteration as stop:
            if stop.value is not None:
                return str(stop.value)
        self._accept(evaluation, trial, found)
        return None

    def _searching(self, start: Trial) -> Search:
        """Return a search along the line."""
        given: Any = self._method.line_search
        if hasattr(given, "search"):
            found: Search = given.search(start, self._first_step())
            return found
        self._go(0.0)
        return _single(start, given(self.params, self._line.tree("direction", self.params)))

    def _ending(self, why: str) -> Ending:
        """Return why the steepest descent leads nowhere."""

        def value_at(step: float) -> float:
            self._go(step)
            return self._objective.value_at(self.params).value

        start = Trial(0.0, self.value, self._course.slope)
        return nowhere(why, start, self._trials, value_at, rounding(self.params, self.value))

    def _first_step(self) -> float:
        """Return the first step to be tried on the line."""
        if self._fall is not None:
            step = self._fall / self._course.slope
            if 0 < step < math.inf:
                return step
        return self._method.first_length / math.sqrt(-self._course.slope)

    def _go(self, step: float) -> None:
        """Go from the present point along the line."""
        began, turned = self._passed
        if not began:
            self.params = self._line.advance(self.params, self.grads, self._course.beta, step)
        elif self._course.is_second and not turned:
            self.params = self._line.down(self.params, self._like, step)
        else:
            self.params = self._line.again(self.params, self._like, step)

    @property
    def _passed(self) -> tuple[bool, bool]:
        """Whether the line has begun, and whether it was turned into steepest descent."""
        began, turned = self._line.counts
        return began != self._counts[0], turned != self._counts[1]

    def _accept(self, evaluation: Evaluation, trial: Trial, found: Inner) -> None:
        """Take a point of the line, and decide where to go from there."""
        beta = self._beta(found, self.gradient_norm**2)
        is_near = abs(trial.slope) <= -_NEAR * self._course.slope
        if self._method.beta == "DY" and is_near and _loses_conjugacy(found):
            beta = 0.0
        slope = beta * found["gd"] - found["gg"]
        if not (math.isfinite(beta) and slope < 0):
            beta, slope = 0.0, -found["gg"]
        # As much as the last line fell to first order, and to second order, by both of its slopes.
        growth = min(max(1 + trial.slope / self._course.slope, 0.1), 2.0)
        fall = growth * trial.step * self._course.slope
        length = trial.step * math.sqrt(found["dd"])
        self._take(evaluation, found["gg"], _Course(beta, slope), fall, length)

    def back(self) -> None:
        if self._passed[0]:
            self.params = self._line.back(self.params, self._like)
            self.grads = None

    def _slots(self, began: bool) -> tuple[str, ...]:
        """Return the slots that are saved: where a line has begun, all."""
        return ("point", "gradient", "direction") if began else ("direction",)

    def saved(self) -> Saved:
        began, turned = self._passed
        found = {
            f"{slot}/{key}": arrays.to_numpy(own[slot])
            for key, own in self._line.slots.items()
            for slot in self._slots(began)
        }
        found |= named("params", self.params)
        found |= named("grads", self._line.tree("gradient", self.params) if began else self.grads)
        numbers = {name: getattr(self, name) for name in ("value", "gradient_norm", "length")}
        course = {"course": self._course, "fall": self._fall, "began": began, "turned": turned}
        return {**numbers, **course}, found

    def restore(self, header: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        began, turned, fall = (header[name] for name in ("began", "turned", "fall"))
        value, norm, length = (header[name] for name in ("value", "gradient_norm", "length"))
        course = _Course(*header["course"])
        slots = {name: below(found, name) for name in self._slots(began)}
        self.params = put(self.params, below(found, "params"))
        grads = like(self.params, below(found, "grads"))
        self._line.begin(self.params, grads)
        for key, own in self._line.slots.items():
            own.update({name: arrays.filled(own[name], its[key]) for name, its in slots.items()})
        self._take(Evaluation(value, grads), norm**2, course, fall, length)
        self.gradient_norm = norm
        self.grads = None if began else grads
        lines, turns = self._line.counts
        self._counts = lines - began, turns - turned


def _single(start: Trial, step: Any) -> Search:
    """Return a search that tries one step, which a function of the user's has returned."""
    try:
        length = real(step)
    except (TypeError, OverflowError):
        length = math.nan
    if not math.isfinite(length):
        raise ValueError(
            f"ConjugateGradient: line_search must return how far to go, a finite number, got "
            f"{described(step)}"
        )
    if length == 0:
        return NO_DESCENT
    trial = yield length
    if not trial.is_finite:
        return NOT_FINITE
    return None if trial.value <= start.value else NO_DESCENT

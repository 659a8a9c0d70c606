"""FISTA: proximal gradient steps with momentum."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from instep import arrays
from instep.choices import Overrides
from instep.composition import chain
from instep.interrupts import at_once
from instep.minimization.bounds import Bounds, check_parameters
from instep.minimization.descent import (
    Descent,
    Ending,
    Method,
    Saved,
    check_finite,
    not_finite,
    nothing_moves,
)
from instep.minimization.objective import Evaluation, Objective
from instep.minimization.proximal_passes import (
    Again,
    Back,
    Extrapolation,
    Measure,
    Onward,
    Return,
    Step,
)
from instep.minimization.result import Status
from instep.minimization.rounding import ROUNDINGS, resolution
from instep.minimization.shared import Shared
from instep.minimization.trees import below, like, named, put
from instep.optimizer import Optimizer
from instep.settings import SETTINGS
from instep.transform import Transform
from instep.transforms.projection import project, support


@dataclass(frozen=True)
class FISTA(Method):
    r"""Proximal gradient steps with momentum (Beck and Teboulle 2009).

    For an objective that is smooth, and a constraint or a penalty with a proximal step:

    .. math::
        x_{k+1} &= \mathrm{prox}_\eta \left( y_k - \eta \nabla f(y_k) \right) \\
        t_{k+1} &= \frac{1 + \sqrt{1 + 4 t_k^2}}{2} \\
        y_{k+1} &= x_{k+1} + \frac{t_k - 1}{t_{k+1}} (x_{k+1} - x_k)

    Momentum begins anew, with :math:`t = 1`, where it leads up: where
    :math:`\langle y_k - x_{k+1}, x_{k+1} - x_k \rangle > 0` (O'Donoghue and Candès 2013). The rate
    is made smaller until

    .. math::
        f(x_{k+1}) \le f(y_k) &+ \mathrm{Re} \langle \nabla f(y_k), x_{k+1} - y_k \rangle \\
            &+ \frac{1}{2 \eta} \lVert x_{k+1} - y_k \rVert^2

    Parameters
    ----------
    lr
        The first rate :math:`\eta`. With one of at most 1 over the Lipschitz constant of the
        gradient, it stays.
    prox
        The proximal step: a transform of parameters, or several in order, such as
        ``project(lower=0.0)``, ``soft_threshold(0.1)`` or ``total_variation(0.1)``. Those that take
        a learning rate are given :math:`\eta`.
    restart
        Whether momentum may begin anew.
    overrides
        Hyperparameters of `prox` for parts of the tree, as in a `chain`: path patterns, and what is
        other there, ``{"object": {"support_mask": mask}}``. The rate is one for all.
    engine, threads, complex, frozen
        As for `Optimizer`.

    Notes
    -----
    A step evaluates the objective twice: value and gradient at :math:`y`, and the value at
    :math:`x`, for which the gradient is not computed if `minimize` is given a pair of functions.
    The points that it returns are :math:`x`, after the proximal step. The norm of the gradient in
    the history is that of :math:`(y_k - x_{k+1}) / \eta`, which is 0 where no step is left. `fun`
    is what the objective returns: without the penalty, which is known by its proximal step alone.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import FISTA, minimize
    >>> from instep.transforms import project
    >>> w, scales = np.array([3.0, -4.0]), np.array([1.0, 10.0])
    >>> def value_and_grad(w):
    ...     return 0.5 * (scales * (w - 1) ** 2).sum(), scales * (w - 1)
    >>> result = minimize(value_and_grad, w, FISTA(1.0, project(upper=0.5)), tolerance=1e-9)
    >>> result.x
    array([0.5, 0.5])
    """

    adopted = ("restart",)

    lr: float = 1.0
    prox: Transform | Sequence[Transform] = ()
    restart: bool = True
    overrides: Overrides = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        lr: Any = self.lr
        if not (isinstance(lr, int | float) and 0 < lr < math.inf):
            raise ValueError(f"FISTA: lr must be a number > 0, got {lr!r}")
        step: Any
        for step in self.steps:
            is_one = isinstance(step, Transform) and step.stage != "gradient"
            if not is_one or step.state_slots() or step.defines("answer_rule"):
                raise TypeError(
                    f"FISTA: prox must be a transform of parameters that remembers nothing, or "
                    f"several, such as project(lower=0.0), got {step!r}"
                )
        overrides = SETTINGS["overrides"](self.name, self.overrides)
        if any("lr" in own for own in overrides.values()):
            raise ValueError(
                "FISTA: lr is one number for all parameters; leave it out of overrides"
            )
        if overrides and not self.steps:
            raise ValueError("FISTA: overrides is of hyperparameters of prox, and there is none")
        super().__post_init__()

    @property
    def steps(self) -> Sequence[Transform]:
        """What makes the proximal step, in order."""
        prox: Any = self.prox
        return tuple(prox) if isinstance(prox, list | tuple) else (prox,)

    def passes(self) -> Mapping[str, Optimizer]:
        """Return what a step runs over the trees, by name, where its first trial is taken."""
        return {
            "extrapolation": Extrapolation(**self.settings),
            "step": _with_prox(self, Step, self.steps, lr=self.lr),
            "measure": Measure(**self.settings),
        }

    @property
    def made_with(self) -> dict[str, Any]:
        """How it was made, but for what its rules hold."""
        return {"prox": [step.name for step in self.steps], "restart": self.restart}

    def holder(self) -> Optimizer:
        """Return a rule that holds the rate, the proximal step and the frozen leaves."""
        return _with_prox(self, Step, [*map(copy.copy, self.steps)], lr=self.lr)

    def held_by(self, holder: Any) -> dict[str, Any]:
        """Return the rate and the proximal step that a rule holds."""
        prox = [rule for rule in holder.parts.values() if isinstance(rule, Transform)]
        return {"lr": holder.lr, "prox": tuple(prox), "overrides": holder.overrides}

    def descent(self, objective: Objective, params: Any) -> Descent:
        """Return a run of the method, from these parameters on."""
        if self.complex == "pairs" or not any(isinstance(one, project) for one in self.steps):
            return _Accelerated(objective, params, self)
        self._check_bounds(params)
        # Where complex numbers have no bounds, pairs have none either; other steps look at moduli.
        is_of_elements = all(isinstance(one, project | support) for one in self.steps)
        return _Accelerated(
            objective, params, replace(self, complex="pairs") if is_of_elements else self
        )

    def _check_bounds(self, params: Any) -> None:
        """Raise where a projection has a bound for complex numbers."""
        for prefix, rule in self.holder().parts.items():
            if isinstance(rule, project):
                found: dict[str, Bounds] = {}
                for name in ("lower", "upper"):
                    bounds: dict[Any, Any] = {"*": vars(rule)[name]}
                    for key, own in self.overrides.items():
                        if prefix + name in own:
                            bounds[key] = own[prefix + name]
                    found[name] = bounds
                example = f'prox=project(), overrides={{"density": {{"{prefix}lower": 0.0}}}}'
                check_parameters("FISTA, project", params, found, self.frozen, example)


#: Rates that are tried in one step, at most.
_MOST_RATES = 100


def _with_prox(method: FISTA, kind: type, steps: Sequence[Transform], **given: Any) -> Optimizer:
    """Return a step of a kind, with the proximal step after it."""
    one: Optimizer = kind(**method.settings, **given)
    # Without a proximal step there is nothing that could be other somewhere.
    return chain(one, *steps, overrides=method.overrides) if steps else one


class _Accelerated(Descent):
    """A run of FISTA."""

    def __init__(self, objective: Objective, params: Any, method: FISTA) -> None:
        super().__init__(objective, params)
        self._restarts = method.restart
        self._rate = self._rate_there = float(method.lr)  # that of the present point
        self._momentum = 1.0
        self._beta = 0.0  # how far the next point that is evaluated is beyond the present one
        self._shared, settings, prox = Shared(), method.settings, method.steps
        self._step, self._again = (_with_prox(method, kind, prox) for kind in (Step, Again))
        self._measure = Measure(**settings).called(method.name)
        self._beyond = Extrapolation(**settings).called(method.name)
        self._back = Back(**settings).called(method.name)
        self._return = Return(**settings).called(method.name)
        self._onward = Onward(**settings).called(method.name)
        away = self._beyond, self._onward  # what leaves the present point
        home = self._back, self._return
        for one in (self._step, self._again, self._measure, *away, *home):
            prefix = next(prefix for prefix, rule in one.parts.items() if rule is one.main)
            self._shared.join(one, {prefix + name: name for name in ("point", "gradient", "x")})
        self._like: Any = None  # gradients of the right kind, whatever their values
        self._taken = self._counts  # of steps, when the present point was taken
        self._is_ahead = False  # whether the next point that is evaluated is kept as `point`

    @property
    def _counts(self) -> tuple[int, int, int]:
        """How often the present point was left, a proximal step taken, and the way back."""
        return self._beyond.t + self._onward.t, self._step.t, self._return.t

    def begin(self) -> None:
        evaluation = self._first_evaluation()
        self._prepare(evaluation.grads)
        self.grads = evaluation.grads

    def _prepare(self, grads: Any) -> None:
        """Make the arrays: without momentum, the point before is the present one."""
        self._like = grads
        self._extrapolate(0.0)
        self._taken = self._counts
        if not self._shared.named("x"):
            raise nothing_moves()

    def _extrapolate(self, beta: float) -> None:
        """Keep the present point, and go beyond it, from the one before."""
        self._beyond.beta = beta
        self.params = self._beyond.update(self.params, self._like)
        self._shared.take_over(self._beyond)

    def step(self) -> None:
        at_hand = self.grads is not None and self._beta == 0
        before = Evaluation(self.value, self.grads)
        if self._is_ahead:
            self.params = self._onward.update(self.params, self._like)
            self._shared.take_over(self._onward)
        else:
            self._extrapolate(self._beta)
        evaluation = before if at_hand else self._objective.at(self.params)
        check_finite(evaluation, "beyond the last point, where momentum leads")
        self.grads = None
        found, way = self._descend(evaluation)
        following = (1 + math.sqrt(1 + 4 * self._momentum**2)) / 2
        beta, momentum = (self._momentum - 1) / following, following
        if self._restarts and way["turn"] < 0:
            beta, momentum = 0.0, 1.0
        taken = {"value": found.value, "grads": found.grads, "_taken": self._counts}
        taken |= {"_beta": beta, "_momentum": momentum, "_is_ahead": False}
        taken["_rate_there"] = self._rate
        taken["gradient_norm"] = math.sqrt(way["way_square"]) / self._rate
        taken["length"] = math.sqrt(way["step_square"])
        at_once([partial(self.__dict__.update, taken)])  # no signal leaves half of it

    def _descend(self, evaluation: Evaluation) -> tuple[Evaluation, Mapping[str, float]]:
        """Take a proximal step; return the objective there, and the products of the ways."""
        slack = ROUNDINGS * min(resolution(self.params), 1e-3) * abs(evaluation.value)
        first = 0.0
        for number in range(_MOST_RATES):
            rule = self._again if number else self._step
            rule.lr = self._rate
            self.params = rule.update(self.params, evaluation.grads)
            if rule is self._step:
                self._like = evaluation.grads  # they were looked at: `back` may step with them
                self._shared.take_over(rule)
            found = self._objective.value_at(self.params)
            self._measure.update(self.params, self._like)
            way = self._measure.readings
            if not math.isfinite(way["way_square"]):
                raise not_finite(evaluation.grads, "here")
            if way["way_square"] == 0 and number:
                break  # the step is less than the parameters are rounded
            model = evaluation.value + way["along"] + way["way_square"] / (2 * self._rate)
            promised = way["way_square"] / (2 * self._rate)  # by how much it is lower, at least
            first = max(first, promised)
            if (
                math.isfinite(found.value)
                and found.value <= model + slack
                and (promised > slack or promised == first)
            ):
                return found, way
            self._rate *= _shorter(evaluation.value + way["along"], found.value, model)
        if not math.isfinite(found.value):
            raise Ending(Status.NOT_FINITE, "the objective is not finite at any rate")
        raise Ending(
            Status.NO_DESCENT,
            f"no rate down to {self._rate:.3g} lowers the objective as its gradient says; see "
            f"whether that is right, with instep.check_gradient",
        )

    def back(self) -> None:
        left, stepped, returned = (
            now != at for now, at in zip(self._counts, self._taken, strict=True)
        )
        if left:
            for one in (self._beyond, self._onward, *([self._step] if stepped else [])):
                self._shared.take_over(one)
            # The point beyond is where the parameters are, or a step has kept it.
            if not stepped and not returned:
                self.params = self._return.update(self.params, self._like)
            elif stepped:
                self.params = self._back.update(self.params, self._like)
            self._shared.take_over(self._return)
            vars(self).update(_taken=self._counts, _is_ahead=True, grads=None)

    def saved(self) -> Saved:
        found = named("params", self.params)
        before = self._shared.named("x")
        found |= {f"x/{key}": arrays.to_numpy(x) for key, x in before.items()}
        if self.grads is not None:
            found |= named("grads", self.grads)
        numbers = {name: getattr(self, name) for name in ("value", "gradient_norm", "length")}
        if self._is_ahead:
            beyond = self._shared.named("point")
            found |= {f"beyond/{key}": arrays.to_numpy(x) for key, x in beyond.items()}
        own = {"rate": self._rate_there, "momentum": self._momentum, "beta": self._beta}
        return {**numbers, **own, "ahead": self._is_ahead}, found

    def restore(self, header: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        self.params = put(self.params, below(found, "params"))
        grads = below(found, "grads")
        # Where there are no gradients, any finite numbers do.
        self._prepare(like(self.params, grads or below(found, "params")))
        self._shared.fill("x", below(found, "x"))
        self.grads = self._like if grads else None
        if header.get("ahead"):  # the first files did not have it
            self._shared.fill("point", below(found, "beyond"))
            self._is_ahead = True
        self._rate = self._rate_there = header["rate"]
        self._momentum = header["momentum"]
        self._beta, self.value = header["beta"], header["value"]
        self.gradient_norm, self.length = header["gradient_norm"], header["length"]


def _shorter(line: float, value: float, model: float) -> float:
    """Return by how much a rate is made smaller: so that the model is at the value, and a little.

    `line` is the model without its square, which grows as the rate becomes smaller.
    """
    above = value - line
    if not math.isfinite(value) or above <= 0:
        return 0.1
    return min(max(0.95 * (model - line) / above, 0.1), 0.9)

"""Optimizers as methods of minimization: one evaluation, one update."""

import math
from collections.abc import Mapping
from typing import Any

from instep.minimization.descent import (
    AT_START,
    SETTINGS_OF_PASSES,
    Descent,
    Saved,
    check_finite,
    not_finite,
    nothing_moves,
)
from instep.minimization.objective import Evaluation, Objective
from instep.minimization.shared import Pass
from instep.minimization.trees import (
    below,
    check_fits,
    like,
    like_parameters,
    named,
    on_host,
    put,
)
from instep.optimizer import Optimizer
from instep.state import LeafState, State
from instep.stateful import arrays_of


class _Watching(Pass):
    """Keeps the present point, and measures the gradient and the way from the point before."""

    slots = exact_slots = ("point",)
    positive_slots = ()
    tree_readings = ("gradient_norm", "length")
    guarded = True

    def initial_state(self) -> Mapping[str, float | str]:
        """Return the parameter for the point before the first."""
        return {"point": "w"}

    @staticmethod
    def rule(xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        xp.require(xp.isfinite(g))
        norms = {"gradient_norm": xp.tree_norm(g), "length": xp.tree_norm(w - s.point)}
        return w, {"point": w, **norms}


class _Swapping(Pass):
    """Puts the point that is kept into the place of the parameters, and these into its place."""

    slots = exact_slots = ("point",)
    positive_slots = ()

    @staticmethod
    def rule(xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        return s.point, {"point": w}

    def take(self, slots: dict[str, dict[str, Any]]) -> None:
        """Take what is kept: the very dicts. It goes on counting."""
        self._state = State(t=self.t, leaves={key: LeafState(own) for key, own in slots.items()})


class FirstOrder(Descent):
    """A run of an optimizer."""

    def __init__(self, objective: Objective, params: Any, optimizer: Optimizer) -> None:
        super().__init__(objective, params)
        self._optimizer = optimizer
        settings = {name: getattr(optimizer, name) for name in SETTINGS_OF_PASSES}
        self._watch = _Watching(**settings).called(optimizer.name)
        self._swap = _Swapping(**settings).called(optimizer.name)
        self._like: Any = None  # gradients of the right kind, whatever their values
        self._taken = optimizer.t  # steps at the present point
        self._points = 0  # that were measured, up to the present one
        self._coming = Evaluation(math.nan, None)  # of the point that is to be the present one

    @property
    def _is_ahead(self) -> bool:
        """Whether the next point is kept, and was not evaluated."""
        return self._swap.t % 2 == 1

    def begin(self) -> None:
        self._evaluate(AT_START, self._first_evaluation())

    def step(self) -> None:
        if self._is_ahead:
            self._exchange()
        else:
            self.params = self._optimizer.update(self.params, self.grads, value=self.value)
        self.grads = None
        where = f"after step {self._optimizer.t}"
        evaluation = self._objective.at(self.params)
        check_finite(evaluation, where)
        self._evaluate(where, evaluation)

    def _evaluate(self, where: str, evaluation: Evaluation) -> None:
        """Make the point where the parameters are, and were evaluated, the present one."""
        self._coming = evaluation
        self._watch.update(self.params, self._coming.grads)
        if self._watch.t == self._points:
            raise not_finite(evaluation.grads, where)
        self._take(self._coming)

    def _take(self, evaluation: Evaluation, **known: float) -> None:
        """Take note of the present point, in one call of a function in C."""
        if not arrays_of(self._watch):
            raise nothing_moves()
        read = self._watch.readings
        found = {name: read[name] for name in self._watch.tree_readings} | known
        value, grads = evaluation
        own = {"_like": grads, "_taken": self._optimizer.t, "_points": self._watch.t}
        vars(self).update(value=value, grads=grads, **found, **own)

    def back(self) -> None:
        if self._watch.t != self._points:  # an exception came before it was taken note of
            self._take(self._coming)
        elif self._points and self._optimizer.t != self._taken and not self._is_ahead:
            self.grads = None
            self._exchange()

    def _exchange(self) -> None:
        """Exchange the parameters and the point that is kept."""
        self._swap.take(arrays_of(self._watch))
        self.params = self._swap.update(self.params, self._like)

    def saved(self) -> Saved:
        from instep.checkpoint import packed

        header, arrays_of_state = packed(self._optimizer.state_dict())
        found = {f"state/{name}": x for name, x in arrays_of_state.items()}
        found |= named("params", self.params)
        if self._is_ahead:
            own = named("", self._like).keys()  # those without gradients are where they were
            kept = {key: slots["point"] for key, slots in arrays_of(self._watch).items()}
            found |= {f"ahead/{key}": on_host(x) for key, x in kept.items() if f"/{key}" in own}
        else:
            found |= named("grads", self.grads)
        numbers = {name: getattr(self, name) for name in ("value", "gradient_norm", "length")}
        return {"optimizer": header, **numbers}, found

    def restore(self, header: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        from instep.checkpoint import unpacked

        value, norm, length = (header[name] for name in ("value", "gradient_norm", "length"))
        state = unpacked(header["optimizer"], below(found, "state"))
        params, ahead, grads = (below(found, name) for name in ("params", "ahead", "grads"))
        check_fits(self.params, params)
        self._optimizer.load_state_dict(state)
        self.params = put(self.params, params)
        # Where there are no gradients, any finite numbers do: the norm is known.
        like_them = like(self.params, grads or {key: params[key] for key in ahead})
        self._watch.update(self.params, like_them)
        self._take(Evaluation(value, like_them), gradient_norm=norm, length=length)
        if ahead:
            self.grads = None
            self._put_ahead(params | like_parameters(self.params, ahead))

    def _put_ahead(self, points: Mapping[str, Any]) -> None:
        """Keep the next point, and go back to the present one."""
        self.params = put(self.params, points)
        self._exchange()

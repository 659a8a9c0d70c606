"""Optimizers as methods of minimization: one evaluation, one update."""

from collections.abc import Mapping
from typing import Any

from instep import arrays, checkpoint
from instep.minimization.descent import SETTINGS_OF_PASSES, Descent, Ending, Saved, check_finite
from instep.minimization.objective import Evaluation, Objective
from instep.minimization.result import Status
from instep.minimization.shared import Pass
from instep.minimization.trees import below, like, named, put
from instep.optimizer import Optimizer
from instep.state import LeafState, State


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

    @property
    def kept(self) -> dict[str, LeafState]:
        """The points, by the paths of the parameters."""
        return self._state.leaves


class _Swapping(Pass):
    """Puts the point that is kept into the place of the parameters, and these into its place."""

    slots = exact_slots = ("point",)
    positive_slots = ()

    @staticmethod
    def rule(xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        return s.point, {"point": w}

    def take(self, leaves: dict[str, LeafState]) -> None:
        """Take what is kept."""
        self._state = State(leaves=leaves)


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
        self._is_ahead = False  # whether the next point is kept, and was not evaluated

    def begin(self) -> None:
        self._evaluate("at the start; begin where it is")

    def step(self) -> None:
        if self._is_ahead:
            self._exchange()
            self._is_ahead = False
        else:
            grads, self.grads = self.grads, None
            self.params = self._optimizer.update(self.params, grads, value=self.value)
        self._evaluate(f"after step {self._optimizer.t}")

    def _evaluate(self, where: str) -> None:
        """Evaluate the objective where the parameters are, and make that the present point."""
        evaluation, points = self._objective.at(self.params), self._watch.t
        check_finite(evaluation, where)
        self._watch.update(self.params, evaluation.grads)
        if self._watch.t == points:
            raise Ending(Status.NOT_FINITE, f"the gradient is not finite {where}")
        self._take(evaluation)

    def _take(self, evaluation: Evaluation) -> None:
        found = self._watch.readings
        self.gradient_norm, self.length = found["gradient_norm"], found["length"]
        self.value, self.grads = evaluation
        self._like, self._taken = evaluation.grads, self._optimizer.t

    def back(self) -> None:
        if self._watch.t and self._optimizer.t != self._taken and not self._is_ahead:
            self._exchange()
            self._is_ahead, self.grads = True, None

    def _exchange(self) -> None:
        """Exchange the parameters and the point that is kept."""
        self._swap.take(self._watch.kept)
        self.params = self._swap.update(self.params, self._like)

    def saved(self) -> Saved:
        header, arrays_of_state = checkpoint.packed(self._optimizer.state_dict())
        found = {f"state/{name}": x for name, x in arrays_of_state.items()}
        found |= named("params", self.params)
        if self._is_ahead:
            kept = {key: leaf.slots["point"] for key, leaf in self._watch.kept.items()}
            found |= {f"ahead/{key}": arrays.to_numpy(x) for key, x in kept.items()}
        else:
            found |= named("grads", self.grads)
        numbers = {name: getattr(self, name) for name in ("value", "gradient_norm", "length")}
        return {"optimizer": header, **numbers}, found

    def restore(self, header: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        state = checkpoint.unpacked(header["optimizer"], below(found, "state"))
        self._optimizer.load_state_dict(state)
        self.params = put(self.params, below(found, "params"))
        ahead, grads = below(found, "ahead"), below(found, "grads")
        # Where there are no gradients, any finite numbers do: the norm is known.
        grads = like(self.params, grads or below(found, "params"))
        self._watch.update(self.params, grads)
        self._take(Evaluation(header["value"], grads))
        self.gradient_norm, self.length = header["gradient_norm"], header["length"]
        if ahead:
            self.params = put(self.params, ahead)
            self._exchange()
            self._is_ahead, self.grads = True, None

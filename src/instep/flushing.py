"""The step that is due before all gradients of it are there: that of an accumulation cut short."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from instep import arrays, tree
from instep.choices import Overrides, Selector
from instep.interrupts import Call
from instep.plan.step import Plan
from instep.state import Composed, History, LeafState, Owner, State


class Flushing:
    """An optimizer from the rule on that gathers gradients, with another in its place.

    Parameters
    ----------
    owner
        The optimizer, whose settings it has.
    compositions
        What is left of a step; by what chooses the leaves, as ever.
    gatherers
        For these, the prefix of the rule that gathers, and the number of gradients.
    """

    def __init__(
        self,
        owner: Owner,
        compositions: Mapping[Selector, Composed],
        gatherers: Mapping[Selector, tuple[str, int]],
    ) -> None:
        self._owner, self.compositions = owner, compositions
        self._gatherers = {*gatherers.values()}
        self.parts = {k: x for one in compositions.values() for k, x in one.parts.items()}
        self.overrides: Overrides = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, name)

    def step(self, state: State, params: Any, value: Any) -> Any:
        """Take the step that is due for what was gathered; nothing, if nothing was."""
        due = {key: one for key, leaf in state.leaves.items() if (one := self._gathered(leaf))}
        found = {tree.join_path(path) for path, leaf in tree.flatten(params) if leaf is not None}
        due = {key: one for key, one in due.items() if key in found}
        if not due:
            return params
        self.overrides = self._overrides(due)
        rest = {key: self._on_its_way(state.leaves[key], *one[1:]) for key, one in due.items()}
        t = max(leaf.history.taken for leaf in rest.values())
        own = State(t=t, leaves=rest, numbers=state.numbers)
        plan = Plan(self, own, params, tree.mapped(partial(_nothing, due), params), value)
        try:
            own.follow = self._following(state, own, plan.states, due)
            plan.objective.take(value)
            return plan.step(self, own, params)
        finally:
            plan.release()

    def _gathered(self, leaf: LeafState) -> tuple[str, int, int] | None:
        """Return the rule that gathers for a leaf, how many gradients, and how many it has."""
        for prefix, k in self._gatherers:
            count = leaf.history.taken % k
            if count and any(name.startswith(prefix) for name in leaf.slots):
                return prefix, k, count
        return None

    def _on_its_way(self, leaf: LeafState, k: int, count: int) -> LeafState:
        """Return the state of a leaf as before the call with its last gradient."""
        history = History(leaf.history.taken + k - count - 1, dict(leaf.history.scalars))
        prefixes = (*self.parts, "master")
        slots = {name: slot for name, slot in leaf.slots.items() if name.startswith(prefixes)}
        return LeafState(slots, history, leaf.state_dtype)

    def _following(
        self,
        state: State,
        own: State,
        new: Mapping[str, LeafState],
        due: Mapping[str, tuple[str, int, int]],
    ) -> list[Call]:
        """Return the calls by which the optimizer takes over what the step leaves.

        The state of leaves is that of the step, and has what the rules before it keep.
        """
        for key, leaf in new.items():  # the dicts into which engines put what a step leaves
            leaf.slots.update({**state.leaves[key].slots, **leaf.slots})
        skipped = max(due[key][1] - due[key][2] for key in new)
        values = {
            "t": state.t + skipped,
            "leaves": {**state.leaves, **new},
            "changes": state.changes + 1,
        }
        clean: dict[str, Any] = {"plan": None, "plans": {}, "last": None}
        return [partial(state.__dict__.update, values | clean)]

    def _overrides(self, due: Mapping[str, tuple[str, int, int]]) -> Overrides:
        """Return the overrides of what is left of a step, and how many gradients leaves have."""
        known = {
            entry.name if rule is one.main else prefix + entry.name
            for one in self.compositions.values()
            for prefix, rule in one.parts.items()
            for entry in rule.hyperparameters
        }
        found: dict[Selector, Mapping[str, Any]] = {}
        for selector, values in self._owner.overrides.items():
            if left := {name: value for name, value in values.items() if name in known}:
                found[selector] = left
        for prefix, _, count in {*due.values()}:
            keys = {key for key, one in due.items() if (one[0], one[2]) == (prefix, count)}
            found[partial(_is_among, keys)] = {f"{prefix}count": float(count)}
        return found


def _is_among(keys: set[str], path: str, _: Any) -> bool:
    return path in keys


def _nothing(due: Mapping[str, Any], path: tree.Path, leaf: Any) -> Any:
    """Return a gradient of zeros for a leaf that has gathered some, and None for others."""
    if leaf is None or tree.join_path(path) not in due:
        return None
    if arrays.is_number(leaf):
        return type(leaf)(0)
    return arrays.namespace(leaf).zeros_like(leaf)

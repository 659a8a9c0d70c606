"""What makes the answer of a rule: steps that leave its state alone, and keep to constraints."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from instep.choices import Complex, Engine, Overrides, Rounding, Selector, StateDtype
from instep.engines.codes import as_numbers
from instep.graph.told import asks
from instep.plan.leaves import Leaf
from instep.plan.selection import is_chosen
from instep.rule import Rule
from instep.state import Composed, History, LeafState, Owner, State


class Answering(Rule):
    """A rule whose step makes the answer of another one, and leaves its state as it is.

    Constraints of the optimizer keep it in their sets: a mean of points of a set that is not convex
    lies anywhere, and roundings lead out of one that is.

    Parameters
    ----------
    of
        The rule whose answer it is.
    owner
        The optimizer.
    constraints
        By their prefixes, with the hyperparameters that they have for these leaves now.
    """

    engine: ClassVar[Engine] = "auto"
    frozen: ClassVar[tuple[str, ...]] = ()
    slots = property(lambda self: self._of.state_slots())
    real_slots = property(lambda self: self._of.real_slots)
    scalar_slots = property(lambda self: self._of.scalar_slots)

    def __init__(
        self, of: Rule, owner: Owner, constraints: Mapping[str, tuple[Rule, Mapping[str, Any]]]
    ) -> None:
        assert of.answer_rule is not None
        self._of, self._answer = of, of.answer_rule
        self._constraints = {prefix: rule for prefix, (rule, _) in constraints.items()}
        self._values = {
            prefix + name: value
            for prefix, (_, values) in constraints.items()
            for name, value in values.items()
        }
        self._threads, self._complex = owner.threads, owner.complex
        self.__post_init__()

    @property
    def name(self) -> str:
        return self._of.name

    @property
    def threads(self) -> int | None:
        return self._threads

    @property
    def seed(self) -> int:
        return 0

    @property
    def rounding(self) -> Rounding:
        return None

    @property
    def master(self) -> bool:
        return False

    @property
    def state_dtype(self) -> StateDtype:
        return None

    @property
    def min_float8_size(self) -> int:
        return 0

    @property
    def complex(self) -> Complex:
        return self._complex

    @property
    def main(self) -> Rule:
        return self

    @property
    def parts(self) -> Mapping[str, Rule]:
        return {"": self, **self._constraints}

    @property
    def overrides(self) -> Overrides:
        return {"*": self._values} if self._values else {}

    @property
    def compositions(self) -> Mapping[Selector, Composed]:
        return {"*": self}

    def scalars(self, h: Any) -> Mapping[str, float | bool]:  # type: ignore[override]
        return {name: getattr(h, name) for name in self.scalar_slots}

    def rule(self, xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        w = self._answer(xp, w, s, h)
        for prefix, rule in self._constraints.items():
            w, _ = rule.rule(xp, w, g, s.part(rule.name, prefix), h.part(rule.name, prefix))
        return w, {}


def answering(
    owner: Owner, call: str, state: State, leaves: Sequence[Leaf], prefix: str, rule: Rule
) -> list[tuple[Answering, State]]:
    """Return what makes the answer of a rule, and of what state, for leaves with the same numbers.

    That is the state before the last step, whose numbers the constraints have again.
    """
    known = _states(state, prefix, rule)
    groups: dict[Any, tuple[Answering, State]] = {}
    for leaf in leaves:
        if leaf.key not in known:
            continue
        parts = _branch(owner, leaf, prefix)
        constraints = {one: other for one, other in parts.items() if other.constrains}
        chosen = owner.overrides if constraints else ()
        overrides = [one for one in chosen if is_chosen(owner, one, leaf)]
        calls = math.prod(other.period for other in parts.values())  # that make one step
        key = (calls, *constraints, *map(id, overrides))
        if key not in groups:
            t = max(1, state.t // calls)
            given = {name: x for one in overrides for name, x in owner.overrides[one].items()}
            values = {
                one: (other, _numbers(call, one, other, given, t))
                for one, other in constraints.items()
            }
            groups[key] = Answering(rule, owner, values), State(t=t - 1)
        own = known[leaf.key]
        own.history.taken = max(1, state.leaves[leaf.key].history.taken // calls) - 1
        groups[key][1].leaves[leaf.key] = own
    return list(groups.values())


def _branch(owner: Owner, leaf: Leaf, prefix: str) -> Mapping[str, Rule]:
    """Return the rules of a leaf, in which a rule answers, by their prefixes."""
    branches = {one: x.parts for one, x in owner.compositions.items() if prefix in x.parts}
    if len(branches) == 1:
        return next(iter(branches.values()))
    chosen = [parts for one, parts in branches.items() if is_chosen(owner, one, leaf)]
    return next(iter([*chosen, *branches.values()]))


def _numbers(
    call: str, prefix: str, rule: Rule, overrides: Mapping[str, Any], step: int
) -> dict[str, Any]:
    """Return the numbers and arrays that a constraint has for some leaves at a step."""
    found = {}
    for entry in rule.hyperparameters:
        if entry.option or entry.domain.fixed:
            continue
        value = overrides.get(prefix + entry.name, getattr(rule, entry.name))
        if asks(value):
            raise ValueError(
                f"{call}: {rule.name}.{entry.name} is {value!r}, which is told the value of the "
                f"objective, and there is none beside an answer; give a number or another schedule"
            )
        found[entry.name] = entry.at(rule.name, value, step) if callable(value) else value
    return found


def _states(state: State, prefix: str, rule: Rule) -> dict[str, LeafState]:
    """Return what a rule keeps for each parameter that it has met, under its own names."""
    found = {}
    for key, leaf in state.leaves.items():
        if all(prefix + name in leaf.slots for name in rule.state_slots()):
            slots = {
                name: as_numbers(
                    prefix + name, leaf.slots, is_positive=name in (rule.positive_slots or ())
                )
                for name in rule.state_slots()
            }
            scalars = {name: leaf.history.scalars[prefix + name] for name in rule.scalar_slots}
            found[key] = LeafState(slots, History(scalars=scalars))
    return found

"""Rules in order as one: what chains and partitions are made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from instep import arrays
from instep.graph.remembered import OBJECTIVE
from instep.graph.trace import check_result
from instep.optimizer import Optimizer
from instep.rule import Rule
from instep.state import Composed, Selector
from instep.transform import Transform


class Composition:
    """Transforms and one optimizer, applied in order as a single rule.

    Parameters
    ----------
    parts
        The rules, by the prefixes of their names in the state.
    main
        The optimizer among them.
    refused
        Functions of the namespace that rules cannot call where they stand, by prefix, and what
        makes the error.
    fork
        Prefix of the first rule that other leaves do not have; and the number of this branch, and
        that of all.
    """

    def __init__(
        self,
        parts: Mapping[str, Rule],
        main: Rule,
        refused: Mapping[str, "Refused"],
        fork: tuple[str, int, int],
    ) -> None:
        self.parts, self.main, self._refused, self._fork = parts, main, refused, fork
        (self._prefix,) = (prefix for prefix, rule in parts.items() if rule is main)

    def rule(self, xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        """Apply the parts in order."""
        slots: dict[str, Any] = {}
        before = w
        first, *branch = self._fork
        for prefix, rule in self.parts.items():
            if prefix == first:
                xp.branch_off(*branch)
            stage = rule.stage if isinstance(rule, Transform) else ""
            lent = {name: self._prefix + name for name in rule.borrowed}
            if rule.needs_value:
                lent["value"] = OBJECTIVE
            own_s, own_h = s.part(rule.name, prefix), h.part(rule.name, prefix, lent)
            refused = self._refused.get(prefix)
            own_xp = xp if refused is None else _Limited(xp, refused)
            arrays = (before, w, g) if stage == "step" else (w, g)
            result = rule.rule(own_xp, *arrays, own_s, own_h)
            names = (*rule.state_slots(), *rule.numbers, *rule.scopes)
            value, new = check_result(rule.name, result, names)
            slots |= {prefix + name: slot for name, slot in new.items()}
            if stage != "gradient":
                w = value
            elif value is not None:
                g = value
            elif rule.defines("period") and "complete" in own_h and not own_h.complete:
                break
            else:
                raise TypeError(
                    f"{rule.name}.rule returned None for the gradient, but has no attribute "
                    f"`period`, or in a call that `scalars` does not call incomplete; see the "
                    f"documentation of the class Transform"
                )
        return w, slots


#: Functions of a namespace that cannot be called, by what makes the error.
Refused = Mapping[str, Callable[[], Exception]]


class _Limited:
    """The namespace of a rule that cannot call some functions where it stands."""

    def __init__(self, xp: Any, refused: Refused) -> None:
        self._xp, self._refused = xp, refused

    def __getattr__(self, name: str) -> Any:
        if name in self._refused:
            error = self._refused[name]()
            raise error
        return getattr(self._xp, name)


@dataclass(frozen=True, eq=False)
class Structure:
    """All rules of an optimizer, by their prefixes, and what each branch of a tree has of them."""

    parts: Mapping[str, Rule]
    compositions: Mapping[Selector, Composition]


class Compound(Optimizer):
    """An optimizer that is made of other rules: what chains and partitions have in common."""

    def __init__(self, structure: Structure, settings: Mapping[str, Any]) -> None:
        self._begin()
        self._structure = structure
        for name, value in settings.items():
            setattr(self, name, value)

    @property
    def parts(self) -> Mapping[str, Rule]:
        return self._structure.parts

    @property
    def compositions(self) -> Mapping[Selector, Composed]:
        return self._structure.compositions

    @property
    def skipped(self) -> int:
        """Number of calls that a guard, as `skip_nonfinite`, turned away. This waits for a GPU."""
        self._settle()
        return self._state.skipped

    @property
    def scale(self) -> Any:
        """What to multiply the loss by, where `dynamic_scale` stands in the chain.

        A float; where the last step was one of the engine "cuda", an array of CuPy without
        dimensions, float32, on the device: this does not wait for it. It is a copy, which the next
        step does not change.
        """
        for prefix, rule in self.parts.items():
            if SCALE in rule.lasting_numbers:
                with self._exclusive("scale"):
                    number = self._state.numbers.get(prefix + SCALE)
                    if number is not None:
                        return arrays.unawaited(number)
                start = rule.tree_numbers[SCALE]
                return getattr(rule, start) if isinstance(start, str) else start
        raise self._unknown("scale")

    def _unknown(self, name: str) -> AttributeError:
        """Return the error for an attribute that it has not."""
        remedy = ""
        if name == "scale":
            remedy = (
                "; put dynamic_scale() before the optimizer, or before the partition, in a chain"
            )
        return AttributeError(f"{type(self).__name__} has no attribute {name!r}{remedy}")


#: The number by which `dynamic_scale`, or what takes its place, knows the scale of the loss.
SCALE = "loss_scale"


def compose(
    before: Sequence[Rule],
    branches: Mapping[Selector, Optimizer],
    after: Sequence[Rule],
    *,
    is_partition: bool,
) -> Structure:
    """Return what an optimizer is made of whose rules are these."""
    owns = [list(optimizer.parts.values()) for optimizer in branches.values()]
    parts = _name_parts([*before, *(rule for rules in owns for rule in rules), *after])
    named = iter(parts.items())
    first, *middle, last = (dict(islice(named, len(rules))) for rules in (before, *owns, after))
    compositions = {}
    for number, (selector, own) in enumerate(zip(branches, middle, strict=True)):
        rules = first | own | last
        fork = (next(iter(own)), number, len(owns))
        refused = _late_guards(rules)
        if is_partition:
            _refuse_beside(own, last, refused)
        compositions[selector] = Composition(rules, branches[selector].main, refused, fork)
    return Structure(parts, compositions)


def check_order(rules: Sequence[Rule], main: int) -> None:
    """Raise unless rules stand in an order that makes sense; `main` is the optimizer's number."""
    _check_stages(rules, main)
    _check_gathering(rules)
    _check_scales(rules)


def _check_stages(rules: Sequence[Rule], main: int) -> None:
    """Raise unless transforms stand in the order of their stages, the optimizer among them."""
    latest: Rule = rules[main]
    for i, rule in enumerate(rules):
        if not isinstance(rule, Transform):
            continue
        if rule.stage == "gradient" and i > main:
            raise ValueError(
                f"chain: {rule.name} works on gradients, which {rules[main].name} has used by "
                f"then; put it before the optimizer"
            )
        if rule.stage != "gradient" and i < main:
            what = "the step" if rule.stage == "step" else "the parameters after the step"
            raise ValueError(f"chain: {rule.name} works on {what}; put it after {rules[main].name}")
        if rule.stage == "step" and isinstance(latest, Transform):
            raise ValueError(
                f"chain: {rule.name} works on the step, and {latest.name} on the parameters after "
                f"it; put {rule.name} before {latest.name}"
            )
        if rule.stage == "parameter":
            latest = rule


def _check_gathering(rules: Sequence[Rule]) -> None:
    """Raise if a rule that gathers gradients cannot, or if one after it may turn calls away."""
    gatherer: Rule | None = None
    for rule in rules:
        if rule.guarded and gatherer is not None:
            raise _late_guard(rule, gatherer)
        if rule.defines("period"):
            if not isinstance(rule, Transform) or rule.stage != "gradient":
                raise TypeError(
                    f"chain: {rule.name} has an attribute `period`, but is no transform of the "
                    f"gradient, which alone can gather gradients; remove it"
                )
            period: Any = rule.period  # of a class of the user's
            if not isinstance(period, int) or period < 1:
                raise TypeError(
                    f"chain: the attribute `period` of {rule.name}, the number of calls that make "
                    f"one step, must be an integer >= 1, got {period!r}"
                )
            gatherer = rule


def _check_scales(rules: Sequence[Rule]) -> None:
    """Raise if several rules undo the scale of the loss."""
    found = [rule.name for rule in rules if SCALE in rule.lasting_numbers]
    if len(found) > 1:
        raise ValueError(
            f"chain: {' and '.join(found)} would each divide by a scale of the loss, which has "
            f"one; keep one of them"
        )


def _late_guard(rule: Rule, gatherer: Rule) -> ValueError:
    what = rule.name if isinstance(rule, Transform) else "a transform that turns calls away"
    return ValueError(
        f"chain: {rule.name} may turn calls away, but stands after {gatherer.name}: what a call "
        f"has added to the sum of gradients stays there, so that one NaN would turn away every "
        f"step from then on; put {what} before {gatherer.name}"
    )


def _late_guards(rules: Mapping[str, Rule]) -> dict[str, Refused]:
    """Return what no rule can call after one that gathers gradients: to turn a call away.

    Where the class attribute `guarded` says that a rule might, `check_order` refuses it.
    """
    found: dict[str, Refused] = {}
    gatherer: Rule | None = None
    for prefix, rule in rules.items():
        if gatherer is not None:
            found[prefix] = {"require": partial(_late_guard, rule, gatherer)}
        gatherer = rule if rule.defines("period") else gatherer
    return found


#: Functions that sum over the tree.
_OVER_TREE = ("require", "tree_sum", "tree_sums", "tree_norm", "tree_max")


def _refuse_beside(
    own: Mapping[str, Rule], after: Mapping[str, Rule], refused: dict[str, Refused]
) -> None:
    """Refuse what rules in a branch of a partition and those after it cannot do."""
    for prefix, rule in own.items():
        if rule.guarded:
            raise _guard_in_branch(rule)
        refused[prefix] = {"require": partial(_guard_in_branch, rule)}
    for prefix, rule in after.items():
        if rule.guarded or rule.tree_numbers or rule.tree_readings:
            raise _sum_after_partition(rule)
        refused[prefix] = dict.fromkeys(_OVER_TREE, partial(_sum_after_partition, rule))


def _guard_in_branch(rule: Rule) -> ValueError:
    return ValueError(
        f"partition: {rule.name} may turn calls away, those of the whole tree, but stands in one "
        f"branch; put what turns calls away before the partition, in a chain"
    )


def _sum_after_partition(rule: Rule) -> ValueError:
    return ValueError(
        f"chain: {rule.name} sums over the tree, but stands after a partition, whose branches come "
        f"to it in different passes; put it before the partition, or into the branches, where it "
        f"sums over their own leaves"
    )


def _name_parts(rules: Sequence[Rule]) -> dict[str, Rule]:
    """Return the rules by prefixes of which none begins with another.

    So no name in the state belongs to two of them. A prefix is the name of the rule; a number
    follows where that is taken, or where the name of another rule begins with it.
    """
    parts: dict[str, Rule] = {}
    for rule in rules:
        prefix, number = f"{rule.name}_", 1
        while prefix in parts or any(other.name.startswith(prefix) for other in rules):
            number += 1
            prefix = f"{rule.name}{number}_"
        parts[prefix] = rule
    return parts

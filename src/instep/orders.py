"""In which order rules can stand in a chain, and what a rule cannot do where it stands."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from instep.rule import Rule
from instep.transform import Transform

#: The number by which `dynamic_scale`, or what takes its place, knows the scale of the loss.
SCALE = "loss_scale"


#: Functions of a namespace that cannot be called, by what makes the error.
Refused = Mapping[str, Callable[[], Exception]]


def check_order(rules: Sequence[Rule], main: int) -> None:
    """Raise unless rules stand in an order that makes sense; `main` is the optimizer's number."""
    _check_stages(rules, main)
    _check_gathering(rules)
    _check_scales(rules)
    _check_points(rules)


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


def _check_points(rules: Sequence[Rule]) -> None:
    """Raise if a transform would change the parameter alone where another point moves with it."""
    owner: Rule | None = None
    for rule in rules:
        is_change = isinstance(rule, Transform) and rule.stage != "gradient"
        if owner is not None and is_change and not (rule.constrains or rule.answer_rule):
            raise ValueError(
                f"chain: {rule.name} changes the parameter, and {owner.name} has other points that "
                f"must move with it, {', '.join(owner.points)}, of which its answer is made; leave "
                f"{rule.name} out, or take another optimizer, with average(decay) at the end"
            )
        owner = rule if rule.points else owner


def _late_guard(rule: Rule, gatherer: Rule) -> ValueError:
    what = rule.name if isinstance(rule, Transform) else "a transform that turns calls away"
    return ValueError(
        f"chain: {rule.name} may turn calls away, but stands after {gatherer.name}: what a call "
        f"has added to the sum of gradients stays there, so that one NaN would turn away every "
        f"step from then on; put {what} before {gatherer.name}"
    )


def late_guards(rules: Mapping[str, Rule]) -> dict[str, Refused]:
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


def refuse_beside(
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


def refuse_constraints(rules: Mapping[str, Rule], refused: dict[str, Refused]) -> None:
    """Refuse what constraints cannot do, which are put to other points of one tensor, too."""
    for prefix, rule in rules.items():
        if rule.constrains:
            own = dict.fromkeys(_OVER_TREE, partial(_constraint_over_tree, rule))
            refused[prefix] = {**refused.get(prefix, {}), **own}


def _constraint_over_tree(rule: Rule) -> ValueError:
    return ValueError(
        f"chain: {rule.name} sums over the tree, and its class says constrains = True, so that it "
        f"is also called with other points than the parameters; sum over the tensor"
    )


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

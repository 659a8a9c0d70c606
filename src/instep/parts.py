"""The parts of a chain: which orders make sense, and what the parts are called."""

from typing import Any

from instep.optimizer import Optimizer
from instep.rule import Rule
from instep.transform import Transform


def check_order(rules: tuple[Rule, ...]) -> Optimizer:
    """Return the optimizer among `rules`, or raise."""
    for rule in rules:
        if isinstance(rule, type):
            raise TypeError(f"chain: {rule.__name__} is a class; write {rule.__name__}(...)")
        chained = isinstance(rule, Optimizer) and rule.main is not rule
        if not isinstance(rule, Transform | Optimizer) or chained:
            raise TypeError(
                f"chain: {rule!r} is neither a transform nor an optimizer of its own; give "
                f"transforms and one optimizer, not a chain"
            )
    found = [i for i, rule in enumerate(rules) if isinstance(rule, Optimizer)]
    if len(found) != 1:
        raise ValueError(f"chain: give exactly one optimizer, got {len(found)}")
    for i, rule in enumerate(rules):
        if isinstance(rule, Transform):
            if rule.stage == "gradient" and i > found[0]:
                raise ValueError(
                    f"chain: {rule.name} works on gradients, which {rules[found[0]].name} has "
                    f"used by then; put it before the optimizer"
                )
            if rule.stage == "parameter" and i < found[0]:
                raise ValueError(
                    f"chain: {rule.name} works on the parameters after the step; put it after "
                    f"{rules[found[0]].name}"
                )
    _check_gathering(rules)
    main = rules[found[0]]
    assert isinstance(main, Optimizer)
    return main


def gathers(rule: Rule) -> bool:
    """Return whether a rule gathers the gradients of several calls into one step."""
    return type(rule).period is not Rule.period


def _check_gathering(rules: tuple[Rule, ...]) -> None:
    """Raise if a rule that gathers gradients cannot, or if one after it may turn calls away."""
    gatherer: Rule | None = None
    for rule in rules:
        if rule.guarded and gatherer is not None:
            raise _late_guard(rule, gatherer)
        if gathers(rule):
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


def _late_guard(rule: Rule, gatherer: Rule) -> ValueError:
    what = rule.name if isinstance(rule, Transform) else "a transform that turns calls away"
    return ValueError(
        f"chain: {rule.name} may turn calls away, but stands after {gatherer.name}: what a call "
        f"has added to the sum of gradients stays there, so that one NaN would turn away every "
        f"step from then on; put {what} before {gatherer.name}"
    )


class AfterGathering:
    """The namespace of a rule after one that gathers gradients: no call can be turned away there.

    Where the class attribute `guarded` says that a rule might, `chain` has refused it already.
    """

    def __init__(self, xp: Any, rule: Rule, gatherer: Rule) -> None:
        self._xp, self._rule, self._gatherer = xp, rule, gatherer

    def __getattr__(self, name: str) -> Any:
        if name == "require":
            raise _late_guard(self._rule, self._gatherer)
        return getattr(self._xp, name)


def name_parts(rules: tuple[Rule, ...]) -> dict[str, Rule]:
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

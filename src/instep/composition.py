"""Chains: transforms and one optimizer as one rule, which runs in the fewest passes."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

from instep.graph.remembered import OBJECTIVE
from instep.graph.trace import check_result
from instep.hyperparameters import is_same, source
from instep.optimizer import Optimizer
from instep.rule import Rule, names_of
from instep.state import Overrides
from instep.transform import Transform


class Chain(Optimizer):
    """What `chain` returns: transforms and one optimizer, applied in order as a single rule.

    It has the methods of every `Optimizer`, the hyperparameters of the optimizer in it as its
    attributes, and what its transforms are asked for.
    """

    def __init__(
        self,
        *rules: Rule,
        engine: str | None = None,
        threads: int | None = None,
        overrides: Overrides | None = None,
        frozen: Sequence[str] | None = None,
        complex: str | None = None,  # noqa: A002 - as the setting of every optimizer
    ) -> None:
        main = _check_order(rules)
        self._rules = _name_parts(rules)
        self._main = main
        self.engine = main.engine if engine is None else engine
        self.threads = main.threads if threads is None else threads
        self.overrides = main.overrides if overrides is None else overrides
        self.frozen = main.frozen if frozen is None else frozen
        self.complex = main.complex if complex is None else complex
        self.__post_init__()

    @property
    def main(self) -> Optimizer:
        return self._main

    @property
    def parts(self) -> Mapping[str, Rule]:
        return self._rules

    def rule(self, xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        """Apply the parts in order."""
        slots: dict[str, Any] = {}
        gatherer: Rule | None = None
        before = w
        (main,) = (prefix for prefix, rule in self._rules.items() if rule is self._main)
        for prefix, rule in self._rules.items():
            stage = rule.stage if isinstance(rule, Transform) else ""
            lent = {name: main + name for name in rule.borrowed}
            if rule.needs_value:
                lent["value"] = OBJECTIVE
            own_s, own_h = s.part(rule.name, prefix), h.part(rule.name, prefix, lent)
            own_xp = xp if gatherer is None else _AfterGathering(xp, rule, gatherer)
            arrays = (before, w, g) if stage == "step" else (w, g)
            result = rule.rule(own_xp, *arrays, own_s, own_h)
            names = (*rule.state_slots(), *rule.numbers)
            value, new = check_result(rule.name, result, names)
            slots |= {prefix + name: slot for name, slot in new.items()}
            if stage != "gradient":
                w = value
                continue
            gatherer = rule if rule.defines("period") else gatherer
            if value is not None:
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

    def __repr__(self) -> str:
        parts = [repr(rule) for rule in self._rules.values()]
        settings = [
            f"{name}={source(getattr(self, name))}"
            for name in ("engine", "threads", "overrides", "frozen", "complex")
            if not is_same(getattr(self, name), getattr(self._main, name))
        ]
        return f"chain({', '.join(parts + settings)})"

    def __getattr__(self, name: str) -> Any:
        # Hyperparameters of the optimizer in the chain are read as if they were the chain's.
        main = self.__dict__.get("_main")
        if main is not None and any(entry.name == name for entry in main.hyperparameters):
            return getattr(main, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _names_to_set(self) -> str:
        transforms = ", ".join(rule.name for rule in self._rules.values() if rule is not self._main)
        rest = f"; those of {transforms} are set on the transforms themselves" if transforms else ""
        return f"{names_of(self._main.hyperparameters)}{rest}"

    def __copy__(self) -> Self:
        new = super().__copy__()
        parts = {prefix: copy.copy(rule) for prefix, rule in self._rules.items()}
        (main,) = (rule for rule in parts.values() if isinstance(rule, Optimizer))
        new.__dict__.update(_rules=parts, _main=main)
        return new

    def __setattr__(self, name: str, value: Any) -> None:
        main = self.__dict__.get("_main")
        if main is not None and any(entry.name == name for entry in main.hyperparameters):
            setattr(main, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def skipped(self) -> int:
        """Number of calls that `skip_nonfinite` turned away. On a GPU, this waits for it."""
        self._settle()
        return self._state.skipped


def chain(
    *rules: Rule,
    engine: str | None = None,
    threads: int | None = None,
    overrides: Overrides | None = None,
    frozen: Sequence[str] | None = None,
    complex: str | None = None,  # noqa: A002 - as the setting of every optimizer
) -> Chain:
    """Compose transforms and one optimizer into one optimizer, which takes the fewest passes.

    Transforms of the gradient stand before the optimizer, after it those of the step, then those
    of the parameter; the order is the order of application. The whole composition is one rule:
    one pass over memory if it is elementwise, two if a norm is needed first.

    Parameters
    ----------
    *rules
        Transforms and exactly one optimizer.
    engine, threads, overrides, frozen, complex
        As for `Optimizer`; by default those of the optimizer in the chain. From then on they are
        attributes of the chain, and those of the optimizer in it are not looked at.
        In `overrides`, hyperparameters of the optimizer have their own names, and those of
        transforms the name of the transform before it: ``weight_decay_rate`` is the `rate` of
        `weight_decay`, ``weight_decay2_rate`` that of a second one.

    Returns
    -------
    An optimizer, with the same `update(params, grads)`. Hyperparameters of the optimizer in the
    chain are its attributes.

    Raises
    ------
    TypeError, ValueError
        If something else is given, or in an order that makes no sense.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import clip_by_global_norm
    >>> optimizer = chain(clip_by_global_norm(1.0), SGD(lr=1.0))
    >>> optimizer.update([np.zeros(1), np.zeros(1)], [np.array([3.0]), np.array([4.0])])
    [array([-0.6]), array([-0.8])]
    """
    return Chain(
        *rules, engine=engine, threads=threads, overrides=overrides, frozen=frozen, complex=complex
    )


def _check_order(rules: tuple[Rule, ...]) -> Optimizer:
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
    _check_stages(rules, found[0])
    _check_gathering(rules)
    main = rules[found[0]]
    assert isinstance(main, Optimizer)
    return main


def _check_stages(rules: tuple[Rule, ...], main: int) -> None:
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


def _check_gathering(rules: tuple[Rule, ...]) -> None:
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


def _late_guard(rule: Rule, gatherer: Rule) -> ValueError:
    what = rule.name if isinstance(rule, Transform) else "a transform that turns calls away"
    return ValueError(
        f"chain: {rule.name} may turn calls away, but stands after {gatherer.name}: what a call "
        f"has added to the sum of gradients stays there, so that one NaN would turn away every "
        f"step from then on; put {what} before {gatherer.name}"
    )


class _AfterGathering:
    """The namespace of a rule after one that gathers gradients: no call can be turned away there.

    Where the class attribute `guarded` says that a rule might, `chain` has refused it already.
    """

    def __init__(self, xp: Any, rule: Rule, gatherer: Rule) -> None:
        self._xp, self._rule, self._gatherer = xp, rule, gatherer

    def __getattr__(self, name: str) -> Any:
        if name == "require":
            raise _late_guard(self._rule, self._gatherer)
        return getattr(self._xp, name)


def _name_parts(rules: tuple[Rule, ...]) -> dict[str, Rule]:
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

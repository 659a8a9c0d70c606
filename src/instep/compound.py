"""Rules in order as one: what chains and partitions are made of."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any, TypeVar

from instep import arrays, elsewhere
from instep.choices import Selector
from instep.elsewhere import ATTRIBUTES
from instep.graph.errors import RuleError
from instep.graph.remembered import OBJECTIVE
from instep.graph.trace import check_result
from instep.optimizer import Optimizer
from instep.orders import SCALE, Refused, late_guards, refuse_beside, refuse_constraints
from instep.rule import Rule
from instep.state import Composed
from instep.transform import Transform
from instep.tree import Tree

_Function = TypeVar("_Function", bound=Callable[..., Any])


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

    def beginning(self, prefix: str, rule: Rule) -> "Composition":
        """Return what a step does from one of the rules on, in whose place stands another."""
        names = [*self.parts]
        parts = {name: self.parts[name] for name in names[names.index(prefix) :]} | {prefix: rule}
        first, number, count = self._fork
        fork = first if first in parts else prefix
        return Composition(parts, self.main, self._refused, (fork, number, count))

    def rule(self, xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        """Apply the parts in order."""
        slots: dict[str, Any] = {}
        before = w
        first, *branch = self._fork
        for prefix, rule in self.parts.items():
            if prefix == first:
                xp.branch_off(*branch)
            stage = rule.stage if isinstance(rule, Transform) else ""
            arrays = (before, w, g) if stage == "step" else (w, g)
            value, new, own_h = self._applied(prefix, xp, arrays, s, h)
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

    def _applied(self, prefix: str, xp: Any, arrays: Sequence[Any], s: Any, h: Any) -> Any:
        """Return what one of the rules makes of arrays, its new slots, and its hyperparameters."""
        rule = self.parts[prefix]
        lent = {name: self._prefix + name for name in rule.borrowed}
        if rule.needs_value:
            lent["value"] = OBJECTIVE
        own_s, own_h = s.part(rule.name, prefix), h.part(rule.name, prefix, lent)
        sets = _constraints_after(self.parts, prefix)

        def constrained(x: Any) -> Any:
            if not rule.points:
                raise _pointless(rule)
            for other in sets:
                x, _, _ = self._applied(other, xp, (x, arrays[-1]), s, h)
            return x

        refused, given = self._refused.get(prefix, {}), {"constrained": constrained} if sets else {}
        own_xp = _Own(xp, refused, given) if refused or given else xp
        result = rule.rule(own_xp, *arrays, own_s, own_h)
        names = (*rule.state_slots(), *rule.numbers, *rule.scopes)
        return *check_result(rule.name, result, names), own_h


def _constraints_after(parts: Mapping[str, Rule], prefix: str) -> list[str]:
    """Return the prefixes of the constraints that stand after a rule."""
    prefixes = list(parts)
    return [one for one in prefixes[prefixes.index(prefix) + 1 :] if parts[one].constrains]


class _Own:
    """The namespace of a rule where it stands: without some functions, and with others instead."""

    def __init__(self, xp: Any, refused: Refused, given: Mapping[str, Any]) -> None:
        self._xp, self._refused, self._given = xp, refused, given

    def __getattr__(self, name: str) -> Any:
        if name in self._refused:
            error = self._refused[name]()
            raise error
        return self._given[name] if name in self._given else getattr(self._xp, name)


def _pointless(rule: Rule) -> RuleError:
    return RuleError(
        f"{rule.name}.rule calls xp.constrained, and names no slots in its class attribute "
        f"`points`; name those that it gives to it"
    )


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

    def flush(self, params: Tree, *, value: Any = None) -> Tree:
        """Take the step for which `accumulate` still waits, with the gradients that are there.

        At the end of an epoch, say. The step is along the mean of these gradients, and
        the next `update` begins anew. Where nothing was gathered, nothing happens. `t` counts the
        calls that were left out, so that it is a multiple of `k` afterwards, if no gradient was
        missing. Rules before `accumulate` have seen their gradients, and do nothing more.

        Parameters
        ----------
        params
            The tree of parameters, as for `update`. What has no gathered gradients is left alone,
            and gradients of parameters that are not in the tree stay where they are.
        value
            The value of the objective, for rules after `accumulate` that need it.

        Returns
        -------
        The tree, as `update` returns it.

        Raises
        ------
        TypeError
            If nothing in it gathers gradients, or more than one rule, or one of your own.

        Examples
        --------
        >>> import numpy as np
        >>> from instep import SGD, chain
        >>> from instep.transforms import accumulate
        >>> optimizer, w = chain(accumulate(4), SGD(lr=1.0)), np.zeros(1)
        >>> for gradient in (1.0, 3.0):
        ...     w = optimizer.update(w, np.array([gradient]))
        >>> optimizer.flush(w), optimizer.t
        (array([-2.]), 4)
        """
        from instep.flushing import Flushing

        with self._exclusive("flush"):
            self._check_ready("flush")
            self._settle()
            compositions: dict[Selector, Composed] = {}
            gatherers: dict[Selector, tuple[str, int]] = {}
            for selector, one in self._structure.compositions.items():
                compositions[selector] = one
                if (found := _gathering(one)) is not None:
                    prefix, rule = found
                    gatherers[selector] = prefix, rule.period
                    compositions[selector] = one.beginning(prefix, rule.flushed(k=rule.k))
            if not gatherers:
                raise TypeError(
                    f"{self.name}.flush: nothing in it gathers gradients; put accumulate() before "
                    f"the optimizer, in a chain"
                )
            flushing = Flushing(self._owner, compositions, gatherers)
            stepped: Tree = flushing.step(self._state, params, value)
            return stepped

    def _unknown(self, name: str) -> AttributeError:
        """Return the error for an attribute that it has not."""
        remedy = ATTRIBUTES.get(name) or ("" if name.startswith("_") else self._remedy(name))
        if name == "scale":
            remedy = "put dynamic_scale() before the optimizer, or before the partition, in a chain"
        end = f"; {remedy}" if remedy else ""
        return AttributeError(f"{type(self).__name__} has no attribute {name!r}{end}")


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
        refused = late_guards(rules)
        if is_partition:
            refuse_beside(own, last, refused)
        refuse_constraints(rules, refused)
        compositions[selector] = Composition(rules, branches[selector].main, refused, fork)
    return Structure(parts, compositions)


def checking_names(function: _Function) -> _Function:
    """Let a function that composes rules say where hyperparameters belong that it is given."""
    kinds = inspect.signature(function).parameters.items()
    own = [name for name, one in kinds if one.kind is one.KEYWORD_ONLY]
    names = [name for name, one in kinds if one.kind is not one.VAR_POSITIONAL]

    @wraps(function)
    def called(*given: Any, **named: Any) -> Any:
        for name in named:
            if name not in names:
                where = _where(given, name, own)
                raise TypeError(f"{function.__name__} has no setting {name!r}; {where}")
        return function(*given, **named)

    return called  # type: ignore[return-value]


def _where(given: Sequence[Any], name: str, settings: Sequence[str]) -> str:
    """Return where a hyperparameter is to be written, of rules or a dict of optimizers."""
    every = [x for one in given for x in (one.values() if isinstance(one, Mapping) else [one])]
    rules = [rule for one in every if isinstance(one, Rule) for rule in _parts_of(one)]
    known: dict[str, Any] = {entry.name: None for rule in rules for entry in rule.hyperparameters}
    for rule in rules:
        if any(entry.name == name for entry in rule.hyperparameters):
            return f"give it to the rule that has it, as in {rule.name}({name}=...)"
    told = elsewhere.remedy(name, {}, settings)
    if told.startswith("did you mean"):
        return told
    told = elsewhere.remedy(name, known, settings) or f"it has {', '.join(settings)}"
    return f"{told}; hyperparameters are given to the rules in it, as in Adam(lr=0.1)"


def _parts_of(rule: Rule) -> list[Rule]:
    return list(rule.parts.values()) if isinstance(rule, Optimizer) else [rule]


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


def _gathering(one: Composition) -> tuple[str, Any] | None:
    """Return the rule that gathers gradients, and its prefix, if there is one."""
    found: list[tuple[str, Any]] = [
        (prefix, rule) for prefix, rule in one.parts.items() if rule.defines("period")
    ]
    if len(found) > 1 or any(not hasattr(rule, "flushed") for _, rule in found):
        raise TypeError(
            f"chain: {', '.join(rule.name for _, rule in found)} cannot be flushed; only a single "
            f"`accumulate` can"
        )
    return found[0] if found else None

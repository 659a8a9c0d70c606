"""What is chosen for each leaf of a tree: its rules, other hyperparameters, or to be left alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from instep import elsewhere
from instep.choices import Overrides, Selector
from instep.graph.rows import Overridden
from instep.hyperparameters import Hyperparameter, described
from instep.plan.leaves import Leaf
from instep.plan.ranks import Ranks
from instep.state import Composed, Owner
from instep.tree import format_path


@dataclass(eq=False)
class Selection:
    """What is chosen for leaves, by their keys.

    Attributes
    ----------
    frozen
        The leaves that are left alone.
    chosen
        What chose the rules of each other leaf: a key of `Owner.compositions`.
    overrides
        What is other for each of these. Leaves of the same rules to which the same applies share
        one dict.
    """

    frozen: set[str]
    chosen: dict[str, Selector]
    overrides: dict[str, Overridden]


def select(owner: Owner, leaves: Sequence[Leaf], ranks: Ranks | None = None) -> Selection:
    """Ask what chooses leaves, once for each of them, or raise.

    Where other processes have parts of leaves, it is shown all of a parameter.
    """
    if ranks:
        ranks.show(leaves)
    selectors = dict.fromkeys((*owner.overrides, *owner.frozen, *owner.compositions))
    found = {one: {leaf.key for leaf in leaves if is_chosen(owner, one, leaf)} for one in selectors}
    for selector in (*owner.overrides, *owner.frozen):
        if not found[selector]:
            raise _nothing(owner, selector, leaves)
    frozen = {key for selector in owner.frozen for key in found[selector]}
    chosen = _compositions(owner, leaves, frozen, found)
    return Selection(frozen, chosen, _overrides(owner, chosen, found))


def is_chosen(owner: Owner, selector: Selector, leaf: Leaf) -> bool:
    """Return whether what chooses leaves chooses this one."""
    if isinstance(selector, str):
        return selector == "*" or fnmatchcase(leaf.key, selector)
    answer = selector(leaf.key, leaf.parameter if leaf.shown is None else leaf.shown)
    if not isinstance(answer, bool | np.bool_):
        raise TypeError(
            f"{owner.name}.update: {selector!r}, asked of {format_path('params', leaf.path)}, must "
            f"return True or False, got {described(answer)}"
        )
    return bool(answer)


def _nothing(owner: Owner, selector: Selector, leaves: Sequence[Leaf]) -> ValueError:
    what = "pattern" if isinstance(selector, str) else "function"
    keys = ", ".join(repr(leaf.key) for leaf in leaves[:10])
    return ValueError(
        f"{owner.name}.update: the {what} {selector!r} matches no parameter; there are "
        f"{keys}{', ...' if leaves[10:] else ''}"
    )


def _compositions(
    owner: Owner,
    leaves: Sequence[Leaf],
    frozen: set[str],
    found: Mapping[Selector, set[str]],
) -> dict[str, Selector]:
    """Return what chooses the rules of each leaf that is not frozen."""
    chosen: dict[str, Selector] = {}
    for selector in owner.compositions:
        new = found[selector] - chosen.keys()
        if leaves and not found[selector]:
            raise _nothing(owner, selector, leaves)
        if leaves and not new:
            raise ValueError(
                f"{owner.name}.update: {selector!r} decides for no parameter, for those before it "
                f"have all that it matches; put it before them"
            )
        chosen |= dict.fromkeys(new, selector)
    for leaf in leaves:
        if leaf.key not in chosen and leaf.key not in frozen:
            raise ValueError(
                f"{owner.name}.update: no branch is for {format_path('params', leaf.path)}; add "
                f'one, such as "*" as the last, which is for all that is left'
            )
    return {leaf.key: chosen[leaf.key] for leaf in leaves if leaf.key not in frozen}


def _overrides(
    owner: Owner, chosen: Mapping[str, Selector], found: Mapping[Selector, set[str]]
) -> dict[str, Overridden]:
    values = _values(owner, chosen, found)
    shared: dict[tuple[Selector, ...], dict[str, dict[str, Any]]] = {}
    overrides: dict[str, Overridden] = {}
    for key, of_rules in chosen.items():
        own = [selector for selector in owner.overrides if key in found[selector]]
        if (of_rules, *own) not in shared:
            new: dict[str, dict[str, Any]] = {}
            shared[of_rules, *own] = new
            for prefix, name, value in (entry for one in own for entry in values[of_rules, one]):
                new.setdefault(prefix, {})[name] = value
        overrides[key] = shared[of_rules, *own]
    return overrides


def _values(
    owner: Owner, chosen: Mapping[str, Selector], found: Mapping[Selector, set[str]]
) -> dict[tuple[Selector, Selector], list[tuple[str, str, Any]]]:
    """Return what is overridden in which rules: prefix of the rule, hyperparameter and value.

    Where leaves of several rules are meant, a name is for those rules that have it.
    """
    known = {selector: _numbers(composed) for selector, composed in owner.compositions.items()}
    values = {}
    for selector, given in owner.overrides.items():
        met = {chosen[key] for key in found[selector] if key in chosen}
        of_rules = [one for one in known if one in met or not met]
        where = f"{owner.name}, overrides[{selector!r}]"
        for name in given:
            if not any(name in known[one] for one in of_rules):
                raise _unknown(owner, where, name, [known[one] for one in of_rules])
        for one in of_rules:
            values[one, selector] = [
                (prefix, entry.name, entry.validate(where, given[name]))
                for name, (prefix, entry) in known[one].items()
                if name in given
            ]
    return values


def check_overrides(owner: Owner, overrides: Overrides, *, is_outermost: bool) -> None:
    """Raise for what is overridden in vain, whatever leaves are chosen: names and values.

    Unless an optimizer is the outermost, a name may be one of what is around it.
    """
    known = [_numbers(composed) for composed in owner.compositions.values()]
    parts = owner.parts.values()
    options = {entry.name for rule in parts for entry in rule.hyperparameters}
    for selector, given in overrides.items():
        where = f"{owner.name}, overrides[{selector!r}]"
        for name, value in given.items():
            entries = [numbers[name][1] for numbers in known if name in numbers]
            errors = [error for entry in entries if (error := _refused(entry, where, value))]
            if errors and len(errors) == len(entries):
                raise errors[0]
            is_meant = is_outermost or name in options or _meant(name, known)
            if not entries and is_meant:
                raise _unknown(owner, where, name, known)


def _refused(entry: Hyperparameter, where: str, value: Any) -> Exception | None:
    """Return the error for a value that a hyperparameter cannot have."""
    try:
        entry.validate(where, value)
    except (TypeError, ValueError) as error:
        return error
    return None


def _meant(name: Any, known: Sequence[Mapping[str, Any]]) -> str:
    """Return what is said of a name that some rule has in another spelling, or nothing."""
    own = dict.fromkeys(entry for numbers in known for entry in numbers)
    told = elsewhere.remedy(name, own, ()) if isinstance(name, str) else ""
    return told if told.startswith(("it is called", "did you mean")) else ""


def _unknown(owner: Owner, where: str, name: Any, known: Sequence[Mapping[str, Any]]) -> ValueError:
    names = dict.fromkeys(entry for numbers in known for entry in numbers)
    told = _meant(name, known) or (
        f"{owner.name} has the numbers {', '.join(names)}, and `frozen` leaves parameters alone"
    )
    return ValueError(f"{where}: {name!r} cannot be overridden; {told}")


def _numbers(composed: Composed) -> dict[str, tuple[str, Hyperparameter]]:
    """Return what can be overridden, by name: prefix of the rule, and hyperparameter."""
    # The names of the optimizer in a chain are its own; they come last, for they win.
    main = composed.main
    return {
        entry.name if rule is main else prefix + entry.name: (prefix, entry)
        for prefix, rule in sorted(composed.parts.items(), key=lambda part: part[1] is main)
        for entry in rule.hyperparameters
        if not (entry.option or entry.domain.fixed)
    }

"""What an optimizer takes over of a state: all of it is checked before anything is changed."""

import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from instep.checkpoint.matching import Matching
from instep.checkpoint.taking import READABLE, Parts, names_of_parts
from instep.engines.codes import blocks_of
from instep.graph.dtypes import WORDS
from instep.graph.kept import MASTER, unit_name
from instep.hyperparameters import described
from instep.interrupts import Call
from instep.rule import Rule, names_of_arrays, rates_that_move
from instep.state import History, LeafState, Owner, State


@dataclass(frozen=True)
class Loaded:
    """What an optimizer has after a load.

    Attributes
    ----------
    hyperparameters
        Of the rules.
    settings
        Of the optimizer, by name.
    state
        All else.
    calls
        What is to be done to schedules that stay the objects that they are: calls in C.
    """

    hyperparameters: list[tuple[Rule, dict[str, Any]]]
    settings: dict[str, Any]
    state: State
    calls: list[Call]


def read_state_dict(
    call: str, one: Owner, given: Mapping[str, Any], *, is_strict: bool = True
) -> Loaded:
    """Return what an optimizer has after a load of what `state_dict` returned, or raise.

    Where it is strict, what does not go together with the optimizer is an error, and so will be a
    step on parameters of other names.
    """
    parts = one.parts
    branches = [composed.parts for composed in one.compositions.values()]
    _check_header(call, one.name, parts, given)
    matching = Matching(call, is_strict)
    values = _hyperparameters(call, one.name, parts, given, matching)
    settings = _settings(call, one, given, matching)
    entries = _mapping(call, "'states'", given["states"])
    leaves = {key: _leaf_state(call, branches, given["t"], key, entries[key]) for key in entries}
    of_tree = _numbers(call, branches, given.get("numbers", {}), is_begun=bool(leaves))
    state = State(given["t"], given["skipped"], leaves, of_tree)
    if is_strict:
        state.loaded = {key: leaf.history.taken for key, leaf in leaves.items()}
    return Loaded(values, settings, state, matching.calls)


def _settings(
    owner: str, one: Owner, given: Mapping[str, Any], matching: Matching
) -> dict[str, Any]:
    if given["format"] == 1:
        return {}
    for entry in ("overrides", "frozen", "seed"):
        if entry not in given:
            raise ValueError(f"{owner}: the state has no {entry!r}; pass a state_dict()")
    overrides = _mapping(owner, "'overrides'", given["overrides"])
    frozen, seed = given["frozen"], given["seed"]
    if not isinstance(frozen, list | tuple):
        raise TypeError(f"{owner}: 'frozen' must be a list, got {described(frozen)}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"{owner}: 'seed' must be an integer, got {described(seed)}")
    return {
        "overrides": matching.overrides(overrides, one.overrides),
        "frozen": matching.frozen(frozen, one.frozen),
        "seed": seed,
    }


def _numbers(
    owner: str, branches: Sequence[Parts], given: Any, *, is_begun: bool
) -> dict[str, Any]:
    """Return what rules remember of the tree: those of a branch that took no step have nothing.

    Where none `is_begun`, there may be what calls have left that were turned away.
    """
    known = [
        {
            prefix + name
            for prefix, rule in parts.items()
            for name in (rule.tree_numbers if is_begun else rule.lasting_numbers)
        }
        for parts in branches
    ]
    needed = set.intersection(*known) if is_begun else set()
    expected = needed | set.union(*known).intersection(given)
    _check_names(owner, "the state has the numbers", set(given), expected)
    for name, value in _mapping(owner, "'numbers'", given).items():
        _check_number(owner, repr(name), value)
    _check_domains(owner, branches, given)
    return {name: np.array(value, dtype=np.float64) for name, value in given.items()}


def _check_domains(owner: str, branches: Sequence[Parts], given: Mapping[str, Any]) -> None:
    """Raise if a number is none that a rule can have left."""
    for prefix, rule in (part for parts in branches for part in parts.items()):
        for name, domain in rule.number_domains.items():
            value = given.get(prefix + name)
            if value is not None and float(value) not in domain:
                raise ValueError(
                    f"{owner}: {prefix + name!r} must be {domain}, got {value!r}; the state is "
                    f"damaged"
                )


def _check_number(owner: str, what: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: {what} must be a number, got {described(value)}")
    try:
        float(value)
    except OverflowError:
        raise ValueError(
            f"{owner}: {what} must be within the range of floats, got {described(value)}"
        ) from None


def _mapping(owner: str, what: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{owner}: {what} must be a dict, got {value!r}; pass a state_dict()")
    return value


def _check_header(owner: str, name: str, parts: Parts, state: Mapping[str, Any]) -> None:
    """Raise unless a state is one of such an optimizer, and says how many steps it took."""
    expected = ("format", "optimizer", "parts", "t", "skipped", "hyperparameters", "states")
    for entry in expected:
        if entry not in _mapping(owner, "the state", state):
            raise ValueError(f"{owner}: the state has no {entry!r}; pass a state_dict()")
    if state["format"] not in READABLE:
        raise ValueError(
            f"{owner}: the state has format {described(state['format'])}, and this version reads "
            f"{' and '.join(map(str, READABLE))}; if it is of a later version, use that"
        )
    if state["optimizer"] != name:
        raise ValueError(
            f"{owner}: the state belongs to {state['optimizer']}; load it into that optimizer"
        )
    given, own = _mapping(owner, "'parts'", state["parts"]), names_of_parts(parts)
    if list(given.items()) != list(own.items()):
        raise ValueError(
            f"{owner}: the state is of the chain {', '.join(map(str, given.values()))}, and this "
            f"one is {', '.join(own.values())}; load it into a chain of the same parts in the "
            f"same order"
        )
    for count in ("t", "skipped"):
        if not _is_count(state[count]):
            raise ValueError(
                f"{owner}: {count} must be an integer from 0 to 2**1000, got "
                f"{described(state[count])}"
            )


def _is_count(value: Any) -> bool:
    """Return whether a value is a number of steps that floats can hold, as rules see it."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**1000


def _leaf_state(
    owner: str, branches: Sequence[Parts], t: int, key: str, given: Mapping[str, Any]
) -> LeafState:
    """Return the state of one parameter, or raise."""
    what = f"the state of {key!r}"
    for name in ("missed", "scalars", "slots"):
        if name not in _mapping(owner, what, given):
            raise ValueError(f"{owner}: {what} has no {name!r}; pass a state_dict()")
    if not _is_count(given["missed"]) or given["missed"] > t:
        raise ValueError(f"{owner}: {key!r} missed {given['missed']!r} of {t} steps")
    scalars = _mapping(owner, f"'scalars' of {key!r}", given["scalars"])
    slots = _mapping(owner, f"'slots' of {key!r}", given["slots"])
    _check_fits(owner, what, branches, set(scalars), _named(owner, what, slots))
    for name, value in scalars.items():
        _check_number(owner, f"{name!r} of {key!r}", value)
    copies = {name: np.array(slot) for name, slot in slots.items()}
    for name, slot in copies.items():
        if slot.dtype.kind not in "fc" and slot.dtype.name not in WORDS:
            raise ValueError(
                f"{owner}: slot {name!r} of {key!r} is {slot.dtype}, not an array of real or "
                f"complex numbers"
            )
    remembers = {name: float(value) for name, value in scalars.items()}
    state_dtype = given.get("state_dtype")
    history = History(t - given["missed"], remembers, missed=given["missed"])
    return LeafState(copies, history, None if state_dtype is None else str(state_dtype))


def _named(owner: str, what: str, slots: Mapping[str, Any]) -> set[str]:
    """Return the names of the slots in a state, without what belongs to one, or to no rule.

    Raises
    ------
    ValueError
        If units and codes do not belong together.
    """
    shapes = {name: np.shape(slot) for name, slot in slots.items()}
    units = {name for name in slots if name.endswith(unit_name(""))}
    for name in slots:
        unit = unit_name(name)
        has_unit = getattr(slots[name], "dtype", None) == np.uint8 and name not in units
        if unit in units and shapes[unit] != blocks_of(shapes[name]):
            raise ValueError(
                f"{owner}: {what} has {unit!r} of shape {shapes[unit]}, expected "
                f"{blocks_of(shapes[name])}, one for 256 elements of {name!r}"
            )
        if has_unit and unit not in units:
            raise ValueError(f"{owner}: {what} has {name!r} in 8 bits without {unit!r}")
    return set(slots) - units - {MASTER}


def _check_fits(
    owner: str, what: str, branches: Sequence[Parts], scalars: set[str], slots: set[str]
) -> None:
    """Raise unless the state of a parameter has the names of the rules of a branch."""
    for parts in branches[1:]:
        try:
            _check_leaf(owner, what, parts, scalars, slots)
        except ValueError:
            continue
        return
    _check_leaf(owner, what, branches[0], scalars, slots)


def _check_leaf(owner: str, what: str, parts: Parts, scalars: set[str], slots: set[str]) -> None:
    """Raise unless the state of a parameter has the names of these rules."""
    remembered = {prefix + name for prefix, rule in parts.items() for name in rule.scalar_slots}
    products = {
        f"{prefix}{entry.name}_t"
        for prefix, rule in parts.items()
        for entry in rule.hyperparameters
        if entry.domain.decays
    }
    _check_names(owner, f"{what} has the scalars", scalars - products, remembered)
    for prefix, rule in parts.items():
        own = {name for name in slots if name.startswith(prefix)}
        _check_slots(owner, what, prefix, rule, own)
    rest = {name for name in slots if not name.startswith(tuple(parts))}
    _check_names(owner, f"{what} has the slots", rest, set())


def _check_slots(owner: str, what: str, prefix: str, rule: Rule, given: set[str]) -> None:
    """Raise if a state has other slots of a rule than it can have.

    Where options and shapes decide, it may have some of `Rule.slots`: slots appear when an option
    is turned on, at the next step, and stay when it is turned off. A rule that does not list all
    that it may have is not checked.
    """
    every = {prefix + name for name in (*rule.slots, *rule.tensor_numbers)}
    if not (rule.defines("state_slots") or rule.defines("form_for")):
        optional = {prefix + name for name in rule.optional_slots}
        _check_names(owner, f"{what} has the slots", given - optional, every - optional)
        for names in _alternatives(rule):
            if not given & {prefix + name for name in names}:
                expected = {" or ".join(sorted(names)), *(every - optional)}
                _check_names(owner, f"{what} has the slots", given, expected)
    elif rule.slots:
        _check_names(owner, f"{what} has the slots", given | every, every)


def _alternatives(rule: Rule) -> Iterator[set[str]]:
    """Return sets of slots of which there is one, whatever value an option has."""
    for entry in rule.hyperparameters:
        slots = {
            chosen[1]: slot
            for slot, chosen in rule.optional_slots.items()
            if isinstance(chosen, tuple) and chosen[0] == entry.name
        }
        if entry.option and slots.keys() == set(entry.choices or (True, False)):
            yield set(slots.values())


def _check_names(owner: str, what: str, given: set[str], expected: set[str]) -> None:
    if given != expected:
        names = [", ".join(sorted(entry)) or "none" for entry in (given, expected)]
        raise ValueError(
            f"{owner}: {what} {names[0]}, expected {names[1]}; pass a state_dict() of the same "
            f"optimizer"
        )


def _hyperparameters(
    owner: str, name: str, parts: Parts, given: Mapping[str, Any], matching: Matching
) -> list[tuple[Rule, dict[str, Any]]]:
    """Return the rules with the validated values of their hyperparameters in a state."""
    values = dict(_mapping(owner, "'hyperparameters'", given["hyperparameters"]))
    were_schedules = given.get("schedules", ()) if given["format"] == 1 else ()
    found = []
    for prefix, rule in parts.items():
        own = {}
        for entry in rule.hyperparameters:
            key, present = prefix + entry.name, getattr(rule, entry.name)
            if key in were_schedules and not callable(present):
                raise ValueError(
                    f"{owner}: {key} was a schedule, which no file of the first format holds; set "
                    f"it to that schedule before"
                )
            if key not in values:
                continue
            value = matching.value(key, values.pop(key), present)
            value = own[entry.name] = entry.validate(owner, value)
            if entry.domain.fixed and value != present:
                raise ValueError(
                    f"{owner}: the state was saved with {key}={value:g}, and this optimizer has "
                    f"{present:g}; make it with the same"
                )
        rule.check_values({**rule.__dict__, **own})
        new = {**rule.__dict__, **own}
        own["_varying"] = names_of_arrays(new, rule.hyperparameters)
        own["_moving"] = rates_that_move(new, rule.hyperparameters)
        found.append((rule, own))
    if values:
        raise ValueError(f"{owner}: {name} has no hyperparameter {min(values, key=str)!r}")
    return found

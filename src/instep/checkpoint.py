"""State as plain dicts of NumPy arrays, and in files."""

import copy
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instep import arrays, files
from instep.engines.codes import blocks_of
from instep.graph.dtypes import WORDS
from instep.graph.kept import MASTER, unit_name
from instep.hyperparameters import described, is_array
from instep.rule import Rule, names_of_arrays, rates_that_move
from instep.state import History, LeafState, State

#: The rules of an optimizer, by the prefix of their names in the state.
Parts = Mapping[str, Rule]

#: Version of the layout below.
FORMAT = 1


def state_dict(owner: str, parts: Parts, state: State) -> dict[str, Any]:
    """Return step number, hyperparameters and copies of all state.

    State arrays are copied to NumPy arrays, whatever library they belong to, so that a state can
    be saved anywhere, and continued on NumPy, CuPy or any other library: it moves to where the
    parameters are at the next step.
    """
    return {
        "format": FORMAT,
        "optimizer": owner,
        "parts": _names(parts),
        "t": state.t,
        "skipped": state.skipped,
        "hyperparameters": {
            prefix + entry.name: _copied(getattr(rule, entry.name))
            for prefix, rule in parts.items()
            for entry in rule.hyperparameters
        },
        "numbers": {name: float(number) for name, number in state.numbers.items()},
        "states": {
            key: {
                "missed": state.t - leaf.history.taken,
                "scalars": dict(leaf.history.scalars),
                "slots": {name: arrays.to_numpy(slot) for name, slot in leaf.slots.items()},
                **({"state_dtype": leaf.state_dtype} if leaf.state_dtype else {}),
            }
            for key, leaf in state.leaves.items()
        },
    }


def _copied(value: Any) -> Any:
    """Return a copy of a hyperparameter, which may be a schedule, or an array of any library."""
    return arrays.to_numpy(value) if is_array(value) else copy.deepcopy(value)


def read_state_dict(
    name: str, parts: Parts, branches: Sequence[Parts], given: Mapping[str, Any]
) -> tuple[list[tuple[Rule, dict[str, Any]]], State]:
    """Return the hyperparameters of rules and the state in what `state_dict` returned, or raise.

    `branches` are the rules that a parameter may have been given.
    """
    owner = f"{name}.load_state_dict"
    _check_header(owner, name, parts, given)
    values = _hyperparameters(owner, name, parts, copy.deepcopy(given["hyperparameters"]))
    entries = _mapping(owner, "'states'", given["states"])
    leaves = {key: _leaf_state(owner, branches, given["t"], key, entries[key]) for key in entries}
    of_tree = _numbers(owner, branches, given.get("numbers", {}), is_begun=bool(leaves))
    return values, State(given["t"], given["skipped"], leaves, of_tree)


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
    return {name: np.array(value, dtype=np.float64) for name, value in given.items()}


def _check_number(owner: str, what: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: {what} must be a number, got {value!r}")


def _names(parts: Parts) -> dict[str, str]:
    """Return the names of rules by their prefixes."""
    return {prefix: rule.name for prefix, rule in parts.items()}


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
    if state["format"] != FORMAT:
        raise ValueError(f"{owner}: the state has format {state['format']!r}, expected {FORMAT}")
    if state["optimizer"] != name:
        raise ValueError(
            f"{owner}: the state belongs to {state['optimizer']}; load it into that optimizer"
        )
    given, own = _mapping(owner, "'parts'", state["parts"]), _names(parts)
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
    history = History(t - given["missed"], remembers)
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
    if not (rule.defines("state_slots") or rule.defines("form")):
        optional = {prefix + name for name in rule.optional_slots}
        _check_names(owner, f"{what} has the slots", given - optional, every - optional)
    elif rule.slots:
        _check_names(owner, f"{what} has the slots", given | every, every)


def _check_names(owner: str, what: str, given: set[str], expected: set[str]) -> None:
    if given != expected:
        names = [", ".join(sorted(entry)) or "none" for entry in (given, expected)]
        raise ValueError(
            f"{owner}: {what} {names[0]}, expected {names[1]}; pass a state_dict() of the same "
            f"optimizer"
        )


def _hyperparameters(
    owner: str, name: str, parts: Parts, given: Any
) -> list[tuple[Rule, dict[str, Any]]]:
    """Return the rules with the validated values of their hyperparameters in a state."""
    values = dict(_mapping(owner, "'hyperparameters'", given))
    found = []
    for prefix, rule in parts.items():
        own = {}
        for entry in rule.hyperparameters:
            key = prefix + entry.name
            if key not in values:
                continue
            present = getattr(rule, entry.name)
            value = own[entry.name] = _placed(entry.validate(owner, values.pop(key)), present)
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
        raise ValueError(f"{owner}: {name} has no hyperparameter {min(values)!r}")
    return found


def _placed(value: Any, present: Any) -> Any:
    """Return a hyperparameter; an array goes where the one is that it takes the place of."""
    if not (is_array(value) and is_array(present)):
        return value
    if arrays.library(value) == arrays.library(present):
        return value
    device = arrays.namespace_device(present)
    return arrays.namespace(present).asarray(arrays.to_numpy(value), device=device)


# Files ------------------------------------------------------------------------------------


def packed(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `state_dict` returned as a header, which JSON knows, and arrays by name."""
    values = state["hyperparameters"]
    found: dict[str, Any] = {}

    def stored(slot: Any) -> str:
        name = f"slot {len(found)}"
        found[name] = slot
        return name

    varying = {k: value for k, value in values.items() if is_array(value)}
    header = {
        **state,
        "hyperparameters": {
            k: value for k, value in values.items() if not callable(value) and k not in varying
        },
        "arrays": {k: stored(_of_numpy(value)) for k, value in varying.items()},
        "schedules": [k for k, value in values.items() if callable(value)],
        "states": {
            key: {**entry, "slots": {k: stored(slot) for k, slot in entry["slots"].items()}}
            for key, entry in state["states"].items()
        },
    }
    return header, found


def _of_numpy(array: Any) -> Any:
    """Return an array as one of a dtype that files know: bfloat16 is none."""
    return array.astype("float32") if array.dtype.kind == "V" else array


def unpacked(header: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of which `packed` made these, with the names of the `schedules` it lacks."""
    state = dict(header)
    state["states"] = {
        key: {**entry, "slots": {name: found[place] for name, place in entry["slots"].items()}}
        for key, entry in state["states"].items()
    }
    varying = state.pop("arrays", {})
    state["hyperparameters"] = {
        **state["hyperparameters"],
        **{name: found[place] for name, place in varying.items()},
    }
    if not isinstance(state["schedules"], list):
        raise TypeError("no list of schedules")
    return state


def save(owner: str, state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write what `state_dict` returned into a file."""
    files.write(owner, path, *packed(state))


def load(name: str, parts: Parts, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the state that `save` has written, for rules whose schedules are not in the file."""
    owner = f"{name}.load"
    try:
        state = unpacked(*files.read(path))
    except files.DAMAGES as error:
        raise ValueError(
            f"{owner}: {os.fspath(path)!r} is no file that Optimizer.save has written, or is "
            f"damaged"
        ) from error
    _check_header(owner, name, parts, state)
    for prefix, rule in parts.items():
        for entry in rule.hyperparameters:
            key = prefix + entry.name
            if key in state["schedules"] and not callable(getattr(rule, entry.name)):
                raise ValueError(
                    f"{owner}: {key} was a schedule when {os.fspath(path)!r} was saved, and no "
                    f"file holds one; set it to that schedule before"
                )
    return state

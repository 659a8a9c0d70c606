"""State as plain dicts of NumPy arrays, and in files."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from instep import arrays

if TYPE_CHECKING:
    from instep.optimizer import Optimizer

#: Version of the layout below.
FORMAT = 1


def state_dict(optimizer: "Optimizer") -> dict[str, Any]:
    """Return step number, hyperparameters and copies of all state.

    State arrays are copied to NumPy arrays, whatever library they belong to, so that a state can
    be saved anywhere, and continued on NumPy, CuPy or any other library: it moves to where the
    parameters are at the next step.
    """
    return {
        "format": FORMAT,
        "optimizer": optimizer.name,
        "t": optimizer.t,
        "skipped": optimizer._skipped,
        "hyperparameters": {
            prefix + entry.name: copy.deepcopy(getattr(rule, entry.name))  # it may be a schedule
            for prefix, rule in optimizer.parts.items()
            for entry in rule._hyperparameters
        },
        "states": {
            key: {
                "missed": state.missed,
                "scalars": dict(state.scalars),
                "slots": {name: arrays.to_numpy(slot) for name, slot in state.slots.items()},
            }
            for key, state in optimizer._states.items()
        },
    }


def load_state_dict(optimizer: "Optimizer", state: Mapping[str, Any]) -> None:
    """Take over what `state_dict` returned. Everything is checked before anything is changed."""
    from instep.optimizer import LeafState

    owner = f"{optimizer.name}.load_state_dict"
    missing = {"format", "optimizer", "t", "skipped", "hyperparameters", "states"} - set(state)
    if missing:
        raise ValueError(f"{owner}: the state has no {min(missing)!r}; pass a state_dict()")
    if state["format"] != FORMAT:
        raise ValueError(f"{owner}: the state has format {state['format']!r}, expected {FORMAT}")
    if state["optimizer"] != optimizer.name:
        raise ValueError(
            f"{owner}: the state belongs to {state['optimizer']}; load it into that optimizer"
        )
    for name in ("t", "skipped"):
        if not isinstance(state[name], int) or isinstance(state[name], bool) or state[name] < 0:
            raise ValueError(f"{owner}: {name} must be an integer >= 0, got {state[name]!r}")
    values = _hyperparameters(owner, optimizer, copy.deepcopy(state["hyperparameters"]))
    states = {}
    for key, entry in state["states"].items():
        slots = {name: np.array(slot) for name, slot in entry["slots"].items()}
        if not 0 <= entry["missed"] <= state["t"]:
            raise ValueError(f"{owner}: {key!r} missed {entry['missed']} of {state['t']} steps")
        states[key] = LeafState(slots, entry["missed"], dict(entry["scalars"]))

    for rule, name, value in values:
        setattr(rule, name, value)
    optimizer._t = state["t"]
    optimizer._skipped = state["skipped"]
    optimizer._states = states
    optimizer._plan = None


def _hyperparameters(
    owner: str, optimizer: "Optimizer", values: Mapping[str, Any]
) -> list[tuple[Any, str, Any]]:
    """Return (rule, name, validated value) for every hyperparameter of a state."""
    known = {
        prefix + entry.name: (rule, entry)
        for prefix, rule in optimizer.parts.items()
        for entry in rule._hyperparameters
    }
    found = []
    for name, given in values.items():
        if name not in known:
            raise ValueError(f"{owner}: {optimizer.name} has no hyperparameter {name!r}")
        rule, entry = known[name]
        value = entry.validate(owner, given)
        if entry.domain.fixed and value != getattr(rule, entry.name):
            raise ValueError(
                f"{owner}: the state was saved with {name}={value:g}, and this optimizer has "
                f"{getattr(rule, entry.name):g}; make it with the same"
            )
        found.append((rule, entry.name, value))
    return found

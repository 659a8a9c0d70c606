"""State as plain dicts of NumPy arrays, and in files."""

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
        "hyperparameters": {h.name: getattr(optimizer, h.name) for h in optimizer._hyperparameters},
        "states": {
            key: {
                "missed": state.missed,
                "slots": {name: arrays.to_numpy(slot) for name, slot in state.slots.items()},
            }
            for key, state in optimizer._states.items()
        },
    }


def load_state_dict(optimizer: "Optimizer", state: Mapping[str, Any]) -> None:
    """Take over what `state_dict` returned. Everything is checked before anything is changed."""
    from instep.optimizer import LeafState

    owner = f"{optimizer.name}.load_state_dict"
    missing = {"format", "optimizer", "t", "hyperparameters", "states"} - set(state)
    if missing:
        raise ValueError(f"{owner}: the state has no {sorted(missing)[0]!r}; pass a state_dict()")
    if state["format"] != FORMAT:
        raise ValueError(f"{owner}: the state has format {state['format']!r}, expected {FORMAT}")
    if state["optimizer"] != optimizer.name:
        raise ValueError(
            f"{owner}: the state belongs to {state['optimizer']}; load it into that optimizer"
        )
    t = state["t"]
    if not isinstance(t, int) or isinstance(t, bool) or t < 0:
        raise ValueError(f"{owner}: t must be an integer >= 0, got {t!r}")
    known = {h.name: h for h in optimizer._hyperparameters}
    values = {}
    for name, value in state["hyperparameters"].items():
        if name not in known:
            raise ValueError(f"{owner}: {optimizer.name} has no hyperparameter {name!r}")
        values[name] = known[name].validate(owner, value)
    states = {}
    for key, entry in state["states"].items():
        slots = {name: np.array(slot) for name, slot in entry["slots"].items()}
        if not 0 <= entry["missed"] <= t:
            raise ValueError(f"{owner}: {key!r} missed {entry['missed']} of {t} steps")
        states[key] = LeafState(slots, entry["missed"])

    for name, value in values.items():
        setattr(optimizer, name, value)
    optimizer._t = t
    optimizer._states = states
    optimizer._plan = None

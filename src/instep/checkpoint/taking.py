"""State as plain dicts of NumPy arrays."""

from collections.abc import Mapping
from typing import Any

from instep import arrays
from instep.hyperparameters import is_array, real
from instep.rule import Rule
from instep.schedules.stored import snapshot
from instep.state import State

#: The rules of an optimizer, by the prefix of their names in the state.
Parts = Mapping[str, Rule]

#: Version of the layout below, and those that can be read: the first has no settings.
FORMAT, READABLE = 2, (1, 2)


def state_dict(
    owner: str, parts: Parts, state: State, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return step number, hyperparameters, settings, and copies of all state.

    State arrays are copied to NumPy arrays, whatever library they belong to, so that a state can
    be saved anywhere, and continued on NumPy, CuPy or any other library: it moves to where the
    parameters are at the next step. Of schedules of the kit there are copies; functions of the
    user are the very objects.
    """
    memo: dict[int, Any] = {}
    return {
        "format": FORMAT,
        "optimizer": owner,
        "parts": names_of_parts(parts),
        "t": state.t,
        "skipped": state.skipped,
        "hyperparameters": {
            prefix + entry.name: _copied(getattr(rule, entry.name), memo)
            for prefix, rule in parts.items()
            for entry in rule.hyperparameters
        },
        "overrides": {
            selector: {name: _plain(_copied(value, memo)) for name, value in values.items()}
            for selector, values in settings["overrides"].items()
        },
        "frozen": [*settings["frozen"]],
        "seed": settings["seed"],
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


def names_of_parts(parts: Parts) -> dict[str, str]:
    """Return the names of rules by their prefixes."""
    return {prefix: rule.name for prefix, rule in parts.items()}


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """Return what a hyperparameter is now, which may be a schedule, or an array of any library."""
    return arrays.to_numpy(value) if is_array(value) else snapshot(value, memo)


def _plain(value: Any) -> Any:
    """Return a number as a float: those of overrides are validated by the step, not before."""
    try:
        return value if callable(value) or is_array(value) else real(value)
    except (TypeError, OverflowError):  # the step says what it is
        return value

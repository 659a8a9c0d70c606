"""State as what JSON knows, and arrays by name; and in files."""

import os
from collections.abc import Mapping
from typing import Any

from instep import files
from instep.checkpoint.taking import READABLE
from instep.hyperparameters import is_array
from instep.schedules.stored import Table
from instep.schedules.stored import unpacked as unpacked_schedules


def packed(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `state_dict` returned as a header, which JSON knows, and arrays by name."""
    found: dict[str, Any] = {}
    table = Table()

    def stored(array: Any) -> str:
        name = f"slot {len(found)}"
        found[name] = array
        return name

    def value(given: Any) -> Any:
        return {"array": stored(_of_numpy(given))} if is_array(given) else table.packed(given)

    header = {
        **state,
        "hyperparameters": {k: value(x) for k, x in state["hyperparameters"].items()},
        "overrides": [
            [table.packed(selector), {k: value(x) for k, x in values.items()}]
            for selector, values in state["overrides"].items()
        ],
        "frozen": [table.packed(selector) for selector in state["frozen"]],
        "states": {
            key: {**entry, "slots": {k: stored(slot) for k, slot in entry["slots"].items()}}
            for key, entry in state["states"].items()
        },
    }
    return {**header, "schedules": table.rows}, found


def _of_numpy(array: Any) -> Any:
    """Return an array as one of a dtype that files know: bfloat16 is none."""
    return array.astype("float32") if array.dtype.kind == "V" else array


def unpacked(header: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of which `packed` made these; functions of the user are names in it.

    Raises
    ------
    ValueError, TypeError, LookupError, AttributeError
        If they are no such things.
    """
    state = dict(header)
    if state["format"] not in READABLE:
        return state  # of a later version: whoever takes it over says so
    state["states"] = {
        key: {**entry, "slots": {name: found[place] for name, place in entry["slots"].items()}}
        for key, entry in state["states"].items()
    }
    if state["format"] == 1:
        return _of_the_first(state, found)
    back = unpacked_schedules(state.pop("schedules"))

    def value(given: Any) -> Any:
        is_stored = isinstance(given, dict) and [*given] == ["array"]
        return found[given["array"]] if is_stored else back(given)

    state["hyperparameters"] = {k: value(x) for k, x in state["hyperparameters"].items()}
    state["overrides"] = {
        back(selector): {k: value(x) for k, x in values.items()}
        for selector, values in state["overrides"]
    }
    state["frozen"] = [back(selector) for selector in state["frozen"]]
    return state


def _of_the_first(state: dict[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state of the first format, which has no schedules, but the names of what was one."""
    varying = {name: found[place] for name, place in state.pop("arrays", {}).items()}
    state["hyperparameters"] = {**state["hyperparameters"], **varying}
    if not all(isinstance(name, str) for name in state["schedules"]):
        raise TypeError("no list of schedules")
    return state


def save(owner: str, state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write what `state_dict` returned into a file."""
    files.write(owner, path, *packed(state))


def load(name: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the state that `save` has written.

    Raises
    ------
    ValueError
        If it is another kind of file, or damaged.
    """
    try:
        header, found = files.read(path)
        if "minimization" in header:
            raise ValueError(
                f"{name}.load: {os.fspath(path)!r} is no file that Optimizer.save has written, but "
                f"one of Result.save, of a run of minimize; go on with minimize(..., resume=path)"
            )
        with files.damages():
            return unpacked(header, found)
    except files.DamagedFileError as error:
        raise ValueError(
            f"{name}.load: {os.fspath(path)!r} is no file that Optimizer.save has written, or is "
            f"damaged: {error}"
        ) from error

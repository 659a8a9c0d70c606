"""State of a parameter that has another shape now."""

from collections.abc import Callable
from typing import Any

import numpy as np

from instep import arrays
from instep.checkpoint.taking import Parts
from instep.engines.codes import as_numbers
from instep.graph.kept import MASTER, unit_name
from instep.state import LeafState


def resized(
    call: str, parts: Parts, leaf: LeafState, change: Callable[[Any], Any], *, is_index: bool
) -> LeafState:
    """Return the state of a parameter, with all arrays of its shape changed, or raise."""
    units = {name for name in leaf.slots if name.endswith(unit_name(""))}
    numbers = {p + name for p, rule in parts.items() for name in rule.tensor_numbers}
    positive = {p + name for p, rule in parts.items() for name in rule.positive_slots or ()}
    names = [name for name in leaf.slots if name not in units | numbers | {MASTER}]
    _check_shapes(call, parts, leaf, names)
    new: dict[str, Any] = {name: leaf.slots[name] for name in numbers & leaf.slots.keys()}
    for name in names:
        old = as_numbers(name, leaf.slots, is_positive=name in positive)
        new[name] = _changed(call, name, arrays.to_numpy(old), change)
    if MASTER in leaf.slots and is_index:
        new[MASTER] = _changed(call, MASTER, arrays.to_numpy(leaf.slots[MASTER]), change)
    shapes = {tuple(new[name].shape) for name in names}
    if len(shapes) > 1:
        raise ValueError(
            f"{call}: the function returned arrays of the shapes "
            f"{', '.join(map(str, sorted(shapes)))} for those of one; let it return the shape of "
            f"the new parameter for each"
        )
    return LeafState(new, leaf.history, leaf.state_dtype)


def _check_shapes(call: str, parts: Parts, leaf: LeafState, names: list[str]) -> None:
    """Raise if some state is not of the shape of the parameter."""
    shapes = {name: tuple(leaf.slots[name].shape) for name in names}
    for prefix, rule in parts.items():
        own = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
        whole = {
            prefix + name
            for shape in set(own.values())
            if rule.defines("form_for")
            for name in rule.form_for(shape).whole
        }
        if found := sorted(whole & own.keys()):
            raise ValueError(
                f"{call}: {rule.name} keeps {found[0]!r} of shape {shapes[found[0]]}, which is not "
                f"that of the parameter and cannot be carried along; forget the state of this "
                f"parameter, with `forget`"
            )
    if len({*shapes.values()}) > 1:
        raise ValueError(
            f"{call}: its state has several shapes, {shapes}; forget it, with `forget`"
        )


def _changed(call: str, name: str, old: Any, change: Callable[[Any], Any]) -> Any:
    found = change(old)
    if arrays.library(found) not in (None, "numpy"):
        found = arrays.to_numpy(found)
    new = np.array(found)
    if new.dtype.kind not in "biufc" or (new.dtype.kind == "c" and old.dtype.kind != "c"):
        raise TypeError(
            f"{call}: for {name!r}, of {old.dtype}, the function returned {new.dtype}; let it "
            f"return an array of {old.dtype}"
        )
    return new.astype(old.dtype)

"""Functions of the array library that a rule applies to whole arrays, between two passes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from instep import arrays
from instep.graph import Graph
from instep.graph.program import Program
from instep.graph.rows import Row
from instep.interrupts import at_once


class RenewedSlots:
    """Runs the calls after a pass, and keeps new state until the step is certain."""

    def __init__(self) -> None:
        self._pending: list[tuple[Any, Any]] = []
        self._has_kept = False

    def clear(self) -> None:
        """Forget what a step that failed has left."""
        self._has_kept = False
        self._pending.clear()

    def call(self, program: Program, graph: Graph, slots: Mapping[str, Any], row: Row) -> None:
        """Run the calls for one leaf, whose operands the pass has written."""
        arguments = program.call_arguments(graph, row)
        for entry, numbers in zip(graph.calls, arguments, strict=True):
            operand, old = slots[entry.array], [slots[name] for name in entry.slots]
            xp = arrays.namespace(operand)
            new, *renewed = apply(program.name, entry.function, xp, operand, old, numbers)
            operand[...] = new
            # Copies, for a function may return the same memory for every leaf.
            self._pending += zip(old, (_copied(xp, array) for array in renewed), strict=True)

    def keep_once(self, make: Callable[[], list[tuple[Any, Any]]]) -> None:
        """Keep what slots are to hold, but once since `clear`: it is made of what they hold now."""
        if not self._has_kept:
            kept = partial(setattr, self, "_has_kept", True)
            at_once([partial(self._pending.extend, make()), kept])

    def store(self) -> None:
        """Write the new state."""
        for slot, value in self._pending:
            slot[...] = value
        self._pending.clear()


def apply(
    owner: str, function: Any, xp: Any, x: Any, slots: list[Any], numbers: Mapping[str, float]
) -> list[Any]:
    """Return what `function` makes of `x`, and the new slots.

    It gets copies, so that it may be written with operations in place, and all in C order, for
    the bits of a matrix product depend on the order of its operands in memory.

    Raises
    ------
    TypeError, ValueError
        If it does not return an array like `x`, and one like each slot.
    """
    name = getattr(function, "__name__", repr(function))
    with np.errstate(all="ignore"):
        copies = [_copied(xp, array) for array in (x, *slots)]
        result = function(xp, *copies, **numbers)
    results = list(result) if slots and isinstance(result, tuple | list) else [result]
    wrong = [x for x in results if not hasattr(x, "shape")]
    if len(results) != 1 + len(slots) or wrong:
        wanted = f"a tuple of {1 + len(slots)} arrays" if slots else "an array"
        got = f"a {type(wrong[0]).__name__}" if wrong else f"{len(results)}"
        raise TypeError(
            f"{owner}.rule: {name}, which is given to xp.apply, must return {wanted}, got {got}; "
            f"return what takes the place of its operand{' and of each slot' if slots else ''}"
        )
    for new, old in zip(results, (x, *slots), strict=True):
        if tuple(new.shape) != tuple(old.shape):
            raise ValueError(
                f"{owner}.rule: {name} must return an array of shape {tuple(old.shape)}, got "
                f"{tuple(new.shape)}"
            )
    # The function may have computed in another dtype; state is of that of the arithmetic.
    with np.errstate(all="ignore"):
        return [
            xp.asarray(xp.astype(new, old.dtype, copy=False))
            for new, old in zip(results, (x, *slots), strict=True)
        ]


def _copied(xp: Any, array: Any) -> Any:
    if isinstance(array, np.ndarray) or arrays.library(array) == "cupy":
        return array.copy(order="C")
    return xp.asarray(array, copy=True)

"""Values that are the same for all elements of a tensor, computed by NumPy on the host."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from instep.graph import Graph, Node
from instep.words import OF_WORDS

#: NumPy's functions by the names of operations.
UFUNCS: Mapping[str, Callable[..., Any]] = {
    "round": np.rint,
    "abs": np.absolute,
    **OF_WORDS,
    **{
        name: getattr(np, name)
        for name in (
            *("add", "subtract", "multiply", "divide", "copysign"),
            *("negative", "sqrt", "floor", "ceil", "trunc"),
            *("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"),
            *("logical_and", "logical_or", "logical_xor", "logical_not"),
        )
    },
}


def value(
    node: Node, operands: list[Any], scalars: Sequence[Any], reduced: Mapping[int, Any]
) -> Any:
    """Return the value of a node, as a NumPy scalar of its dtype.

    Where scalars and sums are arrays, of a number for each tensor, so is the value.
    """
    dtype = np.dtype(node.dtype).type
    match node.operation:
        case "scalar":
            return dtype(scalars[int(str(node.value))])
        case "constant":
            return dtype(node.value)
        case "reduced":
            return dtype(reduced[int(str(node.value))])
        case "cast" | "bits":
            return dtype(operands[0]) if node.operation == "cast" else operands[0].view(dtype)
        case "where":
            return np.where(*operands)[()]
        case operation:
            return UFUNCS[operation](*operands)


def made(graph: Graph, scalars: Sequence[Any], reduced: Mapping[int, Any]) -> dict[str, Any]:
    """Return what a step makes of the numbers that are remembered, or are read, by name."""
    values: list[Any] = []
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            values.append(value(node, [values[i] for i in node.operands], scalars, reduced))
    found = {entry.name: values[entry.node] for entry in graph.remembered}
    return found | {entry.name: values[entry.node] for entry in graph.readings}

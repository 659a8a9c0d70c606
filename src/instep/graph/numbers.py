"""Numbers that are remembered, as plans and engines see them: first values, and whose they are."""

import math
from collections.abc import Sequence
from dataclasses import replace

from instep import declarations
from instep.graph.nodes import Graph, sum_scope
from instep.graph.passes import remembering
from instep.graph.program import Program
from instep.graph.remembered import OBJECTIVE, PLACE
from instep.graph.rows import Row


def of_tensors(program: Program) -> list[str]:
    """Return the names of the numbers that each tensor has."""
    remembered = program.remembered.items()
    return [name for name, n in remembered if sum_scope(n) == "tensor" and name != PLACE]


def of_tree(program: Program) -> list[str]:
    """Return the names of the numbers that the tree has."""
    return [name for name, number in program.remembered.items() if sum_scope(number) == "tree"]


def first_values(program: Program, row: Row) -> dict[str, float]:
    """Return how the numbers start that sums leave and that are remembered."""
    known = dict(zip(program.names, row.numbers, strict=True))
    found = {OBJECTIVE: math.nan}
    for part in program.parts:
        for name, start in part.first_numbers.items():
            if not isinstance(start, str):
                found[part.prefix + name] = float(start)
                continue
            key = part.prefix + start
            if key not in known or key in program.varying:
                raise TypeError(declarations.wrong_number(part.owner, name, start))
            found[part.prefix + name] = float(known[key])
    return found


def check_tree(graph: Graph, programs: Sequence[Program], rows: Sequence[Row]) -> None:
    """Raise if a number of the tree would be another with the hyperparameters of other leaves.

    `graph` makes what is remembered; `programs` are those of the rows.
    """
    entries = [entry for entry in graph.remembered if entry.scope == "tree"]
    if len(rows) == 1 or not entries:
        return
    nodes = remembering(graph, entries).nodes
    used = {int(str(node.value)) for node in nodes if node.operation == "scalar"}
    made = replace(graph, scalars=tuple(graph.scalars[i] for i in sorted(used)))
    values = [
        program.host_expressions(made)(*row.numbers)
        for program, row in zip(programs, rows, strict=True)
        if all(entry.name in program.remembered for entry in entries)
    ]
    scalars = zip(made.scalars, zip(*values, strict=True), strict=True)
    if wrong := [scalar.source for scalar, of_rows in scalars if len({*map(repr, of_rows)}) > 1]:
        names = ", ".join(repr(entry.name) for entry in entries)
        sources = ", ".join(wrong)
        raise ValueError(
            f"{programs[0].name}.update: {names} is made of {sources} for the whole tree, and "
            f"parameters have different values of that; give all the same: no overrides of it, "
            f"and no gradients that are None where it counts steps"
        )

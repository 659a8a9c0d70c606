"""What each leaf of a tree is given: an engine and a program, and its hyperparameters."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from instep import arrays, engines
from instep.graph.program import Overridden, Program, Row
from instep.plan.validation import Leaf

if TYPE_CHECKING:
    from instep.optimizer import Optimizer


def assign(
    optimizer: "Optimizer", program: Program, leaves: Sequence[Leaf], rows: Sequence[Row]
) -> dict[tuple[str, str, str, Program], list[int]]:
    """Return the leaves of every bucket, by (engine, dtype, device, program)."""
    chosen: dict[tuple[str, str, str, Program], list[int]] = {}
    engine_of: dict[tuple[str | None, str, Any, Program], str] = {}
    for i, (leaf, row) in enumerate(zip(leaves, rows, strict=True)):
        own = program.for_shape(tuple(leaf.parameter.shape))
        kind = (arrays.library(leaf.parameter), leaf.dtype, row.flags, own)
        if kind not in engine_of:
            engine_of[kind], _ = engines.choose(
                optimizer.engine, own, leaf.parameter, leaf.dtype, row.flags
            )
        key = (engine_of[kind], leaf.dtype, arrays.device(leaf.parameter), own)
        chosen.setdefault(key, []).append(i)
    return chosen


def resolve(
    optimizer: "Optimizer", leaves: Sequence[Leaf]
) -> tuple[dict[str, Overridden], set[str]]:
    """Return the overrides of every leaf, and the leaves that are frozen, by their keys.

    Leaves to which the same patterns apply share one dict.
    """
    main, keys = optimizer.main, [leaf.key for leaf in leaves]
    matches = {
        pattern: {key for key in keys if fnmatchcase(key, pattern)}
        for pattern in (*optimizer.overrides, *optimizer.frozen)
    }
    for pattern, found in matches.items():
        if not found:
            raise ValueError(
                f"{optimizer.name}.update: the pattern {pattern!r} matches no parameter; there "
                f"are {', '.join(repr(key) for key in keys[:10])}{', ...' if keys[10:] else ''}"
            )
    # The names of the optimizer in a chain are its own; they come last, for they win.
    parts = sorted(optimizer.parts.items(), key=lambda part: part[1] is main)
    known = {
        entry.name if rule is main else prefix + entry.name: (prefix, entry)
        for prefix, rule in parts
        for entry in rule._hyperparameters
        if not (entry.option or entry.domain.fixed)
    }
    validated: dict[str, list[tuple[str, str, Any]]] = {}
    for pattern, values in optimizer.overrides.items():
        owner, validated[pattern] = f"{optimizer.name}, overrides[{pattern!r}]", []
        for name, value in values.items():
            if name not in known:
                raise ValueError(
                    f"{owner}: {name!r} cannot be overridden; {optimizer.name} has the numbers "
                    f"{', '.join(known)}, and `frozen` leaves parameters alone"
                )
            prefix, entry = known[name]
            validated[pattern].append((prefix, entry.name, entry.validate(owner, value)))

    shared: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    overrides: dict[str, Overridden] = {}
    for key in keys:
        patterns = tuple(pattern for pattern in validated if key in matches[pattern])
        if patterns not in shared:
            shared[patterns] = {}
            for prefix, name, value in (entry for p in patterns for entry in validated[p]):
                shared[patterns].setdefault(prefix, {})[name] = value
        overrides[key] = shared[patterns]
    frozen = {key for pattern in optimizer.frozen for key in matches[pattern]}
    return overrides, frozen

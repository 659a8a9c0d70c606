"""What must be the same on all processes, in words that can be compared."""

from collections.abc import Sequence
from itertools import zip_longest

from instep import arrays
from instep.distributed.agreement import Agreement
from instep.optimizer import Optimizer
from instep.plan.leaves import Leaf
from instep.tree import format_path

#: Lines of `settings_of`.
SETTINGS = 4


def settings_of(
    optimizer: Optimizer, t: int, microbatches: int | None, has_value: bool
) -> list[str]:
    """Return lines that tell of a step what is the same for all leaves."""
    numbers = [
        f"{prefix}{entry.name}={value!r}"
        for prefix, rule in optimizer.parts.items()
        for entry in rule.hyperparameters
        if isinstance(value := getattr(rule, entry.name), float | int | str)
    ]
    return [
        f"steps taken: {t}",
        f"optimizer: {optimizer.name}, {', '.join(numbers)}",
        f"microbatches: {microbatches}",
        f"value: {'given' if has_value else 'None'}",
    ]


def signature_of(leaves: Sequence[Leaf]) -> list[str]:
    """Return a line for each leaf: its path, kind and shape, and the dtype of its gradient."""
    return [
        f"{format_path('params', leaf.path)}: {_described(leaf.parameter)}, gradient "
        f"{'None' if leaf.gradient is None else arrays.dtype_name(leaf.gradient)}"
        for leaf in leaves
    ]


def gradients_of(leaves: Sequence[Leaf]) -> list[str]:
    """Return a line for each leaf of a tree of gradients: its path, kind and shape, or None."""
    return [
        f"{format_path('grads', leaf.path)}: "
        f"{'None' if leaf.parameter is None else _described(leaf.parameter)}"
        for leaf in leaves
    ]


def _described(x: object) -> str:
    flags = getattr(x, "flags", None)
    is_line = getattr(flags, "c_contiguous", True)
    order = "" if is_line else ", not in C order"
    return f"{arrays.library(x)} {arrays.dtype_name(x)} {tuple(getattr(x, 'shape', ()))}{order}"


def difference(agreement: Agreement, lines: Sequence[str]) -> str:
    """Return what is said of processes that differ: the first rank that does, and where."""
    found = agreement.meet(list(lines))
    rank = next(i for i, other in enumerate(found) if other != found[0])
    here, there = next(
        (a, b) for a, b in zip_longest(found[0], found[rank], fillvalue="nothing") if a != b
    )
    return (
        f"{agreement.call}: rank 0 has {here}; rank {rank} has {there}; give the same trees and "
        f"settings on all ranks. Nothing has changed on any rank"
    )

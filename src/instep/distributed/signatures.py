"""What must be the same on all processes, in words that can be compared."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from instep import arrays
from instep.distributed.agreement import Agreement
from instep.hyperparameters import is_array
from instep.optimizer import Optimizer
from instep.plan.leaves import Leaf
from instep.tree import format_path

#: What an optimizer is made with, beside hyperparameters, that must be the same on all processes.
_MADE_WITH = (
    *("engine", "complex", "frozen", "master", "state_dtype", "min_float8_size", "rounding"),
    *("seed", "overrides"),
)


#: Elements of an array that are compared, at most.
_SAMPLE = 1024


def settings_of(optimizer: Optimizer, t: int, has_value: bool) -> list[str]:
    """Return lines that tell of a step what changes from one to the next."""
    numbers = [
        f"{prefix}{entry.name}={_shown(getattr(rule, entry.name))}"
        for prefix, rule in optimizer.parts.items()
        for entry in rule.hyperparameters
    ]
    return [
        f"steps taken: {t}",
        f"optimizer: {optimizer.name}, {', '.join(numbers)}",
        f"value: {'given' if has_value else 'None'}",
    ]


def kind_of(optimizer: Optimizer) -> list[str]:
    """Return lines that tell how leaves are stepped: what is decided for a tree follows from it."""
    arrays_of = [
        f"{prefix}{entry.name}"
        for prefix, rule in optimizer.parts.items()
        for entry in rule.hyperparameters
        if is_array(getattr(rule, entry.name))
    ]
    found = [f"{name}: {_shown(getattr(optimizer, name, None))}" for name in _MADE_WITH]
    return [*found, f"hyperparameters that are arrays: {arrays_of}"]


def _shown(value: Any) -> str:
    """Return a setting in words that are the same in all processes."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_shown(k)}: {_shown(x)}' for k, x in value.items())}}}"
    if isinstance(value, list | tuple | set | frozenset):
        shown = [_shown(x) for x in value]
        return f"[{', '.join(sorted(shown) if isinstance(value, set | frozenset) else shown)}]"
    if is_array(value):
        some = value.reshape(-1)[
            :: 1 + math.prod(value.shape) // _SAMPLE
        ]  # it is asked at every step
        own = np.ascontiguousarray(arrays.to_numpy(some))
        digest = hashlib.sha256(own.tobytes()).hexdigest()[:12]
        return f"array {own.dtype} {tuple(value.shape)} {digest}"
    if is_dataclass(value) and not isinstance(value, type):
        own_fields = (f"{x.name}={_shown(getattr(value, x.name))}" for x in fields(value))
        return f"{type(value).__name__}({', '.join(own_fields)})"
    if callable(value):  # the address in a repr is another in each process
        return f"{getattr(value, '__qualname__', type(value).__qualname__)}"
    return repr(value)


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


def check_alike(agreement: Agreement, lines: Sequence[str]) -> None:
    """Raise on all processes where these lines differ."""
    digest = hashlib.sha256("\n".join(lines).encode()).digest()
    if len(set(agreement.meet(digest))) > 1:
        raise agreement.differ(_difference(agreement, lines))


def _difference(agreement: Agreement, lines: Sequence[str]) -> str:
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

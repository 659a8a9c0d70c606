"""The settings of an optimizer: what is no mathematics, such as the engine that runs it."""

import operator
from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex

from instep.choices import Overrides, Selector


def _validate_engine(owner: str, value: Any) -> str:
    from instep.engines import NAMES

    if value != "auto" and value not in NAMES:
        choices = ", ".join(repr(choice) for choice in ("auto", *NAMES))
        raise ValueError(f"{owner}: engine must be one of {choices}, got {value!r}")
    return str(value)


def _validate_complex(owner: str, value: Any) -> str:
    if value not in ("modulus", "pairs"):
        raise ValueError(f"{owner}: complex must be 'modulus' or 'pairs', got {value!r}")
    return str(value)


def _validate_threads(owner: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"{owner}: threads must be None or an integer >= 1, got {value!r}")


def _validate_rounding(owner: str, value: Any) -> str | None:
    if value not in (None, "nearest", "stochastic"):
        raise ValueError(
            f"{owner}: rounding must be None, 'nearest' or 'stochastic', got {value!r}"
        )
    return None if value is None else str(value)


#: What state arrays can be kept in, other than what the arithmetic has.
_STATE_DTYPES = ("float32", "bfloat16", "float8")


def _validate_state_dtype(owner: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value in _STATE_DTYPES):
        return value
    choices = ", ".join(map(repr, _STATE_DTYPES))
    raise ValueError(f"{owner}: state_dtype must be None or one of {choices}, got {value!r}")


def _validate_min_float8_size(owner: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or value.__index__() < 0:
        raise ValueError(
            f"{owner}: min_float8_size must be a number of elements, an integer >= 0, got {value!r}"
        )
    return operator.index(value)


def _validate_master(owner: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: master must be True or False, got {value!r}")
    return value


def _validate_seed(owner: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{owner}: seed must be an integer, got {value!r}")
    return operator.index(value)


def _validate_overrides(owner: str, value: Any) -> Overrides:
    if not isinstance(value, Mapping) or not all(
        is_selector(one) and isinstance(entry, Mapping) for one, entry in value.items()
    ):
        raise TypeError(
            f"{owner}: overrides must be a dict of path patterns to dicts of hyperparameters, "
            f'such as {{"*/bias": {{"weight_decay": 0.0}}}}, or of functions of path and array, '
            f"got {value!r}"
        )
    return value


def _validate_frozen(owner: str, value: Any) -> tuple[Selector, ...]:
    selectors = tuple(value) if isinstance(value, Iterable) else (value,)
    if is_selector(value) or not all(map(is_selector, selectors)):
        raise TypeError(
            f'{owner}: frozen must be a sequence of path patterns, such as ("encoder/*",), or of '
            f"functions of path and array, or () for none, got {value!r}"
        )
    return selectors


def is_selector(value: Any) -> bool:
    """Return whether a value can choose leaves."""
    return isinstance(value, str) or (callable(value) and not isinstance(value, type))


#: The settings of an optimizer, each with the function that validates it.
SETTINGS: Mapping[str, Any] = {
    "complex": _validate_complex,
    "engine": _validate_engine,
    "threads": _validate_threads,
    "rounding": _validate_rounding,
    "master": _validate_master,
    "state_dtype": _validate_state_dtype,
    "min_float8_size": _validate_min_float8_size,
    "seed": _validate_seed,
    "overrides": _validate_overrides,
    "frozen": _validate_frozen,
}

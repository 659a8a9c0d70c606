"""Bounds of parameters: of all, or by patterns of their paths."""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from instep import arrays, tree
from instep.choices import Selector, Selectors
from instep.hyperparameters import RealArray, elements, is_array, source
from instep.transforms.bounds import check_values

#: A bound of all parameters, or bounds by patterns of their paths.
Bounds = float | RealArray | Mapping[str, float | RealArray] | None

#: Bounds that are none.
_NONE = {"lower": float("-inf"), "upper": float("inf")}


def as_hyperparameters(lower: Bounds, upper: Bounds) -> dict[str, Any]:
    """Return bounds as hyperparameters of all leaves, and as those of some."""
    everywhere: dict[str, Any] = {}
    overrides: dict[str, dict[str, Any]] = {}
    for name, bound in (("lower", lower), ("upper", upper)):
        if isinstance(bound, Mapping):
            for pattern, own in bound.items():
                value: Any = own
                overrides.setdefault(pattern, {})[name] = _NONE[name] if value is None else value
        elif bound is not None:
            everywhere[name] = bound
    return {**everywhere, "overrides": overrides}


def check(owner: str, lower: Bounds, upper: Bounds) -> None:
    """Raise unless bounds are real numbers, or arrays of these, that do not cross.

    Those of patterns of which each matches what the other does not are looked at in a step.
    """
    from instep.transforms import project

    found = as_hyperparameters(lower, upper)
    everywhere = {name: found.get(name, other) for name, other in _NONE.items()}
    for pattern, own in [("*", everywhere), *found["overrides"].items()]:
        values = {**everywhere, **own}
        for entry in project.hyperparameters:
            name, value = entry.name, values[entry.name]
            where = f"{owner}: {name}" + ("" if pattern == "*" else f"[{pattern!r}]")
            if isinstance(value, Mapping) or (callable(value) and not is_array(value)):
                raise TypeError(
                    f"{where} must be a number, an array of the shape of the parameter, or a dict "
                    f"of these by patterns of paths, got {value!r}"
                )
            values[name] = entry.validate(owner, value)
        check_values(owner, values, "give bounds that do not cross")


def check_parameters(
    owner: str, params: Any, bounds: Mapping[str, Bounds], frozen: Selectors, example: str
) -> None:
    """Raise where the bound of a parameter that takes part is none for it.

    Arrays are for parameters of their shape, and finite bounds for real ones. An `example` shows
    how some parameters are named.
    """
    for path, leaf in tree.flatten(params):
        key, what = tree.join_path(path), tree.format_path("params", path)
        if any(
            _chooses(one, key, leaf) for one in (frozen if isinstance(frozen, tuple) else (frozen,))
        ):
            continue
        numbers = {}
        for name, bound in bounds.items():
            own = _of(bound, key, leaf)
            if own is None:
                continue
            if not is_array(own):
                numbers[name] = float(own)
            if is_complex(leaf) and np.isfinite(elements(own) if is_array(own) else own).any():
                raise ValueError(
                    f"{owner}: {name} is {source(own)} for {what}, which is complex, and bounds "
                    f"are for real numbers; name the real parameters that have one, as in "
                    f"{example}, keep the modulus with project_modulus, a prox of FISTA, or say "
                    f'complex="pairs", which bounds real and imaginary parts'
                )
            shape = () if arrays.is_number(leaf) else getattr(leaf, "shape", None)
            if is_array(own) and shape is not None and tuple(own.shape) != tuple(shape):
                raise ValueError(
                    f"{owner}: {name} is {source(own)} for {what}, which has the shape "
                    f"{tuple(shape)}; name the parameter that it is for, as in "
                    f"{example}, or give a number"
                )
        if numbers.get("lower", -math.inf) > numbers.get("upper", math.inf):
            raise ValueError(
                f"{owner}: for {what} lower is {numbers['lower']} and upper {numbers['upper']}; "
                f"give bounds that do not cross"
            )


def is_complex(leaf: Any) -> bool:
    """Return whether a leaf, an array or number, is complex."""
    return isinstance(leaf, complex | np.complexfloating) or (
        hasattr(leaf, "dtype") and not isinstance(leaf, np.generic) and arrays.is_complex(leaf)
    )


def _of(bound: Bounds, key: str, leaf: Any) -> Any:
    """Return the bound of a leaf, or None."""
    if not isinstance(bound, Mapping):
        return bound
    return next((x for one, x in reversed([*bound.items()]) if _chooses(one, key, leaf)), None)


def _chooses(selector: Selector, key: str, leaf: Any) -> bool:
    if isinstance(selector, str):
        return selector == "*" or fnmatchcase(key, selector)
    return bool(selector(key, leaf))

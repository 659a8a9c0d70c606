"""Copies of rules, which keep arrays where they are, and pickles, which hold arrays of NumPy."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

from instep import arrays
from instep.schedules.stored import functions_in


class Copied:
    """An object whose attributes are copied, and pickled, as those of rules are.

    Functions of the user, such as methods of an object, are never copied: a copy has the same.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle holds: no array but those of NumPy, so that any machine reads it."""
        return {name: on_host(value) for name, value in self._copied().items()}

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    def _copied(self) -> dict[str, Any]:
        """Return the attributes that a copy has."""
        return dict(self.__dict__)

    def __copy__(self) -> Self:
        new = type(self).__new__(type(self))
        new.__setstate__(self._copied())
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = type(self).__new__(type(self))
        memo[id(self)] = new
        values = self._copied()
        for function in _functions(values):
            memo.setdefault(id(function), function)
        new.__setstate__(copy.deepcopy(values, memo))
        return new


def _functions(values: Mapping[Any, Any]) -> list[Callable[..., Any]]:
    """Return the functions among settings, and in schedules and dicts among them."""
    found = []
    for name, value in values.items():
        for one in (name, value, *(value if isinstance(value, tuple | list) else ())):
            if isinstance(one, Mapping):
                found += _functions(one)
            elif not isinstance(one, Copied):
                found += functions_in(one)
    return found


def on_host(value: Any) -> Any:
    """Return a setting with arrays of NumPy in the place of those of other libraries."""
    if isinstance(value, dict):
        return {name: on_host(entry) for name, entry in value.items()}
    library = arrays.library(value)
    return arrays.to_numpy(value) if library not in (None, "numpy") else value

"""What may be chosen by settings of an optimizer, as types: leaves of a tree, and ways to run."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol

#: What may run a step.
Engine = Literal["auto", "native", "blocked", "cuda", "array_api"]
#: What complex parameters are.
Complex = Literal["modulus", "pairs"]
#: How numbers are rounded when they are stored; None as by default.
Rounding = Literal["nearest", "stochastic"] | None
#: What state arrays are kept in; None as by default.
StateDtype = Literal["float32", "bfloat16", "float8"] | None

#: What chooses leaves of a tree: a pattern of their paths, or a function that is asked of each.
Selector = str | Callable[[str, Any], bool]

#: Hyperparameters of parts of a tree, by what chooses these. For type checkers a dict of strings is
#: no dict of selectors, so that one of anything is named beside it.
Overrides = Mapping[Selector, Mapping[str, Any]] | Mapping[Any, Mapping[str, Any]]


class _Selectors(Protocol):
    """A collection of what chooses leaves, but no string.

    A string is a sequence of strings, too; type checkers refuse it, for it contains only strings.
    """

    def __contains__(self, one: object, /) -> bool: ...
    def __iter__(self) -> Iterator[Selector]: ...
    def __len__(self) -> int: ...


#: Several that choose leaves, but no string. Of functions within a tuple or list, type checkers
#: know by its name what they are given.
Selectors = tuple[Selector, ...] | list[Selector] | _Selectors

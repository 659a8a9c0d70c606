"""What stands for what a user holds: the kinds of stand-ins have this in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from instep import arrays

#: A device, and the handle of the stream on which a library works there, if it is known.
Lane = tuple[int, int | None]


class StandIn(ABC):
    """What engines see in the place of a parameter or gradient, from step to step.

    Attributes
    ----------
    replaces
        Whether the tree gets another object in the place of what was held: it cannot be written.
    tells_of_writes
        Whether a library wants to be told that elements are written behind its back.
    lane
        Returns where the library of an array on a device works now. Equal functions return the
        same.
    """

    replaces = False
    tells_of_writes = False
    lane: Callable[[], Lane] | None = None

    @abstractmethod
    def array(self, held: Any) -> Any:
        """Return the array for this step; None where something of another kind is held.

        It is valid as long as `held` is kept, and until the next call.
        """

    @staticmethod
    def hand_back(written: Sequence[tuple[Any, Any]]) -> Sequence[Any]:
        """Return what takes the place of what was held: stand-ins are given with their arrays."""
        raise NotImplementedError

    def returned(self, array: Any) -> Any:
        """Return it from an array that an engine made, which could not write the one it saw."""
        return array


class Number(StandIn):
    """A number: an array of no dimensions stands for it. As a gradient it may be of any type."""

    def __init__(self, held: Any, *, written: bool) -> None:
        self.replaces = written
        self.type = type(held)

    def array(self, held: Any) -> Any:
        if self.replaces:
            return np.array(held) if type(held) is self.type else None
        return np.array(held) if arrays.is_number(held) else held

    @staticmethod
    def hand_back(written: Sequence[tuple["Number", Any]]) -> Sequence[Any]:
        return [arrays.number_of_type(own.type, array) for own, array in written]


class Parts(StandIn):
    """Complex numbers: their parts, along one more axis, stand for them.

    Parameters
    ----------
    of
        What stands for the complex numbers themselves, if anything does.
    """

    def __init__(self, of: StandIn | None) -> None:
        self.of = of
        self._kind: tuple[str | None, str] | None = None
        self.replaces = of is not None and of.replaces
        self.tells_of_writes = of is not None and of.tells_of_writes
        self.lane = None if of is None else of.lane

    def array(self, held: Any) -> Any:
        x = held if self.of is None else self.of.array(held)
        if arrays.library(x) is None:
            return None
        # The parts of a real array, or of integers, are a copy that would pass for what was held.
        kind = arrays.library(x), arrays.dtype_name(x)
        self._kind = self._kind or kind
        return arrays.as_parts(x) if kind == self._kind else None

    @staticmethod
    def hand_back(written: Sequence[tuple["Parts", Any]]) -> Sequence[Any]:
        return handed_back([(own.of, arrays.from_parts(array)) for own, array in written])

    def returned(self, array: Any) -> Any:
        return arrays.from_parts(array)


def handed_back(written: Sequence[tuple[Any, Any]]) -> list[Any]:
    """Return what takes the place of what was held, from stand-ins and their arrays."""
    found: dict[int, Any] = {}
    for kind in {type(one) for one, _ in written}:
        places = [i for i, (one, _) in enumerate(written) if type(one) is kind]
        new = kind.hand_back([written[i] for i in places])
        found |= zip(places, new, strict=True)
    return [found[i] for i in range(len(written))]


#: What a leaf has for its parameter and its gradient; None where engines see them themselves.
Pair = tuple[StandIn | None, StandIn | None]

NOBODY: Pair = (None, None)


def arrays_of(pair: Pair, held: Sequence[Any]) -> list[Any]:
    """Return what engines see of a parameter and a gradient."""
    return [x if kind is None else kind.array(x) for kind, x in zip(pair, held, strict=True)]

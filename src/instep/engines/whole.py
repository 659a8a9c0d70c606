"""A step that is one like the last, as one call: what a plan tells an engine of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from instep.tree import LeafReader

#: Rows at most: the number of a result is smaller than the address of an object.
MOST_ROWS = 1000

#: From so many steps on Python counts them, whose integers have no end.
MOST_STEPS = 2**62


class Result(NamedTuple):
    """Something that a step has made, which is noted: see `STEP`, `ROWS` and `own`."""

    number: int


#: The number of the step, and the rows of hyperparameters.
STEP, ROWS = Result(0), Result(1)


def own(row: int) -> Result:
    """Return the number of the step for the parameters of a row, which may have missed others."""
    return Result(2 + row)


class Unkept(NamedTuple):
    """An object that is not kept alive: its identity."""

    identity: int


class Attribute(NamedTuple):
    """An attribute of an object, or of the state (None), and what it is, or is to be."""

    of: Any
    name: str
    value: Any


class Numbers(NamedTuple):
    """A row of hyperparameters, None in place of the number of the step, and how many it missed."""

    values: Sequence[float | None]
    missed: int


@dataclass(eq=False)
class Like:
    """What all these steps have in common.

    Attributes
    ----------
    lock
        The lock of the optimizer, which nobody may have.
    state, counter
        Names of the attributes of an optimizer that is its state, and of this, the steps taken.
    empty
        A dict that must be empty.
    asked
        What must return True, if anything is asked.
    params, grads
        What reads the trees.
    fits
        Whether the leaves of both are what they were.
    """

    lock: Any
    state: str
    counter: str
    empty: Mapping[Any, Any]
    asked: Callable[[], bool] | None
    params: LeafReader
    grads: LeafReader
    fits: Callable[[tuple[Any, ...], tuple[Any, ...]], Any]


class Whole(ABC):
    """Steps like the last, each as one call, which no signal divides.

    Attributes
    ----------
    step
        Takes a step, given the optimizer and both trees. Returns False where something is not what
        it was: then nothing has changed.
    """

    step: Callable[[Any, Any, Any], bool]

    @abstractmethod
    def renew(
        self, checks: Sequence[Attribute], rows: Sequence[Numbers], notes: Sequence[Attribute]
    ) -> None:
        """Take what may be other than at a step before.

        Parameters
        ----------
        checks
            What must be as it is.
        rows
            The hyperparameters of each group of parameters.
        notes
            What is set when a step is taken.
        """

"""Other processes that take the same step, each on its part of the leaves: what a plan asks them.

A plan knows nothing of how processes speak with each other. It says what it has added up, and when
it is about to store.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from instep.engines.sums import SumTable
from instep.plan.leaves import Leaf


class Start(NamedTuple):
    """What is known of all processes before a step reduces.

    Attributes
    ----------
    elsewhere
        Numbers of those sums over the tree to which others are going to add.
    calls, fuses
        Whether some process has buckets whose rule is called, and others.
    """

    elsewhere: AbstractSet[int]
    calls: bool
    fuses: bool


class Turn(NamedTuple):
    """What is known of all processes when each has run one pass that reduces.

    Attributes
    ----------
    numbers
        Of the sums to which some process has added.
    left
        Numbers of those sums over the tree to which some process is going to add.
    elsewhere
        The same, of the other processes.
    went_on
        Whether some process has come closer to its last pass.
    """

    numbers: set[int]
    left: AbstractSet[int]
    elsewhere: AbstractSet[int]
    went_on: bool


class Ranks(ABC):
    """The processes that take the step. Each calls the same methods in the same order."""

    @abstractmethod
    def show(self, leaves: Sequence[Leaf]) -> None:
        """Give leaves what functions that choose them are to see: all of the parameter."""

    @abstractmethod
    def section(self, position: int) -> int:
        """Return the number of the section of a leaf: those of one come, and go, together."""

    @abstractmethod
    def begin(
        self, sums: SumTable, pending: AbstractSet[int], *, calls: bool, fuses: bool, reduces: bool
    ) -> Start:
        """Begin to reduce: tell the others what this process is going to add to.

        Where one `reduces`, or calls its rule, all gradients are here afterwards.
        """

    @abstractmethod
    def meet(
        self, sums: SumTable, numbers: AbstractSet[int], left: AbstractSet[int], *, went_on: bool
    ) -> Turn:
        """Tell the others what was added up, and finish the sums of tensors with their parts."""

    @abstractmethod
    def agree(self, is_forbidden: bool) -> bool:
        """Return whether the step is turned away. When all have come here, none can fail."""

    @abstractmethod
    def arrive(self, positions: Sequence[int]) -> None:
        """Wait for the gradients of leaves, at these positions."""

    @abstractmethod
    def depart(self, positions: Sequence[int]) -> None:
        """Take note that these leaves have been stepped, and may go to the others."""

"""What every engine provides, and what it is given."""

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from instep import arrays
from instep.engines.ranges import Range, Written
from instep.engines.sums import SumTable
from instep.engines.whole import Whole
from instep.graph import Graph
from instep.graph.program import Program
from instep.graph.rows import Row
from instep.interrupts import Call

#: The parameters and gradients of a step.
Leaves = tuple[tuple[Any, ...], tuple[Any, ...]]


class Fit(enum.Enum):
    """How the arrays of this step compare with those that a bucket was made for."""

    DIFFERENT = enum.auto()  # another signature: a new plan is needed
    SAME = enum.auto()  # the very memory of the step before
    MOVED = enum.auto()  # the same signature at other addresses


@dataclass(eq=False)
class Member:
    """A leaf as a bucket sees it: where it stands in the tree, its row, and its state."""

    position: int
    row: int
    parameter: Any  # arrays to make the bucket from; not kept
    gradient: Any
    slots: dict[str, Any]
    varying: dict[str, Any]  # hyperparameters that are arrays: they are read
    numbers: dict[str, Any]  # that are remembered: float64 arrays of no dimensions


@dataclass(eq=False)
class Joined:
    """The passes of a step, as one call that no signal divides.

    Attributes
    ----------
    scalars
        Returns the arguments of `run`, from the numbers of each row.
    run
        Runs the passes. Returns False where a guard turns the step away: then those that store are
        not run, and the numbers that last are made.
    begin
        Begins a step.
    outcome
        Returns what `run` has returned since, or None: it has not come to its end.
    whole
        Makes steps of these passes, each as one call, where all of it can be.
    """

    scalars: Callable[[Sequence[Sequence[float]]], tuple[float, ...]]
    run: Callable[..., bool]
    begin: Callable[[], None]
    outcome: Callable[[], bool | None]
    whole: Callable[..., Whole] | None = None


class Repeater(ABC):
    """What a bucket runs in a step whose graphs are known: its short way.

    Attributes
    ----------
    compute
        Dtype of the arithmetic.
    rows
        Numbers of the rows of hyperparameters that its leaves have.
    place
        Where its passes run: those of one place are joined.
    fits
        Returns whether parameters, of all leaves, are those of the step before, and gradients too,
        or others of the same signature: many are new arrays at every step.
    """

    compute: str
    rows: Sequence[int]
    place: Hashable
    fits: Callable[[tuple[Any, ...], tuple[Any, ...]], Any]

    @property
    @abstractmethod
    def is_watching(self) -> bool:
        """Whether it is known where all parameters are, and they have not moved since."""

    @abstractmethod
    def watch(self, written: Written) -> None:
        """Take the memory of all parameters, which no gradient is to touch."""

    @abstractmethod
    def begin(self, sums: SumTable) -> None:
        """Turn to these graphs from those of the step before."""

    @classmethod
    @abstractmethod
    def joined(cls, repeaters: Sequence["Repeater"], sums: SumTable) -> Joined:
        """Return all passes of the buckets of a step as one call."""


class Bucket(ABC):
    """Leaves that one engine updates together: of one library, device, dtype and graph.

    A step is `fit`, `stage`, `reduce` until no sums are left, then `commit` and `release`. Whatever
    can fail fails before `commit`, for lack of memory too, and nothing that a user can see changes
    before it. A handler of a signal may raise anywhere: what `stage` does not set anew must be
    right after each instruction, and `commit` is called again until it has returned.
    """

    #: Positions of the leaves in the tree.
    positions: tuple[int, ...]

    #: Numbers of sums over the tree that must be zero, or the step is turned away. Known when
    #: `reduce` has found no more sums.
    guards: frozenset[int] = frozenset()

    #: Whether its rule is called with arrays, and so comes to its sums one after the other.
    is_called: bool = False

    #: What its rule has returned to be read, if it is called: by position of the leaf, and name.
    read: Mapping[int, Mapping[str, float]] = MappingProxyType({})

    #: Numbers of the tree that a later bucket stores, when all have read what they were before.
    left_to_others: frozenset[str] = frozenset()

    #: Of each row of hyperparameters of a step, the rules that it is for.
    programs: Sequence[Program] = ()

    @property
    @abstractmethod
    def slots(self) -> Sequence[dict[str, Any]]:
        """The state arrays of each leaf, by name: what a step works on."""

    def turning(self, names: Mapping[str, str]) -> list[Call] | None:
        """Return the calls in C by which slots are other arrays, or None where it cannot be done.

        Each of these slots is given the array of another, as the dicts of `slots` are to say from
        then on, which are changed together with this.
        """
        return []

    @property
    def reduces(self) -> bool:
        """Whether it reads gradients before the last pass. Known when a step is staged."""
        return True

    @abstractmethod
    def fit(self, params: Sequence[Any], grads: Sequence[Any]) -> Fit:
        """Take the leaves of this step, and compare them with the signature of the bucket."""

    @abstractmethod
    def bounds(self) -> tuple[Range, Range]:
        """Return the memory of the parameters and that of the gradients, as of the last `fit`."""

    @abstractmethod
    def stage(self, candidates: Sequence[Sequence[Row]], sums: SumTable) -> None:
        """Prepare the step with these hyperparameters.

        Of several candidates the first holds if none of the undecided calls was taken, the next
        if one was, and so on.
        """

    @abstractmethod
    def reduce(self, sums: SumTable, awaited: AbstractSet[int] = frozenset()) -> set[int]:
        """Run the next pass that reduces; return the numbers of the sums it wrote into `sums`.

        It runs none that reads a sum over the tree which is `awaited`, for others are to add to it.
        An empty set: there is nothing else to run, and if nothing is awaited, `commit` is next.
        """

    def pending(self) -> AbstractSet[int]:
        """Return the numbers of those sums over the tree to which it is going to add."""
        return frozenset()

    @abstractmethod
    def release(self) -> None:
        """Keep the arrays of the step no longer: it is over."""

    def decides(self, candidates: Sequence[Sequence[Row]]) -> bool:
        """Return whether a device can choose among these, and judge whether the step is taken."""
        return False

    def repeater(self, tensors: Leaves | None = None) -> Repeater | None:
        """Return a short way to repeat the step that was taken last, if there is one.

        It is given arrays as they were, or tensors of PyTorch, like these, for which arrays stood.
        """
        return None

    @abstractmethod
    def commit(self, sums: SumTable) -> Mapping[int, Any]:
        """Run the last pass. Return new arrays, by position, where arrays cannot be written.

        Called again, it does what it has not done since `stage`, and returns the same.
        """

    @abstractmethod
    def turn_away(self, sums: SumTable) -> None:
        """Store the numbers that last, where the step is turned away: nothing is committed.

        Called again, it stores the same.
        """


class Engine(ABC):
    """A way to run graphs."""

    name: str

    #: Whether the engine compiles the graph of a rule, or calls the rule itself.
    fuses: bool = True

    @abstractmethod
    def unavailable(self) -> str | None:
        """Return None, or why the engine cannot run here, with the remedy."""

    @abstractmethod
    def refuses(self, w: Any) -> str | None:
        """Return None, or why the engine cannot update such an array."""

    def suits(self, slot: Any, w: Any) -> bool:
        """Return whether an array that holds state can serve for parameter `w` as it is.

        It does not after a load, or when the parameter has moved or changed its layout.
        """
        return arrays.library(slot) == arrays.library(w) and arrays.device(slot) == arrays.device(w)

    def holds(self, number: Any, w: Any) -> bool:
        """Return whether a number that is remembered is where the engine has it for `w`."""
        return isinstance(number, np.ndarray)

    def number(self, value: float, w: Any) -> Any:
        """Return an array of no dimensions that holds a number beside parameter `w`."""
        return np.array(value, dtype=np.float64)

    @abstractmethod
    def allocate(self, parameters: Sequence[Any], dtypes: Sequence[str]) -> list[list[Any]]:
        """Return arrays of zeros like each parameter, one of each dtype."""

    @abstractmethod
    def bucket(self, program: Program, members: Sequence[Member], threads: int | None) -> Bucket:
        """Return the bucket of these leaves."""

    def layout(self, w: Any, beside: Mapping[str, Any]) -> str:
        """Say how a parameter and the arrays beside it, by what they are, lie and are walked.

        Empty where they are one line in memory.
        """
        return ""

    @abstractmethod
    def emit(self, graph: Graph) -> str:
        """Return the code that the engine makes of a pass, to be read."""

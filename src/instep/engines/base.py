"""What every engine provides, and what it is given."""

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from instep import arrays
from instep.engines.ranges import Range
from instep.graph import Graph
from instep.graph.program import Program, Row
from instep.interrupts import Call


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


class Verdicts(ABC):
    """Whether steps were taken whose guards are on a device: judged there, and heard later."""

    #: Calls that may be undecided when another is prepared: so far the host runs ahead.
    MOST: ClassVar[int] = 15

    @abstractmethod
    def judge(self, notes: Iterable[Call]) -> None:
        """Judge on the device whether the step is taken that all buckets have launched.

        These functions in C are called at once with that.
        """

    @abstractmethod
    def next(self, most: int) -> bool | None:
        """Return whether the step of the oldest call that was judged was taken.

        None if that is not known yet. Waits if more than `most` calls are undecided.
        """

    @abstractmethod
    def forgetting(self, taken: bool) -> list[Call]:
        """Return the calls that take what `next` has told as heard, and go on to the call after."""


class RemoteSums(ABC):
    """Sums that are computed and used on a device, so that no step waits for it."""

    @property
    @abstractmethod
    def verdicts(self) -> Verdicts:
        """What decides on the device whether a step is taken."""

    @abstractmethod
    def begin(self) -> None:
        """Begin a step: forget which sums are known, and what the step before was judged by."""

    @abstractmethod
    def clear(self) -> None:
        """Set all sums to zero."""

    @abstractmethod
    def add_up(self, numbers: set[int]) -> None:
        """Add up the tree for these sums on the device, which has all leaves."""

    @abstractmethod
    def fetch(self, number: int) -> Mapping[int, float]:
        """Return a sum for each leaf of the device, by position. Waits."""

    @abstractmethod
    def put(self, number: int, total: float) -> None:
        """Write the sum over the tree."""

    @abstractmethod
    def total(self, number: int) -> float:
        """Return the sum over the tree. Waits."""


class SumTable:
    """The canonical sums of a step: a row for each sum of the rule, a column for each leaf.

    The last column is the sum over the tree: the sums of the leaves, added in their order.

    Attributes
    ----------
    buckets
        Number of the buckets that share the table.
    remotes
        The tables of the devices that have buckets.
    """

    def __init__(self, leaves: int, buckets: int = 1) -> None:
        self.values = np.zeros((0, leaves + 1))
        self.address = self.values.ctypes.data
        self.known: set[int] = set()
        self.buckets = buckets
        self.remotes: dict[str, RemoteSums] = {}
        self.on_host = False  # whether a bucket writes to `values`

    def reserve(self, count: int) -> None:
        """Make room for `count` sums."""
        self.on_host = True
        missing = count - len(self.values)
        if missing > 0:
            new_rows = np.zeros((missing, self.values.shape[1]))
            self.values = np.concatenate([self.values, new_rows])
            self.address = self.values.ctypes.data

    def begin(self) -> None:
        """Begin a step: forget what is known of the one before."""
        self.known.clear()
        for remote in self.remotes.values():
            remote.begin()

    def clear(self) -> None:
        """Set all sums to zero: before a step in which other leaves contribute than before."""
        self.values[...] = 0.0
        for remote in self.remotes.values():
            remote.clear()

    def row(self, number: int) -> NDArray[np.float64]:
        """Return the row of a sum."""
        self.reserve(number + 1)
        row: NDArray[np.float64] = self.values[number]
        return row

    def total(self, number: int) -> float:
        """Return the sum over the tree."""
        if self.on_host:
            return float(self.row(number)[-1])
        (remote,) = self.remotes.values()
        return remote.total(number)

    @property
    def only_remote(self) -> RemoteSums | None:
        """The table of the device that has all the sums of the step, if there is such a device."""
        if self.on_host or len(self.remotes) != 1:
            return None
        (remote,) = self.remotes.values()
        return remote

    def add_up(self, numbers: set[int]) -> None:
        """Fill the column of the tree for these sums."""
        self.known |= numbers
        only = self.only_remote
        if only is not None:
            only.add_up(numbers)
            return
        for number in numbers:
            row = self.row(number)
            for remote in self.remotes.values():
                for position, value in remote.fetch(number).items():
                    row[position] = value
            total = 0.0
            for value in row[:-1].tolist():
                total += value
            row[-1] = total
            for remote in self.remotes.values():
                remote.put(number, total)


class Repeater(ABC):
    """Takes the step again with the arrays of the step before: the short way of a bucket.

    Gradients may be others of the same signature, for many are new arrays at every step.
    """

    #: Runs the step that `stage` has prepared, in one call that no handler of a signal divides.
    run: Callable[[], None]

    @property
    @abstractmethod
    def has_run(self) -> bool:
        """Whether `run` has taken the step that was prepared last."""

    @abstractmethod
    def stage(self, params: Any, grads: Any, numbers: tuple[float, ...]) -> bool:
        """Prepare the step with these numbers, or return False: then the long way is taken."""

    @abstractmethod
    def refresh(self) -> None:
        """Take note of where the parameters are now: a step was taken the long way."""


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
    def reduce(self, sums: SumTable) -> set[int]:
        """Run the next pass that reduces; return the numbers of the sums it wrote into `sums`.

        An empty set: all sums are known, and `commit` is next.
        """

    @abstractmethod
    def release(self) -> None:
        """Keep the arrays of the step no longer: it is over."""

    def decides(self, candidates: Sequence[Sequence[Row]]) -> bool:
        """Return whether a device can choose among these, and judge whether the step is taken."""
        return False

    def repeater(self) -> Repeater | None:
        """Return a short way to repeat the step that was taken last, if there is one."""
        return None

    @abstractmethod
    def commit(self, sums: SumTable) -> Mapping[int, Any]:
        """Run the last pass. Return new arrays, by position, where arrays cannot be written.

        Called again, it does what it has not done since `stage`, and returns the same.
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

    @abstractmethod
    def allocate(self, parameters: Sequence[Any], dtypes: Sequence[str]) -> list[list[Any]]:
        """Return arrays of zeros like each parameter, one of each dtype."""

    @abstractmethod
    def bucket(self, program: Program, members: Sequence[Member], threads: int | None) -> Bucket:
        """Return the bucket of these leaves."""

    def layout(self, w: Any) -> str:
        """Say how a parameter is walked that is no line in memory; empty for one that is."""
        return ""

    @abstractmethod
    def emit(self, graph: Graph) -> str:
        """Return the code that the engine makes of a pass, to be read."""

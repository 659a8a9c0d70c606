"""Sums over the tree, on the host and on devices, and what is judged by them."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from instep.graph.nodes import FIRST, sum_kind, sum_scope
from instep.interrupts import Call


class Float64Namespace:
    """What `canonical_sum` asks of NumPy, without importing array-api-compat for it."""

    float64 = np.float64
    reshape = staticmethod(np.reshape)
    concat = staticmethod(np.concatenate)
    zeros = staticmethod(np.zeros)

    @staticmethod
    def astype(x: NDArray[Any], dtype: Any) -> NDArray[Any]:
        return x.astype(dtype)


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
    def has(self, position: int) -> bool:
        """Return whether the leaf at a position is on the device."""

    @abstractmethod
    def fetch(self, number: int) -> Mapping[int, float]:
        """Return a sum for each leaf of the device, by position. Waits."""

    @abstractmethod
    def put(self, number: int, total: float) -> None:
        """Write the sum over the tree."""

    @abstractmethod
    def put_leaf(self, number: int, position: int, value: float) -> None:
        """Write the sum of a leaf."""

    @abstractmethod
    def total(self, number: int) -> float:
        """Return the sum over the tree. Waits."""


def _larger(a: float, b: float) -> float:
    return b if b > a or b != b else a


_COMBINE: Mapping[str, Callable[[float, float], float]] = {"sum": operator.add, "maximum": _larger}


def empty_table(begin: int, end: int, columns: int) -> NDArray[np.float64]:
    """Return the rows of these numbers before anything is added."""
    first = [FIRST[sum_kind(number)] for number in range(begin, end)]
    return np.repeat(np.array(first).reshape(-1, 1), columns, axis=1)


class SumTable:
    """The canonical sums and maxima of a step: a row for each, a column for each leaf.

    The last column is the sum over the tree: the sums of the leaves, added in their order.

    Attributes
    ----------
    buckets
        Number of the buckets that share the table.
    remotes
        The tables of the devices that have buckets.
    tiles
        Where other processes have parts of the leaves: what passes leave of tiles, by the number of
        the sum and the position of the leaf. None where sums are finished here.
    """

    def __init__(self, leaves: int, buckets: int = 1) -> None:
        self._hold(np.zeros((0, leaves + 1)))
        self.known: set[int] = set()
        self.buckets = buckets
        self.remotes: dict[str, RemoteSums] = {}
        self.tiles: dict[tuple[int, int], NDArray[np.float64]] | None = None
        self.on_host = False  # whether a bucket writes to `values`

    def reserve(self, count: int) -> None:
        """Make room for `count` sums."""
        self.on_host = True
        missing = count - len(self.values)
        if missing > 0:
            new_rows = empty_table(len(self.values), count, self.values.shape[1])
            self._hold(np.concatenate([self.values, new_rows]))

    def _hold(self, values: NDArray[np.float64]) -> None:
        self.address, self.stride = values.ctypes.data, values.shape[1]
        self._numbers: Any = values.reshape(-1).data  # Python reads and writes these faster
        self.values = values  # last, for an exception may come: then `reserve` makes room again

    def begin(self) -> None:
        """Begin a step: forget what is known of the one before."""
        self.known.clear()
        for remote in self.remotes.values():
            remote.begin()

    def clear(self) -> None:
        """Set all sums to zero: before a step in which other leaves contribute than before."""
        for number, row in enumerate(self.values):
            if sum_kind(number) != "remembered":  # these a step finds there
                row[...] = FIRST[sum_kind(number)]
        for remote in self.remotes.values():
            remote.clear()

    def row(self, number: int) -> NDArray[np.float64]:
        """Return the row of a sum."""
        self.reserve(number + 1)
        row: NDArray[np.float64] = self.values[number]
        return row

    def put(self, number: int, position: int, value: float) -> None:
        """Write a sum of the leaf at a position, parts of which are elsewhere."""
        for remote in self.remotes.values():
            if remote.has(position):
                remote.put_leaf(number, position, value)
        self.row(number)[position] = value

    def take_tiles(self) -> dict[tuple[int, int], NDArray[np.float64]]:
        """Return what passes have left of tiles since the last call."""
        found, self.tiles = self.tiles or {}, {}
        return found

    def total(self, number: int) -> float:
        """Return the sum over the tree."""
        if self.on_host:
            self.reserve(number + 1)
            found: float = self._numbers[(number + 1) * self.stride - 1]
            return found
        (remote,) = self.remotes.values()
        return remote.total(number)

    def of(self, number: int, position: int) -> float:
        """Return a sum for the leaf at a position, or the one over the tree. Waits."""
        if sum_scope(number) == "tree":
            return self.total(number)
        for remote in self.remotes.values():
            if remote.has(position):
                return remote.fetch(number)[position]
        return float(self.values[number, position])

    @property
    def only_remote(self) -> RemoteSums | None:
        """The table of the device that has all the sums of the step, if there is such a device."""
        if self.on_host or len(self.remotes) != 1:
            return None
        (remote,) = self.remotes.values()
        return remote

    def add_up(self, numbers: set[int]) -> None:
        """Fill the column of the tree for those of these sums that are over the tree."""
        self.known |= numbers
        numbers = {number for number in numbers if sum_scope(number) == "tree"}
        if self.remotes and (only := self.only_remote) is not None:
            only.add_up(numbers)
            return
        for number in numbers:
            self.reserve(number + 1)
            last = (number + 1) * self.stride - 1
            row = self._numbers[last + 1 - self.stride : last]
            for remote in self.remotes.values():
                for position, value in remote.fetch(number).items():
                    row[position] = value
            total = FIRST[sum_kind(number)]
            combine = _COMBINE[sum_kind(number)]
            for value in row.tolist():
                total = combine(total, value)
            self._numbers[last] = total
            for remote in self.remotes.values():
                remote.put(number, total)

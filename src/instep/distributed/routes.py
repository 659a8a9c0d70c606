"""Elements on their way between processes, in rounds of a bounded number of bytes.

In a round, each process gets, or gives, the next elements of its part. The rounds of several
kinds of arrays follow each other, and two are on their way at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Rounds that are on their way at a time.
IN_FLIGHT = 2


class Segment(NamedTuple):
    """Elements `begin` to `end` of the leaf at a position, in C order."""

    position: int
    begin: int
    end: int


@dataclass(frozen=True)
class Round:
    """What is on its way together: arrays of one dtype, some segments of each process."""

    dtype: str
    parts: tuple[tuple[Segment, ...], ...]

    def count(self, rank: int) -> int:
        """Return the number of elements of a process."""
        return sum(one.end - one.begin for one in self.parts[rank])


def rounds(
    dtype: str, parts: Sequence[Sequence[Segment]], itemsize: int, bytes_each: int
) -> list[Round]:
    """Return the rounds in which processes get their parts: so many bytes in each, in all."""
    most = max(1, bytes_each // (itemsize * len(parts)))
    cut = [list(_cut(part, most)) for part in parts]
    return [
        Round(dtype, tuple(tuple(own[i]) if i < len(own) else () for own in cut))
        for i in range(max(map(len, cut)))
    ]


def _cut(part: Sequence[Segment], most: int) -> Iterator[list[Segment]]:
    now: list[Segment] = []
    room = most
    for position, first, end in part:
        begin = first
        while begin < end:
            stop = min(end, begin + room)
            now.append(Segment(position, begin, stop))
            room -= stop - begin
            begin = stop
            if room == 0:
                yield now
                now, room = [], most
    if now:
        yield now


class Flights(ABC):
    """Rounds that follow each other: two are on their way at a time, and each is finished in turn.

    All processes post the same rounds in the same order, and wait for one when the next is posted.
    """

    def __init__(self, many: Sequence[Round]) -> None:
        self._rounds, self._posted, self._finished = many, list[Any](), 0

    @abstractmethod
    def post(self, one: Round) -> Any:
        """Begin a round; return what `finish` is to be given."""

    @abstractmethod
    def finish(self, one: Round, sent: Any) -> None:
        """Wait for a round, and take what has come."""

    def ahead(self, most: int = IN_FLIGHT) -> None:
        """Post rounds until so many are on their way."""
        while len(self._posted) < min(len(self._rounds), self._finished + most):
            self._posted.append(self.post(self._rounds[len(self._posted)]))

    def until(self, count: int) -> None:
        """Finish rounds until so many are."""
        while self._finished < count:
            self.ahead()
            i = self._finished
            self.finish(self._rounds[i], self._posted[i])
            self._posted[i], self._finished = None, i + 1

    def all(self) -> None:
        """Finish all rounds."""
        self.until(len(self._rounds))


class Arrival(Flights):
    """What comes to this process: `last_of` has the number of the last round of each leaf."""

    def __init__(self, many: Sequence[Round], last_of: Mapping[int, int]) -> None:
        super().__init__(many)
        self._last_of = last_of

    def of(self, positions: Iterable[int]) -> None:
        """Wait for all that belongs to leaves."""
        self.until(1 + max((self._last_of.get(i, -1) for i in positions), default=-1))


class Departure(Flights):
    """What goes from this process to all, and comes to it from all."""

    def __init__(self, many: Sequence[Round], rank: int) -> None:
        super().__init__(many)
        self._rank, self._stepped = rank, set[int]()

    def stepped(self, positions: Iterable[int]) -> None:
        """Post the first rounds if all that this process puts into them has been stepped.

        None is waited for: others may still wait for what is to come to them from here.
        """
        self._stepped.update(positions)
        while len(self._posted) < min(IN_FLIGHT, len(self._rounds)):
            own = self._rounds[len(self._posted)].parts[self._rank]
            if not self._stepped.issuperset(one.position for one in own):
                return
            self.ahead(len(self._posted) + 1)


def last_rounds(many: Sequence[Round], rank: int) -> dict[int, int]:
    """Return the number of the last round in which a process gets something of a leaf."""
    return {one.position: i for i, x in enumerate(many) for one in x.parts[rank]}


def as_bytes(
    buffer: NDArray[Any], counts: Sequence[int]
) -> tuple[NDArray[np.uint8], list[int], list[int], str]:
    """Return a buffer as MPI takes it, with so many elements of each process."""
    sizes = [count * buffer.itemsize for count in counts]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return buffer.view(np.uint8), sizes, starts, "B"


def read(array: Any, begin: int, end: int, out: NDArray[Any]) -> None:
    """Copy elements of an array, in C order, into memory of the host."""
    if not isinstance(array, np.ndarray):
        array.reshape(-1)[begin:end].get(out=out)
    elif array.flags.c_contiguous:
        out[...] = array.reshape(-1)[begin:end]
    else:
        out[...] = array.flat[begin:end]


def write(array: Any, begin: int, end: int, values: NDArray[Any]) -> None:
    """Copy memory of the host into elements of an array, in C order."""
    if not isinstance(array, np.ndarray):
        array.reshape(-1)[begin:end].set(np.ascontiguousarray(values))
    elif array.flags.c_contiguous:
        array.reshape(-1)[begin:end] = values
    else:
        array.flat[begin:end] = values


def packed(values: Sequence[Any], segments: Sequence[Segment], out: NDArray[Any]) -> NDArray[Any]:
    """Copy segments of arrays, by position, one behind the other; return `out`."""
    at = 0
    for position, begin, end in segments:
        read(values[position], begin, end, out[at : at + end - begin])
        at += end - begin
    return out

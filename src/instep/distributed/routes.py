"""Elements on their way between processes, in rounds of a bounded number of bytes.

In a round, each process gets, or gives, the next elements of its part. The rounds of several
kinds of arrays follow each other, and two are on their way at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from instep import arrays

_Sent = TypeVar("_Sent")


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


def in_flight(
    many: Sequence[Round], post: Callable[[Round], _Sent], finish: Callable[[Round, _Sent], None]
) -> None:
    """Post rounds, and finish each when the next is on its way."""
    waiting: list[tuple[Round, _Sent]] = []
    for one in many:
        waiting.append((one, post(one)))
        if len(waiting) > 1:
            finish(*waiting.pop(0))
    for entry in waiting:
        finish(*entry)


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


def packed(
    values: Sequence[Any], segments: Sequence[Segment], dtype: str, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Return segments of arrays, by position, one behind the other."""
    count = sum(one.end - one.begin for one in segments)
    found = np.empty(count, dtype=arrays.numpy_dtype(dtype)) if out is None else out
    at = 0
    for position, begin, end in segments:
        read(values[position], begin, end, found[at : at + end - begin])
        at += end - begin
    return found

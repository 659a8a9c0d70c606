"""Which process has which elements of which leaf: its part is stepped and kept there alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from instep.numerics import TILE


class Piece(NamedTuple):
    """Elements `begin` to `end` of a leaf, in C order, which belong to a process."""

    rank: int
    begin: int
    end: int


@dataclass(frozen=True)
class Extent:
    """What is to be known of a leaf in order to cut it.

    Attributes
    ----------
    size
        Number of its elements.
    itemsize
        Bytes of an element.
    is_whole
        Whether it must not be cut.
    """

    size: int
    itemsize: int
    is_whole: bool


class Cuts:
    """The pieces of all leaves that were ever stepped: a leaf is cut once, for state stays.

    A leaf that may be cut is cut at multiples of the tile of the canonical sum, so that each tile
    is added up by one process; what must not be cut goes to the process that has least. Every
    process makes the same cuts, for they follow from sizes alone.
    """

    def __init__(self, ranks: int) -> None:
        self.ranks = ranks
        self.pieces: dict[str, tuple[Piece, ...]] = {}
        self.extents: dict[str, Extent] = {}
        self.loads = [0] * ranks  # bytes

    def add(self, extents: Iterable[tuple[str, Extent]]) -> None:
        """Cut leaves that are new, in their order."""
        new = [(key, extent) for key, extent in extents if key not in self.pieces]
        self.extents.update(new)
        found: dict[str, tuple[Piece, ...]] = {}
        whole = [(key, x) for key, x in new if x.is_whole]
        for key, x in sorted(whole, key=lambda one: -one[1].size * one[1].itemsize):
            rank = self.loads.index(min(self.loads))
            found[key] = (Piece(rank, 0, x.size),)
            self.loads[rank] += x.size * x.itemsize
        rooms = self._rooms(sum(x.size * x.itemsize for _, x in new if not x.is_whole))
        rank, room = 0, rooms[0]
        for key, x in new:
            if not x.is_whole:
                pieces, begin = list[Piece](), 0
                while begin < x.size or not pieces:
                    count = _fitting(x, begin, room)
                    if rank == self.ranks - 1:
                        count = x.size - begin
                    elif count == 0 and x.size:
                        rank, room = rank + 1, room + rooms[rank + 1]
                        continue
                    first = pieces.pop().begin if pieces and pieces[-1].rank == rank else begin
                    pieces.append(Piece(rank, first, begin + count))
                    self.loads[rank] += count * x.itemsize
                    room -= count * x.itemsize
                    begin += count
                found[key] = tuple(pieces)
        self.pieces.update(found)

    def _rooms(self, total: int) -> list[float]:
        """Return how many of so many bytes each process is to take, so that all have alike."""
        level = (sum(self.loads) + total) / self.ranks
        rooms = [max(0.0, level - load) for load in self.loads]
        scale = total / sum(rooms) if any(rooms) else 0.0
        return [room * scale for room in rooms]


def _fitting(x: Extent, begin: int, room: float) -> int:
    """Return how many elements, whole tiles, fit best in a room of so many bytes."""
    left = x.size - begin
    if left <= TILE:
        return left if 2 * room >= left * x.itemsize else 0
    tiles = int(room / (TILE * x.itemsize) + 0.5)
    return min(left, max(0, tiles) * TILE)

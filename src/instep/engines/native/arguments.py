"""What the code of a pass is given: one block of words, and a row of words for each tensor."""

import enum
from dataclasses import dataclass

from instep.graph import Graph
from instep.graph.dtypes import DTYPES


class Argument(enum.IntEnum):
    """Positions in the block of arguments of `run`."""

    TABLE = 0  # address of the rows of the tensors
    SCALARS = 1  # address of the rows of scalars
    CHUNKS = 2  # address of the chunks
    COUNT = 3  # number of chunks
    NEXT = 4  # the next chunk to take: counted up by all threads
    SUMS = 5  # address of the table of sums
    SUMS_STRIDE = 6  # columns of the table of sums
    PARTIALS = 7  # address of the sums of tiles
    PARTIALS_STRIDE = 8  # tiles of all tensors


class Entry(enum.IntEnum):
    """Positions in the row of a tensor, after the addresses of its arrays."""

    COUNT = 0  # elements
    ROW = 1  # number of its row of scalars
    COLUMN = 2  # its column in the table of sums
    TILES = 3  # tiles of its canonical sum
    FIRST_TILE = 4  # position of its first tile among those of all tensors
    FIRST = 5  # number of its first element: others than 0 are of blocks of a tensor


def entry_words(graph: Graph) -> int:
    """Return the number of 64-bit words of the row of a tensor."""
    return len(graph.arrays) + len(Entry)


@dataclass(frozen=True)
class ScalarLayout:
    """How a row of scalars lies in memory: as a structure of C, each in its own dtype."""

    offsets: tuple[int, ...]
    itemsize: int
    format: str  # of the module struct


def scalar_layout(graph: Graph) -> ScalarLayout:
    """Return the layout of the rows of scalars that a pass loads."""
    offsets, end, letters = [], 0, ""
    for scalar in graph.scalars:
        size = DTYPES[scalar.dtype].itemsize
        padding = -end % size
        offsets.append(end + padding)
        end += padding + size
        letters += padding * "x" + {4: "f", 8: "d"}[size]
    widest = max((DTYPES[scalar.dtype].itemsize for scalar in graph.scalars), default=1)
    return ScalarLayout(tuple(offsets), end + -end % widest, f"={letters}")

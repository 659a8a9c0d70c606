"""How arrays that are no lines are walked together: axes joined and in order, cut into boxes.

A walk gives the elements of a leaf an order, its line. Each array has steps of its own along the
axes of the walk, in bytes; in a box of it, an array is read or written as one block.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from instep.graph import Graph
from instep.graph.dtypes import itemsize

#: Bytes of a box of an array at most: a copy of it is still in the second-level cache when the pass
#: reads it.
BOX = 256 * 1024

#: Bytes of a box of one row that is copied: the first-level cache holds the copies.
LINE_BOX = 16 * 1024

#: Bytes of a box that lie together in each array, at least. Fewer cost more translations of
#: addresses; more make the rows of other arrays shorter. One of both transposed, float32, one
#: thread of Zen 3, in units of the contiguous step, with 64 bytes, 256, and 512: 1.4, 1.3 and 2.1
#: for 1000 x 1000 elements; 2.6, 1.9 and 2.1 for 3000 x 3000.
FAST = 256

#: Elements of a row from which a pass runs on rows where they lie rather than on copies of them: a
#: row costs some tens of ns (rows of 400 elements take 1.2 times as long as one line, Adam, Zen 3).
ROW = 128

CACHE_LINE = 64

#: Elements under which a loop along an axis costs more than a longer one in larger steps.
_SHORT = 8


@dataclass(frozen=True)
class Walk:
    """How the arrays of a leaf are walked.

    Attributes
    ----------
    shape
        Lengths of the axes, from the slowest to the fastest: two at least.
    steps
        Of each array along the axes, in bytes. Arrays that the pass does not use have steps of 0.
    starts
        Bytes from where each array begins to the element that is walked first.
    sizes
        Bytes of an element of each array.
    uses
        How often the pass touches each array: once to load it, once to store it.
    """

    shape: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]
    starts: tuple[int, ...]
    sizes: tuple[int, ...]
    uses: tuple[int, ...]

    @classmethod
    def of(cls, graph: Graph, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> "Walk":
        """Return the walk of a pass over arrays of a shape with these strides.

        Sums take the elements in C order, and so are these counted. Else the order is free: the one
        in which most arrays lie, forwards.
        """
        loaded, stored = set(graph.loaded), set(graph.stored)
        uses = tuple((array in loaded) + (array in stored) for array in graph.arrays)
        columns = {
            axis: [step[axis] if use else 0 for step, use in zip(strides, uses, strict=True)]
            for axis, n in enumerate(shape)
            if n > 1
        }
        axes, starts = list(columns), [0] * len(uses)
        if not graph.in_order:
            ranks = _ranks(axes, columns, uses)
            axes.sort(key=lambda axis: ranks[axis])
            for axis in axes:
                if _weighed(uses, map(_sign, columns[axis])) < 0:
                    last = shape[axis] - 1
                    starts = [at + last * s for at, s in zip(starts, columns[axis], strict=True)]
                    columns[axis] = [-s for s in columns[axis]]
        lengths, joined = [1, 1], [[0] * len(uses)] * 2
        for axis in axes:
            n, column = shape[axis], columns[axis]
            if all(outer == n * step for outer, step in zip(joined[-1], column, strict=True)):
                lengths[-1] *= n
                joined[-1] = column
            else:
                lengths.append(n)
                joined.append(column)
        kept = slice(min(len(lengths) - 2, lengths.count(1)), None)
        return cls(
            tuple(lengths[kept]),
            tuple(zip(*joined[kept], strict=True)),
            tuple(starts),
            tuple(itemsize(array.dtype) for array in graph.arrays),
            uses,
        )

    def order(self, array: int) -> list[int]:
        """Return the axes along which an array has more than one element, the fastest first."""
        steps = self.steps[array]
        moved = [axis for axis, n in enumerate(self.shape) if n > 1 and steps[axis]]
        return sorted(moved, key=lambda axis: (abs(steps[axis]), -axis))

    def fastest(self, array: int) -> int:
        """Return the axis along which the elements of an array lie closest."""
        return next(iter(self.order(array)), len(self.shape) - 1)

    def is_sparse(self, array: int, box: Sequence[int]) -> bool:
        """Return whether an array lies along the last axis of a box, every other place a gap."""
        along = all(n == 1 for n in box[:-1])
        return along and self.steps[array][-1] == 2 * self.sizes[array]

    def is_dense(self, array: int, box: Sequence[int]) -> bool:
        """Return whether an array lies without gaps, in the order of the walk, in such a box."""
        expected = self.sizes[array]
        for n, step in zip(reversed(box), reversed(self.steps[array]), strict=True):
            if n > 1 and step != expected:
                return False
            expected *= n
        return True


def _ranks(
    axes: Sequence[int], columns: Mapping[int, Sequence[int]], uses: Sequence[int]
) -> dict[int, int]:
    """Return how fast each axis is in the order of each array, added up over their uses."""
    ranks = dict.fromkeys(axes, 0)
    for i, use in enumerate(uses):
        in_order = sorted(axes, key=lambda axis: -abs(columns[axis][i]))
        for rank, axis in enumerate(in_order):
            ranks[axis] += use * rank
    return ranks


def _weighed(uses: Sequence[int], of_arrays: Iterable[int]) -> int:
    return sum(use * x for use, x in zip(uses, of_arrays, strict=True))


def _sign(x: int) -> int:
    return (x > 0) - (x < 0)


@dataclass(frozen=True)
class Cut:
    """How a walk is cut.

    Attributes
    ----------
    box
        Lengths of a whole box. Those at the ends of axes are shorter.
    rows
        The axis whose indices are rows, on which a pass runs one by one; None: on whole boxes.
    copied
        Whether the pass runs on copies of an array.
    sparse
        Arrays on which it runs where they lie, with a gap as large as an element after each.
    """

    box: tuple[int, ...]
    rows: int | None
    copied: tuple[bool, ...]
    sparse: frozenset[int] = frozenset()

    @classmethod
    def of(cls, walk: Walk, readable: Sequence[bool]) -> "Cut":
        """Cut a walk of any order; `readable` says which arrays a pass can read where they lie."""
        box = _box(walk)
        whole = [walk.is_dense(i, box) and fit for i, fit in enumerate(readable)]
        outer = next((axis for axis, n in enumerate(box[:-1]) if n > 1), len(box) - 2)
        row = (*(1 for _ in box[: outer + 1]), *box[outer + 1 :])
        in_rows = [walk.is_dense(i, row) and fit for i, fit in enumerate(readable)]
        by_rows = math.prod(row) >= ROW and not all(whole)
        if not by_rows:
            return cls(box, None, _copied(walk, whole))
        used = [i for i, use in enumerate(walk.uses) if use and readable[i] and not in_rows[i]]
        sparse = frozenset(i for i in used if walk.is_sparse(i, row))
        direct = [fit or i in sparse for i, fit in enumerate(in_rows)]
        return cls(box, outer, _copied(walk, direct), sparse)

    def row_steps(self, walk: Walk) -> tuple[int, ...]:
        """Return the bytes from row to row in each array, or in its copy.

        Rows of a copy have a gap between them: those of 2**10 elements would contend for the same
        place in the cache, where a transposed array is copied across them.
        """
        if self.rows is None:
            return (0,) * len(walk.sizes)
        row = math.prod(self.box[self.rows + 1 :])
        return tuple(
            row * size + CACHE_LINE if copied else steps[self.rows]
            for copied, size, steps in zip(self.copied, walk.sizes, walk.steps, strict=True)
        )


def _copied(walk: Walk, direct: Sequence[bool]) -> tuple[bool, ...]:
    return tuple(use > 0 and not fit for use, fit in zip(walk.uses, direct, strict=True))


def _box(walk: Walk) -> tuple[int, ...]:
    """Return the shape of boxes: in each array, they are some cache lines long."""
    box = [1] * len(walk.shape)
    used = [size for use, size in zip(walk.uses, walk.sizes, strict=True) if use]
    widest = max(used, default=1)  # a rule may change nothing
    for i, use in enumerate(walk.uses):
        run, wanted = 1, FAST // walk.sizes[i]
        for axis in walk.order(i) if use else ():
            if run >= wanted or math.prod(box) * wanted > BOX // widest:
                break
            box[axis] = max(box[axis], min(walk.shape[axis], -(-wanted // run)))
            run *= box[axis]
    near = (1, 2) if walk.shape[-1] >= ROW else (1,)  # steps of what is read where it lies
    is_copied = any(
        use and steps[-1] not in [size * n for n in near]
        for use, steps, size in zip(walk.uses, walk.steps, walk.sizes, strict=True)
    )
    most = (LINE_BOX if is_copied and all(n == 1 for n in box[:-1]) else BOX) // widest
    for axis in _to_grow(box, walk.shape):
        box[axis] = min(walk.shape[axis], max(box[axis], most * box[axis] // math.prod(box)))
    return tuple(box)


def _to_grow(box: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Return the axes along which a box is made as long as may be, in this order.

    The last comes first, then those that are the fastest in some array. Where rows along the last
    are long enough, boxes have one other axis: that of the rows.
    """
    others = sorted(range(len(box) - 1), key=lambda axis: (box[axis] > 1, axis), reverse=True)
    return [len(box) - 1, *(others if shape[-1] < ROW else others[:1])]


def loop_order(walk: Walk, array: int, box: Sequence[int]) -> list[int]:
    """Return the axes of the loops that copy an array, the innermost last.

    That is the one along which the array is fastest; around it is the fastest of the walk, and
    around these are the others in the order in which the array lies.
    """
    steps, last, inner = walk.steps[array], len(box) - 1, walk.fastest(array)
    if inner == last and box[inner] < _SHORT:
        inner = max(range(len(box)), key=lambda axis: (box[axis], axis))
    ends = [inner] if inner == last else [last, inner]
    others = [axis for axis in range(len(box)) if axis not in ends]
    return sorted(others, key=lambda axis: -abs(steps[axis])) + ends


def boxes_of_line(
    shape: Sequence[int], start: int, stop: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Cut a part of a line, in C order, into boxes: the first index and the shape of each."""
    while start < stop:
        index, rest = [0] * len(shape), start
        for axis in reversed(range(len(shape))):
            rest, index[axis] = divmod(rest, shape[axis])
        axis, inner = len(shape) - 1, 1
        while axis and index[axis] == 0 and inner * shape[axis] <= stop - start:
            inner *= shape[axis]
            axis -= 1
        count = min(shape[axis] - index[axis], (stop - start) // inner)
        yield index, [1] * axis + [count] + list(shape[axis + 1 :])
        start += count * inner

"""Whether arrays share memory: a step would change what another array holds."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep import arrays
from instep.engines import Bucket
from instep.engines.ranges import Range, Written
from instep.graph.rows import Varying
from instep.plan.leaves import Leaf
from instep.tree import format_path


def check_overlaps(call: str, leaves: Sequence[Leaf]) -> None:
    """Raise if a parameter shares memory with another parameter, or with any gradient."""
    seen: dict[int, Leaf] = {}
    for leaf in leaves:
        other = seen.setdefault(id(leaf.parameter), leaf)
        if other is not leaf:
            _fail_overlap(call, "params", other, "params", leaf)
    for leaf in leaves:
        parameter = seen.get(id(leaf.gradient))
        if parameter is not None:
            _fail_overlap(call, "params", parameter, "grads", leaf)

    entries: list[_Extent] = []
    for leaf in leaves:
        for array, written in ((leaf.parameter, True), (leaf.gradient, False)):
            found = arrays.memory_bounds(array)
            if found is not None:
                entries.append((*found, written, leaf))
    for cluster in _clusters(entries):
        if len(cluster) > 1 and not _interleaves(cluster):
            _check_pairs(call, cluster)


def check_read(call: str, leaves: Sequence[Leaf], read: Sequence[Varying]) -> None:
    """Raise if a parameter shares memory with a hyperparameter."""
    if not read:
        return
    starts, stops = _ranges([leaf.parameter for leaf in leaves])
    for found in read:
        start, stop = arrays.memory_bounds(found.array) or (0, 0)
        for i in np.flatnonzero((starts < stop) & (start < stops)).tolist():
            other = (start, stop, True, Leaf(-1, (), found.array, None))
            if _share_memory((int(starts[i]), int(stops[i]), True, leaves[i]), other):
                raise ValueError(
                    f"{call}: {format_path('params', leaves[i].path)} and {found.title} share "
                    f"memory, so an update would change the hyperparameter; give a copy of one of "
                    f"them"
                )


def _ranges(members: Sequence[Any]) -> Range:
    found = [arrays.memory_bounds(array) or (0, 0) for array in members]
    starts, stops = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return starts, stops


#: First byte, byte after the last, whether it is a parameter, and the leaf.
_Extent = tuple[int, int, bool, Leaf]


def _clusters(entries: list[_Extent]) -> Iterator[list[_Extent]]:
    """Yield the ranges in groups that lie apart from each other."""
    cluster: list[_Extent] = []
    end = 0
    for entry in sorted(entries, key=lambda entry: entry[:2]):
        if cluster and entry[0] >= end:
            yield cluster
            cluster = []
        cluster.append(entry)
        end = max(end, entry[1]) if len(cluster) > 1 else entry[1]
    if cluster:
        yield cluster


def _places(entry: _Extent) -> NDArray[Any]:
    return arrays.footprint(entry[3].parameter if entry[2] else entry[3].gradient)


def _interleaves(cluster: Sequence[_Extent]) -> bool:
    """Return whether arrays are shown to be apart by where they lie in the rows of a matrix.

    The columns of a matrix overlap by their bounds: 120 of them make 7,140 pairs, which take 24 ms
    to compare. But if all strides are multiples of the length of a row, or stay within it, each
    array has its own part of every row or it shares memory. A False may still be no overlap.
    """
    arrays_of_cluster = [_places(entry) for entry in cluster]
    strides = {abs(s) for x in arrays_of_cluster for s, n in zip(x.strides, x.shape, strict=True)}
    for row in sorted(strides - {0}, reverse=True)[:4]:
        parts = sorted(_part_of_row(x, row) for x in arrays_of_cluster)
        ends = [start + length for start, length in parts]
        begins = [start for start, _ in parts[1:]] + [parts[0][0] + row]
        if all(end <= begin for end, begin in zip(ends, begins, strict=True)):
            return True
    return False


def _part_of_row(x: NDArray[Any], row: int) -> tuple[int, int]:
    """Return where an array begins in rows of this length, and how far it goes within one."""
    first = last = 0
    for stride, n in zip(x.strides, x.shape, strict=True):
        if stride % row:
            first += min(0, stride * (n - 1))
            last += max(0, stride * (n - 1))
    return (x.ctypes.data + first) % row, last - first + x.itemsize


def _check_pairs(call: str, cluster: Sequence[_Extent]) -> None:
    """Raise if two arrays share memory, of which one is a parameter."""
    unfinished: list[_Extent] = []
    for entry in cluster:
        unfinished = [before for before in unfinished if before[1] > entry[0]]
        for before in unfinished:
            if (entry[2] or before[2]) and _share_memory(entry, before):
                kinds = ["params" if one[2] else "grads" for one in (before, entry)]
                _fail_overlap(call, kinds[0], before[3], kinds[1], entry[3])
        unfinished.append(entry)


def _share_memory(a: _Extent, b: _Extent) -> bool:
    try:
        return np.shares_memory(_places(a), _places(b), max_work=100_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _fail_overlap(call: str, kind_a: str, a: Leaf, kind_b: str, b: Leaf) -> None:
    both = f"{call}: {format_path(kind_a, a.path)} and {format_path(kind_b, b.path)}"
    if a.parameter is b.parameter and kind_a == kind_b:
        raise ValueError(
            f"{both} are one array, which would be updated twice; give it once, with the sum of "
            f"its gradients"
        )
    raise ValueError(
        f"{both} share memory, so one update would change the other; pass a copy of one of them"
    )


class Apart:
    """Whether the arrays of a plan share no memory: a step looks at that only where it must.

    Parameters
    ----------
    leaves
        Those that the buckets have.
    read
        Hyperparameters that are arrays.
    """

    def __init__(
        self, buckets: Sequence[Bucket], leaves: Sequence[Leaf], read: Sequence[Varying]
    ) -> None:
        self._buckets, self._read = buckets, read
        self._places = [(leaf.position, leaf.path) for leaf in leaves]
        self._written: Written | None = None

    def check(self, owner: str, params: Any, grads: Any) -> None:
        """Raise if arrays share memory, those that the buckets saw last among these leaves."""
        if not self._may_overlap():
            return
        assert self._written is not None
        leaves = [Leaf(i, path, params[i], grads[i]) for i, path in self._places]
        check_overlaps(f"{owner}.update", leaves)
        check_read(f"{owner}.update", leaves, self._read)
        self._written.is_settled = True

    def _may_overlap(self) -> bool:
        if not self._buckets:
            return False
        written, read = zip(*(bucket.bounds() for bucket in self._buckets), strict=True)
        starts, stops = joined(written)
        if self._written is None or not self._written.is_for(starts):
            self._written = Written(starts, stops)
        beside = [_ranges([found.array for found in self._read])] if self._read else []
        return self._written.may_touch(*joined([*read, *beside]))


def joined(ranges: Sequence[Range]) -> Range:
    """Return the ranges of several buckets as one."""
    if len(ranges) == 1:
        return ranges[0]
    starts, stops = zip(*ranges, strict=True)
    return np.concatenate(starts), np.concatenate(stops)

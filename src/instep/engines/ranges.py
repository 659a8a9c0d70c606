"""Ranges of memory: those that a step writes, and whether those that it reads touch them."""

import numpy as np
from numpy.typing import NDArray

#: Addresses of first bytes, and of the bytes after the last, of several arrays.
Range = tuple[NDArray[np.int64], NDArray[np.int64]]


class Written:
    """Ranges of memory that a step writes, sorted: what makes the check of a step cheap.

    Parameters seldom move, while gradients often are new arrays, so the sorting is done once.

    Attributes
    ----------
    starts, stops
        The ranges that are not empty, sorted; those that overlap are one.
    overlaps
        Whether one of them touches another.
    is_settled
        Whether it was seen that arrays share no memory whose ranges touch: views can interleave.
    """

    def __init__(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        self._given = starts.copy()
        self.is_settled = False
        occupied = np.flatnonzero(stops > starts)
        order = occupied[np.argsort(starts[occupied])]
        starts, ends = starts[order], np.maximum.accumulate(stops[order])
        apart = np.ones(len(order) + 1, dtype=bool)
        apart[1:-1] = starts[1:] >= ends[:-1]
        self.starts, self.stops = starts[apart[:-1]], ends[apart[1:]]
        self.overlaps = not bool(apart.all())

    def is_for(self, starts: NDArray[np.int64]) -> bool:
        """Return whether the ranges begin where those given now begin."""
        # numpy.array_equal would take what the handler of a signal raises for a difference.
        return self._given.shape == starts.shape and bool((self._given == starts).all())

    def may_touch(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> bool:
        """Return whether a written range touches another, or one of those that are read.

        A True is looked at again by `check_overlaps`.
        """
        if self.overlaps and not self.is_settled:
            return True
        if len(self.starts) == 0:
            return False
        # The ranges lie apart, so the first that ends after `starts` decides.
        neighbour = np.searchsorted(self.stops, starts, side="right")
        begins = np.append(self.starts, np.iinfo(np.int64).max)[neighbour]
        return bool(((begins < stops) & (stops > starts)).any())

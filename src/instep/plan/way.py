"""What a step runs that goes the short way."""

from collections.abc import Sequence
from typing import Any

from instep.engines import Bucket
from instep.engines.base import Joined, Repeater
from instep.engines.ranges import Written
from instep.engines.sums import SumTable
from instep.plan.overlaps import joined


class Way:
    """What the buckets of a plan run in a step whose graphs are known.

    Attributes
    ----------
    fits
        Returns whether parameters are those of the step before, and gradients of the same kind.
    joined
        The passes, as one call.
    computes
        Numbers of rows, and dtypes of the arithmetic in which they are used.
    sees_tensors
        Whether it takes tensors as they are, and not the arrays that stand for them.
    """

    joined: Joined

    def __init__(self, repeaters: Sequence[Repeater], *, sees_tensors: bool) -> None:
        self._repeaters, self.sees_tensors = repeaters, sees_tensors
        # A call within another takes 0.1 us.
        self.fits = repeaters[0].fits if len(repeaters) == 1 else self._fit
        pairs = [(row, repeater.compute) for repeater in repeaters for row in repeater.rows]
        self.computes = list(dict.fromkeys(pairs))
        self._table = 0

    def _fit(self, params: tuple[Any, ...], grads: tuple[Any, ...]) -> bool:
        return all(repeater.fits(params, grads) for repeater in self._repeaters)

    def watch(self, buckets: Sequence[Bucket]) -> None:
        """Take note of where the parameters are: a step was taken the long way."""
        if not all(repeater.is_watching for repeater in self._repeaters):
            written = Written(*joined([bucket.bounds()[0] for bucket in buckets]))
            if not written.overlaps:
                for repeater in self._repeaters:
                    repeater.watch(written)

    def begin(self, sums: SumTable) -> None:
        """Turn to this way from that of the step before."""
        for repeater in self._repeaters:
            repeater.begin(sums)
        if self._table != sums.address:
            self.joined = self._repeaters[0].joined(self._repeaters, sums)
            self._table = sums.address

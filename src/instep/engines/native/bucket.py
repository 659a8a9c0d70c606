"""Steps of the native engine: leaves, and the compiled check of their signatures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from instep.engines.base import Fit, Member, Repeater
from instep.engines.host import HostBucket
from instep.engines.native import check
from instep.engines.native.emit import Entry
from instep.engines.native.launch import NativeLaunch
from instep.engines.native.threads import thread_count
from instep.engines.ranges import Written
from instep.graph import Graph
from instep.graph.program import Program
from instep.numerics import TILE

_WORD = 8


class NativeBucket(HostBucket[NativeLaunch]):
    """Leaves that compiled loops walk."""

    def __init__(self, program: Program, members: Sequence[Member], threads: int | None) -> None:
        super().__init__(program, members)
        self._threads = thread_count(threads)
        width = 2 + len(program.arrays)
        table = np.zeros((len(members), width + len(Entry)), dtype=np.int64)
        first_tile = 0
        for leaf, row in zip(self.leaves, table, strict=True):
            row[2:width] = [leaf.slots[name].ctypes.data for name in program.arrays]
            tiles = max(1, -(-leaf.size // TILE))
            row[width:] = [leaf.size, 0, leaf.position, tiles, first_tile]
            first_tile += tiles
        self._table, self.addresses = table, table[:, :2]
        self._check: check.SignatureCheck | None = None
        if check.is_supported():
            start, stride = table.ctypes.data, table.strides[0]
            rows = [start + i * stride for i in range(len(members))]
            self._check = check.SignatureCheck(
                ([member.parameter for member in members], rows),
                ([member.gradient for member in members], [row + _WORD for row in rows]),
            )

    def fit(self, params: Sequence[Any], grads: Sequence[Any]) -> Fit:
        if self._check is not None:
            found = self._check.compare(self.own(params), self.own(grads))
            if found != check.DIFFERENT:
                self._params, self._grads = params, grads  # they live as long as the step
                return Fit.SAME if found == check.SAME else Fit.MOVED
        # Another dtype object may stand for the same dtype: the slower check decides.
        return super().fit(params, grads)

    def own(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """Return the leaves of this bucket."""
        if len(leaves) != len(self.positions):
            return tuple([leaves[i] for i in self.positions])
        return leaves if type(leaves) is tuple else tuple(leaves)

    def launches(self, graph: Graph, members: list[int]) -> list[NativeLaunch]:
        return [NativeLaunch(self, graph, members, self._table, self._threads)]

    def repeater(self) -> Repeater | None:
        launches = [launch for arrangement in self.now for launch in arrangement.launches]
        if self._check is None or len(launches) != 1 or not launches[0].is_simple:
            return None
        return NativeRepeater(self, launches[0], self._check)


class NativeRepeater(Repeater):
    """One call to check, one to run: all that a step with the arrays of the step before takes.

    Its one call of compiled code is what makes the step whole: the count of chunks that it leaves
    tells whether it was made.
    """

    def __init__(
        self, bucket: NativeBucket, launch: NativeLaunch, fits: check.SignatureCheck
    ) -> None:
        self._bucket, self._launch, self._check = bucket, launch, fits
        self.run = launch.run_kernel

    def stage(self, params: Any, grads: Any, numbers: tuple[float, ...]) -> bool:
        own = self._bucket.own
        found = self._check.compare(own(params), own(grads))
        return found in (check.SAME, check.CLEAR) and self._launch.pack(numbers)

    @property
    def has_run(self) -> bool:
        return self._launch.has_run

    def refresh(self) -> None:
        if not self._check.is_watching:
            written = Written(*self._bucket.bounds()[0])
            if not written.overlaps:
                self._check.watch(written.starts, written.stops)

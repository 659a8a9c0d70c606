"""Steps of the native engine: leaves, and the compiled check of their signatures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from instep.engines.base import Fit, Leaves, Member, Repeater, Run
from instep.engines.host import HostBucket, empty_like
from instep.engines.native.check import Placed, SignatureCheck, is_supported
from instep.engines.native.check_code import DIFFERENT, LOST, SAME
from instep.engines.native.emit import Entry
from instep.engines.native.launch import NativeLaunch
from instep.engines.native.threads import thread_count
from instep.graph import Graph
from instep.graph.program import Program
from instep.numerics import TILE

_WORD = 8

#: The array into which passes store parameters where some cannot be written.
_NEW = "new w"


class NativeBucket(HostBucket[NativeLaunch]):
    """Leaves that compiled loops walk."""

    def __init__(self, program: Program, members: Sequence[Member], threads: int | None) -> None:
        super().__init__(program, members)
        self._threads = thread_count(threads)
        width = 2 + len(program.arrays) + bool(self.unwritable)
        table = np.zeros((len(members), width + len(Entry)), dtype=np.int64)
        first_tile = 0
        for leaf, row in zip(self.leaves, table, strict=True):
            row[2 : 2 + len(program.arrays)] = [
                leaf.slots[name].ctypes.data for name in program.arrays
            ]
            tiles = max(1, -(-leaf.size // TILE))
            row[width:] = [leaf.size, 0, leaf.position, tiles, first_tile]
            first_tile += tiles
        self._table, self.addresses, self._new_addresses = table, table[:, :2], table[:, width - 1]
        for leaf in self.leaves if self.unwritable else ():  # the new array lies as the old
            leaf.strides.append(leaf.strides[0])
            leaf.aligned.append(leaf.aligned[0])
            leaf.contiguous.append(leaf.contiguous[0])
        self._check: SignatureCheck | None = None
        if is_supported():
            parameters = [member.parameter for member in members]
            gradients = [member.gradient for member in members]
            placed = self._placed(parameters, gradients)
            self._check = SignatureCheck(*placed, self.positions)

    def _placed(self, params: Sequence[Any], grads: Sequence[Any]) -> tuple[Placed, Placed]:
        """Return parameters and gradients with the places of their addresses in the table."""
        start, stride = self._table.ctypes.data, self._table.strides[0]
        rows = [start + i * stride for i in range(len(params))]
        return (params, rows), (grads, [row + _WORD for row in rows])

    def fit(self, params: Sequence[Any], grads: Sequence[Any]) -> Fit:
        if self._check is not None:
            found = self._check.compare(tuple(params), tuple(grads))
            if found in (DIFFERENT, LOST):
                # Nothing is to be taken for the step before whose arrays nobody has looked at.
                self.addresses[:, (1 if found == DIFFERENT else 0) :] = 0
            else:
                self._params, self._grads = params, grads  # they live as long as the step
                return Fit.SAME if found == SAME else Fit.MOVED
        # Another dtype object may stand for the same dtype: the slower check decides.
        return super().fit(params, grads)

    def launches(self, graph: Graph, members: list[int]) -> list[NativeLaunch]:
        if self.unwritable:
            graph = _into_new_arrays(graph)
        return [NativeLaunch(self, graph, members, self._table, self._threads)]

    def renew(self) -> Mapping[int, Any]:
        (now,) = self.now
        stored = {
            i
            for launch in now.final
            for i in launch.members
            if any(store.array == _NEW for store in launch.graph.stores)
        }
        self._new_addresses[:] = self.addresses[:, 0]
        new = {}
        for i in self.unwritable:
            w = self._params[self.positions[i]]
            new[self.positions[i]] = array = empty_like(w)
            self._new_addresses[i] = array.ctypes.data
            if i not in stored:
                array[...] = w
        return new

    def repeater(self, tensors: Leaves | None = None) -> Repeater | None:
        (now,), watched = self.now, self._check
        if watched is None or any(launch.graph.calls for launch in now.launches):
            return None
        if tensors is not None:
            from instep.engines.native.tensors import TensorCheck

            own = ([side[i] for i in self.positions] for side in tensors)
            watched = TensorCheck(*self._placed(*own), self.positions)
        return Repeater(
            watched.fits,
            lambda written: watched.watch(written.starts, written.stops),
            lambda: watched.is_watching,
            self.compute,
            partial(self.turn_to, self.now),
            [launch.pack for launch in now.launches],
            [
                (self._runs(level), {entry.number for one in level for entry in one.graph.sums})
                for level in now.levels
            ],
            self._runs(now.final),
            now.final[0].has_run if len(now.final) == 1 and now.final[0].is_simple else None,
            now.guards,
        )

    def _runs(self, launches: Sequence[NativeLaunch]) -> list[Run]:
        return [one.run_once if one.is_simple else partial(one.run, self) for one in launches]


def _into_new_arrays(graph: Graph) -> Graph:
    """Return a pass that stores parameters in other arrays than those from which it loads them."""
    w = graph.arrays[0]
    stores = [replace(one, array=_NEW) if one.array == w.name else one for one in graph.stores]
    return replace(graph, arrays=(*graph.arrays, replace(w, name=_NEW)), stores=tuple(stores))

"""Steps of the native engine: leaves, and the compiled check of their signatures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import setitem
from typing import Any

import numpy as np

from instep.engines.base import Fit, Joined, Leaves, Member, Repeater
from instep.engines.fused import Arrangement, FusedBucket, FusedRepeater, in_turn
from instep.engines.host import HostBucket, empty_like
from instep.engines.native.arguments import Entry
from instep.engines.native.check import Placed, SignatureCheck, is_supported
from instep.engines.native.check_code import DIFFERENT, LOST, SAME
from instep.engines.native.launch import CompiledLaunch, NativeLaunch
from instep.engines.native.numbers import NumbersLaunch, add_reading
from instep.engines.native.one_call import Calls, OneCall
from instep.engines.native.threads import thread_count
from instep.engines.native.whole_step import WholeStep
from instep.engines.scalars import joined_scalars
from instep.engines.sums import SumTable
from instep.graph import Graph, sum_kind
from instep.graph.program import Program
from instep.interrupts import Call
from instep.numerics import TILE

_WORD = 8

#: The array into which passes store parameters where some cannot be written.
_NEW = "new w"


class NativeBucket(HostBucket[CompiledLaunch]):
    """Leaves that compiled loops walk."""

    def __init__(self, program: Program, members: Sequence[Member], threads: int | None) -> None:
        super().__init__(program, members)
        self._threads = thread_count(threads)
        width = 2 + len(self.names) + bool(self.unwritable)
        table = np.zeros((len(members), width + len(Entry)), dtype=np.int64)
        first_tile = 0
        for leaf, row in zip(self.leaves, table, strict=True):
            row[2 : 2 + len(self.names)] = [leaf.slots[name].ctypes.data for name in self.names]
            tiles = max(1, -(-leaf.size // TILE))
            row[width:] = [leaf.size, 0, leaf.position, tiles, first_tile, 0]
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

    def launches(self, graph: Graph, members: list[int]) -> list[CompiledLaunch]:
        if self.unwritable:
            graph = _into_new_arrays(graph)
        return [NativeLaunch(self, graph, members, self._table, self._threads)]

    def remembering(self, graph: Graph, members: list[int]) -> list[CompiledLaunch]:
        if self.unwritable:
            graph = _into_new_arrays(graph)
        return [NumbersLaunch(self, graph, members, self._table)]

    def turning(self, names: Mapping[str, str]) -> list[Call] | None:
        calls = super().turning(names)
        if calls is None:
            return None
        new, old = ([2 + self.names.index(one) for one in x] for x in (names, names.values()))
        return [*calls, partial(setitem, self._table, (slice(None), new), self._table[:, old])]

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

    def prepare(self, chosen: Sequence[Arrangement[CompiledLaunch]], sums: SumTable) -> None:
        super().prepare(chosen, sums)
        for launch in chosen[0].launches:
            launch.prepare(sums)

    def repeater(self, tensors: Leaves | None = None) -> Repeater | None:
        (now,), watched = self.now, self._check
        if watched is None or any(x.graph.calls for x in now.launches):
            return None
        if tensors is not None:
            from instep.engines.native.tensors import TensorCheck

            own = ([side[i] for i in self.positions] for side in tensors)
            watched = TensorCheck(*self._placed(*own), self.positions)
        return NativeRepeater(self, now, watched)


def _into_new_arrays(graph: Graph) -> Graph:
    """Return a pass that stores parameters in other arrays than those from which it loads them."""
    w = graph.arrays[0]
    stores = [replace(one, array=_NEW) if one.array == w.name else one for one in graph.stores]
    return replace(graph, arrays=(*graph.arrays, replace(w, name=_NEW)), stores=tuple(stores))


class NativeRepeater(FusedRepeater[CompiledLaunch]):
    """The short way of an arrangement of launches on the host."""

    place = "host"

    @classmethod
    def joined(cls, repeaters: Sequence[Repeater], sums: SumTable) -> Joined:
        own = [one for one in repeaters if isinstance(one, cls)]
        return _joined([one.bucket for one in own], [one.now for one in own], sums)


def _joined(
    buckets: Sequence[FusedBucket[CompiledLaunch]],
    now: Sequence[Arrangement[CompiledLaunch]],
    sums: SumTable,
) -> Joined:
    """Return the launches of several buckets as one call."""
    first, last, otherwise = Calls(), Calls(), Calls()
    for bucket in buckets:
        add_reading(bucket, first, sums)
    row_bytes = sums.values.itemsize * sums.stride
    for levels in in_turn([one.levels for one in now], lambda level: [x.graph for x in level]):
        launches = [launch for level in levels for launch in level]
        for launch in launches:
            launch.add_to(first, sums)
        sums_here = [entry for one in launches for entry in one.graph.sums]
        for number in {entry.number for entry in sums_here if entry.scope == "tree"}:
            first.total(sum_kind(number), sums.address + number * row_bytes, sums.stride - 1)
    for launch in (launch for one in now for launch in one.final):
        launch.add_to(last, sums)
        if isinstance(launch, NumbersLaunch) and launch.graph.lasting:
            launch.add_lasting_to(otherwise, sums)
    guards = {number for one in now for number in one.guards}
    totals = [sums.address + (number + 1) * row_bytes - _WORD for number in guards]
    made = joined_scalars(launch for one in now for launch in one.launches)
    call = OneCall(first, last, otherwise, totals, made.places)
    make, is_alone = made.of_first or made.of_rows, made.of_first is not None
    # A step that a guard may turn away is noted in another way.
    whole = None if guards else partial(WholeStep, call.compiled, make, is_alone=is_alone)
    return Joined(made.of_rows, call.run, call.begin, call.outcome, whole)

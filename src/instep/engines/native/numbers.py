"""What is remembered of sums: made by compiled code, in the call that runs the last pass."""

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.engines.fused import FusedBucket
from instep.engines.host import HostBucket, columns
from instep.engines.native.arguments import Entry
from instep.engines.native.compile import address_of, compile_kernel, traits
from instep.engines.native.emit import emit
from instep.engines.native.launch import Arguments, CompiledLaunch, places_of
from instep.engines.native.one_call import Calls
from instep.engines.sums import SumTable
from instep.graph import Graph
from instep.graph.nodes import Remembered

_WORD = 8


class NumbersLaunch(CompiledLaunch):
    """Makes the numbers of leaves, all of them before it stores one.

    Parameters
    ----------
    table
        What the compiled code reads of each leaf of the bucket.
    """

    def __init__(
        self,
        bucket: HostBucket[Any],
        graph: Graph,
        members: list[int],
        table: NDArray[np.int64],
    ) -> None:
        super().__init__(bucket, graph, members)
        own = table[members]
        own[:, len(graph.arrays) + Entry.ROW] = [bucket.leaves[i].row for i in members]
        made = np.zeros((len(graph.remembered), len(members)))
        self._arguments = Arguments(own, np.zeros((len(members), 0), np.int64), self.scalars, made)
        self._kernel_address = address_of(compile_kernel(emit(graph, traits())))
        self._leaves = [bucket.leaves[i] for i in members]
        self._numbers = [bucket.numbers[i] for i in members]

    def add_to(self, calls: Calls, sums: SumTable) -> None:
        super().add_to(calls, sums)
        self._add(calls, self.graph.remembered)

    def add_lasting_to(self, calls: Calls, sums: SumTable) -> None:
        """Add the calls that store the numbers which a step leaves that is turned away."""
        super().add_to(calls, sums)
        self._add(calls, self.graph.lasting)

    def _add(self, calls: Calls, entries: Collection[Remembered]) -> None:
        calls.run(self._kernel_address, self._arguments.address)
        for entry, made in zip(self.graph.remembered, self._arguments.partials, strict=True):
            if entry not in entries:
                continue
            cells = np.array([numbers[entry.name].ctypes.data for numbers in self._numbers])
            some = slice(None) if entry.scope == "tensor" else slice(1)
            calls.move(places_of(made)[some], cells[some])


def add_reading(bucket: FusedBucket[Any], calls: Calls, sums: SumTable) -> None:
    """Add the calls that put what leaves remember where passes read it."""
    for name, number in bucket.program.remembered.items():
        cells = np.array([numbers[name].ctypes.data for numbers in bucket.numbers])
        row = sums.address + _WORD * sums.stride * number
        places = np.array(columns(number, bucket.leaves)) % sums.stride
        calls.move(cells, row + _WORD * places)

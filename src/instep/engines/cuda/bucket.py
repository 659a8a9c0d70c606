"""Steps of the CUDA engine: one launch for all tensors of a bucket and pass."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import setitem
from typing import Any

import numpy as np

from instep.engines.base import Bucket, Fit, Member
from instep.engines.calls import RenewedSlots
from instep.engines.cuda.launch import Launch
from instep.engines.cuda.memory import Placement, refuse_capture
from instep.engines.cuda.sums import DeviceSums
from instep.engines.cuda.verdicts import DeviceVerdicts
from instep.engines.ranges import Range
from instep.engines.sums import SumTable
from instep.graph import Graph
from instep.graph.dtypes import DTYPES
from instep.graph.program import Flags, Program, Row


@dataclass(eq=False)
class Level:
    """What runs before sums or results are needed: launches, then calls for groups of leaves."""

    launches: list[Launch]
    calls: list[tuple[Graph, list[int]]]


@dataclass(eq=False)
class Arrangement:
    """The launches of a step, for one choice of graphs for the rows."""

    levels: list[Level]
    final: list[Launch]
    sum_count: int
    guards: frozenset[int]

    @property
    def launches(self) -> Iterator[Launch]:
        """All launches, in order."""
        for level in self.levels:
            yield from level.launches
        yield from self.final

    @property
    def is_judged_by_device(self) -> bool:
        """Whether every launch is guarded, and the host has no part in between."""
        guarded = all(launch.graph.guards for launch in self.launches)
        few = max(self.guards, default=0) < DeviceVerdicts.MOST_GUARDS
        return guarded and few and not any(level.calls for level in self.levels)


class CudaBucket(Bucket):
    """Leaves of CuPy arrays of one dtype, on one device."""

    def __init__(self, program: Program, members: Sequence[Member]) -> None:
        import cupy

        self._cupy = cupy
        self.positions = tuple(member.position for member in members)
        self._program = program
        first = members[0].parameter
        self._dtype = first.dtype
        self._compute = DTYPES[self._dtype.name].compute
        self._device_id: int = first.device.id
        self._device = first.device
        self._multiprocessors: int = self._device.attributes["MultiProcessorCount"]
        self._leaves = [Placement.of(member, program.arrays) for member in members]
        self._expected = [
            (
                member.position,
                member.parameter.shape,
                member.parameter.strides,
                member.gradient.strides,
            )
            for member in members
        ]
        # What lies before and after the first byte of each parameter and gradient.
        self._extents = np.array(
            [[*_extent(member.parameter), *_extent(member.gradient)] for member in members],
            dtype=np.int64,
        ).reshape(-1, 2, 2)
        self._misaligned_bits = self._dtype.itemsize - 1
        self._addresses: list[int] = []
        self._pairs = np.zeros((len(members), 2), dtype=np.int64)
        self._arrangements: dict[tuple[Flags, ...], Arrangement] = {}
        # What runs now: one arrangement, or one for every choice of graphs that may be right.
        self._now: list[Arrangement] = []
        self._rows: Sequence[Row] = ()
        self._level = 0
        #: Number of the launches of the last pass that were made in this step.
        self._launched = [0]
        self._renewed = RenewedSlots()

    def fit(self, params: Sequence[Any], grads: Sequence[Any]) -> Fit:
        array_type, dtype, device = self._cupy.ndarray, self._dtype, self._device_id
        addresses: list[int] = []
        append = addresses.append
        for position, shape, w_strides, g_strides in self._expected:
            w, g = params[position], grads[position]
            if (
                w.__class__ is not array_type
                or g.__class__ is not array_type
                or w.shape != shape
                or g.shape != shape
                or w.dtype != dtype
                or g.dtype != dtype
                or w.strides != w_strides
                or g.strides != g_strides
            ):
                return Fit.DIFFERENT
            memory, other = w.data, g.data
            if memory.device_id != device or other.device_id != device:
                return Fit.DIFFERENT
            append(memory.ptr)
            append(other.ptr)
        if addresses == self._addresses:
            return Fit.SAME
        pairs = np.array(addresses, dtype=np.int64).reshape(-1, 2)
        if (pairs & self._misaligned_bits).any():
            return Fit.DIFFERENT
        self._addresses, self._pairs = addresses, pairs
        return Fit.MOVED

    def bounds(self) -> tuple[Range, Range]:
        starts = self._pairs - self._extents[:, :, 0]
        stops = self._pairs + self._extents[:, :, 1]
        return (starts[:, 0], stops[:, 0]), (starts[:, 1], stops[:, 1])

    def decides(self, candidates: Sequence[Sequence[Row]]) -> bool:
        return all(self._arrangement(rows).is_judged_by_device for rows in candidates)

    def _arrangement(self, rows: Sequence[Row]) -> Arrangement:
        flags = tuple(row.flags for row in rows)
        if flags not in self._arrangements:
            with self._device:
                self._arrangements[flags] = self._arrange(flags)
        return self._arrangements[flags]

    def stage(self, candidates: Sequence[Sequence[Row]], sums: SumTable) -> None:
        refuse_capture(self._cupy, self._program.name)
        for rows in candidates:
            for row in rows:
                self._program.check_rounding(row, self._compute)
        chosen = [self._arrangement(rows) for rows in candidates]
        now = list(dict.fromkeys(chosen))
        remote = self._remote(sums)
        # A leaf may have no part in a sum in which it had one. Where there are several, it is not
        # known whose sums the table holds.
        if now != self._now or len(now) > 1:
            sums.clear()  # first: where an exception comes now, the launches are still others
            self.guards = frozenset(number for one in now for number in one.guards)
            self._now = now
        remote.reserve(max(one.sum_count for one in now), self.positions)
        self._level, self._rows = 0, candidates[0]
        self._launched = [0]
        self._renewed.clear()
        for arrangement in now:
            mine = [i for i, one in enumerate(chosen) if one is arrangement]
            self._stage(arrangement, {i: candidates[i] for i in mine}, remote)

    def _stage(
        self, arrangement: Arrangement, candidates: Mapping[int, Sequence[Row]], remote: DeviceSums
    ) -> None:
        """Give the launches of an arrangement the scalars of the candidates that it is for."""
        bits = sum(1 << i for i in candidates)
        if arrangement.guards:
            remote.verdicts.expect(bits, arrangement.guards)
        for launch in arrangement.launches:
            function = self._program.host_expressions(launch.graph)
            for i, rows in candidates.items():
                launch.stage([function(*rows[row].numbers) for row in launch.rows], i)
            if launch.graph.guards:
                launch.stage_guard(remote.verdicts, bits)

    def _remote(self, sums: SumTable) -> DeviceSums:
        key = f"cuda {self._device_id}"
        if key not in sums.remotes:
            sums.remotes[key] = DeviceSums(self._device_id, sums.values.shape[1])
        remote = sums.remotes[key]
        assert isinstance(remote, DeviceSums)
        return remote

    def _arrange(self, flags: Sequence[Flags]) -> Arrangement:
        """Make the launches: leaves whose rows have equal flags run the same graphs."""
        members: dict[Flags, list[int]] = {}
        for i, leaf in enumerate(self._leaves):
            members.setdefault(flags[leaf.row], []).append(i)
        groups = [
            (self._program.passes(self._dtype.name, key), chosen) for key, chosen in members.items()
        ]
        depth = max(len(passes) for passes, _ in groups)
        levels = [Level([], []) for _ in range(depth)]
        for passes, chosen in groups:
            for level, graph in zip([*levels[: len(passes) - 1], levels[-1]], passes, strict=True):
                level.launches += self._launches(graph, chosen)
                if graph.calls:
                    level.calls.append((graph, chosen))
        return Arrangement(
            levels[:-1],
            levels[-1].launches,
            max(passes[0].sum_count for passes, _ in groups),
            frozenset(number for passes, _ in groups for number in passes[0].guards),
        )

    def _launches(self, graph: Graph, members: list[int]) -> list[Launch]:
        """Return one launch for the leaves that are lines, and one for the others."""
        if not (graph.stores or graph.sums):
            return []
        # A sum takes the elements in C order; without one, any order is as good.
        lines = [
            i for i in members if (self._leaves[i].c_order if graph.sums else self._leaves[i].line)
        ]
        others = sorted(set(members) - set(lines))
        return [
            Launch(
                graph,
                strided=strided,
                leaves=self._leaves,
                members=chosen,
                multiprocessors=self._multiprocessors,
            )
            for strided, chosen in ((False, lines), (True, others))
            if chosen
        ]

    def reduce(self, sums: SumTable) -> set[int]:
        numbers: set[int] = set()
        remote, depth = self._remote(sums), max(len(one.levels) for one in self._now)
        with self._device:
            while not numbers and self._level < depth:
                levels = [level for one in self._now for level in one.levels[self._level :][:1]]
                launches = [launch for level in levels for launch in level.launches]
                numbers = {entry.number for launch in launches for entry in launch.graph.sums}
                # Where one launch has all leaves, its last block adds up the tree as well.
                whole_tree = sums.buckets == 1 and all(len(one.launches) == 1 for one in levels)
                for launch in launches:
                    launch.run(self._pairs, remote, whole_tree=whole_tree)
                if whole_tree:
                    remote.added(numbers)
                for graph, members in (call for level in levels for call in level.calls):
                    for leaf in (self._leaves[i] for i in members):
                        row = self._rows[leaf.row]
                        self._renewed.call(self._program, graph, leaf.slots, row)
                self._level += 1
        return numbers

    def commit(self, sums: SumTable) -> Mapping[int, Any]:
        remote = self._remote(sums)
        with self._device:
            launches = [launch for arrangement in self._now for launch in arrangement.final]
            for number, launch in list(enumerate(launches))[self._launched[0] :]:
                note = partial(setitem, self._launched, 0, number + 1)
                launch.run(self._pairs, remote, whole_tree=False, notes=[note])
            self._renewed.store()
        return {}

    def release(self) -> None:
        """Do nothing: addresses are kept, and no arrays."""


def _extent(array: Any) -> tuple[int, int]:
    """Return how many bytes of an array lie before its first element, and how many after."""
    if array.size == 0:
        return 0, 0
    ends = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    before = -sum(end for end in ends if end < 0)
    return before, sum(end for end in ends if end > 0) + array.itemsize

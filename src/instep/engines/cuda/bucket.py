"""Steps of the CUDA engine: one launch for all tensors of a bucket and pass."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from instep.engines.base import Fit, Leaves, Member, Repeater
from instep.engines.cuda import array_fields
from instep.engines.cuda.launch import CudaLaunch
from instep.engines.cuda.memory import refuse_capture, refuse_misaligned
from instep.engines.cuda.sums import DeviceSums
from instep.engines.cuda.verdicts import DeviceVerdicts
from instep.engines.fused import Arrangement, FusedBucket
from instep.engines.sums import SumTable
from instep.graph import Graph
from instep.graph.program import Program
from instep.graph.rows import Row

if TYPE_CHECKING:
    from instep.engines.cuda.check import DeviceArrayCheck


class CudaBucket(FusedBucket[CudaLaunch]):
    """Leaves of CuPy arrays of one dtype, on one device.

    Where the guards of a rule are known on the device alone, a step has a candidate for every
    number of steps that may have been taken; the device runs the launches of the right one.
    """

    def __init__(self, program: Program, members: Sequence[Member]) -> None:
        import cupy

        self._cupy = cupy
        for member in members:
            slots = [member.slots[name] for name in program.arrays(members[0].parameter.dtype.name)]
            refuse_misaligned([member.parameter, member.gradient, *slots])
        super().__init__(program, members)
        self.context = device = members[0].parameter.device
        self._device_id: int = device.id
        self._multiprocessors: int = device.attributes["MultiProcessorCount"]
        self._check: DeviceArrayCheck | None = None
        if array_fields.are_known():
            from instep.engines.cuda import check

            parameters = [member.parameter for member in members]
            gradients = [member.gradient for member in members]
            rows = self.addresses.ctypes.data + 16 * np.arange(len(members))
            placed = (parameters, rows.tolist()), (gradients, (rows + 8).tolist())
            self._check = check.DeviceArrayCheck(*placed, self.positions)
        self._expected = [
            (one.position, one.parameter.shape, one.parameter.strides, one.gradient.strides)
            for one in members
        ]
        self._misaligned_bits = np.array([self.dtype.itemsize, self.gradient_dtype.itemsize]) - 1

    def fit(self, params: Sequence[Any], grads: Sequence[Any]) -> Fit:
        if self._check is not None:
            found = self._check.fit(tuple(params), tuple(grads))
            if found is not Fit.DIFFERENT:
                return found
            # Nothing is to be taken for the step before whose arrays nobody has looked at.
            self.addresses[...] = 0
        # Another dtype object may stand for the same dtype: the slower check decides.
        return self._fit(params, grads)

    def _fit(self, params: Sequence[Any], grads: Sequence[Any]) -> Fit:
        array_type, device = self._cupy.ndarray, self._device_id
        dtype, gradient = self.dtype, self.gradient_dtype
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
                or g.dtype != gradient
                or w.strides != w_strides
                or g.strides != g_strides
            ):
                return Fit.DIFFERENT
            memory, other = w.data, g.data
            if memory.device_id != device or other.device_id != device:
                return Fit.DIFFERENT
            append(memory.ptr)
            append(other.ptr)
        pairs = np.array(addresses, dtype=np.int64).reshape(-1, 2)
        if (pairs & self._misaligned_bits).any():
            return Fit.DIFFERENT
        if (pairs == self.addresses).all():
            return Fit.SAME
        self.addresses[...] = pairs
        return Fit.MOVED

    def decides(self, candidates: Sequence[Sequence[Row]]) -> bool:
        return all(_is_judged_by_device(self.arrangement(rows)) for rows in candidates)

    def stage(self, candidates: Sequence[Sequence[Row]], sums: SumTable) -> None:
        refuse_capture(self._cupy, self.program.name, self._device_id)
        super().stage(candidates, sums)

    def launches(self, graph: Graph, members: list[int]) -> list[CudaLaunch]:
        if not (graph.stores or graph.sums):
            return []
        walked = [i for i in members if self.leaves[i].is_walked(graph)]
        others = [i for i in members if not self.leaves[i].is_walked(graph)]
        return [
            CudaLaunch(self, graph, chosen, self._multiprocessors, strided=chosen is others)
            for chosen in (walked, others)
            if chosen
        ]

    def remembering(self, graph: Graph, members: list[int]) -> list[CudaLaunch]:
        return [CudaLaunch(self, graph, members, self._multiprocessors, strided=False)]

    def prepare(self, chosen: Sequence[Arrangement[CudaLaunch]], sums: SumTable) -> None:
        remote = self._remote(sums)
        remote.reserve(max(arrangement.sum_count for arrangement in chosen), self.positions)
        for arrangement in self.now:
            candidates = sum(1 << i for i, one in enumerate(chosen) if one is arrangement)
            if arrangement.guards:
                remote.verdicts.expect(candidates, arrangement.guards)
            for launch in arrangement.launches:
                if launch.graph.guards:
                    launch.take_guard(remote.verdicts, candidates)

    def run(self, levels: Sequence[list[CudaLaunch]], sums: SumTable) -> None:
        remote = self._remote(sums)
        # Where one launch has all leaves, its last block adds up the tree as well.
        whole_tree = sums.buckets == 1 and all(len(level) == 1 for level in levels)
        for launch in (launch for level in levels for launch in level):
            launch.run(self.addresses, remote, whole_tree=whole_tree)
            launch.leave_tiles(sums)
            if whole_tree:
                remote.added(entry.number for entry in launch.graph.sums)

    def repeater(self, tensors: Leaves | None = None) -> Repeater | None:
        (now, *others), watched = self.now, self._check
        has_calls = any(launch.graph.calls for launch in now.launches)
        if watched is None or tensors is not None or others or now.guards or has_calls:
            return None
        from instep.engines.cuda.repeating import CudaRepeater

        return CudaRepeater(self, self._device_id, now, watched)

    def turn_away(self, sums: SumTable) -> None:
        with self.context:
            self.run([[x for x in one.final if x.graph.lasting] for one in self.now], sums)

    def _remote(self, sums: SumTable) -> DeviceSums:
        key = f"cuda {self._device_id}"
        if key not in sums.remotes:
            sums.remotes[key] = DeviceSums(self._device_id, sums.values.shape[1])
        remote = sums.remotes[key]
        assert isinstance(remote, DeviceSums)
        return remote

    def release(self) -> None:
        """Do nothing: addresses are kept, and no arrays."""


def _is_judged_by_device(arrangement: Arrangement[CudaLaunch]) -> bool:
    """Return whether every launch is guarded, and the host has no part in between."""
    few = max(arrangement.guards, default=0) < DeviceVerdicts.MOST_GUARDS
    graphs = [launch.graph for launch in arrangement.launches]
    return few and all(graph.guards and not graph.calls for graph in graphs)

"""The short way of steps on a device: what changes is placed by compiled code, then launched."""

from collections.abc import Iterator, Sequence
from functools import partial

from instep.engines.base import Joined, Repeater
from instep.engines.cuda.counters import counters
from instep.engines.cuda.launch import CudaLaunch
from instep.engines.cuda.memory import refuse_capture
from instep.engines.cuda.sums import DeviceSums
from instep.engines.fused import (
    Arrangement,
    FusedBucket,
    FusedRepeater,
    Watched,
    in_turn,
)
from instep.engines.native.one_call import Calls, OneCall
from instep.engines.scalars import joined_scalars
from instep.engines.sums import SumTable
from instep.graph import sum_scope
from instep.interrupts import Call, at_once


class CudaRepeater(FusedRepeater[CudaLaunch]):
    """The short way of an arrangement of launches, in which the host judges nothing."""

    def __init__(
        self,
        bucket: FusedBucket[CudaLaunch],
        device: int,
        now: Arrangement[CudaLaunch],
        watched: Watched,
    ) -> None:
        super().__init__(bucket, now, watched)
        self.place, self.device = ("cuda", device), device

    @classmethod
    def joined(cls, repeaters: Sequence[Repeater], sums: SumTable) -> Joined:
        own = [one for one in repeaters if isinstance(one, cls)]
        (remote,) = sums.remotes.values()
        assert isinstance(remote, DeviceSums)
        passes = _Passes(own, remote)
        call = OneCall(Calls(), passes.placing, Calls(), (), passes.places)
        queue = _Queue(own[0], call, passes)
        return Joined(passes.scalars, queue.run, queue.begin, queue.outcome)


class _Passes:
    """What the passes of a step are given, and the calls that launch them, in their order.

    Attributes
    ----------
    calls
        With a launch that sends words first, where there is one.
    placing
        The compiled call that copies the addresses of arrays into the arguments of launches.
    places
        Where scalars go: number, address, and whether it is a double there.
    scalars
        The function from the numbers of each row to what is made of them.
    """

    def __init__(self, repeaters: Sequence[CudaRepeater], remote: DeviceSums) -> None:
        self._alone, self._remote = len(repeaters) == 1, remote
        self.calls = [*self._ordered([one.now for one in repeaters])]
        self.placing, launches = Calls(), list[CudaLaunch]()
        for repeater in repeaters:
            for launch in repeater.now.launches:
                launches.append(launch)
                self.placing.move(*launch.address_places(repeater.bucket.addresses))
        made = joined_scalars(launches)
        self.scalars, self.places = made.of_rows, made.places

    def _ordered(
        self, now: Sequence[Arrangement[CudaLaunch]]
    ) -> Iterator[tuple[CudaLaunch | None, Call]]:
        for levels in in_turn([one.levels for one in now], lambda level: [x.graph for x in level]):
            launches = [launch for level in levels for launch in level]
            whole_tree = self._alone and len(launches) == 1
            yield from self._launched(launches, whole_tree=whole_tree)
            sums = {entry.number for launch in launches for entry in launch.graph.sums}
            if not whole_tree:
                for number in sorted(sums):
                    if sum_scope(number) == "tree":
                        yield None, self._remote.adding_up(number)
        final = [launch for one in now for launch in one.final]
        yield from self._launched(final, whole_tree=self._alone and len(final) == 1)

    def _launched(
        self, launches: Sequence[CudaLaunch], *, whole_tree: bool
    ) -> Iterator[tuple[CudaLaunch | None, Call]]:
        for launch in launches:
            if not launch.is_empty:
                launch.take_sums(self._remote, whole_tree=whole_tree)
                yield launch, launch.launching


class _Queue:
    """Puts the passes of a step on the current stream of their device."""

    def __init__(self, first: CudaRepeater, place: OneCall, passes: _Passes) -> None:
        import cupy

        self._cupy, self._device, self._name = cupy, first.device, first.bucket.program.name
        self._context, self._place, self._calls = first.bucket.context, place, passes.calls
        self._sends = [launch for launch, _ in passes.calls if launch and launch.has_far_words]
        self._note = partial(self.__dict__.update, {"_is_done": True})
        self._launches: list[Call] = [*[call for _, call in passes.calls], self._note]
        self.begin = partial(self.__dict__.update, {"_is_done": False})
        self._is_done = False

    def outcome(self) -> bool | None:
        return True if self._is_done else None

    def run(self, *scalars: float) -> bool:
        self._place.run(*scalars)
        refuse_capture(self._cupy, self._name, self._device)
        if self._cupy.cuda.runtime.getDevice() == self._device:
            return self._launch()
        with self._context:
            return self._launch()

    def _launch(self) -> bool:
        calls = self._launches
        if self._sends:
            sent = [call for launch in self._sends for call in launch.sending()]
            calls = [*sent, *calls]
        counters.launches += len(self._calls)
        at_once(calls)
        return True

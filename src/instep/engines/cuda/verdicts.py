"""Whether guarded steps were taken: judged on the device, and heard by the host later."""

from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

import numpy as np

from instep.engines.cuda.compile import load
from instep.engines.cuda.counters import counters
from instep.engines.cuda.pinned import PinnedBuffers
from instep.engines.sums import Verdicts
from instep.interrupts import Call, at_once

#: Name and text of the kernel that judges a step.
JUDGE_NAME = "judge_step"
JUDGE_KERNEL = f"""\
// Counts the step as taken if it is allowed. `taken` are the steps before this one, `next` those
// after it; `known` are those of which the host knows. The step is one of several that the host
// prepared: this launch is for the numbers of unknown steps whose bits are set in `candidates`.
extern "C" __global__ void {JUDGE_NAME}(
    const double* const sums, const long long columns, const unsigned long long guards,
    const unsigned long long candidates, const long long known,
    const long long* const taken, long long* const next)
{{
    if (!(candidates >> (*taken - known) & 1))
        return;
    bool allowed = true;
    for (int number = 0; guards >> number; ++number)
        if ((guards >> number & 1) && sums[number * columns + columns - 1] != 0.0)
            allowed = false;
    *next = *taken + allowed;
}}
"""

_WORD = 8


class Table(Protocol):
    """The sums that tell: where they lie. They may move between two steps."""

    columns: int

    @property
    def address(self) -> int:
        """Address of the first sum."""


class DeviceVerdicts(Verdicts):
    """The number of steps taken, on the device, and copies of it on their way to the host.

    Attributes
    ----------
    known
        Number of the steps taken of which the host knows.
    """

    #: Guards are bits of a word, and the kernel shifts it by one more.
    MOST_GUARDS = 63

    def __init__(self, sums: Table) -> None:
        import cupy

        self._cupy, self._sums = cupy, sums
        self._device = cupy.cuda.Device()
        self._words = cupy.cuda.alloc(2 * _WORD)
        self._words.memset_async(0, 2 * _WORD)
        self._expected: dict[int, set[int]] = {}
        self._copies = PinnedBuffers(1, np.int64)
        self.known = 0

    @property
    def taken(self) -> int:
        """Address of the number of steps taken before the present one."""
        address: int = self._words.ptr
        return address

    def begin(self) -> None:
        """Forget what another step was to be judged by."""
        self._expected.clear()

    def expect(self, candidates: int, guards: Iterable[int]) -> None:
        """Take note of the guards of the step, if the unknown steps are as many as these bits."""
        self._expected.setdefault(candidates, set()).update(guards)

    def judge(self, notes: Iterable[Call]) -> None:
        with self._device:
            calls = self._judging(self._cupy.cuda.get_current_stream())
            at_once([*calls, *notes])

    def _judging(self, stream: Any) -> list[Call]:
        """Return the calls that judge the step and send the verdict to the host."""
        kernel, following = load(JUDGE_KERNEL, JUDGE_NAME), self._words + _WORD
        memory = self._copies.spare().memory
        calls: list[Call] = []
        for candidates, guards in self._expected.items():
            arguments = (
                np.uint64(self._sums.address),
                np.int64(self._sums.columns),
                np.uint64(sum(1 << number for number in guards)),
                np.uint64(candidates),
                np.int64(self.known),
                np.uint64(self._words.ptr),
                np.uint64(following.ptr),
            )
            calls.append(partial(kernel, (1,), (1,), arguments))
        counters.launches += len(calls)
        return [
            *calls,
            partial(self._words.copy_from_device_async, following, _WORD, stream),
            partial(self._words.copy_to_host_async, memory.ptr, _WORD, stream),
            *self._copies.sending(stream),
        ]

    def next(self, most: int) -> bool | None:
        copies = self._copies.in_flight
        if not copies:
            return None
        event, _, view = copies[0]
        if len(copies) <= most and not self._has_arrived(event):
            return None
        event.synchronize()
        return int(view[0]) > self.known

    def forgetting(self, taken: bool) -> list[Call]:
        return [
            *self._copies.receiving(),
            partial(self.__dict__.update, {"known": self.known + taken}),
        ]

    @staticmethod
    def _has_arrived(event: Any) -> bool:
        done: bool = event.done
        return done

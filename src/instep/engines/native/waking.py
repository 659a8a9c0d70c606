"""From how many elements on another thread is worth waking, as this machine was measured.

A pass on one thread that takes as long as two wakes is level with one on two threads; a lone step
after other work, which finds the second core asleep, is level from some six wakes on. Adam on
float32, us, on one thread and on two: 67 and 50 at 64 Ki elements, 99 and 67 at 100,000, 258 and
162 at 256 Ki in a row; after a rest 145 and 144, 157 and 152, 315 and 243 (Emerald Rapids, a wake
takes 7 to 9 us). 28 and 26 at 128 Ki, 53 and 39 at 256 Ki (Zen 5).
"""

import ctypes
import time
from array import array
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from instep.engines.native import handover
from instep.engines.native.compile import address_of, compile_function, host
from instep.engines.native.pool import run_on_threads
from instep.graph import Graph
from instep.graph.dtypes import itemsize

#: Wakes that a pass takes on one thread, from which on it is shared.
_WAKES = 6

#: Bounds of what is measured: a busy machine may seem to be any.
LEAST, MOST = 32 * 1024, 1024 * 1024

#: Rounds of a measurement, of which all but the fastest quarter may be disturbed; and elements of
#: an array, which the first two levels of caches hold.
_ROUNDS, _ELEMENTS = 9, 16 * 1024

#: What takes several times as long as other operations.
_SLOW = ("divide", "sqrt")


def worth_waking(threads: int, elements: int, graph: Graph) -> int:
    """Return how many of these threads are worth waking for a pass on so many elements.

    Where there are several, each has half as many as those under which there is one, at least.
    """
    if threads == 1 or elements < LEAST:
        return 1
    if 2 * elements >= threads * MOST:
        return threads
    return max(1, min(threads, 2 * elements // _elements_to_wake(graph)))


@cache
def _elements_to_wake(graph: Graph) -> int:
    """Return the elements of a pass under which it stays on one thread."""
    moving, dividing = _speeds()
    slow = sum(
        node.operation in _SLOW and position not in graph.uniform
        for position, node in enumerate(graph.nodes)
    )
    width = itemsize(graph.compute) / itemsize("float32")
    seconds = graph.bytes_per_element * moving + slow * width * dividing
    return int(min(max(_WAKES * wake_seconds() / max(seconds, 1e-12), LEAST), MOST))


@cache
def wake_seconds() -> float:
    """Return how long it takes until another thread is at work. Measured once, in some 0.1 ms."""
    count = array("q", [0])
    place = count.buffer_info()[0]
    kernel = address_of(_meet())

    def meet() -> None:
        count[0] = 0
        run_on_threads(kernel, place, 2)

    meet()  # starts the thread
    return _typical(meet)


@cache
def _speeds() -> tuple[float, float]:
    """Return the seconds in which a byte is moved, and in which a float32 is divided.

    By loops of NumPy, in caches. Measured once, in some 0.3 ms.
    """
    x, y = np.full((2, _ELEMENTS), 1.5, dtype=np.float32)
    out = np.empty_like(x)
    add, divide = (_typical(partial(function, x, y, out)) for function in (np.add, np.divide))
    return add / (3 * x.nbytes), max(0.0, divide - add) / _ELEMENTS


def _typical(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[_ROUNDS // 4]


@cache
def _meet() -> Any:
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    return compile_function(handover.emit_meet(host()), "meet", kind)

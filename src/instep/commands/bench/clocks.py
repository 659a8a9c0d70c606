"""Clocks, and measuring in turns."""

import gc
import importlib
import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

Step = Callable[[], object]

#: Seconds that a batch of steps lasts at least: ten thousand times the resolution of the clock.
SHORTEST_BATCH = 1e-3

#: Seconds of rest before each batch on several threads. OpenMP's workers spin for milliseconds
#: after their work, and would take a core from whoever comes next. A batch then lasts as long at
#: least, for the first steps after a rest are slow: cores sleep, and caches are cold.
REST = 0.01

#: First steps at most, where they are quick.
SETTLING = 40

FEWEST_ROUNDS, MOST_ROUNDS = 5, 100


class Clock(ABC):
    """Measures how long steps take."""

    @abstractmethod
    def time(self, step: Step, number: int) -> float:
        """Return the seconds of one step, when `number` are taken in a row."""


class WallClock(Clock):
    """Measures on the host: right for steps that have finished when they return."""

    def time(self, step: Step, number: int) -> float:
        steps = range(number)
        start = time.perf_counter()
        for _ in steps:
            step()
        return (time.perf_counter() - start) / number


class EventClock(Clock):
    """Measures on the GPU, between two CUDA events on the null stream.

    CuPy and PyTorch both work on that stream unless they are told otherwise.
    """

    def __init__(self) -> None:
        self._cuda = importlib.import_module("cupy").cuda
        self._start, self._stop = self._cuda.Event(), self._cuda.Event()

    def time(self, step: Step, number: int) -> float:
        stream = self._cuda.Stream.null
        self._start.record(stream)
        for _ in range(number):
            step()
        self._stop.record(stream)
        self._stop.synchronize()
        elapsed: float = self._cuda.get_elapsed_time(self._start, self._stop)
        return elapsed / 1000 / number


def in_turns(
    steps: Mapping[str, Step], clock: Clock, *, budget: float, rest: float = 0.0
) -> dict[str, list[float]]:
    """Return the seconds of a step of each contender, one value a round.

    In a round each contender takes a batch of steps, so that whatever disturbs the machine
    disturbs all of them. Every other round goes the other way round. The first steps, which
    compile, are not counted.

    Parameters
    ----------
    steps
        What each contender does.
    clock
        What measures.
    budget
        Seconds that the rounds take in all, about; there are at least five.
    rest
        Seconds to wait before each batch.
    """
    shortest = max(SHORTEST_BATCH, rest)
    numbers, round_seconds = {}, 0.0
    for name, step in steps.items():
        _settle(step)
        estimate = clock.time(step, 1)
        if estimate < SHORTEST_BATCH:
            estimate = clock.time(step, 10)
        numbers[name] = max(1, math.ceil(shortest / max(estimate, 1e-7)))
        round_seconds += numbers[name] * estimate + rest
    rounds = round(budget / round_seconds) if round_seconds else MOST_ROUNDS
    rounds = min(max(rounds, FEWEST_ROUNDS), MOST_ROUNDS)

    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name in order:
                if rest:
                    time.sleep(rest)
                if numbers[name] > 1:
                    steps[name]()  # not counted: it brings its arrays back into the caches
                seconds[name].append(clock.time(steps[name], numbers[name]))
            order.reverse()
    finally:
        gc.enable()
    return seconds


def _settle(step: Step) -> None:
    """Take the first steps: they compile, and some code only once many were alike."""
    end = time.perf_counter() + 0.1
    for i in range(SETTLING):
        if i < 2 or time.perf_counter() < end:
            step()


def host_seconds(step: Step, synchronize: Step) -> float:
    """Return the time on the host of a step on a GPU, which does not wait for it."""
    found = []
    for _ in range(20):
        synchronize()
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    synchronize()
    return statistics.median(found)

"""Where the time of a step goes: in its passes, and on the way to them.

A stopwatch is put around what the plan of one optimizer calls, from outside: the reading of the
trees, the signature check, the staging of hyperparameters, and the compiled code. To be asked of
a `Worker`.
"""

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

from processes import prepared

from instep.commands.bench.cases import Case, OnePass
from instep.commands.bench.clocks import REST, Step, WallClock, in_turns
from instep.commands.bench.contenders import KIT
from instep.commands.bench.traffic import passes
from instep.plan import whole as wholes

TREES, CHECK, NUMBERS = "reading trees", "signature check", "hyperparameters"
COMPILED, REMAINDER = "compiled code", "rest"

#: The parts of a small step, in the order in which it comes to them.
PARTS = (TREES, CHECK, NUMBERS, COMPILED, REMAINDER)

#: What stands in the place of `COMPILED` where passes are told apart: those that reduce, and the
#: last one. A short step runs them in one call, so steps are taken the long way then.
REDUCTION, UPDATE = "passes that reduce", "last pass"

#: Method -> the part of a step that it is.
_OF_READER = {"read": TREES}
_OF_BUCKET = {"fit": CHECK, "stage": NUMBERS, "reduce": REDUCTION, "commit": UPDATE}

_WATCHED = "watched"


class Stopwatch:
    """Adds up the seconds that functions take. Time in a function within another counts once.

    Attributes
    ----------
    seconds
        Part of a step -> its seconds, without what the stopwatch itself takes.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._within = 0.0  # seconds of functions that ran within the one that runs
        self._inside = self._outside = 0.0
        self._inside, self._outside = self._cost()

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same and has its time added to a part."""

        def timed(*arguments: Any) -> Any:
            before, self._within = self._within, 0.0
            start = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                spent = time.perf_counter() - start
                self.seconds[part] += spent - self._within - self._inside
                self._within = before + spent + self._outside

        return timed

    def _cost(self, calls: int = 1_000) -> tuple[float, float]:
        """Return what a call takes more: the seconds that it counts itself, and the others."""
        timed, clock, found = self.around("nothing", lambda: None), WallClock(), []
        for _ in range(10):
            seconds = clock.time(timed, calls)
            inside = self.seconds.pop("nothing") / calls
            found.append((inside, seconds - inside))
        return min(found)  # what disturbs the machine makes it longer


class _Laps(WallClock):
    """A wall clock that notes what a stopwatch showed in the same time."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self.laps: list[dict[str, float]] = []

    def time(self, step: Step, number: int) -> float:
        self._watch.seconds.clear()
        found = super().time(step, number)
        if self._watch.seconds:
            self.laps.append({k: spent / number for k, spent in self._watch.seconds.items()})
        return found


def parts_of_step(case: dict[str, Any], budget: float) -> dict[str, Any]:
    """Return the seconds of a step on the way that Python leads, and of its parts.

    Whole steps, which are one call of compiled code, have no parts to be told apart. The whole is
    that of a step that nobody watches; the rest is what the parts leave of it.
    """
    point, watch = Case.from_json(case), Stopwatch()
    steps = {KIT: prepared(KIT, point), _WATCHED: _watched(point, watch, _one_call)}
    with mock.patch.object(wholes, "PATIENCE", sys.maxsize):
        seconds, parts = _measure(point, steps, watch, budget)
    whole = statistics.median(seconds[KIT])
    parts[REMAINDER] = whole - sum(parts.values())
    # The medians scatter, and the stopwatch's cost is an average: not less than nothing.
    found = {name: max(0.0, parts[name]) for name in PARTS}
    return {"case": case, "seconds": whole, "parts": found, "rounds": seconds[KIT]}


def passes_of_step(case: dict[str, Any], budget: float) -> dict[str, Any]:
    """Return the seconds of a step of two passes and of each, beside streams of their arrays."""
    point, watch = Case.from_json(case), Stopwatch()
    steps = {_WATCHED: _watched(point, watch, _no_call)}
    names = [f"stream {number}" for number, _ in enumerate(passes(point))]
    for number, name in enumerate(names):
        steps[name] = prepared("stream", OnePass(**vars(point), number=number))
    seconds, parts = _measure(point, steps, watch, budget)
    found = [
        {
            "reads": len(graph.loaded),
            "writes": len(graph.stored),
            "bytes_per_element": graph.bytes_per_element,
            "seconds": parts[part],
            "stream": statistics.median(seconds[name]),
        }
        for graph, part, name in zip(passes(point), (REDUCTION, UPDATE), names, strict=True)
    ]
    return {
        "case": case,
        "seconds": statistics.median(seconds[_WATCHED]),
        "stream": sum(entry["stream"] for entry in found),
        "bytes_per_element": sum(entry["bytes_per_element"] for entry in found),
        "passes": found,
        "rounds": seconds[_WATCHED],
    }


def _measure(
    case: Case, steps: Mapping[str, Step], watch: Stopwatch, budget: float
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Return the seconds of the steps, one a round, and the medians of the parts."""
    clock = _Laps(watch)
    rest = 0.0 if case.threads == 1 else REST
    seconds = in_turns(steps, clock, budget=budget, rest=rest)
    laps = clock.laps[-len(seconds[_WATCHED]) :]  # the first ones warm up
    return seconds, {part: statistics.median(lap[part] for lap in laps) for part in laps[0]}


def _watched(case: Case, watch: Stopwatch, repeat: Callable[[Stopwatch, Any], Any]) -> Step:
    """Return the step of the kit, the stopwatch around what its plan calls.

    `repeat` makes of its short way what it is to take.
    """
    from instep import engines
    from instep.engines.native import bucket as buckets
    from instep.plan import trees

    step = prepared(KIT, case)
    engine = engines.load("native")
    make, read, look = engine.bucket, trees.LeafReader, buckets.SignatureCheck

    def bucket(*arguments: Any) -> Any:
        made: Any = make(*arguments)
        find = made.repeater
        made.repeater = lambda tensors=None: repeat(watch, find(tensors))
        return _put(watch, made, _OF_BUCKET)

    def reader(*arguments: Any) -> Any:
        return _put(watch, read(*arguments), _OF_READER)

    def signature(*arguments: Any) -> Any:
        return _put(watch, look(*arguments), {"compare": CHECK, "fits": CHECK})

    with (
        mock.patch.object(engine, "bucket", bucket),
        mock.patch.object(trees, "LeafReader", reader),
        mock.patch.object(buckets, "SignatureCheck", signature),
    ):
        step()  # makes the plan
    return step


def _one_call(watch: Stopwatch, repeater: Any) -> Any:
    """Put the stopwatch around what the short way calls."""
    join = repeater.joined
    repeater.joined = lambda *arguments: _put(
        watch, join(*arguments), {"scalars": NUMBERS, "run": COMPILED}
    )
    return repeater


def _no_call(watch: Stopwatch, repeater: Any) -> None:
    """Return no short way."""


def _put(watch: Stopwatch, around: Any, parts: Mapping[str, str]) -> Any:
    """Put the stopwatch around methods of an object, if there is one."""
    if around is not None:
        for name, part in parts.items():
            setattr(around, name, watch.around(part, getattr(around, name)))
    return around

"""A case measured: its contenders in turns, in this process."""

import importlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instep.commands.bench import contenders
from instep.commands.bench.cases import Case
from instep.commands.bench.clocks import REST, EventClock, Step, WallClock, host_seconds, in_turns
from instep.commands.bench.contenders import KIT, LIMITS
from instep.commands.bench.system import total_memory
from instep.commands.bench.traffic import bytes_per_element, passes
from instep.engines.native import control_groups

#: Part of the free memory that the contenders of a case may fill.
_SHARE_OF_MEMORY = 0.7

#: Bytes of memory that a machine is taken to have where the system does not tell.
_UNKNOWN_MEMORY = 8 << 30


@dataclass(frozen=True)
class Result:
    """What came out of a case.

    Attributes
    ----------
    seconds
        Contender -> the seconds of a step, one value a round.
    skipped
        Contender -> why it did not run.
    bytes_per_element
        What the kit's step reads and writes for an element; 0 where it has no graph.
    launches
        Kernels that the kit launches in a step, or calls of compiled code.
    host_seconds
        On a GPU, the time of a step of the kit on the host.
    """

    case: Case
    seconds: Mapping[str, Sequence[float]]
    skipped: Mapping[str, str] = field(default_factory=dict)
    bytes_per_element: int = 0
    launches: int = 0
    host_seconds: float | None = None

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Result":
        """Return the result that `to_json` described."""
        return cls(**{**fields, "case": Case.from_json(fields["case"])})

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data; times to a thousandth."""
        seconds = {
            name: [float(f"{value:.4g}") for value in values]
            for name, values in self.seconds.items()
        }
        return {
            **vars(self),
            "case": self.case.to_json(),
            "seconds": seconds,
            "skipped": dict(self.skipped),
        }

    def median(self, name: str = KIT) -> float:
        """Return the median time of a step in seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, *peers: str) -> float | None:
        """Return how many times faster the kit is than the fastest of these peers.

        Peers that did not run do not count; None if none did.
        """
        fastest = self._fastest(peers)
        return fastest / self.median() if fastest and KIT in self.seconds else None

    def ratio_at_limit(self, *peers: str) -> float | None:
        """Return the ratio that a step of exactly the memory limit would have."""
        fastest, limit = self._fastest(peers), self._fastest(LIMITS)
        return fastest / limit if fastest and limit else None

    def _fastest(self, names: Sequence[str]) -> float | None:
        return min((self.median(name) for name in names if name in self.seconds), default=None)

    @property
    def ran(self) -> tuple[str, ...]:
        """Names of the peers that ran."""
        return tuple(name for name in self.seconds if name != KIT and name not in LIMITS)

    def rate(self, *names: str) -> float | None:
        """Return the bytes of a step that the fastest of these contenders moves in a second."""
        fastest = self._fastest(names)
        return self.bytes_per_element * self.case.elements / fastest if fastest else None

    @property
    def bytes_per_second(self) -> float | None:
        """Memory traffic of the kit in bytes a second."""
        return self.rate(KIT)

    @property
    def limit(self) -> float | None:
        """The memory limit in bytes a second: the faster of the streams that ran."""
        return self.rate(*LIMITS)

    @property
    def share(self) -> float | None:
        """Traffic of the kit as a share of the memory limit."""
        return self.share_of(KIT)

    def share_of(self, name: str) -> float | None:
        """Return the speed of a contender as a share of what the memory allows the kit."""
        seconds, limit = self._fastest((name,)), self._fastest(LIMITS)
        return limit / seconds if seconds and limit else None


def measure(case: Case, names: Sequence[str], *, budget: float) -> Result:
    """Measure contenders on a case in turns.

    Parameters
    ----------
    case
        What is measured. Its number of threads is handed to the contenders; a `Worker` makes
        sure that they keep to it.
    names
        Contenders. Those that cannot run the case, or find no memory left, are skipped.
    budget
        Seconds to measure for, about.
    """
    room = free_memory() * _SHARE_OF_MEMORY
    steps: dict[str, Step] = {}
    skipped: dict[str, str] = {}
    for contender in contenders.load(names, case.backend):
        reason = contender.refuses(case)
        needed = 0 if reason else contender.memory(case)
        if case.backend == "numpy" and needed > room:
            reason = f"needs {needed / 2**30:.1f} GiB, {room / 2**30:.1f} GiB are left"
        if reason is not None:
            skipped[contender.name] = reason
            continue
        room -= needed
        steps[contender.name] = contender.prepare(case)

    on_gpu = case.backend == "cupy"
    rest = 0.0 if on_gpu or case.threads == 1 else REST
    seconds = in_turns(steps, EventClock() if on_gpu else WallClock(), budget=budget, rest=rest)
    traffic = bytes_per_element(case)
    if KIT not in steps:
        return Result(case, seconds, skipped, traffic)
    launches, on_host = _launches(case, steps[KIT]), None
    if on_gpu:
        device = importlib.import_module("cupy").cuda.Device()
        on_host = host_seconds(steps[KIT], device.synchronize)
    return Result(case, seconds, skipped, traffic, launches, on_host)


def _launches(case: Case, step: Step) -> int:
    """Return the number of launches of a step; on a CPU, that of the passes."""
    if case.backend != "cupy":
        return len(passes(case))
    from instep.engines.cuda.counters import counters

    before = counters.launches
    step()
    return counters.launches - before


def free_memory() -> int:
    """Return the bytes of memory that can be had without swapping, or being killed for them."""
    left = control_groups.memory_left()
    return _free_on_machine() if left is None else min(left, _free_on_machine())


def _free_on_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (kibibytes,) = (line.split()[1] for line in lines if line.startswith("MemAvailable"))
        return int(kibibytes) * 1024
    except (OSError, ValueError):
        return (total_memory() or _UNKNOWN_MEMORY) // 2

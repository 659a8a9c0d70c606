"""What is measured in processes of its own: imports, first steps, and peak memory."""

import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

from instep.commands.bench import contenders
from instep.commands.bench.cases import Case
from instep.commands.bench.clocks import Step

_IMPORT = """
import sys, time
import numpy
start = time.perf_counter()
import instep
print(time.perf_counter() - start, *(name for name in ("llvmlite", "cupy") if name in sys.modules))
"""


def import_seconds(times: int) -> dict[str, Any]:
    """Return how long `import instep` takes where NumPy is imported, and what it drew in."""
    found, drawn = [], set()
    for _ in range(times):
        output = subprocess.run(
            [sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True
        ).stdout.split()
        found.append(float(output[0]))
        drawn.update(output[1:])
    return {"median": statistics.median(found), "seconds": found, "imported": sorted(drawn)}


def first_step(case: dict[str, Any], name: str) -> float:
    """Return the seconds of the first step in this process, compilation included.

    To be asked of a new `Worker`. Imports are not counted, but for those that the step itself
    causes.
    """
    step = prepared(name, Case.from_json(case))
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def peak_memory(case: dict[str, Any], name: str) -> dict[str, float | None]:
    """Return what a step takes beyond what is there before it, in arrays like the parameters.

    To be asked of a new `Worker`. `traced` is what Python and NumPy allocated, `resident` the
    growth of the resident memory at its highest; the latter is None where the system does not
    tell. `seconds` is what the step took that `resident` looked at.
    """
    point = Case.from_json(case)
    step = prepared(name, point)
    for _ in range(2):
        step()
    start = time.perf_counter()
    resident = _resident_growth(step)
    seconds = time.perf_counter() - start
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "seconds": seconds,
        "traced": (peak - before) / point.nbytes,
        "resident": None if resident is None else resident / point.nbytes,
    }


def prepared(name: str, case: Case) -> Step:
    """Return what takes the step of a contender, which has to be able to."""
    (contender,) = contenders.load([name], case.backend)
    reason = contender.refuses(case)
    if reason is not None:
        raise RuntimeError(f"{name}: {reason}")
    return contender.prepare(case)


def _resident_growth(step: Step) -> int | None:
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
        before = _status("VmRSS")
        step()
        return _status("VmHWM") - before
    except OSError:
        step()
        return None


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kibibytes) * 1024

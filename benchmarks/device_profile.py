"""What the counters of a GPU say of kernels, by Nsight Compute, and what compute-sanitizer finds.

    python benchmarks/device_profile.py [elements]

Prints bytes moved an element, duration, throughput, registers and occupancy of the last pass of a
step, then the verdicts of the sanitizer's tools on a step of many kernels. A tool that is not there
is said to be missing; on an emulated device the steps alone are taken.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from instep import LAMB, Adam, AdamW, chain
from instep.transforms import average, clip_by_global_norm, skip_nonfinite

METRICS = {
    "dram__bytes_read.sum": "bytes read",
    "dram__bytes_write.sum": "bytes written",
    "gpu__time_duration.sum": "duration",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "of the memory's peak, %",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "of the processors' peak, %",
    "launch__registers_per_thread": "registers",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "warps, %",
}
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")

CASES = {
    "Adam": Adam,
    "Adam, state float8": lambda: Adam(state_dtype="float8"),
    "clipped AdamW": lambda: chain(clip_by_global_norm(1.0), AdamW()),
}


def take_steps(case, elements):
    """Take four steps on one tensor: what is profiled."""
    import cupy

    w = cupy.sin(cupy.arange(elements, dtype="float32"))
    g, optimizer = cupy.cos(3 * w), CASES[case]()
    for _ in range(4):
        optimizer.update(w, g)
    cupy.cuda.Device().synchronize()


def take_many():
    """Take steps through many kernels, each array of them with an allocation of its own."""
    import cupy

    cupy.cuda.set_allocator(None)
    cupy.cuda.set_pinned_memory_allocator(None)
    makers = (
        LAMB,
        lambda: Adam(state_dtype="bfloat16"),
        lambda: Adam(state_dtype="float8"),
        lambda: chain(clip_by_global_norm(1.0), AdamW(), average(0.99)),
        lambda: chain(skip_nonfinite(), AdamW()),
    )
    for make in makers:
        params = {f"{i:03}": cupy.ones(5 + i % 3, "float32") for i in range(300)}
        params["line"] = cupy.ones(40_000, "float32")
        params["strided"] = cupy.ones((60, 80), "float32")[::-2, ::3]
        optimizer = make()
        for step in range(3):
            grads = {key: cupy.full(w.shape, 0.1 * step, "float32") for key, w in params.items()}
            optimizer.update(params, grads)
    cupy.cuda.Device().synchronize()


def measured(case, elements):
    """Return what Nsight Compute measured of the last kernel of a step."""
    command = ["ncu", "--csv", "--clock-control", "none", "--kernel-name", "regex:Adam|Chain"]
    command += ["--launch-skip", "3", "--metrics", ",".join(METRICS), *again("steps")]
    done = subprocess.run(
        [*command, case, str(elements)], capture_output=True, text=True, timeout=300, check=False
    )
    found = {}
    for line in done.stdout.splitlines():
        fields = line.strip('"').split('","')
        for metric, label in METRICS.items():
            if metric in fields:
                found[label] = " ".join(fields[fields.index(metric) + 1 :])
    return found or {"no counters": done.stdout[-300:] + done.stderr[-300:]}


def again(*arguments):
    """Return the command that runs this file with other arguments."""
    return [sys.executable, str(Path(__file__).resolve()), *arguments]


def main(elements):
    from device import IS_EMULATED

    if IS_EMULATED:
        for case in CASES:
            take_steps(case, 1000)
        take_many()
        print("an emulated device has no counters")
        return
    for case in CASES if shutil.which("ncu") else ():
        print(f"{case}, {elements:,} elements")
        for label, value in measured(case, elements).items():
            print(f"  {label:28} {value}")
    for tool in SANITIZERS if shutil.which("compute-sanitizer") else ():
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *again("many")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        print(
            f"{tool}: {done.stdout.strip().splitlines()[-1:]}, exit {done.returncode}", flush=True
        )
    for tool in ("ncu", "compute-sanitizer"):
        if shutil.which(tool) is None:
            print(f"{tool} is not on the PATH")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["steps", case, elements]:
            take_steps(case, int(elements))
        case ["many"]:
            take_many()
        case arguments:
            main(int(arguments[0]) if arguments else 1 << 27)

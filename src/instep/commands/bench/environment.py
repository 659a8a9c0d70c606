"""Where it was measured: the machine, and the versions of all that took part."""

import importlib
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instep import __version__
from instep.commands import info
from instep.commands.bench import system

#: Distributions that take part in a measurement if they are installed; CuPy on a GPU alone.
DISTRIBUTIONS = (
    "numpy",
    "llvmlite",
    "torch",
    "jax",
    "jaxlib",
    "optax",
    "numba",
    "numexpr",
)
CUPY = ("cupy-cuda12x", "cupy-cuda13x", "cupy")


def describe(backends: tuple[str, ...]) -> dict[str, Any]:
    """Return the machine and the versions as plain data."""
    from instep.engines.native.threads import available_threads

    memory = system.total_memory()
    names = DISTRIBUTIONS + (CUPY if "cupy" in backends else ())
    found: dict[str, Any] = {
        "processor": info.model(),
        "cpus": available_threads(),
        "simd": info.simd_target(),
        "memory_gib": None if memory is None else round(memory / 2**30, 1),
        "huge_pages": _huge_pages(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": system.load_average(),
        "versions": {
            "instep": __version__,
            "Python": platform.python_version(),
            **info.installed(names),
        },
    }
    if "cupy" in backends:
        found["gpu"] = info.devices(importlib.import_module("cupy").cuda.runtime)
    return found


def text(found: Mapping[str, Any]) -> str:
    """Return the machine and the versions in two lines, of what `describe` found."""
    cpus = "1 CPU" if found["cpus"] == 1 else f"{found['cpus']} CPUs"
    memory = "" if found["memory_gib"] is None else f", {found['memory_gib']:g} GiB"
    gpus = [name for key, name in found.get("gpu", {}).items() if key.startswith("device")]
    machine = "; ".join([f"{found['processor']}, {cpus} ({found['simd']}){memory}", *gpus])
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return f"{machine}; {found['system']}\n{versions}"


def busy(found: Mapping[str, Any]) -> bool:
    """Return whether others are at work: half a process for each CPU, or one that is always."""
    load, cpus = found["load"], found["cpus"]
    return load is not None and load > min(1.0, cpus / 2)


def _huge_pages() -> str:
    """Return when the system gives huge pages: always, where it is asked to, or never."""
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="ascii")
    except OSError:
        return "unknown"
    return text.partition("[")[2].partition("]")[0]

"""`instep info`: what is installed here, and what runs on it."""

import importlib
import importlib.metadata
import os
import platform
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

#: Distributions whose versions tell something, whether they are installed or not.
DISTRIBUTIONS = (
    "numpy",
    "array-api-compat",
    "llvmlite",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "cupy",
    "torch",
    "jax",
    "matplotlib",
    "rich",
    "safetensors",
)

#: What an x86-64 or an ARM processor calls its vector units, the widest first.
VECTOR_UNITS = ("avx512f", "avx2", "avx", "sse2", "sve2", "sve", "neon")


def report() -> str:
    """Return versions, engines, threads, SIMD target and GPU as text; whatever is missing, it runs.

    Examples
    --------
    >>> from instep.commands.info import report
    >>> print(report())
    Versions
      instep            ...
    """
    parts: dict[str, Callable[[], dict[str, str]]] = {
        "Versions": versions,
        "Engines": engines,
        "Processor": processor,
        "GPU": gpu,
    }
    lines = []
    for heading, part in parts.items():
        lines.append(heading)
        lines += [f"  {name:<17} {' '.join(text.split())}" for name, text in part().items()]
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Return the version of the kit, of Python, and of each distribution that matters."""
    import instep

    found = {"instep": instep.__version__, "Python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name) or "unknown"
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
        except Exception as error:  # noqa: BLE001 - metadata can be damaged in many ways
            found[name] = f"unknown ({describe(error)})"
    if found["cupy-cuda12x"] != "not installed" or found["cupy-cuda13x"] != "not installed":
        del found["cupy"]  # the one that is built from source
    return found


def installed(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of some distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def engines() -> dict[str, str]:
    """Return, for each engine, that it is available, or why not."""
    from instep.engines import available

    return {name: reason or "available" for name, reason in available().items()}


def processor() -> dict[str, str]:
    """Return the processor, the target of the compiled loops, and the number of threads."""
    return {
        "model": model(),
        "SIMD target": simd_target(),
        "threads": threads(),
    }


def model() -> str:
    """Return what the system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())


def simd_target() -> str:
    """Return the processor for which LLVM compiles, with its widest vector unit."""
    try:
        # By its name, for this describes llvmlite and does not use it.
        llvm = importlib.import_module("llvmlite.binding")
        features = llvm.get_host_cpu_features()
        units = [name for name in VECTOR_UNITS if features.get(name)]
        return f"{llvm.get_host_cpu_name()}, {next(iter(units), 'no vector unit known')}"
    except Exception as error:  # noqa: BLE001 - as CuPy: a damaged library fails in many ways
        return f"unknown ({describe(error)})"


def threads() -> str:
    """Return the number of threads of the CPU engines, and where it comes from."""
    from instep.engines.native.threads import VARIABLE, available_threads, thread_count

    source = f"the process may use {available_threads()} CPUs"
    if VARIABLE in os.environ:
        source += f"; {VARIABLE}={os.environ[VARIABLE]}"
    try:
        return f"{thread_count(None)} ({source})"
    except ValueError as error:
        return f"unknown ({error})"


def gpu() -> dict[str, str]:
    """Return the CUDA devices that CuPy sees, or why it sees none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy warns of a missing toolkit when imported
            runtime = importlib.import_module("cupy").cuda.runtime
        return devices(runtime)
    except Exception as error:  # noqa: BLE001 - without a driver, CuPy fails in many ways
        return {"CuPy": f"no device ({describe(error)})"}


def devices(runtime: Any) -> dict[str, str]:
    """Return the version of the CUDA runtime and each device."""
    version = runtime.runtimeGetVersion()
    found = {"CUDA runtime": f"{version // 1000}.{version % 1000 // 10}"}
    for number in range(runtime.getDeviceCount()):
        properties = runtime.getDeviceProperties(number)
        found[f"device {number}"] = (
            f"{properties['name'].decode()}, compute capability "
            f"{properties['major']}.{properties['minor']}, "
            f"{properties['totalGlobalMem'] / 2**30:.1f} GiB"
        )
    return found


def describe(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"

#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox[uv]>=2025.2.9"]
# ///
"""Every check of the project, each in an environment of its own: `nox -l` lists them."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")

SUPPORTED = ("3.11", "3.12", "3.13", "3.14")

# pip follows a machine's configuration to a CPU build of torch; uv does not read it.
TORCH_BACKEND = "virtualenv"

# On a CI machine each slow test runs once, in the environment that the README makes; those that
# compare with peers run at a desk alone. The others, where they have parameters, are divided among
# that one, which `.ci/run` gives the first share, and those with other versions.
SELECTION = ("-m", "not slow") if "CI" in os.environ else ()
SECOND, THIRD, FOURTH = ((*SELECTION, "--share", f"{n}/4") if SELECTION else () for n in (2, 3, 4))

# Kernels take long on the stand-in: a quarter of its tests with parameters for CUDA 12, and another
# for CUDA 13. What NVRTC makes of them, each of its versions shows of one half.
CUDA = (nox.param("12", id="12"), nox.param("13", id="13"))
ON_STAND_IN = {"12": "1/4", "13": "2/4"}
COMPILED = {"12": "1/2", "13": "2/2"}

# Nothing is built but the project itself.
WHEELS = ("--only-binary", ":all:", "--no-binary", PROJECT["project"]["name"])

# What shows most on another processor: operations, rules, matrices and sums, engine by engine.
SAME_BITS = (
    "tests/test_operations.py",
    "tests/test_user_rules.py",
    "tests/test_whole_arrays.py",
    "tests/test_canonical_sum.py",
)

# What a GPU is asked beside the tests: times, other grids and blocks, counters and sanitizers.
ON_DEVICE = (
    "benchmarks/device.py",
    "benchmarks/device_sweep.py",
    "benchmarks/device_profile.py",
)

# NVRTC and the CUDA headers compile; ptxas and nvdisasm show what became of it.
CUDA_TOOLS = {
    "12": (
        "nvidia-cuda-nvrtc-cu12",
        "nvidia-cuda-runtime-cu12",
        "nvidia-cuda-nvcc-cu12",
        "nvidia-cuda-nvdisasm",
    ),
    "13": (
        "nvidia-cuda-nvrtc",
        "nvidia-cuda-runtime",
        "nvidia-cuda-nvcc",
        "nvidia-cuda-nvdisasm",
    ),
}


def share_of_cuda(shares: dict[str, str], cuda: str) -> tuple[str, ...]:
    """Return the option for the tests that run with this CUDA, on a CI machine."""
    return ("--share", shares[cuda]) if SELECTION else ()


def activate_pyenv() -> None:
    """Let pyenv's launchers start each supported Python that pyenv holds."""
    if shutil.which("pyenv") is None or "PYENV_VERSION" in os.environ:
        return
    listing = subprocess.run(
        ["pyenv", "versions", "--bare"], capture_output=True, text=True, check=False
    )
    supported = [
        version
        for version in listing.stdout.split()
        if ".".join(version.split(".")[:2]) in SUPPORTED
    ]
    if supported:
        os.environ["PYENV_VERSION"] = ":".join(supported)


def runs(python: str) -> bool:
    """Tell whether `python` starts; pyenv leaves launchers for Pythons it does not hold."""
    command = shutil.which(python)
    if command is None:
        return False
    return subprocess.run([command, "--version"], capture_output=True, check=False).returncode == 0


activate_pyenv()
PYTHONS = [version for version in SUPPORTED if runs(f"python{version}")] or [
    f"{sys.version_info.major}.{sys.version_info.minor}"
]
# On a CI machine the README's own command runs the suite with this Python, and the oldest and the
# newest stand for those between.
COVERED = f"{sys.version_info.major}.{sys.version_info.minor}" if "CI" in os.environ else ""
NEWEST = [python for python in PYTHONS[-1:] if python != COVERED]


def group(name: str) -> list[str]:
    """List the requirements of a dependency group, whatever pip's version."""
    return list(nox.project.dependency_groups(PROJECT, name))


@nox.session(python=(NEWEST or PYTHONS[:1]) if "CI" in os.environ else PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the suite on the installed Pythons, with the newest dependencies."""
    session.install(".[compare]", *group("tests"))
    session.run("pytest", *SECOND, *session.posargs)


# On a CI machine the oldest Python is enough.
@nox.session(python=PYTHONS[:1] if "CI" in os.environ else PYTHONS, venv_backend="uv")
def oldest(session: nox.Session) -> None:
    """Run the suite with the oldest version of every dependency that pyproject.toml allows."""
    session.install(*WHEELS, "--resolution", "lowest-direct", ".[compare]", *group("tests"))
    session.run("pytest", *THIRD, *session.posargs)


@nox.session
def strict(session: nox.Session) -> None:
    """Show that the engines keep to the array API standard, on array-api-strict."""
    session.install(".", *group("tests"))
    session.run("pytest", "tests", "--xp", "array_api_strict", *session.posargs)


@nox.session
def minimal(session: nox.Session) -> None:
    """Run the suite with NumPy and array-api-compat alone: no compiler, no extras."""
    session.install("numpy", "array-api-compat", *group("tests"))
    session.install("--no-deps", ".")
    session.run("pytest", "tests", *FOURTH, *session.posargs)


@nox.session(default=False, venv_backend=TORCH_BACKEND)
def peers(session: nox.Session) -> None:
    """Compare with torch, JAX and optax: their arrays, and their optimizers."""
    session.install(".", *group("tests"), *group("peers"))
    libraries = ("--xp", "torch", "--xp", "jax.numpy")
    session.run("pytest", "tests", *libraries, *SELECTION, *session.posargs)
    # By themselves, for tests let JAX have numbers of 64 bits.
    session.run("pytest", "docs/bridges.md", "src/instep/bridges")


@nox.session(default=False)
@nox.parametrize("cuda", CUDA)
def stand_in(session: nox.Session, cuda: str) -> None:
    """Run the CuPy tests with no GPU: CuPy itself, on an emulated CUDA driver."""
    beside = ROOT.parent / "shared" / "cupy-on-cpu"
    source = Path(os.environ.get("INSTEP_CUPY_ON_CPU", beside))
    if not (source / "pyproject.toml").is_file():
        session.skip("no CUDA emulator: set INSTEP_CUPY_ON_CPU to the folder of cupy-on-cpu")
    # Built from a copy, for setuptools writes into the folder that it builds.
    copy = Path(session.create_tmp()) / "cupy-on-cpu"
    shutil.copytree(source, copy, copy_function=shutil.copyfile, dirs_exist_ok=True)
    groups = (*group("mpi"), *group("benchmarks"))
    session.install(".", str(copy), *groups, env={"CUPY_ON_CPU_CUDA": cuda})
    on_cpu, share = ("python", "-m", "cupy_on_cpu"), share_of_cuda(ON_STAND_IN, cuda)
    session.run(*on_cpu, "-m", "pytest", "tests", "--xp", "cupy", *share, *session.posargs)
    # So that they keep working; their times mean nothing.
    for script in ON_DEVICE:
        session.run(*on_cpu, script)
    corner = ("--budget", "0.01", "--peers", "listing", "-k", "tiny and plain or small_step")
    record = ("--record", str(Path(session.create_tmp()) / "bench.json"))
    session.run(*on_cpu, "-m", "pytest", "benchmarks", "--backend", "cupy", *corner, *record)


@nox.session(default=False)
def mpi(session: nox.Session) -> None:
    """Take steps on one to four processes, with the wheels of mpi4py and MPICH."""
    session.install(".", *group("mpi"))
    session.run("pytest", "tests/distributed", *session.posargs)
    session.run("python", "benchmarks/distributed.py", "--quick")  # so that it keeps working


@nox.session(default=False)
@nox.parametrize("cuda", CUDA)
def cuda_compile(session: nox.Session, cuda: str) -> None:
    """Compile the emitted CUDA code for every architecture and read the result; no GPU."""
    folder = ROOT / "tests" / "cuda"
    if not folder.is_dir():
        session.skip("tests/cuda does not exist")
    session.install(".", *group("tests"), *CUDA_TOOLS[cuda])
    # Those that compile nothing are run by other sessions.
    files = [str(file) for file in folder.glob("test_*.py") if "machine_code" in file.read_text()]
    session.run("pytest", *sorted(files), *share_of_cuda(COMPILED, cuda), *session.posargs)


@nox.session(default=False, venv_backend="uv")
def aarch64(session: nox.Session) -> None:
    """Run what compares bits on an emulated ARM processor; CONTRIBUTING.md says what it needs."""
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    root = os.environ.get("INSTEP_AARCH64_ROOT", "")
    pythons = sorted(Path(root).glob("usr/bin/python3.[0-9]*[0-9]")) if root else []
    if emulator is None:
        session.skip("no emulator: install qemu-user-static")
    if not pythons:
        session.skip("no Python for ARM: set INSTEP_AARCH64_ROOT to a root file system with one")
    folder = Path(session.create_tmp()).absolute()
    # What tests start themselves is emulated too, for Python takes this script for itself.
    python = folder / "bin" / "python"
    python.parent.mkdir(exist_ok=True)
    command = shlex.join([emulator, "-L", root]), shlex.quote(str(pythons[-1]))
    python.write_text(f'#!/bin/sh\nexec {command[0]} -0 "$0" {command[1]} "$@"\n', "utf-8")
    python.chmod(0o755)
    session.install(
        *("--target", str(folder / "packages"), "--upgrade"),
        *("--python-platform", "aarch64-manylinux_2_28"),
        *("--python-version", pythons[-1].name.removeprefix("python")),
        *(*WHEELS, ".", *group("tests")),
    )
    session.run(
        *(str(python), "-m", "pytest", "-p", "no:cacheprovider"),
        *(session.posargs or (*SAME_BITS, "-m", "not slow")),
        env={"PYTHONPATH": str(folder / "packages"), "PYTHONNOUSERSITE": "1"},
        external=True,
    )


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """Run the CuPy tests and benchmarks on a real GPU; `nox -s gpu -- cuda13`: the other wheel."""
    posargs = list(session.posargs)
    extra = posargs.pop(0) if posargs[:1] in (["cuda12"], ["cuda13"]) else "cuda12"
    session.install(f".[{extra}]", *group("benchmarks"))
    session.run("pytest", "tests", "--xp", "cupy", *posargs)
    for script in ON_DEVICE:
        session.run("python", script)
    session.run("pytest", "benchmarks", "--backend", "cupy")


@nox.session(default=False, venv_backend=TORCH_BACKEND)
def bench(session: nox.Session) -> None:
    """Measure against the peers, in one run."""
    session.install(".", *group("benchmarks"), *group("contenders"), *group("peers"))
    session.run("pytest", "benchmarks", "--benchmark-columns=median,iqr,rounds", *session.posargs)


@nox.session(default=False)
def bench_smoke(session: nox.Session) -> None:
    """Run a corner of the benchmarks, so that they keep working; its times mean nothing."""
    session.install(".", *group("benchmarks"))
    session.run(
        "pytest",
        "benchmarks",
        *("--budget", "0.01", "--peers", "listing"),
        *("-k", "tiny or small_step or test_dtype or test_size and 1000"),
        *("--record", str(Path(session.create_tmp()) / "bench.json")),
        *session.posargs,
    )


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, warnings being errors, and run its examples."""
    session.install(".[compare]", *group("docs"))
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-q", "docs", "docs/_build/html")
    session.run("pytest", "README.md", "docs", "src", *session.posargs)


@nox.session(default=False)
def pages(session: nox.Session) -> None:
    """Look at every page at two widths, light and dark, and take pictures; needs Chromium."""
    session.install(".[compare]", *group("docs"))
    session.run("sphinx-build", "-n", "-W", "--keep-going", "-q", "docs", "docs/_build/html")
    shots = ("--shots", "docs/_build/shots")
    session.run("python", "docs/check_pages.py", "docs/_build/html", *shots, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, and who may import whom."""
    session.install("--no-deps", ".")
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types, those of the examples too, with mypy and pyright."""
    session.install(".", *group("types"))
    session.run("mypy")
    session.run("python", "tests/check_snippets.py")


if __name__ == "__main__":
    nox.main()

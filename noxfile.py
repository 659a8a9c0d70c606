"""Every check of the project, each in an environment of its own: `nox -l` lists them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "docs", "tests", "strict", "minimal"]

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")

# The oldest NumPy 2 that has wheels for each Python.
NUMPY_FLOOR = {"3.11": "2.0.*", "3.12": "2.0.*", "3.13": "2.1.*", "3.14": "2.3.*"}

# pip follows a machine's configuration to a CPU build of torch; uv does not read it.
TORCH_BACKEND = "virtualenv"

# On a CI machine each slow test runs once, in the environment that the README makes.
SELECTION = ("-m", "not slow") if "CI" in os.environ else ()

# NVRTC and the CUDA headers compile; ptxas and nvdisasm show what became of it.
CUDA_TOOLS = (
    "nvidia-cuda-nvrtc-cu12",
    "nvidia-cuda-runtime-cu12",
    "nvidia-cuda-nvcc-cu12",
    "nvidia-cuda-nvdisasm",
)


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
        if ".".join(version.split(".")[:2]) in NUMPY_FLOOR
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
PYTHONS = [version for version in NUMPY_FLOOR if runs(f"python{version}")] or [
    f"{sys.version_info.major}.{sys.version_info.minor}"
]
# On a CI machine the README's own command has run the suite with this Python.
COVERED = f"{sys.version_info.major}.{sys.version_info.minor}" if "CI" in os.environ else ""
NUMPYS = [
    (PYTHONS[0], NUMPY_FLOOR[PYTHONS[0]]),
    *((python, "latest") for python in PYTHONS if python != COVERED),
]


def group(name: str) -> list[str]:
    """List the requirements of a dependency group, whatever pip's version."""
    return list(nox.project.dependency_groups(PROJECT, name))


@nox.session
@nox.parametrize(
    ["python", "numpy"], NUMPYS, ids=[f"{python}, NumPy {numpy}" for python, numpy in NUMPYS]
)
def tests(session: nox.Session, numpy: str) -> None:
    """Run the suite on each installed Python, and on the oldest NumPy."""
    pin = [] if numpy == "latest" else [f"numpy=={numpy}"]
    session.install(".[compare]", *group("tests"), *pin)
    session.run("pytest", *SELECTION, *session.posargs)


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
    session.run("pytest", "tests", *SELECTION, *session.posargs)


@nox.session(venv_backend=TORCH_BACKEND)
def peers(session: nox.Session) -> None:
    """Compare with torch, JAX and optax: their arrays, and their optimizers."""
    session.install(".", *group("tests"), *group("peers"))
    session.run("pytest", "tests", "--xp", "torch", "--xp", "jax.numpy", *session.posargs)


@nox.session
def stand_in(session: nox.Session) -> None:
    """Run the CuPy tests with no GPU: CuPy itself, on an emulated CUDA driver."""
    beside = ROOT.parent / "shared" / "cupy-on-cpu"
    source = Path(os.environ.get("INSTEP_CUPY_ON_CPU", beside))
    if not (source / "pyproject.toml").is_file():
        session.skip("no CUDA emulator: set INSTEP_CUPY_ON_CPU to the folder of cupy-on-cpu")
    # Built from a copy, for setuptools writes into the folder that it builds.
    copy = Path(session.create_tmp()) / "cupy-on-cpu"
    shutil.copytree(source, copy, copy_function=shutil.copyfile, dirs_exist_ok=True)
    session.install(".", str(copy), *group("tests"))
    on_cpu = ("python", "-m", "cupy_on_cpu", "-m")
    session.run(*on_cpu, "pytest", "tests", "--xp", "cupy", *session.posargs)


@nox.session
def cuda_compile(session: nox.Session) -> None:
    """Compile the emitted CUDA code for every architecture and read the result; no GPU."""
    folder = ROOT / "tests" / "cuda"
    if not folder.is_dir():
        session.skip("tests/cuda does not exist")
    session.install(".", *group("tests"), *CUDA_TOOLS)
    session.run("pytest", str(folder), *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """Run the CuPy tests on a real GPU; `nox -s gpu -- cuda13` takes the other wheel."""
    posargs = list(session.posargs)
    extra = posargs.pop(0) if posargs[:1] in (["cuda12"], ["cuda13"]) else "cuda12"
    session.install(f".[{extra}]", *group("tests"))
    session.run("pytest", "tests", "--xp", "cupy", *posargs)


@nox.session(venv_backend=TORCH_BACKEND)
def bench(session: nox.Session) -> None:
    """Measure against the peers, in one run."""
    session.install(".", *group("benchmarks"), *group("contenders"), *group("peers"))
    session.run("pytest", "benchmarks", "--benchmark-columns=median,iqr,rounds", *session.posargs)


@nox.session
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
    """Check the types."""
    session.install(".", *group("types"))
    session.run("mypy")

# ruff: noqa: SLF001  (it looks inside on purpose)
"""Without CuPy, a GPU or a driver: NumPy is untouched, and CuPy requests say what to do."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import stand_in

from instep.engines.cuda import availability


def run(code, **environment):
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


NUMPY_PROGRAM = """
import sys
import tempfile
import numpy as np
import instep
from instep.transforms import average, clip_by_global_norm, skip_nonfinite

for engine in ("auto", "native", "blocked", "array_api"):
    if engine == "native":
        from instep.engines import load
        if load(engine).unavailable():
            continue
    parts = skip_nonfinite(), clip_by_global_norm(1.0), instep.Adam(), average(0.9)
    w = {"w": np.ones(3)}
    optimizer = instep.chain(*parts, engine=engine)
    optimizer.update(w, {"w": np.ones(3)})
    optimizer.explain(w)
    optimizer.averaged(w)
    optimizer.load_state_dict(optimizer.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        optimizer.save(f"{folder}/state.npz")
        optimizer.load(f"{folder}/state.npz")
assert not any(name.partition(".")[0].startswith("cupy") for name in sys.modules)
"""


def test_numpy_updates_import_no_cupy():
    run(NUMPY_PROGRAM)


# CuPy that is there, and cannot be imported ------------------------------------------------------


ASKING_PROGRAM = """
import contextlib
import io
from instep import engines
from instep.commands.cli import main

# What is installed here does not matter: the module is found on the path.
engines.load("cuda")
from instep.engines.cuda import availability
availability.cupy_packages = lambda: ["cupy-cuda12x"]

reason = engines.available()["cuda"]
assert engines.available()["cuda"] == reason
text = io.StringIO()
with contextlib.redirect_stdout(text):
    assert main(["info"]) == 0
assert " ".join(reason.split()) in text.getvalue()
assert "no device" in text.getvalue()
print(reason)
"""

INSTALL = "pip install 'instep[cuda12]'"
FOLDER = "set CUPY_CACHE_DIR to a folder that can be written to"

#: What the module does when it is imported -> what is said: the cause, and the remedy.
BROKEN = {
    "no home": (
        "raise RuntimeError('Could not determine home directory.')",
        ("RuntimeError: Could not determine home directory.", FOLDER),
    ),
    "a home of nobody": ("import os; os.makedirs(__file__ + '/.cupy')", ("Error: [Errno ", FOLDER)),
    "a home that is read-only": (
        "raise OSError(30, 'Read-only file system', '/home/me/.cupy')",
        ("OSError: [Errno 30] Read-only file system: '/home/me/.cupy'", FOLDER),
    ),
    "a library that is missing": (
        "import ctypes; ctypes.CDLL('libnot-there.so.12')",
        ("(OSError: libnot-there.so.12", INSTALL),
    ),
    "a library that is missing, with a page of advice": (
        """
try:
    raise ImportError("libnvrtc.so.12: cannot open shared object file")
except ImportError as error:
    raise ImportError("=====\\nAdvice\\n=====") from error
""",
        ("(ImportError: libnvrtc.so.12: cannot open shared object file)", INSTALL),
    ),
    "an older NumPy": (
        "raise AttributeError('module numpy has no attribute bool8')",
        ("AttributeError: module numpy has no attribute bool8", "python -c 'import cupy'"),
    ),
    "no words": ("raise KeyError", ("(KeyError)", "python -c 'import cupy'")),
    "half a package": ("", ("this is not the CuPy that is wanted (AttributeError: ", INSTALL)),
    "half a driver": (
        """
class cuda:
    class runtime:
        is_hip = False
        def getDeviceCount():
            raise OSError("driver/library mismatch")
""",
        ("CUDA does not start (OSError: driver/library mismatch)", "nvidia-smi"),
    ),
    "no compiler": (
        """
class cuda:
    class runtime:
        is_hip = False
        def getDeviceCount():
            return 1
    class nvrtc:
        def getVersion():
            raise RuntimeError("Failed to dlopen libnvrtc.so.12")
""",
        ("NVRTC, which compiles", "Failed to dlopen libnvrtc.so.12", "'cupy-cuda12x[ctk]'"),
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_cupy_that_does_not_start_is_unavailable_for_a_reason(what, tmp_path):
    source, said = BROKEN[what]
    package = tmp_path / "cupy"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    output = run(ASKING_PROGRAM, PYTHONPATH=path)
    for part in said:
        assert part in output
    assert output.count("\n") == 1, "one line"


def test_an_empty_folder_called_cupy_is_no_cupy(tmp_path, monkeypatch):
    (tmp_path / "cupy").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(availability, "cupy_packages", list)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    assert "CuPy is not installed" in availability.problem.__wrapped__()


def test_damaged_packages_bring_no_cupy(tmp_path, monkeypatch):
    (tmp_path / "cupy_cuda12x-13.4.0.dist-info").mkdir()
    damaged = tmp_path / "other-1.0.dist-info"
    damaged.mkdir()
    (damaged / "METADATA").write_bytes(b"\xff\xfe")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert availability.cupy_packages() == []


def test_without_a_home_kernels_are_kept_in_memory_alone(monkeypatch):
    """Not every user has one: containers run as a number that no list of users knows."""
    from instep.engines.cuda import compile as compilation

    def nobody(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CUPY_CACHE_DIR", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert compilation._cache_folder() is None
    monkeypatch.setenv("CUPY_CACHE_DIR", "/somewhere")
    assert compilation._cache_folder() == Path("/somewhere")


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path):
    from instep.engines.cuda import compile as compilation

    (tmp_path / "file").write_text("no folder")
    compilation._write(tmp_path / "file" / "kernel.cubin", b"machine code")
    assert compilation._read(tmp_path / "file" / "kernel.cubin") is None


# CuPy that is not there ---------------------------------------------------------------------------


def test_without_cupy_a_request_says_what_to_install():
    output = run(
        "import sys\n"
        "sys.modules['cupy'] = None\n"
        "from instep.engines.cuda import availability\n"
        "availability.cupy_packages = lambda: []\n"
        "import numpy as np, instep\n"
        "try: instep.Adam(engine='cuda').update(np.ones(3), np.ones(3))\n"
        "except ValueError as error: print(error)"
    )
    assert "engine='cuda' was asked for, but CuPy is not installed; pip install" in output


def test_two_packages_of_cupy_are_named(monkeypatch):
    monkeypatch.setattr(availability, "cupy_packages", lambda: ["cupy-cuda12x", "cupy-cuda13x"])
    problem = availability.problem.__wrapped__()
    assert "cupy-cuda12x and cupy-cuda13x are installed together" in problem
    assert "uninstall them all, then install one" in problem


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        ("cudaErrorInsufficientDriver: CUDA driver version is insufficient", "update the NVIDIA"),
        ("cudaErrorNoDevice: no CUDA-capable device is detected", "CUDA_VISIBLE_DEVICES"),
        ("cudaErrorUnknown: unknown error", "check that nvidia-smi runs"),
    ],
)
def test_an_error_of_the_driver_comes_with_its_remedy(cupy, error, remedy, monkeypatch):
    def fail():
        raise RuntimeError(error)

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", fail)
    problem = availability.problem.__wrapped__()
    assert error in problem
    assert remedy in problem


def test_no_device_is_said(cupy, monkeypatch):
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    assert "no CUDA device" in availability.problem.__wrapped__()


@pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None or stand_in.has_driver(),
    reason="this is about CuPy without a driver",
)
def test_without_a_driver_numpy_works_and_cuda_says_why():
    output = run(
        "import numpy as np, instep\n"
        "w = np.ones(3)\n"
        "instep.Adam().update(w, np.ones(3))\n"
        "assert w[0] != 1\n"
        "try: instep.Adam(engine='cuda').update(w, np.ones(3))\n"
        "except ValueError as error: print(error)"
    )
    if stand_in.why_not_imported() is None:
        assert "CUDA does not start" in output
        assert "driver" in output
    else:
        assert "CuPy cannot be imported" in output

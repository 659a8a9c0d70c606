"""Without CuPy, a GPU or a driver: NumPy is untouched, and CuPy requests say what to do."""

import importlib.util
import subprocess
import sys

import pytest
import stand_in

from instep.engines.cuda import availability


def run(code):
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_numpy_updates_import_no_cupy():
    run(
        "import sys, numpy as np, instep\n"
        "w = np.ones(3)\n"
        "optimizer = instep.Adam()\n"
        "optimizer.update(w, w.copy())\n"
        "optimizer.explain(w)\n"
        "assert not any(name.partition('.')[0].startswith('cupy') for name in sys.modules)"
    )


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
    assert "CUDA does not start" in output
    assert "driver" in output

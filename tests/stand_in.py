"""CuPy without a GPU: a stand-in for the CUDA driver, activated where there is no real one.

The stand-in (cupy-on-cpu) runs the real CuPy on the CPU. It is looked for in the folder that the
environment variable INSTEP_CUPY_ON_CPU names, as an installed package, and in
`../shared/cupy-on-cpu` beside the checkout.
"""

import ctypes
import functools
import importlib
import importlib.util
import os
import sys
from pathlib import Path

VARIABLE = "INSTEP_CUPY_ON_CPU"

_BESIDE = Path(__file__).parents[2] / "shared" / "cupy-on-cpu"


def has_driver():
    """Return whether a CUDA driver with a device is there; it imports no CuPy."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int()
        return (
            driver.cuInit(0) == 0
            and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
            and count.value > 0
        )
    except (OSError, AttributeError):
        return False


@functools.cache
def why_no_cupy():
    """Make CuPy ready to be imported; return None, or why it cannot be tested here."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed"
    return why_no_device() or why_not_imported()


def why_not_imported():
    """Import CuPy; return None, or why that fails: without a home, say, or a library."""
    try:
        importlib.import_module("cupy")
    except Exception as error:  # noqa: BLE001  (whatever it is, CuPy cannot be tested here)
        return f"CuPy is installed but cannot be imported: {type(error).__name__}: {error}"
    return None


def why_no_device():
    """Start the stand-in where there is no CUDA device; return None, or why it does not start."""
    if has_driver():
        return None
    folder = os.environ.get(VARIABLE)
    if folder is not None and not (Path(folder) / "cupy_on_cpu").is_dir():
        return f"{VARIABLE} names {folder}, where there is no package cupy_on_cpu"
    if folder is None and importlib.util.find_spec("cupy_on_cpu") is None:
        if not (_BESIDE / "cupy_on_cpu").is_dir():
            return (
                f"there is no CUDA device, and no stand-in for one: set {VARIABLE} to the folder "
                f"of cupy-on-cpu"
            )
        folder = str(_BESIDE)
    if folder is not None:
        sys.path.insert(0, folder)
    try:
        import cupy_on_cpu

        cupy_on_cpu.activate()
    except Exception as error:  # noqa: BLE001  (it needs a compiler, Cython, one version of CuPy)
        return f"the stand-in for a CUDA device does not start: {error}"
    return None

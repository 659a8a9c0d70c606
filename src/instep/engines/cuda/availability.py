"""Whether CUDA can be used here, and what to do if not."""

import importlib.metadata
import importlib.util
from functools import cache

_INSTALL = "pip install instep[cuda12], or instep[cuda13] where the driver is one of CUDA 13"


@cache
def problem() -> str | None:
    """Return None, or why no CUDA kernel can run in this process, with the remedy.

    It imports CuPy, so it is asked only where CuPy is wanted.
    """
    return _package_problem() or _device_problem()


def _package_problem() -> str | None:
    wheels = cupy_packages()
    if not wheels and importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed; {_INSTALL}"
    if len(wheels) > 1:
        return (
            f"the packages {' and '.join(wheels)} are installed together, and overwrite each "
            f"other's files; uninstall them all, then install one: {_INSTALL}"
        )
    return None


def _device_problem() -> str | None:
    try:
        import cupy

        if cupy.cuda.runtime.is_hip:
            return "this CuPy is built for AMD's HIP, and the kernels are written for CUDA"
        count = cupy.cuda.runtime.getDeviceCount()
    except ImportError as error:
        return f"CuPy cannot be imported ({error}); reinstall it: {_INSTALL}"
    except RuntimeError as error:  # CUDARuntimeError is one
        return f"CUDA does not start ({error}); {_remedy(str(error))}"
    if count == 0:
        return "CuPy finds no CUDA device; check that nvidia-smi lists one"
    return None


def cupy_packages() -> list[str]:
    """Return the distributions that bring the module `cupy`."""
    names = {
        (distribution.metadata["Name"] or "").lower()
        for distribution in importlib.metadata.distributions()
    }
    return sorted(
        name for name in names if name == "cupy" or name.startswith(("cupy-cuda", "cupy-rocm"))
    )


def _remedy(error: str) -> str:
    if "InsufficientDriver" in error:
        return "update the NVIDIA driver, or install the CuPy of an older CUDA version"
    if "NoDevice" in error:
        return "check that nvidia-smi lists a device and that CUDA_VISIBLE_DEVICES does not hide it"
    return "check that nvidia-smi runs, and that the NVIDIA driver is as new as CuPy's CUDA version"

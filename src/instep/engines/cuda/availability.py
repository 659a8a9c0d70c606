"""Whether CUDA can be used here, and what to do if not."""

import importlib.metadata
import importlib.util
from functools import cache
from typing import Any

_INSTALL = "pip install 'instep[cuda12]', or 'instep[cuda13]' where the driver is one of CUDA 13"


@cache
def problem() -> str | None:
    """Return None, or why no CUDA kernel can run in this process, with the remedy.

    It imports CuPy, so it is asked only where CuPy is wanted.
    """
    return _package_problem() or _device_problem()


def _package_problem() -> str | None:
    wheels = cupy_packages()
    if not wheels and not _is_there():
        return f"CuPy is not installed; {_INSTALL}"
    if len(wheels) > 1:
        return (
            f"the packages {' and '.join(wheels)} are installed together, and overwrite each "
            f"other's files; uninstall them all, then install one: {_INSTALL}"
        )
    return None


def _is_there() -> bool:
    """Return whether there is a module `cupy`; a folder of that name alone is none."""
    try:
        spec = importlib.util.find_spec("cupy")
    except ValueError:  # something stands in sys.modules under this name: its import will tell
        return True
    return spec is not None and spec.origin is not None


def _device_problem() -> str | None:
    try:
        import cupy
    except TimeoutError:  # from the handler of a signal: nothing is known yet
        raise
    except Exception as error:  # noqa: BLE001 - it asks the system for much, and all may be missing
        cause = _cause(error)
        return f"CuPy cannot be imported ({_describe(cause)}); {_import_remedy(cause)}"
    try:
        if cupy.cuda.runtime.is_hip:
            return "this CuPy is built for AMD's HIP, and the kernels are written for CUDA"
        count = cupy.cuda.runtime.getDeviceCount()
    except AttributeError as error:
        return f"this is not the CuPy that is wanted ({_describe(error)}); reinstall it: {_INSTALL}"
    except Exception as error:  # noqa: BLE001 - CUDARuntimeError, or whatever a damaged driver brings
        return f"CUDA does not start ({_describe(error)}); {_device_remedy(str(error))}"
    if count == 0:
        return "CuPy finds no CUDA device; check that nvidia-smi lists one"
    return _compiler_problem(cupy)


def _compiler_problem(cupy: Any) -> str | None:
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:  # noqa: BLE001 - CuPy looks for it now, in all places that it knows
        names = cupy_packages()
        name = f"{names[0]}[ctk]" if names else "nvidia-cuda-nvrtc"
        return (
            f"NVRTC, which compiles the kernels, cannot be loaded ({_describe(_cause(error))}); "
            f"install it: pip install '{name}'"
        )
    return None


def cupy_packages() -> list[str]:
    """Return the distributions that bring the module `cupy`."""
    names = {_name(distribution) for distribution in importlib.metadata.distributions()}
    return sorted(
        name for name in names if name == "cupy" or name.startswith(("cupy-cuda", "cupy-rocm"))
    )


def _name(distribution: importlib.metadata.Distribution) -> str:
    """Return the name of a distribution; an empty text where its files are damaged."""
    try:
        return (distribution.metadata["Name"] or "").lower()
    except Exception:  # noqa: BLE001 - another package's damage is no matter of CUDA's
        return ""


def _cause(error: BaseException) -> BaseException:
    """Return what an error came from: CuPy wraps it into a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _describe(error: BaseException) -> str:
    """Return an error in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _import_remedy(cause: BaseException) -> str:
    # A library that cannot be loaded is an OSError too, but one without a number.
    if (isinstance(cause, OSError) and cause.errno is not None) or "home" in str(cause).lower():
        return "set CUPY_CACHE_DIR to a folder that can be written to, or HOME to one that exists"
    if isinstance(cause, (ImportError, OSError)):
        return f"reinstall it: {_INSTALL}"
    return f"see the whole error with: python -c 'import cupy'; or reinstall it: {_INSTALL}"


def _device_remedy(error: str) -> str:
    if "InsufficientDriver" in error:
        return "update the NVIDIA driver, or install the CuPy of an older CUDA version"
    if "NoDevice" in error:
        return "check that nvidia-smi lists a device and that CUDA_VISIBLE_DEVICES does not hide it"
    return "check that nvidia-smi runs, and that the NVIDIA driver is as new as CuPy's CUDA version"

"""CUDA C++ to kernels, with NVRTC, kept in memory and on disk.

CuPy's own ways to compile (`RawModule` and the like) append ``-ftz=true``, which flushes
subnormal numbers to zero, so NVRTC is called here. Everything else is as CuPy does it: the
architecture, the headers, and the folder of compiled kernels.
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

#: No contraction to fused multiply-adds, no flushing of subnormal numbers, and division and root
#: as IEEE 754 rounds them.
OPTIONS = ("-std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true")

_kernels: dict[tuple[int, str, str], Any] = {}


def load(source: str, name: str) -> Any:
    """Return the kernel `name` of `source`, for the current device.

    Equal text is compiled once for an architecture, whatever the process, and loaded once for a
    device.
    """
    import cupy

    key = (cupy.cuda.runtime.getDevice(), name, source)
    kernel = _kernels.get(key)
    if kernel is None:
        module = cupy.cuda.function.Module()
        module.load(_binary(source))
        kernel = _kernels[key] = module.get_function(name)
    return kernel


def _binary(source: str) -> bytes:
    """Return the machine code of `source` for the current device, from disk if it is there."""
    from cupy.cuda import compiler

    path = _cache_path(source)
    found = _read(path)
    if found is not None:
        return found
    options = OPTIONS + (_include_options() if "#include" in source else ())
    binary, _ = compiler.compile_using_nvrtc(source, options, cache_in_memory=True)
    _write(path, binary)
    return bytes(binary)


def _include_options() -> tuple[str, ...]:
    """Return where the headers of CUDA are."""
    from cupy._core import core
    from cupy.cuda import get_cuda_path

    try:
        options = core.assemble_cupy_compiler_options(())
    except AttributeError:  # before CuPy 14
        path = get_cuda_path()
        return () if path is None else (f"-I{path}/include",)
    return tuple(option for option in options if option.startswith("-I"))


def _cache_path(source: str) -> Path | None:
    """Return the file for the machine code of `source`, in CuPy's folder of kernels."""
    import cupy
    from cupy.cuda import compiler

    if os.environ.get("CUPY_CACHE_IN_MEMORY", "0") not in ("", "0"):
        return None
    version = cupy.cuda.nvrtc.getVersion()
    arch = compiler._get_arch_for_options_for_nvrtc()  # noqa: SLF001  (there is no other way)
    key = repr((source, OPTIONS, version, arch, cupy.__version__))
    folder = _cache_folder()
    name = f"instep_{hashlib.sha256(key.encode()).hexdigest()}.cubin"
    return None if folder is None else folder / name


def _cache_folder() -> Path | None:
    """Return CuPy's folder of kernels; None where it would be in the home of a user without one."""
    folder = os.environ.get("CUPY_CACHE_DIR")
    try:
        return Path(folder) if folder else Path.home() / ".cupy" / "kernel_cache"
    except RuntimeError:  # no HOME, and no entry for this user, as in many containers
        return None


_DIGEST = 32


def _read(path: Path | None) -> bytes | None:
    """Return what `_write` wrote, or None if it is not there, or damaged."""
    if path is None:
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    binary = data[_DIGEST:]
    return binary if hashlib.sha256(binary).digest() == data[:_DIGEST] else None


def _write(path: Path | None, binary: bytes) -> None:
    """Write a file that other processes see whole or not at all; a cache may fail silently."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(hashlib.sha256(binary).digest() + binary)
        Path(file.name).replace(path)
    except OSError:
        return

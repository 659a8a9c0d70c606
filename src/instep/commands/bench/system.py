"""What the operating system tells of the machine, each system in its way."""

import ctypes
import os
import sys


def total_memory() -> int | None:
    """Return the bytes of memory of the machine, or None where the system does not tell."""
    if sys.platform == "win32":
        return _windows_memory()
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):  # a name that this system does not know
        return None


def load_average() -> float | None:
    """Return how many processes ran or waited in the last minute; Windows does not count them."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def exit_text(code: int) -> str:
    """Return the exit code of a process as it is looked up: negative is a signal of POSIX.

    Windows ends a process that crashed with a code that is written in hexadecimal digits.
    """
    return f"{code:#010x}" if code > 0xFFFF else str(code)


class _MemoryStatus(ctypes.Structure):
    """`MEMORYSTATUSEX` of Windows."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "total_physical",
                "available_physical",
                "total_page_file",
                "available_page_file",
                "total_virtual",
                "available_virtual",
                "available_extended_virtual",
            )
        ),
    )


def _windows_memory() -> int | None:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    library = getattr(ctypes, "WinDLL")("kernel32")  # noqa: B009 - Windows alone has it
    if not library.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    total: int = status.total_physical
    return total

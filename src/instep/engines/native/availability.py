"""Whether rules can be compiled here, and what to do if not."""

import importlib.util
import struct
from functools import cache

#: The oldest LLVM with which the engine was seen to work: that of llvmlite 0.45.
OLDEST_LLVM = 20

_INSTALL = "pip install 'llvmlite>=0.45'"
_NO_WHEELS = (
    "without it NumPy does the work; instep's page on platforms says where it has no wheels"
)


@cache
def problem() -> str | None:
    """Return None, or why nothing can be compiled in this process, with the remedy.

    It imports llvmlite, so it is asked only where the engine may be wanted.
    """
    if importlib.util.find_spec("llvmlite") is None:
        return f"llvmlite is not installed; {_INSTALL} ({_NO_WHEELS})"
    if struct.calcsize("P") != 8:
        return "its code is for 64 bits, and this Python has 32; use a Python of 64 bits"
    try:
        import llvmlite.binding as llvm
    except TimeoutError:  # from the handler of a signal: nothing is known yet
        raise
    except (ImportError, OSError, RuntimeError) as error:
        return f"llvmlite cannot be imported ({error}); reinstall it: {_INSTALL}"
    version: int = llvm.llvm_version_info[0]
    if version < OLDEST_LLVM:
        return f"llvmlite brings LLVM {version}, older than {OLDEST_LLVM}; {_INSTALL}"
    from instep.engines.native.compile import traits

    try:
        traits()
    except RuntimeError as error:
        return f"LLVM compiles nothing for this CPU ({error}); use engine='blocked'"
    return None

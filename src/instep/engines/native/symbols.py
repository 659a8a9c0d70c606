"""What compiled code calls outside itself: where a call leads nowhere, it is refused."""

import ctypes
import struct
import sys
from functools import cache
from typing import Any

import llvmlite.binding as llvm

#: Functions of Python itself that compiled code calls.
_OF_PYTHON = (
    *("PyThread_acquire_lock", "PyThread_release_lock", "PyEval_SaveThread"),
    *("PyEval_RestoreThread", "PyByteArray_AsString", "PyFloat_AsDouble", "PyLong_FromLongLong"),
    *("PyErr_Occurred", "PyErr_Fetch", "PyErr_Restore", "PyBool_FromLong", "PyLong_AsLongLong"),
    *("Py_IncRef", "Py_DecRef", "PyObject_GetAttr", "PyObject_SetAttr", "PyObject_Vectorcall"),
    *("PyObject_Size", "PyDict_Size", "PyDict_GetItem", "PySequence_Tuple", "PyTuple_New"),
)


@cache
def provide() -> None:
    """Name functions that LLVM does not find in a process by itself on every platform.

    It looks into the program and the libraries that are visible to all, to which a Python that is
    embedded, or one on Windows, does not belong.
    """
    for name in _OF_PYTHON:
        llvm.add_symbol(name, _address(getattr(ctypes.pythonapi, name)))
    if sys.platform == "win32":
        # Called where a function takes more than a page of the stack, as the lanes of a sum do.
        llvm.add_symbol("__chkstk", _address(ctypes.WinDLL("ntdll")["__chkstk"]))


def check(code: bytes) -> None:
    """Raise unless this process has all that an object file calls: LLVM would call address 0.

    To be called when there is an execution engine, which opens the process to LLVM.
    """
    missing = [name for name in undefined(code) if llvm.address_of_symbol(name) is None]
    if missing:
        raise RuntimeError(
            f"native engine: LLVM {'.'.join(map(str, llvm.llvm_version_info))} compiles a rule for "
            f"{llvm.get_host_cpu_name()} to code that calls {', '.join(missing)}, which this "
            'process does not have; use engine="blocked", which needs no compiler'
        )


def undefined(code: bytes) -> list[str]:
    """Return the names that an object file uses and does not define.

    Formats other than ELF (Linux, BSD) are not read: for them the list is empty.
    """
    if code[:5] != b"\x7fELF\x02":
        return []
    sections = {s.name(): s.data() for s in llvm.ObjectFileRef.from_data(code).sections()}
    names, table = sections[b".strtab"], sections[b".symtab"]
    order = "<" if code[5] == 1 else ">"
    found = []
    for place, _, _, section, _, _ in struct.iter_unpack(f"{order}IBBHQQ", table):
        if place and section == 0:
            found.append(names[place : names.index(b"\0", place)].decode())
    return found


def _address(function: Any) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address

"""Compiled code as functions of Python itself, and the memory that they work on.

A call through ctypes takes 370 ns and more for what it is given; a function of Python that is
written in C takes 50 (Zen 3, Python 3.11), and so does compiled code in its place.
"""

import ctypes
import struct
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from instep.engines.native.compile import compile_module

_WORD = struct.Struct("q")

#: How such a function is called: ``ptr @name(ptr %self, ptr %arguments, i64 %count)``, with
#: borrowed references, and the interpreter lock. It returns a new one (METH_FASTCALL).
_CONVENTION = 0x0080

#: What compiled code calls for that.
DECLARATIONS = """\
declare ptr @PyByteArray_AsString(ptr)
declare ptr @PyLong_FromLongLong(i64)
declare ptr @PyBool_FromLong(i64)
"""


class Block(bytearray):
    """Words that compiled code reads and writes, and what they point at, which lives as long."""

    def __init__(self, words: Sequence[int], **kept: Any) -> None:
        super().__init__(array("q", words).tobytes())
        self.kept = kept

    def word(self, position: int) -> int:
        """Return a word."""
        found: int = _WORD.unpack_from(self, _WORD.size * position)[0]
        return found

    def put(self, position: int, word: int) -> None:
        """Write a word."""
        _WORD.pack_into(self, _WORD.size * position, word)


class _Definition(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("convention", ctypes.c_int),
        ("documentation", ctypes.c_char_p),
    )


@cache
def compile_method(ir: str, name: str, level: int = 2) -> Callable[[Block], Callable[..., Any]]:
    """Return what makes functions of Python of a compiled one, each bound to a block."""
    address = compile_module(ir, level).get_function_address(name)
    definition, thing = _Definition(name.encode(), address, _CONVENTION, None), ctypes.py_object
    # Functions that live until Python has shut down look into it even then.
    ctypes.PYFUNCTYPE(None, thing)(("Py_IncRef", ctypes.pythonapi))(definition)
    make = ctypes.PYFUNCTYPE(thing, ctypes.c_void_p, thing, ctypes.c_void_p)
    new = make(("PyCFunction_NewEx", ctypes.pythonapi))

    def bind(block: Block) -> Callable[..., Any]:
        function: Callable[..., Any] = new(ctypes.addressof(definition), block, None)
        return function

    return bind

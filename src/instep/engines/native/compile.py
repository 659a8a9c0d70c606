"""LLVM IR to machine code for this CPU, with llvmlite."""

import ctypes
from functools import cache
from typing import Any

import llvmlite.binding as llvm

#: Keeps compiled code alive: functions are handed out for the life of the process.
_engines: list[Any] = []

_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def compile_function(ir: str, name: str, kind: Any) -> Any:
    """Return a function of a module as a callable of the ctypes prototype `kind`."""
    module = llvm.parse_assembly(ir)
    module.verify()
    engine = llvm.create_mcjit_compiler(module, _machine())
    engine.finalize_object()
    _engines.append(engine)
    return kind(engine.get_function_address(name))


@cache
def compile_kernel(ir: str) -> Any:
    """Return the function that runs a pass, given the address of its arguments.

    It runs without the interpreter lock. Equal text is compiled once in a process.
    """
    return compile_function(ir, "run", _RUN)


def address_of(function: Any) -> int:
    """Return the address of a compiled function, for other compiled code to call."""
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None
    return address


def assembly(ir: str) -> str:
    """Return the machine code of a module as text."""
    text: str = _machine().emit_assembly(llvm.parse_assembly(ir))
    return text


def _machine() -> Any:
    """Return a new description of this CPU; an execution engine takes ownership of one."""
    _initialize()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=_features(), opt=2, jit=True
    )


@cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


@cache
def _features() -> str:
    text: str = llvm.get_host_cpu_features().flatten()
    return text

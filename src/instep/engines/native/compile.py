"""LLVM IR to machine code for this CPU, with llvmlite."""

import ctypes
import re
from functools import cache
from typing import Any

import llvmlite.binding as llvm

from instep.engines.native import symbols
from instep.engines.native.target import Target, Traits

_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def compile_function(ir: str, name: str, kind: Any) -> Any:
    """Return a function of a module as a callable of the ctypes prototype `kind`."""
    return kind(compile_module(ir).get_function_address(name))


@cache
def compile_module(ir: str, level: int = 2) -> Any:
    """Return what has the compiled functions of a module, for the life of the process.

    LLVM takes a fifth of the time at level 0, for code that has no loops to speak of.
    """
    machine = _machine(host(), level)
    module = llvm.parse_assembly(ir)
    module.verify()
    code = machine.emit_object(module)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    symbols.provide()
    symbols.check(code)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


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


def assembly(ir: str, target: Target | None = None) -> str:
    """Return the machine code of a module as text, for this CPU or for any other."""
    if target is None:
        target = host()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
    text: str = _machine(target).emit_assembly(llvm.parse_assembly(ir))
    return text


@cache
def host() -> Target:
    """Return this CPU."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    try:
        features: str = llvm.get_host_cpu_features().flatten()
    except RuntimeError:  # LLVM cannot ask this one: then its model says what it has
        features = ""
    return Target(llvm.get_default_triple(), llvm.get_host_cpu_name(), features)


@cache
def traits(target: Target | None = None) -> Traits:
    """Return what the text for a CPU depends on; by default for this one."""
    # LLVM is asked, for it alone knows what each model has: without an instruction it calls.
    calls = re.search(r"__(extendhf|truncsfhf|gnu_h2f|gnu_f2h)", assembly(_HALF, target))
    return Traits(calls is None, (target or host()).is_x86)


_HALF = """
define float @widen(half %x) {
  %y = fpext half %x to float
  ret float %y
}

define half @narrow(float %x) {
  %y = fptrunc float %x to half
  ret half %y
}
"""


def _machine(target: Target, level: int = 2) -> Any:
    """Return what compiles for a CPU; an execution engine takes ownership of one."""
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=level, jit=True
    )

"""The native engine in poorer places: what is missing is named, or done without."""

import ctypes
import importlib.machinery
import inspect
import mmap
import struct
import sys
import tomllib
import types
from pathlib import Path

import engine_runs
import numpy as np
import pytest
from processors import on_each

from instep import Adam
from instep.engines.native import availability


@pytest.fixture
def problem():
    """Ask anew why the engine cannot run, and forget the answer."""
    availability.problem.cache_clear()
    yield availability.problem
    availability.problem.cache_clear()


def llvmlite(monkeypatch, **attributes):
    """Put another llvmlite in the place of the installed one, if any is."""
    package, binding = types.ModuleType("llvmlite"), types.ModuleType("llvmlite.binding")
    package.__spec__ = importlib.machinery.ModuleSpec("llvmlite", None)
    vars(binding).update(attributes)
    package.binding = binding
    monkeypatch.setitem(sys.modules, "llvmlite", package)
    monkeypatch.setitem(sys.modules, "llvmlite.binding", binding)


def test_an_llvm_that_is_too_old_is_unavailable(monkeypatch, problem):
    llvmlite(monkeypatch, llvm_version_info=(15, 0, 7))
    assert problem() == "llvmlite brings LLVM 15, older than 20; pip install 'llvmlite>=0.45'"
    w = np.ones(3)
    Adam().update(w, np.ones(3))  # another engine does it
    assert (w < 1).all()
    with pytest.raises(ValueError, match="engine='native' was asked for, but llvmlite brings LLVM"):
        Adam(engine="native").update(w, np.ones(3))


def test_an_llvmlite_that_cannot_be_imported_is_unavailable(monkeypatch, problem):
    llvmlite(monkeypatch)
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    monkeypatch.delattr(sys.modules["llvmlite"], "binding")
    assert "llvmlite cannot be imported" in problem()
    assert "reinstall it: pip install" in problem()


def test_a_missing_llvmlite_is_unavailable(monkeypatch, problem):
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    assert problem().startswith("llvmlite is not installed; pip install 'llvmlite>=0.45'")


def test_a_python_of_32_bits_is_unavailable(monkeypatch, problem):
    llvmlite(monkeypatch, llvm_version_info=(20, 1, 8))
    monkeypatch.setattr(struct, "calcsize", lambda code: 4)
    assert "use a Python of 64 bits" in problem()


def test_the_oldest_llvmlite_is_the_one_that_the_package_asks_for():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    (floor,) = [
        text.partition(";")[0]
        for text in project["project"]["dependencies"]
        if text.startswith("llvmlite")
    ]
    assert floor in inspect.getsource(availability)


UNKNOWN = """
declare float @nobody_has_this(float)

define float @run(float %x) {
  %y = call float @nobody_has_this(float %x)
  ret float %y
}
"""


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="reads objects in ELF alone")
def test_a_call_that_leads_nowhere_is_refused():
    engine_runs.require("native")
    from instep.engines.native.compile import compile_function

    with pytest.raises(RuntimeError, match=r'nobody_has_this.*use engine="blocked"'):
        compile_function(UNKNOWN, "run", ctypes.CFUNCTYPE(None))


FOUND = """
declare double @llvm.rint.f64(double)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)

define double @run(double %x, ptr %to, i64 %count) {
  call void @llvm.memset.p0.i64(ptr %to, i8 0, i64 %count, i1 false)
  %y = call double @llvm.rint.f64(double %x)
  ret double %y
}
"""


def test_functions_of_the_c_library_are_found():
    engine_runs.require("native")
    from instep.engines.native.compile import compile_function

    double, pointer, word = ctypes.c_double, ctypes.c_void_p, ctypes.c_int64
    run = compile_function(FOUND, "run", ctypes.CFUNCTYPE(double, double, pointer, word))
    block = np.full(100, 7, np.uint8)
    assert run(2.5, block.ctypes.data, 99) == 2.0
    assert block.tolist() == [0] * 99 + [7]


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="no huge pages on this system")
def test_state_does_without_huge_pages_where_they_are_refused(monkeypatch):
    from instep.engines.native import memory

    class Refusing(mmap.mmap):
        def madvise(self, *arguments):
            raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mmap, "mmap", Refusing)
    w = np.zeros(memory.HUGE_PAGE // 4 + 5, np.float32)
    ((m, v),) = memory.allocate([w], ["float32", "float32"])
    assert m.shape == v.shape == w.shape
    assert not m.any()
    assert not v.any()


@on_each
def test_a_thread_that_waits_tells_its_processor(processor):
    target = processor.target()
    from instep.engines.native.handover import emit_serve, emit_share

    pause = {"x86": "pause", "arm": "isb"}[processor.family]
    assert pause in processor.instructions(emit_share(target))
    assert processor.instructions(emit_serve(target))


@pytest.mark.parametrize(
    ("triple", "family"),
    [
        ("x86_64-pc-windows-msvc", "x86"),
        ("x86_64-apple-darwin23.1.0", "x86"),
        ("arm64-apple-darwin23.1.0", "arm"),
        ("aarch64-pc-windows-msvc", "arm"),
        ("riscv64-unknown-linux-gnu", None),
        ("armv7-unknown-linux-gnueabihf", None),
    ],
)
def test_the_family_is_read_from_the_triple(triple, family):
    from instep.engines.native.target import Target

    target = Target(triple, "generic")
    assert (target.is_x86, target.is_arm) == (family == "x86", family == "arm")

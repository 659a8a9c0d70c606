"""Bits are the same in a thread that another library has told to flush subnormal numbers."""

import ctypes
import threading

import numpy as np
import pytest
from processors import on_each

from instep import Adam, Momentum, chain
from instep.transforms import clip_by_global_norm

pytest.importorskip("llvmlite")

from instep.engines.native.compile import compile_function, host
from instep.engines.native.handover import emit_serve
from instep.engines.native.mode import emit_mode
from instep.engines.native.target import Target

#: Sets the mode of the thread: bits of the register for what is flushed. Returns what it was.
_SET = {
    "x86": (
        """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)

define i64 @exchange(i64 %mode) {
  %place = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %place)
  %before = load i32, ptr %place
  %word = trunc i64 %mode to i32
  store i32 %word, ptr %place
  call void @llvm.x86.sse.ldmxcsr(ptr %place)
  %result = zext i32 %before to i64
  ret i64 %result
}
""",
        0x1F80 | 0x8040,  # flush to zero, denormals are zeros
    ),
    "arm": (
        """
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)

define i64 @exchange(i64 %mode) {
  %before = call i64 @llvm.aarch64.get.fpcr()
  call void @llvm.aarch64.set.fpcr(i64 %mode)
  ret i64 %before
}
""",
        1 << 24,
    ),
}


def kind():
    return "x86" if host().is_x86 else "arm" if host().is_arm else None


@pytest.fixture
def exchange():
    """Return what exchanges the mode; it is as it was in the end."""
    if kind() is None:
        pytest.skip("the register of this processor is not known here")
    function = compile_function(
        _SET[kind()][0], "exchange", ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
    )
    before = function(_SET[kind()][1])
    function(before)
    yield function
    function(before)


def flushing():
    return _SET[kind()][1]


def small(seed, size):
    """Return numbers whose products and quotients are subnormal, or nearly."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(size) * 10.0 ** rng.uniform(-42, -36, size)).astype("float32")


def steps(make, threads, size, exchange, mode):
    """Take steps in a mode; return the parameters, and the mode after."""
    w = {"a": small(1, size), "b": small(2, 10)}
    grads = [{name: small(3 + i, x.size) for name, x in w.items()} for i in range(3)]
    optimizer = make(engine="native", threads=threads)
    before = exchange(mode)
    for g in grads:
        optimizer.update(w, g)
    return w, exchange(before)


def clipped(**settings):
    return chain(clip_by_global_norm(1e-38), Momentum(lr=0.3), **settings)


def small_momentum(**settings):
    return Momentum(lr=0.3, **settings)


@pytest.mark.parametrize("size", [1000, 300_000])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("make", [small_momentum, Adam, clipped])
def test_a_thread_that_flushes_gives_the_same_bits_and_goes_on_flushing(
    make, threads, size, exchange
):
    ordinary = exchange(flushing())
    exchange(ordinary)
    expected, _ = steps(make, threads, size, exchange, ordinary)
    found, mode = steps(make, threads, size, exchange, flushing())
    for name, x in expected.items():
        assert x.tobytes() == found[name].tobytes()
    assert mode & flushing() == flushing()


def test_it_is_seen_where_nothing_guards(exchange):
    x = small(0, 1000)
    before = exchange(flushing())
    flushed = x * np.float32(0.5)
    exchange(before)
    assert (flushed != x * np.float32(0.5)).any()


def test_a_worker_does_not_keep_the_mode_of_the_thread_that_has_started_it(exchange):
    """It is a thread of its own, which begins with a copy."""
    from instep.engines.native import pool

    found = []

    def start():
        before = exchange(flushing())
        own = pool.Pool()
        own.grow(1)
        found.append(own)
        exchange(before)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert found[0].workers == 1
    w, expected = small(1, 300_000), small(1, 300_000)
    was, pool._POOL = pool._POOL, found[0]  # noqa: SLF001
    try:
        small_momentum(engine="native", threads=2).update(w, small(2, w.size))
    finally:
        pool._POOL = was  # noqa: SLF001
    small_momentum(engine="native", threads=1).update(expected, small(2, w.size))
    assert w.tobytes() == expected.tobytes()


@on_each
def test_every_processor_has_its_instructions(processor):
    """`serve` is where a worker takes its mode, once for all jobs."""
    names = " ".join(str(x) for x in processor.instructions(emit_serve(processor.target())))
    assert {"x86": "ldmxcsr", "arm": "msr"}[processor.family] in names


def test_other_processors_do_without():
    text = emit_mode(Target("riscv64-unknown-linux-gnu", ""))
    assert "@take_mode()" in text
    assert "@give_mode(i64" in text

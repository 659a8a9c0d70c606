# ruff: noqa: SLF001  (it looks inside on purpose)
"""Steps on a device that are like one before: compiled code looks at their arrays."""

import bits
import engine_runs
import numpy as np
import pytest

from instep import LAMB, SGD, Adam, AdamW, chain
from instep.engines.cuda import array_fields
from instep.engines.cuda.counters import counters
from instep.plan.step import Plan
from instep.schedules import Cosine
from instep.transforms import accumulate, average, clip_by_global_norm, skip_nonfinite

pytest.importorskip("llvmlite")

from instep.engines.cuda import check
from instep.engines.native.check_code import DIFFERENT, MOVED

pytestmark = pytest.mark.gpu

SHAPES = {"a": (7,), "b": (40_000,), "c": (0,), "d": (30, 200), "e": ()}


@pytest.fixture
def long_ways(monkeypatch):
    """Count the steps that are not taken the short way."""
    taken, step = [], Plan.step

    def count(self, *arguments):
        taken.append(self)
        return step(self, *arguments)

    monkeypatch.setattr(Plan, "step", count)
    return taken


def drawn(rng, dtypes=("f4",)):
    """Return a tree of arrays, of these dtypes in turn; those of two axes are transposed."""
    found = {
        name: np.asarray(rng.standard_normal(shape[::-1]), dtypes[i % len(dtypes)]).T
        for i, (name, shape) in enumerate(SHAPES.items())
    }
    return {name: np.ascontiguousarray(x) if name == "d" else x for name, x in found.items()}


def on_device(cupy, tree):
    return {name: cupy.asarray(x) for name, x in tree.items()}


MAKERS = {
    "Adam": (Adam, ("f4",), 1),
    "with a schedule": (lambda: AdamW(lr=Cosine(0.1, 9)), ("f4",), 1),
    "of two dtypes": (lambda: SGD(lr=0.5), ("f4", "f8"), 1),
    "clipped": (lambda: chain(clip_by_global_norm(0.5), AdamW(), average(0.9)), ("f4",), 1),
    "clipped, two dtypes": (lambda: chain(clip_by_global_norm(0.5), Adam()), ("f2", "f8"), 1),
    "accumulated": (lambda: chain(accumulate(2), Adam()), ("f4",), 2),
    "grouped": (lambda: LAMB(overrides={"b": {"lr": 0.5}, "d": {"weight_decay": 0.1}}), ("f4",), 1),
}


@pytest.mark.parametrize("moves", [False, True], ids=["same", "new gradients"])
@pytest.mark.parametrize(("make", "dtypes", "ways"), MAKERS.values(), ids=MAKERS)
def test_short_steps_have_the_bits_of_numpy(cupy, make, dtypes, ways, moves, long_ways):
    rng = np.random.default_rng(0)
    params = drawn(rng, dtypes)
    mirrored, kept = on_device(cupy, params), []
    one, other = make(), make()
    for step in range(7):
        if moves or not step:
            grads = drawn(rng, dtypes)
            kept.append(on_device(cupy, grads))
        one.update(mirrored, kept[-1])
        other.update(params, grads)
    assert sum(plan is one._state.plan for plan in long_ways) == ways
    engine_runs.assert_same_run(
        ({name: x.get() for name, x in mirrored.items()}, one), (params, other)
    )


def test_more_tensors_than_travel_with_a_launch_are_sent_when_they_have_moved(cupy, long_ways):
    params = {f"{i}": cupy.zeros(3, "f4") for i in range(300)}
    many = [{name: cupy.ones(3, "f4") for name in params} for _ in range(3)]
    optimizer = SGD(lr=1.0)
    copies = []
    for grads in (*many, many[2], many[2]):
        before = counters.copies
        optimizer.update(params, grads)
        copies.append(counters.copies - before)
    assert copies == [1, 1, 1, 0, 0]
    assert len(long_ways) == 1
    assert {float(w[1]) for w in params.values()} == {-5.0}


def test_a_short_step_has_as_many_launches_as_a_long_one(cupy, long_ways):
    params, grads = on_device(cupy, drawn(np.random.default_rng(0))), {}
    grads = on_device(cupy, drawn(np.random.default_rng(1)))
    optimizer = chain(clip_by_global_norm(0.5), Adam())
    launches = []
    for _ in range(3):
        before = counters.launches
        optimizer.update(params, grads)
        launches.append(counters.launches - before)
    assert len(long_ways) == 1
    assert launches == launches[:1] * 3


def test_a_step_runs_on_the_stream_that_is_current_then(cupy, long_ways):
    """What the stream waits for is not waited for by the call."""
    w, g, optimizer = cupy.zeros(9, "f4"), cupy.ones(9, "f4"), SGD(lr=1.0)
    optimizer.update(w, g)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.get_current_stream().synchronize()
    with stream:
        optimizer.update(w, g)
    stream.synchronize()
    assert len(long_ways) == 1
    assert (w.get() == -2).all()


def test_a_capture_turns_a_short_step_away(cupy, long_ways):
    w, g, optimizer = cupy.zeros(9, "f4"), cupy.ones(9, "f4"), SGD(lr=1.0)
    for _ in range(2):
        optimizer.update(w, g)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match="captured into a CUDA graph"):
            optimizer.update(w, g)
        stream.end_capture()
    assert optimizer.t == 2
    optimizer.update(w, g)
    assert optimizer.t == 3
    assert (w.get() == -3).all()


def changed(cupy, what):
    """Return a gradient of nine elements that is not like one of float32."""
    return {
        "its dtype": lambda: cupy.ones(9, "f8"),
        "its strides": lambda: cupy.ones(18, "f4")[::2],
        "its place on the axis": lambda: cupy.ones(10, "f4")[1:],
        "NumPy's": lambda: np.ones(9, "f4"),
        "its shape": lambda: cupy.ones((3, 3), "f4"),
        "one axis more": lambda: cupy.ones((9, 1), "f4"),
        "its alignment": lambda: cupy.zeros(40, "u1")[2:38].view("f4"),
    }[what]()


ACCEPTED = {"its dtype", "its strides", "its place on the axis"}


@pytest.mark.parametrize(
    "what", [*sorted(ACCEPTED), "NumPy's", "its shape", "one axis more", "its alignment"]
)
def test_another_kind_of_gradient_is_seen(cupy, what):
    w, g, optimizer = cupy.zeros(9, "f4"), cupy.ones(9, "f4"), SGD(lr=1.0)
    for _ in range(3):
        optimizer.update(w, g)
    if what in ACCEPTED:
        optimizer.update(w, changed(cupy, what))
    else:
        with pytest.raises((ValueError, TypeError)):
            optimizer.update(w, changed(cupy, what))
    optimizer.update(w, g)
    assert optimizer.t == (5 if what in ACCEPTED else 4)
    assert (w.get() == -optimizer.t).all()


def test_an_array_on_another_device_is_seen(cupy):
    """Only its number is another here: no kernel runs on it."""
    w, g = cupy.zeros(9, "f4"), cupy.ones(9, "f4")
    memory = cupy.cuda.UnownedMemory(g.data.ptr, g.nbytes, g, g.data.device_id + 1)
    other = cupy.ndarray(g.shape, g.dtype, cupy.cuda.MemoryPointer(memory, 0))
    places = np.zeros((1, 2), "i8")
    at = places.ctypes.data
    watched = check.DeviceArrayCheck(([w], [at]), ([g], [at + 8]), [0])
    assert watched.compare((w,), (g,)) == MOVED
    assert places.tolist() == [[w.data.ptr, g.data.ptr]]
    assert watched.compare((w,), (other,)) == DIFFERENT


@pytest.mark.parametrize("shift", [-7, -3, 0, 3, 7])
def test_a_gradient_upon_a_parameter_is_refused(cupy, shift):
    block = cupy.zeros(40, "f4")
    w, optimizer = block[14:21], SGD(lr=1.0)
    for _ in range(3):
        optimizer.update(w, cupy.ones(7, "f4"))
    g = block[14 + shift :][:7]
    if abs(shift) == 7:
        optimizer.update(w, g)
    else:
        for _ in range(2):
            with pytest.raises(ValueError, match="share memory"):
                optimizer.update(w, g)
    assert optimizer.t == 3 + (abs(shift) == 7)


def test_a_tree_on_host_and_device_takes_the_long_way(cupy, long_ways):
    params = {"a": np.zeros(5, "f4"), "b": cupy.zeros(5, "f4")}
    grads = {"a": np.ones(5, "f4"), "b": cupy.ones(5, "f4")}
    optimizer = chain(clip_by_global_norm(1.0), SGD(lr=1.0))
    for _ in range(3):
        optimizer.update(params, grads)
    assert len(long_ways) == 3
    bits.assert_same_bits(params["a"], params["b"].get())


def test_what_the_device_judges_takes_the_long_way(cupy, long_ways):
    w, optimizer = cupy.zeros(5, "f4"), chain(skip_nonfinite(), SGD(lr=1.0))
    for bad in (1.0, np.nan, 1.0):
        optimizer.update(w, cupy.full(5, bad, "f4"))
    assert (optimizer.t, optimizer.skipped, len(long_ways)) == (2, 1, 3)
    assert (w.get() == -2).all()


def test_without_compiled_code_steps_take_the_long_way(cupy, monkeypatch, long_ways):
    monkeypatch.setattr(array_fields, "are_known", lambda: False)
    w, optimizer = cupy.zeros(9, "f4"), SGD(lr=1.0)
    for _ in range(3):
        optimizer.update(w, cupy.ones(9, "f4"))
    assert len(long_ways) == 3
    assert (w.get() == -3).all()


def test_fields_are_where_cupy_says(cupy):
    assert array_fields.fields() is not None
    assert array_fields.are_known()

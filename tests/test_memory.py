# ruff: noqa: SLF001  (it looks inside on purpose)
"""A step makes no temporary arrays of the size of the parameters, and keeps nothing alive."""

import gc
import tracemalloc
import weakref

import cases
import engine_runs
import numpy as np
import pytest

from instep import SGD, Adam, Momentum, chain
from instep.correctly_rounded import powers
from instep.transforms import skip_nonfinite

LARGE = 1 << 18


@pytest.fixture(autouse=True, scope="module")
def few_objects():
    """Let the collector look at new objects only: torch and JAX, once imported, have a million."""
    gc.freeze()
    yield
    gc.unfreeze()


def peak_of_a_step(case, engine, dtype, make_gradient=None, size=LARGE):
    """Return the most memory that a step holds beyond what there was before it, in bytes."""
    w = np.ones(size, dtype)
    g = np.ones(size, dtype) if make_gradient is None else make_gradient(w)
    optimizer = case.make(engine=engine, threads=2)
    for _ in range(2):
        cases.step(optimizer, {"w": w}, {"w": g})
    tracemalloc.start()
    try:
        for _ in range(2):
            cases.step(optimizer, {"w": w}, {"w": g})
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("engine", ["native", "blocked"])
@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *((case, "float32") for case in cases.CLASSES),
        *((cases.Case(Adam, None), dtype) for dtype in ("float16", "float64")),
    ],
    ids=str,
)
def test_a_step_allocates_nothing_that_grows_with_the_parameters(case, dtype, engine):
    engine_runs.require(engine)
    one, two = (peak_of_a_step(case, engine, dtype, size=size) for size in (LARGE, 2 * LARGE))
    # A sum keeps 8 bytes for each tile of 16,384 elements; 16 KiB is room for Python's own.
    assert two - one <= 8 * LARGE / 16_384 * 4 + 16_384
    assert one <= 16 * 65_536 * 8, "a few blocks"


@pytest.mark.parametrize("engine", ["native", "blocked"])
@pytest.mark.parametrize(
    "make_gradient",
    [
        lambda w: np.ones(2 * w.size, w.dtype)[::2],
        lambda w: np.broadcast_to(np.ones((), w.dtype), w.shape),
        lambda w: np.ones(w.nbytes + 1, np.uint8)[1:].view(w.dtype),
    ],
    ids=["strided", "broadcast", "misaligned"],
)
def test_layouts_that_are_no_line_need_no_copies_of_whole_arrays(engine, make_gradient):
    engine_runs.require(engine)
    case = cases.Case(Adam, None)
    one, two = (
        peak_of_a_step(case, engine, "float32", make_gradient, size) for size in (LARGE, 2 * LARGE)
    )
    assert two - one <= 16_384


@engine_runs.every_engine
def test_steps_leak_nothing(engine):
    """But for the powers that are kept, whose number is bounded (test_correctly_rounded)."""
    engine_runs.require(engine)

    def forget():
        powers.clear()
        gc.collect()

    optimizer, w, g = Adam(engine=engine), np.ones(1000), np.ones(1000)
    for _ in range(20):
        optimizer.update({"w": w}, {"w": g})
    tracemalloc.start()
    try:
        for _ in range(20):
            optimizer.update({"w": w}, {"w": g})
        forget()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(4000):
            optimizer.update({"w": w}, {"w": g})
        forget()
        # One object a step were 16 bytes; a cache of NumPy's fills up, to 29 KB, and stays.
        assert tracemalloc.get_traced_memory()[0] - before < 4000 * 16
    finally:
        tracemalloc.stop()


@engine_runs.every_engine
def test_gradients_are_not_kept_alive(engine):
    """A gradient is often the largest temporary of a user's loop."""
    engine_runs.require(engine)
    optimizer, w = Adam(engine=engine), np.ones(1000)
    for _ in range(3):
        gradient = np.ones(1000)
        alive = weakref.ref(gradient)
        optimizer.update({"w": w}, {"w": gradient})
        del gradient
        gc.collect()
        assert alive() is None


@engine_runs.every_engine
def test_gradients_of_a_call_that_is_turned_away_are_not_kept_alive(engine):
    engine_runs.require(engine)
    optimizer, w = chain(skip_nonfinite(), Adam(), engine=engine), np.ones(1000)
    optimizer.update({"w": w}, {"w": np.ones(1000)})
    gradient = np.full(1000, np.nan)
    alive = weakref.ref(gradient)
    optimizer.update({"w": w}, {"w": gradient})
    del gradient
    gc.collect()
    assert optimizer.skipped == 1
    assert alive() is None


@engine_runs.every_engine
def test_an_optimizer_that_is_dropped_frees_its_state(engine):
    engine_runs.require(engine)
    optimizer, w = Momentum(engine=engine), np.ones(1000)
    optimizer.update({"w": w}, {"w": np.ones(1000)})
    slot = weakref.ref(optimizer._state.leaves["w"].slots["v"])
    dropped = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert dropped() is None
    assert slot() is None


@engine_runs.every_engine
def test_plans_are_freed_when_a_setting_changes(engine):
    engine_runs.require(engine)
    optimizer, w = Momentum(engine=engine), np.ones((4, 6))
    plans = []
    for tree in ({"w": w}, {"w": w, "b": np.ones(3)}):
        optimizer.update(tree, {name: np.ones_like(array) for name, array in tree.items()})
        plans.append(weakref.ref(optimizer._state.plan))
    optimizer.threads = 1
    gc.collect()
    assert [plan() for plan in plans] == [None, None]


@engine_runs.every_engine
def test_a_gradient_lives_as_long_as_the_step_that_reads_it(engine):
    """A schedule may take it out of the tree in the midst of the step."""
    engine_runs.require(engine)
    w, grads, other = np.zeros(4096), {}, []

    def takes_out(step):
        if step > 1:
            grads["w"] = None
            other.append(np.full(4096, 7.0))  # in the memory that would be free
        return 1.0

    optimizer = SGD(lr=takes_out, engine=engine)
    for _ in range(3):
        grads["w"] = np.ones(4096)
        optimizer.update({"w": w}, grads)
    assert (w == -3.0).all()

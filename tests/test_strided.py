"""Leaves that are no lines in memory, on the native engine: the bits of contiguous ones."""

import ctypes
import mmap
import subprocess
import sys

import bits
import engine_runs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instep import LAMB, SGD, Adam, Optimizer, chain
from instep.engines import walks
from instep.engines.gathering import GATHERED
from instep.transforms import clip_by_global_norm

#: Views of float64 rooms, by what is odd about them.
VIEWS = {
    "every other": lambda n: np.zeros(2 * n)[::2],
    "reversed": lambda n: np.zeros(n)[::-1],
    "columns": lambda n: np.zeros((n // 3, 5))[:, 1:4],
    "planes": lambda n: np.zeros((4, n // 8, 3))[:, :, ::2].transpose(1, 0, 2),
    "reversed planes": lambda n: np.zeros((2, 3, n // 6))[::-1, ::-1, ::-1],
    "one long row": lambda n: np.zeros((2, n))[:1, ::-1],
}


def shifted(view):
    """Return an array of the strides of `view` whose elements begin at an odd address."""
    low, high = np.lib.array_utils.byte_bounds(view)
    room = np.zeros(high - low + 1, np.uint8)
    start = view.ctypes.data - low + 1
    return np.ndarray(view.shape, view.dtype, room, start, view.strides)


@pytest.mark.parametrize("shift", [lambda view: view, shifted], ids=["aligned", "at odd addresses"])
@pytest.mark.parametrize("count", [24, 2 * GATHERED + 24])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize(
    "make", [Adam, lambda **s: chain(clip_by_global_norm(0.5), LAMB(), **s)], ids=["one", "two"]
)
def test_strides_change_no_bit(make, view, count, shift):
    engine_runs.require("native")
    rng = np.random.default_rng(0)
    w = shift(view(count))
    w[...] = rng.standard_normal(w.shape)
    params, expected = {"w": w, "b": np.ones(7)}, {"w": w.copy(order="C"), "b": np.ones(7)}
    runs = make(engine="native", threads=2), make(engine="native", threads=1)
    for _ in range(3):
        g = shift(view(count))
        g[...] = rng.standard_normal(g.shape)
        runs[0].update(params, {"w": g, "b": np.ones(7)})
        runs[1].update(expected, {"w": g.copy(order="C"), "b": np.ones(7)})
    for name, w in params.items():
        bits.assert_same_bits(w, expected[name], name)
    engine_runs.assert_same_state(runs[0], runs[1])


@st.composite
def laid(draw, shape, dtype):
    """Draw a function that returns an array of zeros: in some order, with gaps or without."""
    order = draw(st.permutations(range(len(shape))))
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 3, -1, -2]), min_size=len(order)))

    def lay():
        room = np.zeros([shape[axis] * abs(steps[axis]) for axis in order], dtype)
        cut = room[tuple(slice(None, None, steps[axis]) for axis in order)]
        return cut.transpose(np.argsort(order))

    return lay


@settings(max_examples=30)
@given(st.data())
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("engine", ["native", "blocked"])
def test_any_layouts_give_the_bits_of_contiguous_arrays(engine, dtype, data):
    """With boxes of a few elements, so that small arrays have many, cut off on all sides."""
    engine_runs.require(engine)
    shape = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    lay_w, lay_g = (data.draw(laid(shape, dtype)) for _ in range(2))
    make = data.draw(st.sampled_from([SGD, Adam, LAMB]))
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"BOX": 1024, "LINE_BOX": 256, "FAST": 16, "ROW": 8}.items():
            patch.setattr(walks, name, value)
        w = lay_w()
        w[...] = rng.standard_normal(shape)
        expected = w.copy(order="C")
        runs = make(engine=engine, threads=2), make(engine="blocked")
        for _ in range(2):
            g = lay_g()
            g[...] = rng.standard_normal(shape)
            runs[0].update(w, g)
            runs[1].update(expected, g.copy(order="C"))
    bits.assert_same_bits(w, expected)
    engine_runs.assert_same_state(*runs)


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize("transposed", ["w", "g"])
@pytest.mark.parametrize("shape", [(300, 700), (7, 40_000), (130, 60, 3, 3)])
def test_boxes_at_the_ends_of_axes_are_updated_as_others(shape, transposed):
    engine_runs.require("native")
    rng = np.random.default_rng(0)
    w, g = (rng.standard_normal(shape).astype("float32") for _ in range(2))
    expected = w.copy()
    given_w = w.copy(order="F") if transposed == "w" else w
    given_g = g.copy(order="F") if transposed == "g" else g
    runs = LAMB(engine="native", threads=2), LAMB(engine="native", threads=1)
    for _ in range(2):
        runs[0].update(given_w, given_g)
        runs[1].update(expected, g)
    bits.assert_same_bits(given_w, expected)
    engine_runs.assert_same_state(*runs)


@engine_runs.every_engine
def test_a_rule_that_changes_nothing_leaves_strided_arrays_as_they_are(engine):
    class Nothing(Optimizer):
        @staticmethod
        def rule(xp, w, g, s, h):
            return w, {}

    engine_runs.require(engine)
    w, optimizer = np.arange(60.0).reshape(6, 10)[:, ::3], Nothing(engine=engine)
    before = w.copy()
    for _ in range(2):
        optimizer.update([w, np.ones(3)], [np.asfortranarray(w), np.ones(3)])
    assert optimizer.t == 2
    bits.assert_same_bits(w, before)


@pytest.mark.skipif(sys.platform == "win32", reason="pages are protected in another way")
def test_nothing_is_read_before_or_after_every_other_element():
    """The memory is a page between two that cannot be read."""
    engine_runs.require("native")
    page = mmap.PAGESIZE
    room = mmap.mmap(-1, 3 * page)
    libc = ctypes.CDLL(None, use_errno=True)
    start = np.frombuffer(room, np.uint8).ctypes.data
    for outer in (start, start + 2 * page):
        assert libc.mprotect(ctypes.c_void_p(outer), page, 0) == 0
    for first in (0, 1):
        w = np.frombuffer(room, "float32", page // 4, page)[first::2]
        expected = w - np.float32(0.5) * w
        SGD(lr=0.5, engine="native").update(w, w.copy())
        bits.assert_same_bits(w, expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("length", [128, 129, 135, 143, 144, 500, 5000, 5003])
@pytest.mark.parametrize("step", [1, 2])
def test_rows_of_any_length_are_updated_as_lines(step, length, dtype):
    """Those that are no multiples of a vector, and those that are peeled to the cache line."""
    engine_runs.require("native")
    rng = np.random.default_rng(0)
    for first in range(3):
        columns = slice(first, first + step * length - (step - 1), step)
        w, g = (bits.ordinary(rng, (7, 2 * length + 3), dtype)[:, columns] for _ in "wg")
        assert w.shape == (7, length)
        expected, gradient = w.copy(), g.copy()
        runs = Adam(engine="native"), Adam(engine="blocked")
        for _ in range(2):
            runs[0].update(w, g)
            runs[1].update(expected, gradient)
        bits.assert_same_bits(w, expected)
        engine_runs.assert_same_state(*runs)


def test_what_lies_between_the_elements_is_left_alone():
    engine_runs.require("native")
    room = np.arange(600, dtype="float32").reshape(20, 30)
    before, w = room.copy(), room[3:17:2, 4:25:3]
    Adam(engine="native").update(w, np.ones_like(w))
    assert (w != before[3:17:2, 4:25:3]).all()
    room[3:17:2, 4:25:3] = before[3:17:2, 4:25:3]
    bits.assert_same_bits(room, before)


def test_a_transposed_gradient_is_read_as_it_lies():
    engine_runs.require("native")
    g = np.random.default_rng(0).standard_normal((30, 20))
    params = [np.zeros((20, 30)) for _ in range(2)]
    for w, gradient in zip(params, (g.T, g.T.copy()), strict=True):
        optimizer = Adam(engine="native")
        for _ in range(3):
            optimizer.update(w, gradient)
    bits.assert_same_bits(params[0], params[1])


WITHOUT_MEMORY = """
import _testcapi
import numpy as np
from instep import Adam

room = np.zeros((500, 2), "f4")
params = {"a": np.zeros(100, "f4"), "s": room[:, 0], "t": room[:, 1]}
grads = {name: np.ones_like(w) for name, w in params.items()}
outcomes = set()
for n in range(1, 400, 2):
    optimizer = Adam(lr=1.0, beta1=0.0, beta2=0.0, eps=0.0, engine="native")
    for w in params.values():
        w[...] = 0
    for _ in range(3):
        optimizer.update(params, grads)
    try:
        _testcapi.set_nomemory(n, n + 40)
        try:
            optimizer.update(params, grads)
        finally:
            _testcapi.remove_mem_hooks()
    except (MemoryError, SystemError):
        pass
    for w in params.values():
        assert (w == -optimizer.t).all(), (n, optimizer.t, w)
    outcomes.add(optimizer.t)
assert outcomes == {3, 4}, outcomes
"""


def test_a_lack_of_memory_for_a_while_leaves_strided_leaves_whole():
    """From the n-th allocation of Python on 40 fail: the step is taken, or not at all."""
    engine_runs.require("native")
    pytest.importorskip("_testcapi", reason="no switch for Python's allocations")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_MEMORY], capture_output=True, text=True, check=False
    )
    if result.returncode < 0:
        pytest.skip("Python or NumPy crashes where there is no memory")
    assert result.returncode == 0, result.stderr

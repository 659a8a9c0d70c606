"""Arrays of any library that tells where they lie on a CPU take the steps of NumPy arrays."""

import gc
import weakref

import bits
import cases
import engine_runs
import numpy as np
import pytest
import whole_steps
from bits import ordinary
from foreign_arrays import Constant, Foreign, Older

from instep import LAMB, SGD, Adam, Momentum, Optimizer, arrays, chain, exchange
from instep.engines.placement import same_walk
from instep.transforms import average, clip_by_global_norm

KINDS = {"writable": Foreign, "without versions": Older, "constant": Constant}

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
fused = pytest.mark.parametrize("engine", ["native", "blocked"])

tells_constants = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="this NumPy exports no constants"
)

DTYPES = ("float16", "float32", "float64", *bits.COMPLEX)


@pytest.mark.parametrize("layout", bits.LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_is_where_an_array_is(dtype, layout):
    x = bits.LAYOUTS[layout](ordinary(np.random.default_rng(0), (3, 5, 7), dtype))
    found = exchange.read(Foreign(x))
    assert found[:4] == ("cpu", None, x.ctypes.data, x.shape)
    assert found[4:8] == (x.strides, x.itemsize, dtype, True)


@tells_constants
def test_memory_of_a_constant_is_not_to_be_written():
    x = np.zeros(3)
    x.flags.writeable = False
    assert not exchange.read(Foreign(x)).is_writable


@pytest.mark.parametrize("x", [np.zeros(()), np.zeros((2, 0, 3)), np.zeros((3, 1), order="F")])
def test_memory_of_small_arrays(x):
    found = exchange.read(Older(x))
    assert found.shape == x.shape
    assert x.size == 0 or same_walk(x.shape, found.strides, x.strides)


@fused
@every_kind
@pytest.mark.parametrize("case", cases.CLASSES, ids=str)
def test_steps_have_the_bits_of_numpy(case, kind, engine):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 5, 7), "b": (), "c": (0, 3), "d": (40, 33)}
    own = {name: ordinary(rng, shape, "float32") for name, shape in shapes.items()}
    others = {name: w.copy() for name, w in own.items()}
    params = {name: kind(w) for name, w in own.items()}
    optimizer, expected = case.make(engine=engine), case.make(engine=engine)
    for _ in range(4):
        grads = {name: ordinary(rng, w.shape, "float32") for name, w in own.items()}
        before = dict(params)
        values = {name: w.array.copy() for name, w in params.items()}
        given = {k: kind(g) for k, g in grads.items()}
        assert cases.step(optimizer, params, given) is params
        cases.step(expected, others, grads)
        for name, w in params.items():
            bits.assert_same_bits(w.array, others[name], name)
            assert type(w) is kind
            if kind is Constant:
                bits.assert_same_bits(before[name].array, values[name], name)
            else:
                assert w is before[name]
    engine_runs.assert_same_state(optimizer, expected)
    assert optimizer.explain(params).buckets[0].engine == engine


@pytest.mark.parametrize("meaning", ["modulus", "pairs"])
@pytest.mark.parametrize("layout", bits.LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_on_views_have_the_bits_of_numpy(dtype, layout, meaning):
    rng = np.random.default_rng(0)
    w = bits.LAYOUTS[layout](ordinary(rng, (6, 5, 3), dtype))
    other, settings = w.copy(), {"complex": meaning}
    for make in (Foreign, Constant):
        params, own = {"w": make(w)}, {"w": other.copy()}
        optimizers = Adam(0.1, **settings), Adam(0.1, **settings)
        for number in range(3):
            g = ordinary(rng, w.shape, dtype)
            turned = bits.LAYOUTS[sorted(bits.LAYOUTS)[number]](g)
            optimizers[0].update(params, {"w": make(turned)})
            optimizers[1].update(own, {"w": g})
        bits.assert_same_bits(params["w"].array, own["w"])
        w[...] = other


def test_sums_over_trees_of_several_libraries():
    def make():
        return chain(clip_by_global_norm(0.5), Adam(lr=0.1))

    rng = np.random.default_rng(0)
    own = {name: ordinary(rng, (40, 3), "float32") for name in "abc"}
    others = {name: w.copy() for name, w in own.items()}
    params = {"a": own["a"], "b": Foreign(own["b"]), "c": Constant(own["c"])}
    optimizer, expected = make(), make()
    for _ in range(4):
        grads = {name: ordinary(rng, (40, 3), "float32") for name in "abc"}
        kinds = zip("abc", (np.asarray, Foreign, Constant), strict=True)
        optimizer.update(params, {name: kind(grads[name]) for name, kind in kinds})
        expected.update(others, grads)
    for name, w in params.items():
        bits.assert_same_bits(getattr(w, "array", w), others[name], name)


def test_arrays_are_written_where_they_are_now():
    rng = np.random.default_rng(0)
    w = Foreign(ordinary(rng, (40, 33), "float32"))
    other, optimizers = w.array.copy(), (Momentum(), Momentum())
    for number in range(6):
        if number % 2:  # the same object, at another place
            w.array = w.array.copy()
        g = ordinary(rng, (40, 33), "float32")
        optimizers[0].update([w], [Foreign(g)])
        optimizers[1].update([other], [g])
        bits.assert_same_bits(w.array, other)


@tells_constants
def test_an_array_that_became_a_constant_is_refused_and_nothing_changes():
    x = np.ones(4, "float32")
    w, optimizer = Foreign(x), Momentum(lr=0.5)
    optimizer.update([w], [Foreign(np.ones(4, "float32"))])
    w.array = x[:]
    w.array.flags.writeable = False
    with pytest.raises(ValueError, match=r"params\[0\] is read-only, .*pass a writable array"):
        optimizer.update([w], [Foreign(np.ones(4, "float32"))])
    assert optimizer.t == 1
    assert x.tolist() == [0.5] * 4


def test_a_constant_is_replaced_in_a_tuple_too():
    w = Constant(np.zeros(3))
    new = SGD(lr=1.0).update((w,), (Constant(np.ones(3)),))
    assert new[0].array.tolist() == [-1.0] * 3
    assert w.array.tolist() == [0.0] * 3


def test_arrays_that_share_memory_are_refused():
    x = np.zeros(10)
    with pytest.raises(ValueError, match="share memory"):
        Adam().update([Foreign(x[:6]), Foreign(x[5:])], [Foreign(np.ones(n)) for n in (6, 5)])
    windows = np.lib.stride_tricks.as_strided(x, (4, 4), (8, 8))
    with pytest.raises(ValueError, match="elements share memory"):
        Adam().update(Foreign(windows), Foreign(np.ones((4, 4))))


def test_hyperparameters_may_be_arrays_of_the_library():
    steps = np.array([1.0, 2.0, 4.0])
    w, optimizer = np.zeros(3), SGD(lr=Foreign(steps))
    for _ in range(2):
        optimizer.update(Foreign(w), Foreign(np.ones(3)))
    assert w.tolist() == [-2.0, -4.0, -8.0]


def test_rules_that_cannot_be_fused_are_given_arrays_of_numpy():
    """The library has no functions that they could call."""

    class Own(Optimizer):
        lr: float = 0.5

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - h.lr * xp.exp(g), {}

    for engine in ("auto", "array_api"):
        w = np.zeros(3)
        Own(engine=engine).update(Foreign(w), Foreign(np.zeros(3)))
        assert w.tolist() == [-0.5] * 3


def test_an_answer_needs_the_functions_of_a_library():
    optimizer, w = chain(SGD(), average(0.9)), np.ones(3)
    optimizer.update([Foreign(w)], [Foreign(np.ones(3))])
    with pytest.raises(TypeError, match=r"of no library that follows .*numpy\.asarray"):
        optimizer.answer([Foreign(w)])
    assert optimizer.answer([w])[0].shape == (3,)


def test_the_library_of_the_standard_is_called_by_its_functions():
    xp = pytest.importorskip("array_api_strict")
    w = xp.zeros(3)
    assert hasattr(w, "__dlpack__")
    assert arrays.exported(w) is None
    (found,) = Adam().explain({"w": w}).buckets
    assert found.engine == "array_api"


def test_what_cannot_be_exported_is_told_as_before():
    class Closed(Foreign):
        def __dlpack__(self, **_):
            raise BufferError("not now")

    with pytest.raises(TypeError, match=r"of no library that follows .*numpy\.asarray"):
        Adam().update(Closed(np.zeros(3)), Closed(np.zeros(3)))


def test_memory_is_given_back_after_each_step():
    for kind in KINDS.values():
        optimizer, seen = LAMB(), []
        params = {"w": kind(np.ones(100))}
        for _ in range(3):
            grads = {"w": kind(np.ones(100))}
            seen += [weakref.ref(x["w"].array) for x in (params, grads)]
            optimizer.update(params, grads)
        seen.append(weakref.ref(params["w"].array))
        del params, grads
        gc.collect()
        assert [one() for one in seen] == [None] * 7


@pytest.mark.slow
@pytest.mark.parametrize("taken", [0, 3])
@pytest.mark.parametrize("of", [Foreign, Constant])
def test_an_exception_at_any_line_leaves_all_of_a_step_or_nothing(of, taken):
    problem = whole_steps.Problem(Adam, of=of)
    after, stride = ("Plan.step", 5) if taken == 0 else (None, 2)
    assert all(whole_steps.assert_whole(problem, taken, {}, after, stride))

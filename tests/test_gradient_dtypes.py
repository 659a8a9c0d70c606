"""Gradients of another floating dtype than their parameters: converted once, as they are loaded."""

import bits
import engine_runs
import numpy as np
import pytest

from instep import LAMB, SGD, Adafactor, Adam, Muon, Optimizer, chain
from instep.arrays import to_numpy
from instep.transforms import average, clip_by_global_norm, skip_nonfinite

DTYPES = ["float16", "bfloat16", "float32", "float64"]
COMPUTE = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
PAIRS = [(own, other) for own in DTYPES for other in DTYPES if own != other]

MAKERS = {
    "Adam": Adam,
    "LAMB": LAMB,
    "Muon": Muon,
    "Adafactor": Adafactor,
    "chain": lambda **settings: chain(
        clip_by_global_norm(1.0), Adam(0.1), average(0.9), **settings
    ),
    "guarded": lambda **settings: chain(skip_nonfinite(), SGD(0.1), **settings),
}


def array(x, name):
    with np.errstate(over="ignore"):
        return x.astype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def trees(rng, own, other, draw=bits.ordinary):
    shapes = {
        "matrix": (40, 33),
        "strided": (30, 26),
        "long": (50_000,),
        "empty": (0, 3),
        "one": (),
    }
    params = {
        key: array(bits.ordinary(rng, shape, "float64"), own) for key, shape in shapes.items()
    }
    params["strided"] = params["strided"][::2, ::-1]

    def gradients():
        grads = {key: array(draw(rng, w.shape, "float64"), other) for key, w in params.items()}
        grads["matrix"] = np.asfortranarray(grads["matrix"])
        return grads

    return params, [gradients() for _ in range(5)]


def copied(tree):
    return {key: w.copy(order="K") for key, w in tree.items()}


@pytest.mark.slow  # all of them together
@engine_runs.every_numpy_engine
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("own", "other"), PAIRS)
def test_a_gradient_is_converted_once_to_the_dtype_of_the_arithmetic(
    own, other, name, engine, threads
):
    engine_runs.require(engine)
    params, gradients = trees(np.random.default_rng(0), own, other)
    optimizer, other_way = (
        MAKERS[name](engine=engine, threads=threads),
        MAKERS[name](engine="array_api"),
    )
    w, expected = copied(params), copied(params)
    for grads in gradients:
        before = copied(grads)
        optimizer.update(w, grads)
        other_way.update(expected, {key: array(g, COMPUTE[own]) for key, g in grads.items()})
        for key, g in grads.items():
            bits.assert_same_bits(g, before[key], key)
    for key, x in expected.items():
        assert w[key].dtype == params[key].dtype
        bits.assert_same_bits(w[key], x, key)


@engine_runs.every_numpy_engine
@pytest.mark.parametrize(("own", "other"), PAIRS)
def test_any_values_have_the_same_bits_on_every_engine(own, other, engine, threads):
    engine_runs.require(engine)
    runs = []
    for settings in ({"engine": engine, "threads": threads}, {"engine": "array_api"}):
        params, gradients = trees(np.random.default_rng(1), own, other, bits.wild)
        optimizer = Adam(0.1, **settings)
        for grads in gradients:
            optimizer.update(params, grads)
        runs.append(params)
    for key, x in runs[1].items():
        bits.assert_same_bits(runs[0][key], x, key)


@engine_runs.every_numpy_engine
def test_leaves_of_a_tree_and_steps_of_a_run_have_gradients_of_several_dtypes(engine, threads):
    engine_runs.require(engine)
    rng = np.random.default_rng(2)
    params = {key: rng.standard_normal((20, 30)).astype("float32") for key in "abc"}
    optimizer, expected = Adam(0.1, engine=engine, threads=threads), copied(params)
    other = Adam(0.1, engine="array_api")
    for step in range(6):
        dtypes = [("float64", "float32", "float16")[(step + i) % 3] for i in range(3)]
        grads = {
            key: rng.standard_normal((20, 30)).astype(dtype)
            for key, dtype in zip("abc", dtypes, strict=True)
        }
        optimizer.update(params, grads)
        other.update(expected, {key: g.astype("float32") for key, g in grads.items()})
    assert optimizer.t == 6
    for key, x in expected.items():
        bits.assert_same_bits(params[key], x, key)


@engine_runs.every_engine
def test_a_step_that_is_repeated_sees_the_dtype_of_the_gradient(engine):
    engine_runs.require(engine)
    w, expected, optimizer, other = np.ones(5), np.ones(5), SGD(0.5, engine=engine), SGD(0.5)
    for dtype in ["float64", "float64", "float32", "float32", "float64", "float16"]:
        g = np.full(5, 0.1, dtype)
        optimizer.update(w, g)
        other.update(expected, g.astype("float64"))
    bits.assert_same_bits(w, expected)


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "complex128", ">f4", "longdouble"])
def test_other_gradients_are_refused(dtype):
    w, optimizer = np.ones(3, "float32"), Adam()
    g = np.ones(3, dtype)
    if g.dtype.name == "float64":
        pytest.skip("it is one of them here")
    with pytest.raises(
        TypeError,
        match=r"Adam.update: params is numpy float32 \(3,\), but grads is numpy .* \(3,\); convert "
        "the gradient to float32",
    ):
        optimizer.update(w, g)
    assert (optimizer.t, w.tolist()) == (0, [1.0] * 3)


def test_a_rule_sees_its_gradient_in_the_dtype_of_the_arithmetic():
    seen = []

    class Looks(Optimizer):
        @staticmethod
        def rule(xp, w, g, s, h):
            seen.append((w.dtype, g.dtype))
            return w - g, {}

    Looks(engine="array_api").update(np.ones(3, "float32"), np.ones(3))
    assert set(map(str, seen[:-1])) == {"('float32', 'float32')"}  # of symbols, for mistakes
    assert seen[-1] == (np.dtype("float32"), np.dtype("float32"))


def test_gradients_of_any_library_may_have_another_dtype(xp):
    start, g = np.linspace(-1, 1, 50).astype("float32"), np.linspace(-2, 3, 50)
    expected, reference = start.copy(), Adam(0.1)
    params, optimizer = {"w": xp.asarray(start)}, Adam(0.1)
    gradient = xp.asarray(g)
    for _ in range(3):
        params = optimizer.update(params, {"w": gradient})
        reference.update(expected, g)
    assert str(params["w"].dtype).endswith("float32")
    np.testing.assert_allclose(to_numpy(params["w"]), expected, rtol=1e-5)

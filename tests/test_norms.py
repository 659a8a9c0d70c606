"""Norms that neither overflow nor vanish, and the numbers that sums leave."""

import math

import bits
import engine_runs
import numpy as np
import pytest

from instep import SGD, Optimizer, chain
from instep.transforms import clip_by_global_norm, clip_by_norm, project_norm

DTYPES = ("float16", "float32", "float64", "complex64", "complex128")


class Norms(Optimizer):
    """Sets parameters to the norm of their gradient, and a slot to that of all gradients."""

    slots = ("all",)
    real_slots = ("all",)

    @staticmethod
    def rule(xp, w, g, s, h):
        return xp.norm(g) + 0.0 * w, {"all": xp.tree_norm(g)}


ROWS = {
    "common": [3.0, -4.0, 0.0],
    "large": [3e200, -4e200, 1e-3],
    "largest": [1e308, -1e308, 1e308],
    "small": [3e-200, -4e-200, 0.0],
    "subnormal": [3 * 2.0**-1074, 4 * 2.0**-1074, 0.0],
    "large beside common": [2.0**480, 2.0**481, 2.0**479, 2.0**450],
    "common beside small": [2.0**-480, 2.0**-481, 2.0**-479, 2.0**-490],
    "all": [2.0**600, 2.0**-600, 1.0, 2.0**590],
    "many": np.geomspace(1e-320, 1e300, 40_000),
    "zeros": [0.0, -0.0],
    "infinite": [math.inf, 1.0, 1e-300],
}


@engine_runs.every_engine
@pytest.mark.parametrize("row", ROWS)
def test_a_norm_in_float64_is_right_wherever_it_is_finite(engine, row):
    engine_runs.require(engine)
    g = np.array(ROWS[row], "float64")
    w, z = np.zeros_like(g), np.zeros_like(g, complex)
    optimizer, of_complex = Norms(engine=engine), Norms(engine=engine)
    optimizer.update({"a": w}, {"a": g})
    imaginary = np.zeros_like(z)
    imaginary.imag = g[::-1]
    of_complex.update({"a": z}, {"a": imaginary})
    exact = math.hypot(*g.tolist())
    for found in (w[0], z[0].real, engine_runs.slots_of(optimizer)["a"]["all"][0]):
        assert found == exact or abs(found / exact - 1) < 1e-14 or exact < 1e-322


@engine_runs.every_engine
@pytest.mark.parametrize("where", [0, 1])
def test_nan_is_the_norm_of_what_has_one_beside_any_number(engine, where):
    engine_runs.require(engine)
    for other in (1.0, 1e300, 1e-300, 0.0):
        g = np.array([other, other])
        g[where] = np.nan
        w = np.zeros(2)
        Norms(engine=engine).update(w, g)
        assert np.isnan(w).all()


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_is_clipped_whatever_its_size(engine, dtype):
    engine_runs.require(engine)
    largest = float(np.finfo(dtype).max)
    for size in (largest / 4, math.sqrt(largest), 2.0**40 if largest > 1e5 else 2.0**8):
        g = np.array([2.4, 3.2], "float64") * size
        grads = {"a": g.astype(dtype), "b": (-0.5 * g).astype(dtype)}
        if dtype.startswith("complex"):
            grads["a"] = grads["a"] * np.array(1j, dtype)
        exact = [np.abs(x).astype("float64") for x in grads.values()]
        whole = math.hypot(*np.concatenate(exact).tolist())
        for make, norm in (
            (lambda: chain(clip_by_norm(1.0), SGD(1.0), engine=engine), None),
            (lambda: chain(clip_by_global_norm(1.0), SGD(1.0), engine=engine), whole),
            (lambda: chain(SGD(1.0), project_norm(1.0), engine=engine), None),
        ):
            params = {key: np.zeros(2, dtype) for key in grads}
            make().update(params, grads)
            for w, x in zip(params.values(), exact, strict=True):
                wanted = x / (norm or math.hypot(*x.tolist()))
                assert np.allclose(np.abs(w), wanted, rtol=4 * np.finfo(dtype).eps, atol=0)


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_within_the_limit_keeps_its_bits(engine, dtype):
    engine_runs.require(engine)
    g = bits.special_values(dtype)
    g = g[np.isfinite(g) & (np.abs(g) < 100)]
    clipped, plain = np.zeros_like(g), np.zeros_like(g)
    limit = float(np.linalg.norm(g.astype("complex128"))) * 1.0000001
    chain(clip_by_norm(limit), SGD(1.0), engine=engine).update(clipped, g)
    SGD(1.0, engine=engine).update(plain, g)
    bits.assert_same_bits(clipped, plain)


@engine_runs.every_engine
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30, 1e200])
def test_the_norm_of_a_tree_of_several_dtypes_is_one(engine, size):
    engine_runs.require(engine)
    grads = {
        "a": np.array([3.0, 4.0], "float32"),
        "b": np.array([5.0, -2.0]) * size,
        "c": np.array([1.0, 2.0], "float16"),
    }
    params = {key: np.zeros_like(g, "float64") for key, g in grads.items()}
    params["a"] = np.zeros(2, "float32")
    chain(clip_by_global_norm(0.5), SGD(1.0), engine=engine).update(params, grads)
    whole = math.hypot(*(float(x) for g in grads.values() for x in g))
    for key, w in params.items():
        eps = 4 * np.finfo(w.dtype).eps
        assert np.allclose(w, -0.5 / whole * grads[key].astype("float64"), rtol=eps, atol=1e-45)


class Arithmetic(Optimizer):
    """A step that is made of what sums leave."""

    lr: float = 0.1

    @staticmethod
    def rule(xp, w, g, s, h):
        total, count = xp.sum(g), xp.sum(xp.ones_like(g))
        mean = total / count
        rate = xp.where((mean > h.lr) & (total != 0), h.lr / mean, total / (mean - mean))
        rate = xp.maximum(rate, mean * mean) / xp.sqrt(abs(mean)) - h.t / 3
        return w - rate * g, {}


def arithmetic(g, step, lr=0.1):
    """Return the rate of `Arithmetic`, in the arithmetic of float64."""
    total, count = np.float64(math.fsum(g.tolist())), np.float64(len(g))
    mean = total / count
    with np.errstate(all="ignore"):
        rate = lr / mean if mean > lr and total != 0 else total / (mean - mean)
        return max(rate, mean * mean) / np.sqrt(abs(mean)) - step / 3


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arithmetic_on_what_sums_leave_is_float64_and_rounded_once(engine, dtype):
    engine_runs.require(engine)
    optimizer, w = Arithmetic(engine=engine), np.zeros(3, dtype)
    for step, values in enumerate(([0.25, 3.0, 1.5], [0.5, -1.0, -2.0]), start=1):
        g = np.array(values, dtype)
        expected = w - g.dtype.type(arithmetic(g, step)) * g
        optimizer.update(w, g)
        bits.assert_same_bits(w, expected)


@engine_runs.every_engine
def test_a_sum_counts_more_elements_than_a_float32_can(engine):
    engine_runs.require(engine)

    class Count(Optimizer):
        @staticmethod
        def rule(xp, w, g, s, h):
            return w + (xp.sum(g) - 2.0**24), {}

    g = np.array([2.0**24, 1.0], "float32")
    w = np.zeros(2, "float32")
    Count(engine=engine).update(w, g)
    assert w.tolist() == [1.0, 1.0]

"""Maxima over tensors and the tree: exact in any order, on every engine."""

import math

import bits
import engine_runs
import numpy as np
import pytest

from instep import Optimizer, chain
from instep.transforms import skip_nonfinite


class Largest(Optimizer):
    """Sets parameters to the largest element of their gradient, and a slot to that of all."""

    slots = ("all",)

    @staticmethod
    def rule(xp, w, g, s, h):
        return xp.max(g) + 0.0 * w, {"all": xp.tree_max(g)}


def expected(g):
    return np.max(g.astype("float64"), initial=-math.inf) + 0.0


SIZES = (1, 2, 7, 8, 1023, 1025, 16_384, 16_385, 100_003)


@pytest.mark.parametrize("dtype", bits.DTYPES)
@engine_runs.every_numpy_engine
def test_a_maximum_is_the_largest_element(engine, threads, dtype):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    grads = {str(n): bits.ordinary(rng, (n,), dtype) - np.array(9, dtype) for n in SIZES}
    grads["strided"] = bits.ordinary(rng, (130, 200), dtype)[::2, ::-3]
    grads["transposed"] = bits.ordinary(rng, (70, 300), dtype).T
    params = {key: np.zeros_like(g) for key, g in grads.items()}
    optimizer = Largest(engine=engine, threads=threads)
    for _ in range(3):  # the last goes the short way
        optimizer.update(params, grads)
    whole = np.array(max(map(expected, grads.values())))
    state = engine_runs.slots_of(optimizer)
    for key, g in grads.items():
        bits.assert_same_bits(params[key], np.full(g.shape, expected(g)).astype(dtype), key)
        slot = state[key]["all"]
        bits.assert_same_bits(slot, np.full(g.shape, whole).astype(slot.dtype), key)


VALUES = {
    "negative": ([-3.0, -5.0], -3.0),
    "zeros": ([-0.0, 0.0, -0.0], 0.0),
    "negative zeros": ([-0.0, -0.0], 0.0),
    "subnormal": ([-(2.0**-1074), -1.0], -(2.0**-1074)),
    "infinite": ([1.0, math.inf, 2.0], math.inf),
    "all but infinite": ([-math.inf, -math.inf], -math.inf),
    "NaN first": ([math.nan, 1.0, 2.0], math.nan),
    "NaN last": ([1.0, 2.0, math.nan], math.nan),
    "NaN beside infinity": ([math.inf, math.nan, math.inf], math.nan),
}


@engine_runs.every_engine
@pytest.mark.parametrize("row", VALUES)
def test_special_values_have_one_maximum(engine, row):
    engine_runs.require(engine)
    values, largest = VALUES[row]

    class Kept(Optimizer):
        slots = ("own", "all")

        @staticmethod
        def rule(xp, w, g, s, h):
            return w, {"own": xp.max(g), "all": xp.tree_max(g)}

    optimizer = Kept(engine=engine)
    for rotated in (values, values[::-1]):
        grads = {"a": np.array(rotated), "b": np.zeros((0, 3)), "c": np.array([-math.inf])}
        optimizer.update({key: np.zeros_like(g) for key, g in grads.items()}, grads)
        state = engine_runs.slots_of(optimizer)
        for name in ("own", "all"):
            bits.assert_same_bits(state["a"][name], np.full(len(values), largest))


@engine_runs.every_engine
def test_the_maximum_of_nothing_is_below_all_numbers(engine):
    engine_runs.require(engine)

    class Counted(Optimizer):
        @staticmethod
        def rule(xp, w, g, s, h):
            return w - xp.where(xp.tree_max(g) == -float("inf"), 1.0, 0.0), {}

    params = {"a": np.zeros((0, 2)), "b": np.zeros(0)}
    Counted(engine=engine).update(params, {"a": np.zeros((0, 2)), "b": np.zeros(0)})
    assert [w.shape for w in params.values()] == [(0, 2), (0,)]


@engine_runs.every_engine
def test_a_maximum_of_one_number_is_that_number(engine):
    engine_runs.require(engine)

    class Twice(Optimizer):
        @staticmethod
        def rule(xp, w, g, s, h):
            return w + xp.max(xp.max(g)) * xp.max(xp.ones_like(g)), {}

    w = np.zeros(2, "float32")
    Twice(engine=engine).update(w, np.array([3.0, 0.1], "float32"))
    assert w.tolist() == [3.0, 3.0]


@engine_runs.every_engine
@pytest.mark.parametrize("name", ["max", "tree_max"])
def test_what_has_no_order_is_refused_with_the_remedy(engine, name):
    engine_runs.require(engine)

    def optimizer(make):
        def rule(xp, w, g, s, h):
            return w - make(xp, g, h), {}

        return type("Wrong", (Optimizer,), {"rule": staticmethod(rule), "lr": 0.1})(engine=engine)

    w = np.zeros(2)
    with pytest.raises(TypeError, match=rf"xp\.{name} is given booleans.*xp\.where\(x, 1"):
        optimizer(lambda xp, g, h: getattr(xp, name)(g > 0)).update(w, np.ones(2))
    with pytest.raises(TypeError, match=rf"xp\.{name} is given complex numbers.*xp\.abs\(x\)"):
        optimizer(lambda xp, g, h: getattr(xp, name)(g)).update(w.astype(complex), np.ones(2) * 1j)
    with pytest.raises(TypeError, match=rf"xp\.{name} is given a number"):
        optimizer(lambda xp, g, h: getattr(xp, name)(2.0)).update(w, np.ones(2))


@engine_runs.every_engine
def test_a_maximum_stands_beside_sums_and_guards(engine):
    engine_runs.require(engine)

    class Scaled(Optimizer):
        lr: float = 0.5

        @staticmethod
        def rule(xp, w, g, s, h):
            largest, count = xp.tree_max(abs(g)), xp.tree_sum(xp.ones_like(g))
            mean = xp.sum(g) / xp.max(xp.ones_like(g))
            return w - h.lr / largest * (g - mean / count), {}

    params = {"a": np.zeros(3, "float32"), "b": np.zeros(2)}
    grads = {"a": np.array([1.0, -8.0, 3.0], "float32"), "b": np.array([2.0, 4.0])}
    optimizer = chain(skip_nonfinite(), Scaled(engine=engine))
    for _ in range(3):
        optimizer.update(params, grads)
    for key, g in grads.items():
        step = np.float64(g.sum()) / 5
        once = g.dtype.type(0.5 / 8) * (g - g.dtype.type(step))
        wanted = np.zeros_like(g)
        for _ in range(3):
            wanted = wanted - once
        bits.assert_same_bits(params[key], wanted)

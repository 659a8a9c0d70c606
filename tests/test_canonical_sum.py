# ruff: noqa: SLF001  (it looks inside on purpose)
"""Sums: one order of addition on every engine, and a bound on the error that follows from it."""

import functools
import math

import bits
import engine_runs
import numpy as np
import pytest

from instep import LAMB, LARS, SGD, Optimizer, Transform, chain, numerics
from instep.graph.dtypes import DTYPES

SIZES = (0, 1, 2, 1023, 1024, 1025, 16383, 16384, 16385, 2**20 + 3, 5_000_000)

ENGINES = [("array_api", 1), *engine_runs.NUMPY_ENGINES]
every_engine = pytest.mark.parametrize(
    ("engine", "threads"), ENGINES, ids=[f"{name}, {n} threads" for name, n in ENGINES]
)


class Total(Optimizer):
    """Sets every parameter to the sum of all gradients."""

    @staticmethod
    def rule(xp, w, g, s, h):
        return xp.tree_sum(g), {}


class Norms(Optimizer):
    """Sets every parameter to the norm of its gradient, and a slot to that of all gradients."""

    slots = ("all",)

    @staticmethod
    def rule(xp, w, g, s, h):
        return xp.norm(g), {"all": xp.tree_norm(g)}


def canonical_sum(x):
    """Return the canonical sum, written from its definition."""
    x = np.asarray(x, dtype="float64").ravel(order="C")
    while True:
        sums = []
        for start in range(0, max(1, len(x)), 16_384):
            tile, lanes = x[start : start + 16_384], np.zeros(1024)
            for i in range(0, len(tile), 1024):
                row = tile[i : i + 1024]
                lanes[: len(row)] += row
            while len(lanes) > 1:
                lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
            sums.append(lanes[0])
        if len(sums) == 1:
            return sums[0]
        x = np.array(sums)


@functools.cache
def numbers(size, dtype):
    """Return numbers of any exponent and sign, the largest so small that no sum overflows."""
    rng = np.random.default_rng(size)
    info = np.finfo(dtype)
    highest = info.maxexp - (24 if dtype == "float64" else 1)
    exponents = rng.uniform(np.log2(float(info.smallest_subnormal)), highest, size)
    x = (rng.choice([-1.0, 1.0], size) * 2.0**exponents).astype(dtype)
    x[::7] = rng.standard_normal(len(x[::7]))
    x.flags.writeable = False
    return x


@functools.cache
def reference(size, dtype):
    return canonical_sum(numbers(size, dtype))


def sums_of(x, engine, threads=None):
    """Return the sum of one array as an engine computes it: in float64, and as a rule gets it."""
    engine_runs.require(engine)
    optimizer, w = Total(engine=engine, threads=threads), np.zeros_like(x)
    optimizer.update(w, x)
    (total,) = {*optimizer._state.plan._sums.row(0)[:-1].tolist()}
    return total, w


def assert_same_number(got, expected):
    bits.assert_same_bits(np.float64(got), np.float64(expected))


@pytest.mark.parametrize("dtype", bits.DTYPES)
@every_engine
def test_engines_add_in_one_order(engine, threads, dtype):
    for size in SIZES:
        total, w = sums_of(numbers(size, dtype), engine, threads)
        assert_same_number(total, reference(size, dtype))
        # A rule gets it in the dtype of the arithmetic, and stores it in that of the parameter.
        with np.errstate(over="ignore"):
            rounded = np.array(total).astype(DTYPES[dtype].compute).astype(dtype)
        bits.assert_same_bits(w, np.full(size, rounded))


class Many(Optimizer):
    """Measures so many things that several rows of a tile are taken at once, and one maximum."""

    tree_readings = ("whole", "first", "second", "third", "fourth", "largest")

    @staticmethod
    def rule(xp, w, g, s, h):
        sums = [xp.tree_sum(x) for x in (g, 2 * g, -g, xp.where(w == 0, g, 1.0), w)]
        return w, dict(zip(Many.tree_readings, (*sums, xp.tree_max(g)), strict=True))


@pytest.mark.parametrize("dtype", bits.DTYPES)
@every_engine
def test_many_sums_are_added_in_the_same_order(engine, threads, dtype):
    for size in (100, 16_384, 16_385, 5 * 16_384 + 1_030):
        x = numbers(size, dtype)
        engine_runs.require(engine)
        optimizer = Many(engine=engine, threads=threads)
        optimizer.update(np.zeros_like(x), x)
        total = reference(size, dtype)
        twice = canonical_sum(x.astype(DTYPES[dtype].compute) * 2)
        expected = total, twice, -total, total, 0.0, float(x.max())
        for name, number in zip(Many.tree_readings, expected, strict=True):
            assert_same_number(optimizer.readings[name] + 0.0, number + 0.0)


class VeryMany(Optimizer):
    """Measures more than one pass has room for."""

    tree_readings = tuple(f"sum{i}" for i in range(600))

    @staticmethod
    def rule(xp, w, g, s, h):
        sums = xp.tree_sums(*(g + float(i) for i in range(600)))
        return w, dict(zip(VeryMany.tree_readings, sums, strict=True))


def test_more_sums_than_one_pass_has_room_for():
    x = np.linspace(0, 1, 300)
    engine_runs.require("native")
    optimizer = VeryMany(engine="native")
    assert optimizer.explain(x).buckets[0].passes == 3
    optimizer.update(np.zeros(300), x)
    found = [optimizer.readings[name] for name in VeryMany.tree_readings]
    assert found == [canonical_sum(x + i) for i in range(600)]


@pytest.mark.parametrize("dtype", bits.DTYPES)
@every_engine
def test_layout_in_memory_does_not_change_a_sum(engine, threads, dtype):
    # More than one gathered block, and no multiple of anything.
    x = numbers(2**20 + 3, dtype)[: 173 * 5 * 97].reshape(173, 5, 97)
    expected = canonical_sum(x)
    for lay_out in bits.LAYOUTS.values():
        total, _ = sums_of(lay_out(x), engine, threads)
        assert_same_number(total, expected)


@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_error_is_within_its_bound(dtype):
    """Each element passes through few additions, each of which errs by at most u = 2**-53.

    In a tile it is added to a lane with at most 15 others, and goes through 10 folds: 26
    additions, and as many for each level of tiles. So the sum is that of x * (1 + d), with
    |d| <= k*u / (1 - k*u), k = 26 * levels (Higham 2002, Accuracy and Stability of Numerical
    Algorithms, section 4.2); additions do not underflow.
    """
    for size in SIZES:
        x = numbers(size, dtype).astype("float64")
        levels = 1 if size <= 16_384 else 2
        k = 26 * levels * 2.0**-53
        exact, magnitude = math.fsum(x.tolist()), np.abs(x).sum() * (1 - 1e-12)
        assert abs(reference(size, dtype) - exact) <= k / (1 - k) * magnitude


@pytest.mark.parametrize("dtype", bits.DTYPES)
@every_engine
def test_what_is_not_finite_and_signed_zeros(engine, threads, dtype):
    x = np.zeros(20_000, dtype)
    for places, expected in [
        ({}, 0.0),
        ({17_000: np.nan}, np.nan),
        ({3: np.inf}, np.inf),
        ({19_999: -np.inf}, -np.inf),
        ({3: np.inf, 3 + 1024: -np.inf}, np.nan),
        ({0: np.inf, 16_384: -np.inf}, np.nan),
    ]:
        y = x.copy()
        for place, value in places.items():
            y[place] = value
        assert_same_number(sums_of(y, engine, threads)[0], expected)
    for size in (1, 20_000):  # lanes start from +0.0, so -0.0 never shows
        assert_same_number(sums_of(np.full(size, -0.0, dtype), engine, threads)[0], 0.0)


@every_engine
def test_tensors_are_added_in_the_order_of_the_tree(engine, threads):
    engine_runs.require(engine)
    rng = np.random.default_rng(2)
    grads = {
        "c": (rng.standard_normal(40_000) * 1e10).astype("float32"),
        "a": rng.standard_normal((70, 300)) * 1e-5,
        "d": np.zeros(0, "float32"),
        "b": {"y": rng.standard_normal(5).astype("float16"), "x": None},
        "e": np.float32(rng.standard_normal(5)),
    }
    leaves = [grads["a"], grads["b"]["y"], grads["c"], grads["d"], grads["e"]]
    expected = 0.0
    for x in leaves:
        expected += canonical_sum(x)
    for order in (list(grads), sorted(grads)):
        tree = {key: grads[key] for key in order}
        params = {key: x if isinstance(x, dict) else np.zeros_like(x) for key, x in tree.items()}
        params["b"] = {"x": np.zeros(3), "y": np.zeros(5, "float16")}
        optimizer = Total(engine=engine, threads=threads)
        optimizer.update(params, tree)
        assert_same_number(optimizer._state.plan._sums.total(0), expected)
        assert_same_number(params["a"][0, 0], expected)
        bits.assert_same_bits(params["e"], np.full(5, expected, "float32"))
        bits.assert_same_bits(params["b"]["x"], np.zeros(3))


def test_every_library_adds_in_this_order(xp):
    x = np.random.default_rng(1).standard_normal(40_000).astype("float32")
    total = numerics.canonical_sum(xp, xp.asarray(x))
    assert_same_number(float(total), canonical_sum(x))


# Sums in rules --------------------------------------------------------------------------


@every_engine
@pytest.mark.parametrize("scale", [1e-38, 1e-22, 1.0, 1e18, 1e34])
def test_a_norm_neither_overflows_nor_vanishes_on_the_way(engine, threads, scale):
    """Squares of float32 numbers are exact in float64, far from its limits.

    Their sum errs by 52 u of its value for two levels (see above), the root by half of that and
    another u, and the result is rounded to float32: by half a unit in its last place.
    """
    engine_runs.require(engine)
    rng = np.random.default_rng(4)
    grads = [(rng.standard_normal(n) * scale).astype("float32") for n in (20_000, 7, 1)]
    params = [np.zeros_like(g) for g in grads]
    optimizer = Norms(engine=engine, threads=threads)
    optimizer.update(params, grads)
    squares = [np.square(g.astype("float64")) for g in grads]
    exact = [math.sqrt(math.fsum(x.tolist())) for x in squares]
    whole = math.sqrt(math.fsum(np.concatenate(squares).tolist()))
    slots = engine_runs.slots_of(optimizer)
    for key, w, norm in zip("012", params, exact, strict=True):
        assert abs(float(w[0]) - norm) <= 30 * 2.0**-53 * norm + float(np.spacing(w[0])) / 2
        got = slots[key]["all"][0]
        assert abs(float(got) - whole) <= 30 * 2.0**-53 * whole + float(np.spacing(got)) / 2


class Standardized(Optimizer):
    """Gradient descent on gradients of mean 0 and variance 1: sums that depend on sums."""

    lr: float = 0.5

    @staticmethod
    def rule(xp, w, g, s, h):
        count = xp.sum(xp.ones_like(g))
        mean = xp.sum(g) / count
        variance = xp.sum((g - mean) * (g - mean)) / count
        return w - h.lr * (g - mean) / xp.sqrt(variance), {}


@every_engine
def test_a_sum_may_depend_on_another(engine, threads):
    engine_runs.require(engine)
    g = np.random.default_rng(0).standard_normal((300, 70))
    w = np.zeros_like(g)
    optimizer = Standardized(engine=engine, threads=threads)
    optimizer.update(w, g)
    expected = np.zeros_like(g)
    Standardized(engine="array_api").update(expected, g)
    bits.assert_same_bits(w, expected)
    # Within rounding of NumPy's: 21,000 additions each, at worst.
    np.testing.assert_allclose(w, -0.5 * (g - g.mean()) / g.std(), rtol=0, atol=1e-10)
    if engine != "array_api":
        assert [bucket.passes for bucket in optimizer.explain(w).buckets] == [3]


class Share(Optimizer):
    """Sets a parameter to the share of gradients that are positive, here and in the tree."""

    slots = ("everywhere",)

    @staticmethod
    def rule(xp, w, g, s, h):
        count, all_of_them = xp.sum(xp.ones_like(g)), xp.tree_sum(xp.ones_like(g))
        positive = xp.tree_sum(g > 0) / all_of_them
        return xp.sum(xp.where(g > 0, 1.0, 0.0)) / count, {"everywhere": positive}


@every_engine
def test_a_sum_of_booleans_counts(engine, threads):
    engine_runs.require(engine)
    grads = [np.linspace(-1, 3, 20_001, dtype="float16"), -np.ones(19_999)]
    params = [np.zeros_like(g) for g in grads]
    optimizer = Share(engine=engine, threads=threads)
    optimizer.update(params, grads)
    positive = (grads[0] > 0).sum()
    bits.assert_same_bits(
        params[0], np.full(20_001, positive / 20_001, "float32").astype("float16")
    )
    bits.assert_same_bits(params[1], np.zeros(19_999))
    slots = engine_runs.slots_of(optimizer)
    bits.assert_same_bits(slots["0"]["everywhere"], np.full(20_001, positive / 40_000, "float32"))
    bits.assert_same_bits(slots["1"]["everywhere"], np.full(19_999, positive / 40_000))


class Nothing(Optimizer):
    """Leaves everything as it is, after a sum that nobody needs."""

    @staticmethod
    def rule(xp, w, g, s, h):
        xp.sum(g)
        return w, {}


@every_engine
def test_a_rule_that_changes_nothing_touches_nothing(engine, threads):
    engine_runs.require(engine)
    w = np.array([1.0, -0.0, np.nan], "float16")
    before, optimizer = w.copy(), Nothing(engine=engine, threads=threads)
    optimizer.update(w, np.ones(3, "float16"))
    bits.assert_same_bits(w, before)
    assert optimizer.t == 1
    assert [bucket.bytes_per_element for bucket in optimizer.explain(w).buckets] == [None]


class Narrowed(Optimizer):
    """Rounds parameters to float32, whatever their dtype."""

    @staticmethod
    def rule(xp, w, g, s, h):
        return xp.astype(xp.astype(w, xp.float32), xp.float64), {}


@every_engine
def test_a_store_of_what_was_rounded_on_the_way_is_kept(engine, threads):
    engine_runs.require(engine)
    w = np.array([0.1, 1 / 3, 2.0])
    expected = w.astype("float32").astype("float64")
    Narrowed(engine=engine, threads=threads).update(w, np.zeros(3))
    bits.assert_same_bits(w, expected)


@pytest.mark.parametrize(
    ("optimizer", "passes", "moved"),
    [
        # LARS: w, g for the norms; then w, g, v read, w and v written.
        (LARS(), 2, 8 + 20),
        # LAMB: w, g, m, v for the norms; then the same read, w, m and v written.
        (LAMB(), 2, 16 + 28),
    ],
    ids=["LARS", "LAMB"],
)
def test_layer_wise_rules_take_two_passes(optimizer, passes, moved):
    explanation = optimizer.explain({"a": np.zeros(5, "float32"), "b": np.zeros(7, "float32")})
    (bucket,) = explanation.buckets
    assert (bucket.passes, bucket.bytes_per_element) == (passes, moved)
    assert "2 of 2" in str(explanation)


class NormOfEverySecondGradient(Transform):
    """Takes one more sum over the tensor in every second step of a leaf."""

    stage = "gradient"

    @staticmethod
    def scalars(h):
        return {"is_second": h.t % 2 == 0}

    @staticmethod
    def rule(xp, w, g, s, h):
        return g / xp.norm(g) if h.is_second else g, {}


class ProjectAll(Transform):
    """Scales all parameters together to norm 1."""

    stage = "parameter"

    @staticmethod
    def rule(xp, w, g, s, h):
        return w / xp.tree_norm(w), {}


@every_engine
def test_leaves_that_take_other_sums_agree_on_the_sum_over_the_tree(engine, threads):
    """`b` is a step behind, so that only one of the two takes the norm of its gradient."""
    engine_runs.require(engine)
    optimizer = chain(
        NormOfEverySecondGradient(), SGD(1.0), ProjectAll(), engine=engine, threads=threads
    )
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    optimizer.update(params, {"a": np.array([-1.0]), "b": None})
    params["a"][:] = 0.0
    optimizer.update(params, {"a": np.array([-3.0]), "b": np.array([-1.0])})
    root = math.sqrt(0.5)
    np.testing.assert_allclose([params["a"][0], params["b"][0]], [root, root], rtol=1e-15)

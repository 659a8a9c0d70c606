"""Proximal steps: minimizers of what they say, on every engine, and bounds on a step."""

import itertools
import math

import bits
import engine_runs
import numpy as np
import pytest

from instep import FISTA, SGD, Adam, Momentum, arrays, chain, minimize
from instep.transforms import (
    clip_change,
    group_soft_threshold,
    project,
    project_halfspace,
    project_l1,
    project_simplex,
    soft_threshold,
    support,
    total_variation,
)

SHAPES = [(), (1,), (7,), (65,), (0,), (3, 0), (3, 4), (1, 5), (5, 1), (2, 3, 7), (1, 1, 9)]


def drawn(dtype, shape, seed=0):
    return bits.ordinary(np.random.default_rng(seed), shape, dtype)


def moved(transform, w, lr=0.5, engine="auto", **settings):
    """Return a parameter after a step with no gradient and a proximal step."""
    new = w.copy(order="K")
    chain(SGD(lr), transform, engine=engine, **settings).update(new, np.zeros_like(w))
    return new


# Thresholds ---------------------------------------------------------------------------------


@engine_runs.every_engine
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_elements_shrink_by_the_threshold(dtype, shape, engine):
    engine_runs.require(engine)
    w = drawn(dtype, shape)
    expected = w.copy()
    for index in np.ndindex(w.shape):
        x = complex(w[index])
        shrunk = 0 if abs(x) <= 0.2 else x - 0.2 * x / abs(x)
        expected[index] = shrunk if dtype == "complex128" else shrunk.real if shrunk else 0
    got = moved(soft_threshold(0.4), w, engine=engine)
    np.testing.assert_allclose(got, expected, rtol=1e-14, atol=1e-15)
    assert ((got == 0) == (abs(w) <= 0.2)).all()


@engine_runs.every_engine
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("units", ["tensor", "first", "last"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_groups_shrink_by_the_threshold(dtype, units, shape, engine):
    engine_runs.require(engine)
    w = drawn(dtype, shape)
    expected = w.copy()
    whole = units == "tensor" or w.ndim < 2
    axis = 0 if units == "first" else -1
    count = 1 if whole else w.shape[axis]
    for i in range(count if w.size else 0):
        index = ... if whole else (i,) if axis == 0 else (..., i)
        norm = math.sqrt(math.fsum(abs(x) ** 2 for x in np.ravel(w[index]).tolist()))
        expected[index] = w[index] * max(1 - 1.5 / norm, 0) if norm else 0
    got = moved(group_soft_threshold(3.0, units), w, engine=engine)
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-15)


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", [*bits.DTYPES, *bits.COMPLEX])
def test_without_a_rate_nothing_changes(dtype, engine):
    engine_runs.require(engine)
    w = np.concatenate([drawn(dtype, 50), np.zeros(2, dtype)]).reshape(4, 13)
    for make in (soft_threshold, group_soft_threshold, total_variation):
        expected = w + 0 if make is soft_threshold else w  # which makes 0.0 of -0.0
        for rate, lr in ((0.0, 0.5), (2.0, 0.0)):
            bits.assert_same_bits(moved(make(rate), w, lr, engine), expected)
    units = moved(group_soft_threshold(0.0, "last"), w, engine=engine)
    bits.assert_same_bits(units, w)


@engine_runs.every_engine
def test_thresholds_follow_the_learning_rate(engine):
    engine_runs.require(engine)
    for make in (soft_threshold, group_soft_threshold, lambda rate: total_variation(rate, 400)):
        w, expected = np.array([8.0, 0.0]), 8.0
        optimizer = chain(SGD(lambda t: 1 / t), make(1.0), engine=engine)
        for t in (1, 2, 3):
            optimizer.update(w, np.zeros(2))
            expected -= 1 / t
            assert w[0] == pytest.approx(expected, rel=1e-6)


@engine_runs.every_engine
def test_a_threshold_may_be_an_array_where_it_is_of_elements(engine):
    engine_runs.require(engine)
    rates = np.array([0.0, 1.0, 4.0])
    assert moved(soft_threshold(rates), -np.ones(3), engine=engine).tolist() == [-1.0, -0.5, 0.0]
    w = chain(SGD(rates), soft_threshold(0.25), engine=engine).update(np.ones(3), np.zeros(3))
    assert w.tolist() == [1.0, 0.75, 0.0]
    for make in (group_soft_threshold, total_variation):
        with pytest.raises(TypeError, match=f"{make.__name__}: lr is an array.*; give a number"):
            chain(SGD(rates), make(), engine=engine).update(np.ones(3), np.zeros(3))
        with pytest.raises(TypeError, match=f"{make.__name__}: rate is an array"):
            chain(SGD(), make(rates), engine=engine).update(np.ones(3), np.zeros(3))


@engine_runs.every_engine
def test_what_is_not_finite_is_no_zero(engine):
    engine_runs.require(engine)
    w = np.array([np.nan, np.inf, -np.inf, 0.25, 3.0])
    got = moved(soft_threshold(1.0), w, 1.0, engine)
    np.testing.assert_array_equal(got, [np.nan, np.inf, -np.inf, 0.0, 2.0])
    z = moved(
        soft_threshold(1.0), np.array([complex(np.nan, 0), complex(0, np.inf), 3j]), 1.0, engine
    )
    assert np.isnan(z[:2]).all()
    assert z[2] == 2j
    for units in ("tensor", "first"):
        got = moved(
            group_soft_threshold(1.0, units), np.array([[np.nan, 9.0], [3.0, 4.0]]), 1.0, engine
        )
        assert np.isnan(got[0]).all()
        assert np.isnan(got[1]).all() == (units == "tensor")
    np.testing.assert_allclose(got[1], [2.4, 3.2])


# Total variation ----------------------------------------------------------------------------


def variation(x, channels=False):
    """Return the isotropic total variation of an array, point by point."""
    x = x if channels else x[..., None]
    total = 0.0
    for index in itertools.product(*(range(n) for n in x.shape[:-1])):
        square = 0.0
        for axis, n in enumerate(x.shape[:-1]):
            if index[axis] + 1 < n:
                after = (*index[:axis], index[axis] + 1, *index[axis + 1 :])
                square += float(np.sum(abs(x[after] - x[index]) ** 2))
        total += math.sqrt(square)
    return total


def chambolle(y, weight, iterations, channels=False):
    """Return the minimizer by Chambolle's fixed point (2004), of the sum over neighbours."""
    layers = np.moveaxis(y, -1, 0) if channels else y[None]
    if np.iscomplexobj(y):
        layers = np.concatenate([layers.real, layers.imag])
    axes = range(1, layers.ndim)

    def gradient(x):
        return [np.diff(x, axis=a, append=x.take([-1], axis=a)) for a in axes]

    def divergence(p):
        found = np.zeros_like(layers)
        for a, q in zip(axes, p, strict=True):
            inner = q.take(range(q.shape[a] - 1), axis=a)
            pad = [(0, 0)] * q.ndim
            pad[a] = (1, 1)
            found += np.diff(np.pad(inner, pad), axis=a)
        return found

    p, step = [np.zeros_like(layers) for _ in axes], 1 / (4 * len(axes))
    for _ in range(iterations):
        g = gradient(divergence(p) - layers / weight)
        length = np.sqrt(sum((x * x).sum(axis=0, keepdims=True) for x in g))
        p = [(q + step * x) / (1 + step * length) for q, x in zip(p, g, strict=True)]
    found = layers - weight * divergence(p)
    if np.iscomplexobj(y):
        found = found[: len(found) // 2] + 1j * found[len(found) // 2 :]
    return np.moveaxis(found, 0, -1) if channels else found[0]


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(
    ("shape", "channels"),
    [((12,), False), ((6, 7), False), ((4, 3, 5), False), ((6, 5, 3), True), ((1, 9), False)],
)
def test_the_variation_is_that_of_another_method(shape, channels, dtype):
    rng = np.random.default_rng(3)
    w = rng.standard_normal(shape).astype(dtype)
    if dtype == "complex128":
        w += 1j * rng.standard_normal(shape)
    got = moved(total_variation(0.5, 1000, channels=channels), w)
    expected = chambolle(w, 0.25, 10_000, channels)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)


def objective(x, w, weight, channels=False):
    return 0.5 * float(np.sum(abs(x - w) ** 2)) + weight * variation(x, channels)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_nothing_near_to_the_minimizer_is_lower(dtype):
    rng = np.random.default_rng(4)
    w = bits.ordinary(rng, (5, 6), dtype)
    found = moved(total_variation(1.0, 5000), w)
    lowest = objective(found, w, 0.5)
    for size in (1e-1, 1e-2):
        for _ in range(30):
            other = found + size * bits.ordinary(rng, (5, 6), dtype)
            assert objective(other, w, 0.5) > lowest


@engine_runs.every_engine
def test_more_iterations_come_nearer(engine):
    engine_runs.require(engine)
    w = np.random.default_rng(5).standard_normal((9, 9))
    gaps = []
    lowest = objective(moved(total_variation(1.0, 2000), w, engine=engine), w, 0.5)
    for iterations in (1, 5, 25, 125):
        found = moved(total_variation(1.0, iterations), w, engine=engine)
        gaps.append(objective(found, w, 0.5) - lowest)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3 * gaps[0]  # what falls as 1 / k**2 has 6e-5 there


@engine_runs.every_engine
def test_constants_and_arrays_without_neighbours_stay_as_they_are(engine):
    engine_runs.require(engine)
    for w in (np.full((4, 5), 3.5), np.array(2.0), np.ones((1, 1)), np.zeros((0, 3)), np.zeros(1)):
        bits.assert_same_bits(moved(total_variation(1.0), w, engine=engine), w)
    colours = np.arange(3.0)[None, None]
    bits.assert_same_bits(
        moved(total_variation(1.0, channels=True), colours, engine=engine), colours
    )


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_at_the_ends_of_the_range_are_taken(dtype, engine):
    engine_runs.require(engine)
    w = np.random.default_rng(6).standard_normal((5, 5)).astype(dtype)
    heavy = moved(total_variation(1e9, 200), w, engine=engine)
    np.testing.assert_allclose(heavy, w.mean(dtype=float), atol=1e-2)
    for rate in (1e-9, 1e-30, 1e-300):
        got = moved(total_variation(rate), w, engine=engine)
        np.testing.assert_allclose(got, w, rtol=1e-6, atol=1e-7)
        large = (w * 1e18).astype(dtype)
        np.testing.assert_allclose(
            moved(total_variation(rate), large, engine=engine), large, rtol=1e-5
        )


@engine_runs.every_engine
def test_parts_are_channels_where_complex_numbers_are_pairs(engine):
    engine_runs.require(engine)
    w = drawn("complex128", (6, 5))
    expected = moved(total_variation(0.5, 30), w, engine=engine)
    one = total_variation(0.5, 30, channels=True)
    got = moved(one, w, engine=engine, complex="pairs")
    bits.assert_same_bits(got, expected)


# Bits, engines and passes -------------------------------------------------------------------

MAKERS = {
    "soft": lambda: [soft_threshold(0.3)],
    "groups": lambda: [group_soft_threshold(0.5), group_soft_threshold(0.1, "first")],
    "variation": lambda: [total_variation(0.2, 4)],
    "channels": lambda: [total_variation(lambda t: 0.1 * t, lambda t: t, channels=True)],
    "change": lambda: [clip_change(0.25), clip_change(lambda t: 0.5 / t)],
}


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("dtype", [*bits.DTYPES, *bits.COMPLEX])
@pytest.mark.parametrize("name", MAKERS)
def test_engines_agree_on_every_layout(name, dtype, engine, threads, eager_threads):
    engine_runs.require(engine)
    runs = []
    for settings in ({"engine": "array_api"}, {"engine": engine, "threads": threads}):
        params = {key: w for key, (w, _) in bits.leaves_of(dtype).items()}
        optimizer = chain(Momentum(0.5), *MAKERS[name](), project_if_real(dtype), **settings)
        for grads in bits.gradients_of(dtype, 3):
            optimizer.update(params, grads)
        runs.append((params, optimizer))
    engine_runs.assert_same_run(*runs)


def project_if_real(dtype):
    """Return what keeps numbers of any size from overflowing, or keeps moduli as they are."""
    return project() if dtype in bits.DTYPES else clip_change_of_none()


def clip_change_of_none():
    return clip_change(math.inf)


@pytest.mark.parametrize("name", MAKERS)
def test_every_library_has_the_same_bits(name, xp):
    w, g = drawn("float32", (33, 12)), drawn("float32", (33, 12), 1)
    optimizer = chain(SGD(0.5), *MAKERS[name]())
    (got,) = optimizer.update([xp.asarray(w.copy())], [xp.asarray(g)])
    expected = chain(SGD(0.5), *MAKERS[name]()).update(w.copy(), g)
    bits.assert_same_bits(arrays.to_numpy(got), expected)


def test_they_take_one_pass_or_two():
    w = {"w": np.ones((8, 8), "float32")}
    for transform, passes, size in [
        (soft_threshold(), 1, 28),
        (clip_change(), 1, 28),
        (group_soft_threshold(), 2, None),
        (group_soft_threshold(units="first"), 2, None),
        (total_variation(), 2, None),
    ]:
        (bucket,) = chain(Adam(), transform).explain(w).buckets
        assert bucket.passes == passes, transform
        assert size in (None, bucket.bytes_per_element)


@pytest.mark.parametrize(
    "transform",
    [
        *(soft_threshold(3.0), group_soft_threshold(3.0), total_variation(2.0, 300)),
        *(project_simplex(), project_l1(0.5), project_halfspace(), support(np.arange(20.0) % 2)),
    ],
    ids=lambda transform: transform.name,
)
def test_with_momentum_they_come_to_where_plain_steps_come(transform):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((40, 20)), rng.standard_normal(40)

    def value_and_grad(x):
        residual = a @ x - b
        return 0.5 * residual @ residual, a.T @ residual

    x, y = np.full(20, 0.05), np.full(20, 0.05)
    result = minimize(value_and_grad, x, FISTA(1 / 80, transform), steps=1000, tolerance=1e-9)
    optimizer = chain(SGD(1 / 80), transform)
    for _ in range(2000):
        optimizer.update(y, value_and_grad(y)[1])
    assert result.success
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-8)


# Changes ------------------------------------------------------------------------------------


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_no_element_moves_further_than_the_limit(dtype, engine):
    engine_runs.require(engine)
    w, g = drawn(dtype, (40, 5)), drawn(dtype, (40, 5), 1)
    new = chain(SGD(1.0), clip_change(0.01), engine=engine).update(w.copy(), g)
    free = SGD(1.0, engine=engine).update(w.copy(), g)
    is_near = abs(free - w) <= 0.01
    bits.assert_same_bits(new[is_near], free[is_near])
    change = new - w
    np.testing.assert_allclose(abs(change[~is_near]), 0.01, rtol=1e-11)
    np.testing.assert_allclose(change[~is_near], 0.01 * -g[~is_near] / abs(g[~is_near]), atol=1e-13)
    assert 0.2 < is_near.mean() < 0.8


@engine_runs.every_engine
def test_a_limit_may_be_none_or_nothing_or_an_array(engine):
    engine_runs.require(engine)
    limits = np.array([0.0, 0.5, np.inf])
    w = chain(SGD(1.0), clip_change(limits), engine=engine).update(np.zeros(3), np.full(3, -2.0))
    assert w.tolist() == [0.0, 0.5, 2.0]
    w = np.array([1.0, 1.0, -0.0])
    g = np.array([np.inf, np.nan, 0.0])
    w = chain(SGD(1.0), clip_change(0.25), engine=engine).update(w, g)
    np.testing.assert_array_equal(w, [0.75, np.nan, 0.0])
    w = chain(SGD(1.0), clip_change(1e39), engine=engine).update(
        np.zeros(1, "float32"), np.full(1, 3e38, "float32")
    )
    assert w[0] == np.float32(-3e38)


# What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [soft_threshold, group_soft_threshold, total_variation])
def test_a_rate_below_zero_is_refused(make):
    for rate in (-0.5, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"{make.__name__}: rate must be a finite number >= 0"):
            make(rate)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"clip_change: limit must be a number >= 0, got -1\.0"):
        clip_change(-1.0)
    with pytest.raises(ValueError, match="total_variation: iterations must be an integer >= 1"):
        total_variation(iterations=0)
    with pytest.raises(ValueError, match="group_soft_threshold: units must be one of 'tensor', 'f"):
        group_soft_threshold(units="columns")
    with pytest.raises(ValueError, match="clip_change: limit=1e-50 is 0 in float32"):
        chain(SGD(), clip_change(1e-50)).update(np.ones(1, "float32"), np.ones(1, "float32"))
    with pytest.raises(
        ValueError, match="soft_threshold works on the step, and project on the par"
    ):
        chain(SGD(), project(), soft_threshold())

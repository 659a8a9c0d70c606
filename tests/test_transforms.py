"""Each transform against its textbook loop, and what it does at its edges."""

import copy
import math
import pickle
import re

import bits
import engine_runs
import numpy as np
import pytest
from error_analysis import Rounded

from instep import SGD, Adam, Rprop, arrays, chain, transforms
from instep.transforms import (
    accumulate,
    adaptive_clip,
    average,
    cautious,
    centralize,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    clip_change,
    conjugate,
    decoupled_weight_decay,
    dynamic_scale,
    grokfast,
    group_soft_threshold,
    lookahead,
    maximize,
    project,
    project_halfspace,
    project_l1,
    project_modulus,
    project_norm,
    project_real,
    project_simplex,
    scale_gradients,
    skip_nonfinite,
    soft_threshold,
    support,
    total_variation,
    trust_ratio,
    weight_decay,
)

LR = 0.3
STEPS = 20

# As in the test of the rules: where a rule groups the operations of its textbook in another way,
# two roundings stand for one.
REGROUPED = 2


def with_gradients(change):
    """Return the textbook loop of gradient descent on changed gradients."""

    def follow(w, gradients):
        for g in gradients:
            w = w - LR * change(w, g)
            yield w

    return follow


def with_parameters(change):
    """Return the textbook loop of gradient descent whose parameters are changed afterwards."""

    def follow(w, gradients):
        for g in gradients:
            w = change(w - LR * g)
            yield w

    return follow


def with_steps(change):
    """Return the textbook loop of gradient descent whose steps are changed."""

    def follow(w, gradients):
        for g in gradients:
            w = change(w, w - LR * g, g)
            yield w

    return follow


def norm(x):
    return np.sqrt(np.sum(x * x))


def accumulated(w, gradients):
    total = 0 * w
    for call, g in enumerate(gradients, 1):
        total = total + g
        if call % 3 == 0:
            w, total = w - LR * (total / 3), 0 * w
        yield w


def looked_ahead(w, gradients):
    slow = w
    for t, g in enumerate(gradients, 1):
        w = w - LR * g
        if t % 4 == 0:
            w = slow = slow + 0.25 * (w - slow)
        yield w


def amplified(w, gradients):
    m = gradients[0]
    for g in gradients:
        m = 0.9 * m + (1 - 0.9) * g if g is not gradients[0] else g
        w = w - LR * (g + 2.5 * m)
        yield w


def clipped_by_parameter(w, g):
    limit = 0.05 * np.maximum(norm(w), 0.1)
    return limit * (g / np.maximum(norm(g), limit))


def agreeing(w, gradients):
    """Count in the arithmetic of the format, in which a change may be lost in rounding."""
    w, real, unit = w.value.astype(w.dtype), np.dtype(w.dtype).type, np.finfo(w.dtype).eps
    for rounded in gradients:
        g = rounded.value.astype(w.dtype)
        new = w - real(LR) * g
        agrees = (new != w) & (g != 0) & ((new < w) == (g > 0))
        change = real(w.size / (agrees.sum() + 1)) * (new - w)
        w = np.where(agrees, w + change, w)
        yield Rounded(w, w.dtype, unit * (abs(w) + abs(change)))


SIZE = 300
MASK = np.arange(SIZE) % 3 > 0


def on_one_side(w):
    excess = np.sum(0.75 * w) - 0.5
    return w - np.maximum(excess, 0) / (SIZE * 0.75**2) * 0.75


def less_threshold(moduli, total):
    """Return numbers less the one by which those of them that are positive add up to a total."""
    falling = np.sort(moduli.value)[::-1]
    counts = np.arange(1, SIZE + 1)
    count = counts[falling - (np.cumsum(falling) - total) / counts > 0][-1]
    chosen = moduli.value >= falling[count - 1]
    threshold = (np.sum(np.where(chosen, moduli, 0 * moduli)) - total) / int(count)
    return np.maximum(moduli - threshold, 0)


def within_sum(w, radius):
    moduli = np.abs(w)
    if np.sum(moduli.value) <= radius:
        return w
    return np.sign(w) * less_threshold(moduli, radius)


def smoothed_rows(w, gradients):
    """Follow the loop of fast gradient projection in the arithmetic of the format."""
    w, real = w.value.astype(w.dtype), np.dtype(w.dtype).type
    weight = LR * 0.5
    for rounded in gradients:
        w = w - real(LR) * rounded.value.astype(w.dtype)
        ahead, old, t = np.zeros(SIZE + 1, w.dtype), np.zeros(SIZE + 1, w.dtype), 1.0
        for _ in range(6):
            smooth = w - real(weight) * (ahead[:-1] - ahead[1:])
            p = ahead.copy()
            p[1:-1] = ahead[1:-1] + real(1 / (4 * weight)) * (smooth[1:] - smooth[:-1])
            p = p / np.maximum(np.sqrt(p * p), 1)
            t, before = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
            ahead, old = p + real((before - 1) / t) * (p - old), p
        w = w - real(weight) * (old[:-1] - old[1:])
        yield Rounded(w, w.dtype)


TEXTBOOK = [
    (clip_by_value(0.5), with_gradients(lambda w, g: np.minimum(np.maximum(g, -0.5), 0.5))),
    (clip_by_norm(1.5), with_gradients(lambda w, g: 1.5 / np.maximum(norm(g), 1.5) * g)),
    (clip_by_global_norm(1.5), with_gradients(lambda w, g: 1.5 / np.maximum(norm(g), 1.5) * g)),
    (adaptive_clip(0.05, 0.1), with_gradients(clipped_by_parameter)),
    (centralize(), with_gradients(lambda w, g: g)),  # of a vector
    (grokfast(2.5, 0.9), amplified),
    (weight_decay(0.2), with_gradients(lambda w, g: g + 0.2 * w)),
    (scale_gradients(0.7), with_gradients(lambda w, g: 0.7 * g)),
    (maximize(), with_gradients(lambda w, g: -g)),
    (conjugate(), with_gradients(lambda w, g: g)),
    (skip_nonfinite(), with_gradients(lambda w, g: g)),
    (dynamic_scale(4.0), with_gradients(lambda w, g: g / 4)),
    (accumulate(3), accumulated),
    (lookahead(4, 0.25), looked_ahead),
    (project(-0.3, 0.4), with_parameters(lambda w: np.minimum(np.maximum(w, -0.3), 0.4))),
    (project_real(), with_parameters(lambda w: w)),
    (
        project_modulus(0.2, 0.5),
        with_parameters(lambda w: np.sign(w) * np.minimum(np.maximum(np.abs(w), 0.2), 0.5)),
    ),
    (project_norm(2.0), with_parameters(lambda w: 2.0 / np.maximum(norm(w), 2.0) * w)),
    (support(MASK), with_parameters(lambda w: np.where(MASK, w, 0 * w))),
    (project_halfspace(0.75, 0.5), with_parameters(on_one_side)),
    (project_simplex(2.0), with_parameters(lambda w: less_threshold(w, 2.0))),
    (project_l1(2.0), with_parameters(lambda w: within_sum(w, 2.0))),
    (average(0.9), with_gradients(lambda w, g: g)),
    (
        soft_threshold(0.2),
        with_parameters(lambda w: np.sign(w) * np.maximum(np.abs(w) - LR * 0.2, 0)),
    ),
    (
        group_soft_threshold(2.0),
        with_parameters(lambda w: np.maximum(1 - LR * 2.0 / norm(w), 0) * w),
    ),
    (total_variation(0.5, 6), smoothed_rows),
    (
        clip_change(0.1),
        with_steps(lambda w, new, g: w + np.sign(new - w) * np.minimum(np.abs(new - w), 0.1)),
    ),
    (decoupled_weight_decay(0.2), with_steps(lambda w, new, g: new - LR * 0.2 * w)),
    (cautious(), agreeing),
    (
        trust_ratio(0.5),
        with_steps(lambda w, new, g: w + LR * 0.5 * norm(w) / norm(new - w) * (new - w)),
    ),
]


def test_every_transform_has_a_textbook():
    assert {transform.name for transform, _ in TEXTBOOK} == set(transforms.__all__)


def problem(dtype, size=SIZE):
    rng = np.random.default_rng(8)
    return [bits.ordinary(rng, size, dtype) for _ in range(1 + STEPS)]


def assert_within_bound(path, expected):
    for step, (got, want) in enumerate(zip(path, expected, strict=True), 1):
        error = abs(got.astype(np.longdouble) - want.value)
        assert (error <= REGROUPED * want.error).all(), f"step {step}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("transform", "textbook"), TEXTBOOK, ids=lambda x: getattr(x, "name", ""))
def test_a_transform_follows_its_textbook(transform, textbook, dtype):
    start, *gradients = problem(dtype)
    order = (transform, SGD(LR)) if transform.stage == "gradient" else (SGD(LR), transform)
    optimizer, w, path = chain(*order), start.copy(), []
    for g in gradients:
        optimizer.update(w, g)
        path.append(w.copy())
    rounded = [Rounded(g, dtype) for g in gradients]
    assert_within_bound(path, list(textbook(Rounded(start, dtype), rounded)))


# Clipping -------------------------------------------------------------------------------


@engine_runs.every_engine
@pytest.mark.parametrize("transform", [clip_by_norm, clip_by_global_norm])
def test_gradients_within_the_norm_keep_their_bits(transform, engine):
    engine_runs.require(engine)
    gradient = np.array([3.0, -0.0, 4.0, 1e-40], "float32")
    for limit, expected in [(5.0, gradient), (5.1, gradient), (1e30, gradient)]:
        w = np.zeros(4, "float32")
        chain(transform(limit), maximize(), SGD(1.0), engine=engine).update(w, gradient)
        bits.assert_same_bits(w, 0 + expected)


@engine_runs.every_engine
def test_the_global_norm_is_that_of_all_tensors(engine):
    engine_runs.require(engine)
    params = {"b": np.zeros((1, 2)), "a": np.zeros(1), "c": np.zeros(0), "d": np.zeros(1)}
    grads = {"b": np.array([[1.0, 2.0]]), "a": np.array([2.0]), "c": np.zeros(0), "d": None}
    chain(clip_by_global_norm(1.5), SGD(1.0), engine=engine).update(params, grads)
    np.testing.assert_array_equal(params["b"], [[-0.5, -1.0]])
    np.testing.assert_array_equal(params["a"], [-1.0])
    np.testing.assert_array_equal(params["d"], [0.0])


@engine_runs.every_engine
def test_exploding_gradients_are_clipped_and_not_lost(engine):
    """Their squares are beyond float32, and in other libraries their norm is infinite."""
    engine_runs.require(engine)
    w = np.zeros(2, "float32")
    gradient = np.array([3e30, 4e30], "float32")
    chain(clip_by_global_norm(1.0), SGD(1.0), engine=engine).update(w, gradient)
    np.testing.assert_allclose(w, [-0.6, -0.8], rtol=2**-22)  # four roundings to float32


@engine_runs.every_engine
def test_nan_is_not_clipped_away(engine):
    engine_runs.require(engine)
    for transform in (clip_by_value(1.0), clip_by_norm(1.0), project(-1.0, 1.0)):
        w = np.zeros(2)
        order = (transform, SGD(1.0)) if transform.stage == "gradient" else (SGD(1.0), transform)
        chain(*order, engine=engine).update(w, np.array([np.nan, 5.0]))
        assert np.isnan(w[0])


@engine_runs.every_engine
@pytest.mark.parametrize("cls", [clip_by_norm, clip_by_global_norm, project_norm])
@pytest.mark.parametrize(
    ("dtype", "radius", "becomes"),
    [
        ("float16", 65536.0, None),  # the arithmetic is float32
        ("float16", 1e39, "infinite"),
        ("float32", 1e39, "infinite"),
        ("float32", 2.0**128 - 2.0**103, "infinite"),  # a tie, which goes to infinity
        ("float32", math.nextafter(2.0**128 - 2.0**103, 0), None),
        ("float32", 1e-50, "0"),
        ("float32", 2.0**-150, "0"),
        ("float32", math.nextafter(2.0**-150, 1), None),
        ("float64", 1e-50, None),
        ("float64", 5e-324, None),
        ("float64", 1.7e308, None),
    ],
)
def test_a_norm_is_bounded_by_a_number_of_the_arithmetic(cls, dtype, radius, becomes, engine):
    """Neither 0 nor infinite there: 0/0 and inf/inf would make everything NaN."""
    engine_runs.require(engine)
    transform = cls(radius)
    order = (transform, SGD(1.0)) if transform.stage == "gradient" else (SGD(1.0), transform)
    optimizer, w = chain(*order, engine=engine), np.zeros(2, dtype)
    for gradient in (np.zeros(2, dtype), np.array([0.0, 1.0], dtype)):
        if becomes is None:
            optimizer.update(w, gradient)
            assert np.isfinite(w).all()
            continue
        name = "radius" if cls is project_norm else "max_norm"
        message = f"{cls.__name__}: {name}={radius!r} is {becomes} in float32, the dtype of the ar"
        with pytest.raises(ValueError, match=re.escape(message)):
            optimizer.update(w, gradient)
        assert not w.any()
        assert optimizer.t == 0


@engine_runs.every_engine
@pytest.mark.parametrize("bound", [1e39, math.inf])
def test_a_bound_beyond_the_arithmetic_is_none(bound, engine):
    engine_runs.require(engine)
    largest = np.finfo("float32").max
    gradient = np.array([largest, -largest, np.inf, -0.0, 1.0], "float32")
    w = np.zeros(5, "float32")
    parts = clip_by_value(bound), maximize(), SGD(1.0), project(-bound, bound)
    chain(*parts, engine=engine).update(w, gradient)
    bits.assert_same_bits(w, 0 + gradient)


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_a_bound_beyond_the_arithmetic_on_the_side_of_no_bound_is_none_too(dtype, engine):
    """Clipped to it, all elements would be infinite."""
    engine_runs.require(engine)
    start = bits.special_values(dtype)
    beyond = [math.inf, *([] if dtype == "float64" else [1e39, 2.0**128 - 2.0**103])]
    for bound in beyond:
        for keywords in ({"lower": bound}, {"upper": -bound}, {"lower": lambda t, b=bound: b}):
            w, unbounded = start.copy(), start.copy()
            chain(SGD(0.0), project(**keywords), engine=engine).update(w, np.ones_like(w))
            SGD(0.0, engine=engine).update(unbounded, np.ones_like(w))
            bits.assert_same_bits(w, unbounded)
    largest = float(np.finfo(dtype).max)
    w = start.copy()
    chain(SGD(0.0), project(lower=largest), engine=engine).update(w, np.ones_like(w))
    expected = np.where(np.isnan(start) | (start > largest), start, largest).astype(dtype)
    bits.assert_same_bits(w, expected)


def test_a_limit_of_nothing_is_refused():
    for limit in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="clip_by_value: limit must be a number > 0"):
            clip_by_value(limit)
    with pytest.raises(ValueError, match="clip_by_value: limit=1e-50 is 0 in float32"):
        chain(clip_by_value(1e-50), SGD()).update(np.zeros(1, "float32"), np.ones(1, "float32"))


def enter(optimizer, params):
    with optimizer.answer_in_place(params):
        pass


# Units ----------------------------------------------------------------------------------

SHAPES = [(3, 4), (4, 3), (1, 5), (5, 1), (2, 3, 7), (3, 1, 2, 2), (1, 1), (0, 3), (2, 0), (7,), ()]


def rows_of(x, units):
    """Return a view of an array in C order whose rows are its units."""
    return x.reshape(len(x), -1) if units == "first" else x.reshape(-1, x.shape[-1]).T


def less_means(w, g, units):
    if g.ndim > 1 and g.size:
        rows = rows_of(g, units)
        rows -= rows.mean(axis=1, keepdims=True)


def clipped_by_unit(w, g, units):
    if g.size:
        pairs = [(w, g)] if g.ndim < 2 else zip(*(rows_of(x, units) for x in (w, g)), strict=True)
        for unit, row in pairs:
            limit = 0.5 * max(np.linalg.norm(unit), 0.1)
            row[...] = row * limit / max(np.linalg.norm(row), limit)


UNITS = [(centralize, (), less_means), (adaptive_clip, (0.5, 0.1), clipped_by_unit)]


@engine_runs.every_engine
@pytest.mark.parametrize("units", ["first", "last"])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize(("make", "arguments", "change"), UNITS)
def test_units_are_those_of_a_loop(make, arguments, change, dtype, units, engine):
    engine_runs.require(engine)
    rng = np.random.default_rng(5)
    params, grads = ({i: bits.ordinary(rng, s, dtype) for i, s in enumerate(SHAPES)} for _ in "wg")
    expected = {key: g.copy() for key, g in grads.items()}
    for key, g in expected.items():
        change(params[key], g, units)
    got = {key: w.copy() for key, w in params.items()}
    chain(make(*arguments, units=units), SGD(1.0), engine=engine).update(got, grads)
    for key, w in params.items():
        np.testing.assert_allclose(got[key], w - expected[key], rtol=1e-13, atol=1e-13)


@engine_runs.every_engine
@pytest.mark.parametrize("units", ["first", "last"])
@pytest.mark.parametrize("dtype", [*bits.DTYPES, *bits.COMPLEX])
@pytest.mark.parametrize(("make", "arguments", "change"), UNITS)
def test_units_have_the_same_bits_on_every_engine(make, arguments, change, dtype, units, engine):
    engine_runs.require(engine)
    rng, runs = np.random.default_rng(6), []
    start, *grads = ({i: bits.wild(rng, s, dtype) for i, s in enumerate(SHAPES)} for _ in range(3))
    for where in (engine, "array_api"):
        params = {key: w.copy(order="F") for key, w in start.items()}
        optimizer = chain(make(*arguments, units=units), SGD(1.0), engine=where)
        for call in grads:
            optimizer.update(params, call)
        runs.append((params, optimizer))
    engine_runs.assert_same_run(*runs)


@pytest.mark.parametrize("units", ["first", "last"])
def test_every_library_has_the_bits_of_units(units, xp):
    rng = np.random.default_rng(7)
    w, g = (bits.ordinary(rng, (33, 70), "float32") for _ in "wg")
    parts = centralize(units=units), adaptive_clip(0.5, units=units), SGD(1.0)
    (got,) = chain(*parts).update([xp.asarray(w.copy())], [xp.asarray(g)])
    bits.assert_same_bits(arrays.to_numpy(got), chain(*parts).update(w, g))


@engine_runs.every_engine
def test_a_unit_within_its_limit_keeps_its_bits_beside_one_that_explodes(engine):
    """The squares of 3e30 are beyond float32, and those of 3e300 beyond float64."""
    engine_runs.require(engine)
    for dtype, large in [("float32", 3e30), ("float64", 3e300), ("float64", 3e-300)]:
        w = np.ones((4, 2), dtype)
        g = np.array([[3e-3, -0.0], [large, 4 / 3 * large], [np.nan, 1.0], [0.0, 0.0]], dtype)
        new = w.copy()
        chain(adaptive_clip(0.01, 0.0), maximize(), SGD(1.0), engine=engine).update(new, g)
        change = np.array([0.006, 0.008]) * math.sqrt(2) if large > 1 else g[1]
        bits.assert_same_bits(new[[0, 3]], (w + g)[[0, 3]])
        np.testing.assert_allclose(new[1], 1 + change, rtol=4 * np.finfo(dtype).eps)
        assert np.isnan(new[2]).all()


@engine_runs.every_engine
def test_units_of_nothing_stay_where_nothing_counts(engine):
    engine_runs.require(engine)
    w = chain(adaptive_clip(0.5, 0.0), SGD(1.0), engine=engine).update(np.zeros((2, 2)), np.eye(2))
    assert not w.any()


def test_the_mean_of_a_unit_is_rounded_once():
    """Of numbers whose sum in float32 loses the small ones."""
    g = np.array([[2.0**30, 1.0, 1.0, -(2.0**30)], [1.0, 0.0, 0.0, 0.0]], "float32")
    w = chain(centralize(), SGD(1.0)).update(np.zeros((2, 4), "float32"), g)
    np.testing.assert_array_equal(w[:, 1:3], [[-0.5, -0.5], [0.25, 0.25]])


@pytest.mark.parametrize("make", [centralize, adaptive_clip])
def test_units_lie_along_the_first_axis_or_the_last(make):
    with pytest.raises(ValueError, match=f"{make.__name__}: units must be one of 'first', 'last'"):
        make(units="rows")


@engine_runs.every_engine
def test_the_slow_mean_starts_at_the_first_gradient_of_each_parameter(engine):
    engine_runs.require(engine)
    optimizer = chain(grokfast(1.0, 0.5), SGD(1.0), engine=engine)
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    for b in (None, np.array([4.0]), np.array([0.0])):
        optimizer.update(params, {"a": np.array([2.0]), "b": b})
    assert (params["a"].item(), params["b"].item()) == (-12.0, -10.0)


# Averages -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decay", [0.9, lambda t: min(0.9, t / (t + 3))], ids=["fixed", "schedule"])
def test_an_average_is_the_weighted_mean_of_the_path(decay, dtype):
    start, *gradients = problem(dtype)
    optimizer, w = chain(SGD(LR), average(decay)), start.copy()
    total, weight, expected, path = 0 * Rounded(start, dtype), 0.0, [], []
    for t, g in enumerate(gradients, 1):
        optimizer.update(w, g)
        path.append(optimizer.averaged(w))
        rate = decay(t) if callable(decay) else decay
        total = rate * total + (1 - rate) * Rounded(w, dtype)
        weight = rate * weight + (1 - rate)
        expected.append(total / weight)
    assert_within_bound(path, expected)


def test_a_decay_of_zero_averages_nothing():
    start, *gradients = problem("float32")
    optimizer = chain(Adam(), average(0.0))
    for g in gradients:
        optimizer.update(start, g)
    bits.assert_same_bits(optimizer.averaged(start), start)


def test_a_missing_gradient_leaves_its_average_alone():
    rng = np.random.default_rng(0)
    params, alone = {"a": np.ones(5), "b": np.ones(5), "never": np.ones(2)}, np.ones(5)
    both, one = chain(Adam(), average(0.9)), chain(Adam(), average(0.9))
    for step in range(9):
        g = rng.standard_normal(5)
        present = step % 3 != 1
        both.update(params, {"a": g, "b": g if present else None, "never": None})
        if present:
            one.update(alone, g)
    averages = both.averaged(params)
    bits.assert_same_bits(averages["b"], one.averaged(alone))
    bits.assert_same_bits(averages["never"], params["never"])
    assert averages["never"] is not params["never"]
    assert not np.array_equal(averages["a"], averages["b"])


@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_parameters_come_back_with_the_very_bits(dtype):
    rng = np.random.default_rng(0)
    params = {"a": bits.wild(rng, 50, dtype), "b": [np.array([np.nan, -0.0, 1e-7], dtype)]}
    optimizer = chain(Adam(), average(0.5))
    for _ in range(3):
        optimizer.update(params, {"a": bits.ordinary(rng, 50, dtype), "b": [None]})
    before, state = [params["a"].copy(), params["b"][0].copy()], optimizer.state_dict()
    averages = optimizer.averaged(params)
    with optimizer.answer_in_place(params) as answer:
        assert answer is params
        bits.assert_same_bits(params["a"], averages["a"])
        with pytest.raises(RuntimeError, match="the answer is in their place"):
            optimizer.update(params, {"a": np.ones(50, dtype), "b": [None]})
    assert params["a"].tobytes() == before[0].tobytes()
    assert params["b"][0].tobytes() == before[1].tobytes()
    optimizer.update(params, {"a": np.ones(50, dtype), "b": [None]})
    assert optimizer.t == state["t"] + 1


def test_averages_are_refused_where_they_do_not_fit():
    params = {"a": np.ones(3), "b": np.ones(2)}
    optimizer = chain(SGD(), average(0.5))
    optimizer.update(params, {"a": np.ones(3), "b": np.ones(2)})
    with pytest.raises(ValueError, match=r"\['a'\] is numpy float64 \(4,\), but its average"):
        optimizer.averaged({"a": np.ones(4)})
    frozen = np.ones(3)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match=r"Chain.answer_in_place: params\['a'\] is read-only"):
        enter(optimizer, {"a": frozen})
    with pytest.raises(ValueError, match=r"put average\(decay\) at the end of a chain"):
        chain(clip_by_value(1.0), SGD()).answer(params, which=0)


@pytest.mark.parametrize("make", [SGD, lambda: chain(clip_by_value(1.0), SGD())])
def test_without_a_rule_that_has_one_the_answer_is_the_parameters(make):
    optimizer, params = make(), {"a": np.ones(3), "calls": 7}
    optimizer.frozen = ["calls"]
    optimizer.update(params, {"a": np.ones(3), "calls": None})
    answer = optimizer.answer(params)
    assert answer["calls"] == 7
    bits.assert_same_bits(answer["a"], params["a"])
    assert answer["a"] is not params["a"]
    optimizer.update(params, {"a": np.ones(3), "calls": None})
    with optimizer.answer_in_place(params) as there:
        assert there is params
        with pytest.raises(RuntimeError, match="the answer is in their place"):
            optimizer.update(params, {"a": np.ones(3), "calls": None})


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "copy"])
def test_no_copy_is_made_while_the_answer_is_in_place(how):
    """It would step on what it does not know to be no parameters."""
    params = {"a": np.ones(3)}
    optimizer = chain(SGD(1.0), average(0.5))
    for _ in range(2):
        optimizer.update(params, {"a": np.ones(3)})
    make = {"pickle": pickle.dumps, "deepcopy": copy.deepcopy, "copy": copy.copy}[how]
    with (
        optimizer.answer_in_place(params),
        pytest.raises(RuntimeError, match=r"Chain.copy: .* the answer is in their place; leave"),
    ):
        make(optimizer)
    make(optimizer)


def test_an_exception_in_the_block_puts_the_parameters_back():
    params, optimizer = {"a": np.ones(3)}, chain(SGD(1.0), average(0.5))
    for _ in range(2):
        optimizer.update(params, {"a": np.ones(3)})
    before, w = params["a"].copy(), params["a"]

    def validate():
        with optimizer.answer_in_place(params):
            assert (w != before).all()
            params["a"] = np.full(3, 7.0)  # the user's array is written, and the tree left alone
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        validate()
    bits.assert_same_bits(w, before)
    assert (params["a"] == 7.0).all()
    with optimizer.answer_in_place({"a": np.ones(3)}), pytest.raises(RuntimeError, match="place"):
        enter(optimizer, params)
    optimizer.update(params, {"a": np.ones(3)})


@pytest.mark.parametrize("make", [SGD, lambda: chain(SGD(), average(0.5))])
def test_the_answer_is_put_in_place_where_no_leaf_has_a_gradient(make):
    optimizer, params = make(), {"a": np.ones(3)}
    optimizer.update(params, {"a": None})
    with optimizer.answer_in_place(params):
        assert params["a"].tolist() == [1.0] * 3
    optimizer.update(params, {"a": None})
    with pytest.raises(ValueError, match=r"grads has no \['a'\]"):
        optimizer.update(params, {})
    optimizer.update(params, {"a": None})
    assert optimizer.t == 3


def test_parameters_come_back_though_they_were_made_read_only_in_the_block():
    params, optimizer = {"a": np.ones(3), "b": np.array(1.0)}, chain(SGD(1.0), average(0.5))
    for _ in range(2):
        optimizer.update(params, {"a": np.ones(3), "b": np.array(1.0)})
    before = {key: w.copy() for key, w in params.items()}
    with optimizer.answer_in_place(params):
        for w in params.values():
            w.flags.writeable = False
    for key, w in params.items():
        bits.assert_same_bits(w, before[key], key)
    assert optimizer.state_dict()["t"] == 2


def test_no_answer_takes_the_place_of_arrays_that_share_memory():
    w, optimizer = np.ones(3), chain(SGD(1.0), average(0.5))
    optimizer.update({"a": w, "b": np.ones(3)}, {"a": np.ones(3), "b": np.ones(3)})
    before = w.copy()
    with pytest.raises(
        ValueError, match=r"Chain.answer_in_place: params\['a'\] and params\['b'\] are one"
    ):
        enter(optimizer, {"a": w, "b": w})
    bits.assert_same_bits(w, before)


def test_averages_of_a_tree_with_frozen_leaves_of_any_kind():
    params = {"w": np.zeros(2), "calls": 7, "table": np.arange(3)}
    optimizer = chain(SGD(1.0, frozen=["calls", "table"]), average(0.5))
    for _ in range(2):
        optimizer.update(params, {"w": np.full(2, -3.0), "calls": None, "table": None})
    means = optimizer.averaged(params)
    assert (means["w"].tolist(), means["calls"], means["table"].tolist()) == (
        [5.0] * 2,
        7,
        [0, 1, 2],
    )
    with optimizer.answer_in_place(params) as answer:
        assert answer["w"].tolist() == [5.0] * 2
        assert (answer["calls"], answer["table"].tolist()) == (7, [0, 1, 2])
    assert params["w"].tolist() == [6.0] * 2


def test_no_state_is_saved_while_the_answer_is_in_place(tmp_path):
    """It would be saved beside parameters that are averages."""
    w, optimizer = np.ones(3), chain(SGD(1.0), average(0.5))
    optimizer.update(w, np.ones(3))
    with optimizer.answer_in_place(w):
        for save in (optimizer.state_dict, lambda: optimizer.save(tmp_path / "state")):
            with pytest.raises(RuntimeError, match=r"Chain.state_dict: .*answer_in_place"):
                save()
    assert not any(tmp_path.iterdir())
    assert optimizer.state_dict()["t"] == 1


@pytest.mark.parametrize("how", ["reset", "load_state_dict", "load"])
def test_parameters_come_back_after_a_new_beginning_too(how, tmp_path):
    w, optimizer = np.ones(3), chain(SGD(1.0), average(0.5))
    optimizer.update(w, np.ones(3))
    saved = optimizer.state_dict()
    optimizer.save(tmp_path / "state")
    for _ in range(3):
        optimizer.update(w, np.ones(3))
    before = w.copy()
    with optimizer.answer_in_place(w):
        with pytest.raises(ValueError, match="has no 'format'"):
            optimizer.load_state_dict({})
        match how:
            case "reset":
                optimizer.reset()
            case "load_state_dict":
                optimizer.load_state_dict(saved)
            case _:
                optimizer.load(tmp_path / "state")
        with pytest.raises(RuntimeError, match="the answer is in their place"):
            optimizer.update(w, np.ones(3))
        assert (w != before).all()
    bits.assert_same_bits(w, before)
    optimizer.update(w, np.ones(3))
    assert optimizer.t == (1 if how == "reset" else 2)


def test_several_averages_are_told_apart_by_number():
    rng = np.random.default_rng(0)
    w, path = rng.standard_normal(5), []
    optimizer = chain(SGD(LR), average(0.5), average(0.9))
    singles = [chain(SGD(LR), average(decay)) for decay in (0.5, 0.9)]
    others = [w.copy(), w.copy()]
    for _ in range(4):
        g = rng.standard_normal(5)
        optimizer.update(w, g)
        path.append(w.copy())
        for single, other in zip(singles, others, strict=True):
            single.update(other, g)
    for which, single in enumerate(singles):
        expected = single.averaged(w)
        bits.assert_same_bits(optimizer.averaged(w, which=which), expected)
        bits.assert_same_bits(single.averaged(w, which=0), expected)
        with optimizer.answer_in_place(w, which=which):
            bits.assert_same_bits(w, expected)
        bits.assert_same_bits(w, path[-1])
    for which in (None, 2, -1, 1.0):
        for call in ("answer", "answer_in_place"):
            with pytest.raises(
                ValueError,
                match=rf"Chain.{call}: which must say whose answer, "
                rf"0 for average\(decay=0.5\), 1 for average\(decay=0.9\); got {which}",
            ):
                getattr(optimizer, call)(w, which=which).__enter__()
    bits.assert_same_bits(w, path[-1])


def test_every_library_averages(xp):
    start, *gradients = problem("float32", 40)
    expected, w = chain(Adam(), average(0.9)), start.copy()
    optimizer, params = chain(Adam(), average(0.9)), {"w": xp.asarray(start)}
    for g in gradients:
        expected.update({"w": w}, {"w": g})
        params = optimizer.update(params, {"w": xp.asarray(g)})
    before = arrays.to_numpy(params["w"])
    # Into an optimizer that has not met the library yet, too.
    loaded = chain(Adam(), average(0.9)).load_state_dict(expected.state_dict())
    for source in (optimizer, loaded):
        averages = source.averaged(params)
        assert type(averages["w"]) is type(params["w"])
        got = arrays.to_numpy(averages["w"])
        np.testing.assert_allclose(got, expected.averaged({"w": w})["w"], rtol=1e-5)
    with optimizer.answer_in_place(params) as answer:
        got = arrays.to_numpy(answer["w"])
        np.testing.assert_allclose(got, expected.answer({"w": w})["w"], rtol=1e-5)
    bits.assert_same_bits(arrays.to_numpy(params["w"]), before)


def test_the_answer_takes_the_place_of_arrays_of_several_libraries(xp):
    optimizer, params = chain(SGD(1.0), average(0.5)), {"a": np.ones(3), "b": xp.ones(2)}
    for _ in range(2):
        params = optimizer.update(params, {"a": np.ones(3), "b": xp.ones(2)})
    before = {key: arrays.to_numpy(w) for key, w in params.items()}
    answer = {key: arrays.to_numpy(w) for key, w in optimizer.answer(params).items()}
    with optimizer.answer_in_place(params) as there:
        for key, mean in answer.items():
            bits.assert_same_bits(arrays.to_numpy(there[key]), mean, key)
            assert (mean != before[key]).all()
    for key, w in before.items():
        bits.assert_same_bits(arrays.to_numpy(params[key]), w, key)


def test_lookahead_starts_from_where_the_parameters_started():
    w = np.array([8.0])
    optimizer = chain(SGD(1.0), lookahead(k=2, alpha=0.5))
    seen = [optimizer.update(w, np.array([2.0])).item() for _ in range(4)]
    assert seen == [6.0, 6.0, 4.0, 4.0]


@pytest.mark.parametrize("bad", [0, 1.5, -1, "two", None])
def test_counts_are_integers(bad):
    for transform in (accumulate, lookahead):
        with pytest.raises(
            (TypeError, ValueError), match=f"{transform.__name__}: k must be an int"
        ):
            transform(bad)


# Constraints ----------------------------------------------------------------------------


@engine_runs.every_engine
def test_projection_bounds_what_is_stored(engine):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal(1000), "b": rng.standard_normal((30, 20))}
    optimizer = chain(SGD(1.0), project(0.0, 0.25), engine=engine)
    for _ in range(3):
        optimizer.update(params, {k: rng.standard_normal(w.shape) for k, w in params.items()})
        assert all(((w >= 0) & (w <= 0.25)).all() for w in params.values())
        assert all((w == 0.25).any() and (w == 0).any() for w in params.values())


def test_a_bound_that_is_not_given_is_none():
    for keywords, expected in [({}, [-9, 9]), ({"lower": 0}, [0, 9]), ({"upper": 0}, [-9, 0])]:
        w = chain(SGD(0.0), project(**keywords)).update(np.array([-9.0, 9.0]), np.ones(2))
        np.testing.assert_array_equal(w, expected)
    with pytest.raises(ValueError, match="upper must be a number"):
        project(upper=float("nan"))


def test_bounds_do_not_cross_when_they_are_set():
    with pytest.raises(
        ValueError, match=r"project: lower must not be above upper, got 1.0 and 0.0"
    ):
        project(1.0, 0.0)
    bounds = project(0.0, 1.0)
    optimizer = chain(SGD(0.0), bounds)
    for name, value in [("lower", 2.0), ("upper", -1.0)]:
        with pytest.raises(ValueError, match=r"project: lower must not be above upper.*set first"):
            setattr(bounds, name, value)
        assert (bounds.lower, bounds.upper) == (0.0, 1.0)
    bounds.upper = 3.0
    bounds.lower = 2.0
    assert optimizer.update(np.zeros(1), np.zeros(1)).item() == 2.0
    bounds.lower = bounds.upper  # one point is a set, too
    # A state is taken over as a whole, whatever the order of its entries.
    for lower, upper in [(7.0, 9.0), (-9.0, -7.0)]:
        other = chain(SGD(0.5), project(lower, upper))
        optimizer.load_state_dict(other.state_dict())
        assert (bounds.lower, bounds.upper) == (lower, upper)
    state = other.state_dict()
    state["hyperparameters"] |= {"project_lower": 1.0, "project_upper": 0.0, "SGD_lr": 0.25}
    with pytest.raises(ValueError, match="lower must not be above upper"):
        optimizer.load_state_dict(state)
    assert (optimizer.lr, bounds.lower, bounds.upper) == (0.5, -9.0, -7.0)


@engine_runs.every_engine
@pytest.mark.parametrize("how", ["schedule", "override"])
def test_bounds_that_cross_at_a_step_are_an_error_that_changes_nothing(how, engine):
    engine_runs.require(engine)
    w = {"w": np.full(2, 5.0)}
    if how == "schedule":
        optimizer = chain(Adam(), project(lambda t: t - 1.0, 2.0), engine=engine)
    else:
        optimizer = chain(Adam(), project(0.0, 2.0), engine=engine)
    for _ in range(3):
        optimizer.update(w, {"w": np.zeros(2)})
    assert (w["w"] == 2.0).all()
    if how == "override":
        optimizer.overrides = {"w": {"project_lower": 3.0}}
    before = snapshot(w, optimizer)
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"project, step 4: lower must not be above upper, got 3"
        ):
            optimizer.update(w, {"w": np.ones(2)})
        assert snapshot(w, optimizer) == before


@engine_runs.every_engine
def test_a_ball_holds_each_tensor(engine):
    engine_runs.require(engine)
    params = {"in": np.array([0.6, 0.0]), "out": np.array([30.0, -40.0]), "none": np.zeros(0)}
    grads = {key: np.zeros_like(w) for key, w in params.items()}
    chain(SGD(1.0), project_norm(1.0), engine=engine).update(params, grads)
    np.testing.assert_array_equal(params["in"], [0.6, 0.0])
    np.testing.assert_array_equal(params["out"], np.array([30.0, -40.0]) * (1 / 50))


# Accumulation ---------------------------------------------------------------------------


@engine_runs.every_engine
def test_accumulated_calls_are_a_step_along_their_mean(engine):
    """Bias corrections and schedules of what stands after it count steps, not calls."""
    engine_runs.require(engine)
    start, *gradients = problem("float32")
    rates = {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5}
    gathering = chain(accumulate(4), Adam(lr=rates.__getitem__), average(0.5), engine=engine)
    plain = chain(Adam(lr=rates.__getitem__), average(0.5), engine=engine)
    w, expected = start.copy(), start.copy()
    for call, g in enumerate(gradients, 1):
        gathering.update(w, g)
        if call % 4 == 0:
            total = np.zeros(300, "float32")
            for part in gradients[call - 4 : call]:
                total += part
            plain.update(expected, total / np.float32(4))
        bits.assert_same_bits(w, expected)
        if call >= 4:
            bits.assert_same_bits(gathering.averaged(w), plain.averaged(expected))
    assert (gathering.t, plain.t) == (20, 5)


@engine_runs.every_engine
def test_a_parameter_steps_after_its_own_gradients(engine):
    """It takes no part in norms of other calls: only what steps is clipped together."""
    engine_runs.require(engine)
    optimizer = chain(accumulate(2), clip_by_global_norm(1.0), SGD(1.0), engine=engine)
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    steps = []
    for call in range(6):
        b = None if call == 0 else np.array([4.0])
        optimizer.update(params, {"a": np.array([3.0]), "b": b})
        steps.append((params["a"].item(), params["b"].item()))
    assert steps == [(0, 0), (-1, 0), (-1, -1), (-2, -1), (-2, -2), (-3, -2)]


def test_accumulations_may_be_nested():
    """The inner one counts what the outer one lets through."""
    optimizer, w = chain(accumulate(2), accumulate(3), SGD(lr=lambda t: t)), np.zeros(1)
    seen = [optimizer.update(w, np.array([float(i)])).item() for i in range(12)]
    assert seen == [0.0] * 5 + [-2.5] * 6 + [-2.5 - 2 * 8.5]


def test_the_number_of_calls_is_fixed():
    gather = accumulate(2)
    optimizer = chain(gather, SGD())
    gather.k = 2
    with pytest.raises(AttributeError, match="k cannot be changed, from 2 to 3"):
        gather.k = 3
    with pytest.raises(TypeError, match="k must be an integer >= 1, got"):
        accumulate(lambda t: t)
    other = chain(accumulate(3), SGD(0.5))
    before = other.state_dict()
    with pytest.raises(ValueError, match="saved with accumulate_k=2, and this optimizer has 3"):
        other.load_state_dict(optimizer.state_dict())
    assert other.state_dict() == before


# Steps that are turned away -------------------------------------------------------------


def snapshot(params, optimizer):
    state = optimizer.state_dict()
    arrays = {key: w.tobytes() for key, w in params.items()}
    slots = {
        (key, name): slot.tobytes()
        for key, entry in state["states"].items()
        for name, slot in entry["slots"].items()
    }
    rest = {key: (e["missed"], e["scalars"]) for key, e in state["states"].items()}
    return arrays, slots, rest, state["t"], state["hyperparameters"]


def hundred(rng, dtype):
    return {f"{i:03}": bits.ordinary(rng, 1 + 7 * i, dtype) for i in range(100)}


@pytest.mark.slow  # all of them together
@pytest.mark.parametrize(
    ("dtype", "value"), [("float16", np.inf), ("float32", np.nan), ("float64", -np.inf)]
)
@pytest.mark.parametrize("calls", [[0, 1], [1, 2, 4], [3]], ids=str)
@engine_runs.every_engine
def test_a_call_that_is_turned_away_has_never_been(engine, dtype, value, calls):
    engine_runs.require(engine)
    rng = np.random.default_rng(6)
    start, gradients = hundred(rng, dtype), [hundred(rng, dtype) for _ in range(3)]

    def make():
        # Everything that remembers something.
        parts = (skip_nonfinite(), clip_by_global_norm(1.0), Rprop(), average(0.9), lookahead(2))
        return chain(*parts, engine=engine)

    expected, expected_params = make(), {key: w.copy() for key, w in start.items()}
    optimizer, params = make(), {key: w.copy() for key, w in start.items()}
    good = iter(gradients)
    for call in range(3 + len(calls)):
        if call not in calls:
            grads = next(good)
            expected.update(expected_params, grads)
            optimizer.update(params, grads)
            continue
        grads = dict(gradients[0])
        grads["093"] = grads["093"].copy()
        grads["093"][-1] = value
        before = snapshot(params, optimizer)
        assert optimizer.update(params, grads) is params
        assert snapshot(params, optimizer) == before
    assert optimizer.skipped == len(calls)
    assert snapshot(params, optimizer) == snapshot(expected_params, expected)


@engine_runs.every_engine
def test_what_is_changed_after_a_first_call_that_was_turned_away_counts(engine):
    """State that starts from parameters or hyperparameters starts at the first step taken."""
    engine_runs.require(engine)
    optimizer = chain(skip_nonfinite(), Rprop(lr=0.25), lookahead(1, 0.5), engine=engine)
    w = np.array([1.0])
    optimizer.update(w, np.array([np.inf]))
    w[...] = 3.0
    optimizer.lr = 1.0
    optimizer.update(w, np.array([1.0]))
    assert w.item() == 2.5


@engine_runs.every_engine
@pytest.mark.parametrize("bad", [0, 1, 2, 3])
def test_calls_may_be_turned_away_before_they_are_accumulated(engine, bad):
    engine_runs.require(engine)
    optimizer = chain(skip_nonfinite(), accumulate(2), Adam(0.1), engine=engine)
    expected = chain(accumulate(2), Adam(0.1), engine=engine)
    w, other = np.ones(3), np.ones(3)
    for call in range(5):
        g = np.array([1.0, -2.0, call])
        if call == bad:
            optimizer.update(w, np.array([1.0, np.nan, 1.0]))
        optimizer.update(w, g)
        expected.update(other, g)
        bits.assert_same_bits(w, other)
    assert (optimizer.t, optimizer.skipped) == (5, 1)


@engine_runs.every_engine
def test_a_step_is_turned_away_for_all_dtypes_together(engine):
    engine_runs.require(engine)
    params = {"half": np.zeros(3, "float16"), "double": np.zeros(3), "no": np.zeros(2, "float32")}
    optimizer = chain(skip_nonfinite(), SGD(1.0), engine=engine)
    # Where it stands it looks: after the scaling the half-precision gradient is finite.
    scaled = chain(scale_gradients(2.0**-10), skip_nonfinite(), SGD(1.0), engine=engine)
    grads = {"half": np.array([0, np.inf, 0], "float16"), "double": np.ones(3), "no": None}
    for each in (optimizer, scaled):
        each.update(params, grads)
        assert (each.t, each.skipped) == (0, 1)
        assert not any(w.any() for w in params.values())
    grads["half"] = np.full(3, 60000, "float16")
    scaled.update(params, grads)
    assert (scaled.t, scaled.skipped) == (1, 1)
    assert params["double"].all()


def test_the_number_of_skipped_calls_is_part_of_the_state():
    optimizer = chain(skip_nonfinite(), SGD())
    for _ in range(3):
        optimizer.update(np.zeros(1), np.array([np.nan]))
    assert optimizer.skipped == 3
    loaded = chain(skip_nonfinite(), SGD()).load_state_dict(optimizer.state_dict())
    assert (loaded.skipped, loaded.t) == (3, 0)
    loaded.reset()
    assert loaded.skipped == 0


def test_every_library_turns_steps_away(xp):
    optimizer, params = chain(skip_nonfinite(), SGD(1.0)), {"a": xp.zeros(2), "b": xp.zeros(1)}
    params = optimizer.update(params, {"a": xp.asarray([0.0, float("inf")]), "b": xp.ones(1)})
    assert (float(params["b"][0]), optimizer.t, optimizer.skipped) == (0.0, 0, 1)
    params = optimizer.update(params, {"a": xp.asarray([0.0, 2.0]), "b": xp.ones(1)})
    assert (float(params["b"][0]), optimizer.t, optimizer.skipped) == (-1.0, 1, 1)

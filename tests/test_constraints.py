"""Sets in which parameters are kept: nearest points, on every engine, and what is no set."""

import copy
import itertools
import math
import pickle
import re

import array_api_strict
import bits
import engine_runs
import numpy as np
import pytest

from instep import SGD, Adam, Momentum, arrays, chain
from instep.transforms import (
    project,
    project_halfspace,
    project_l1,
    project_norm,
    project_simplex,
    support,
)

SHAPES = [
    *((), (1,), (2,), (7,), (63,), (64,), (65,), (1031,), (0,), (3, 0), (0, 3)),
    *((3, 4), (4, 3), (1, 5), (5, 1), (2, 3, 7), (20_001,)),
]


def loop_simplex(v, total):
    """Project a vector as Duchi et al. do, element by element."""
    falling = sorted(v, reverse=True)
    sums = enumerate(itertools.accumulate(falling), 1)
    chosen = max(count for count, so_far in sums if falling[count - 1] > (so_far - total) / count)
    threshold = (math.fsum(falling[:chosen]) - total) / chosen
    return [max(x - threshold, 0.0) for x in v]


def loop_l1(v, radius):
    moduli = [abs(x) for x in v]
    if math.fsum(moduli) <= radius:
        return v
    return [
        x if m == 0 else x / m * new
        for x, m, new in zip(v, moduli, loop_simplex(moduli, radius), strict=True)
    ]


def loop_halfspace(v, normal, offset):
    products = [(a.conjugate() * x).real for a, x in zip(normal, v, strict=True)]
    excess = max(math.fsum(products) - offset, 0.0)
    square = math.fsum(abs(a) ** 2 for a in normal)
    return [x - excess / square * a for x, a in zip(v, normal, strict=True)]


def by_units(loop, w, units):
    """Return an array of which each unit went through a loop."""
    new = w.copy()
    if w.ndim < 2 or units == "tensor":
        parts = [np.ravel(new)]
        parts[0][:] = loop(parts[0].tolist())
        return parts[0].reshape(w.shape)
    axis = 0 if units == "first" else -1
    for i in range(w.shape[axis]):
        index = (i,) if axis == 0 else (..., i)
        new[index] = np.reshape(loop(np.ravel(w[index]).tolist()), w[index].shape)
    return new


def drawn(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return {str(shape): bits.ordinary(rng, shape, dtype) for shape in SHAPES}


def moved(transform, params, engine, **settings):
    """Return parameters that have been through a transform, and nothing else."""
    new = {key: w.copy(order="K") for key, w in params.items()}
    zeros = {key: np.zeros_like(w) for key, w in params.items()}
    chain(SGD(1.0), transform, engine=engine, **settings).update(new, zeros)
    return new


# Nearest points -----------------------------------------------------------------------------


@engine_runs.every_engine
@pytest.mark.parametrize("units", ["tensor", "first", "last"])
@pytest.mark.parametrize("total", [0.125, 1.0, 50.0])
def test_the_simplex_is_met_at_its_nearest_point(total, units, engine):
    engine_runs.require(engine)
    params = drawn("float64")
    got = moved(project_simplex(total, units), params, engine)
    for key, w in params.items():
        if w.size:
            expected = by_units(lambda v: loop_simplex(v, total), w, units)
            np.testing.assert_allclose(got[key], expected, rtol=0, atol=1e-14 * total, err_msg=key)
        assert got[key].shape == w.shape


@engine_runs.every_engine
@pytest.mark.parametrize("units", ["tensor", "first", "last"])
@pytest.mark.parametrize("radius", [0.125, 50.0, 1e6])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_ball_of_magnitudes_is_met_at_its_nearest_point(dtype, radius, units, engine):
    engine_runs.require(engine)
    params = drawn(dtype)
    got = moved(project_l1(radius, units), params, engine)
    for key, w in params.items():
        if w.size:
            expected = by_units(lambda v: loop_l1(v, radius), w, units)
            atol = 1e-14 * min(radius, 100)
            np.testing.assert_allclose(got[key], expected, rtol=1e-15, atol=atol, err_msg=key)
        if radius == 1e6:
            bits.assert_same_bits(got[key], w)


def normals(params):
    """Return a direction for each parameter; one of no dimensions is a number, which is real."""
    rng = np.random.default_rng(4)
    found = {k: bits.ordinary(rng, w.shape, w.dtype if w.ndim else "f8") for k, w in params.items()}
    return {key: {"project_halfspace_normal": normal} for key, normal in found.items()}


@engine_runs.every_engine
@pytest.mark.parametrize("offset", [-3.0, 0.25, 1e9])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_side_of_a_plane_is_met_at_its_nearest_point(dtype, offset, engine):
    engine_runs.require(engine)
    params = {key: w for key, w in drawn(dtype).items() if w.size}
    overrides = normals(params)
    got = moved(project_halfspace(1.0, offset), params, engine, overrides=overrides)
    for key, w in params.items():
        (normal,) = overrides[key].values()
        expected = loop_halfspace(w.ravel().tolist(), normal.ravel().tolist(), offset)
        np.testing.assert_allclose(got[key].ravel(), expected, rtol=1e-13, atol=1e-10, err_msg=key)
        if offset == 1e9:
            bits.assert_same_bits(got[key], w)


@engine_runs.every_engine
def test_a_number_is_a_direction_of_all_elements(engine):
    engine_runs.require(engine)
    for dtype in ("float32", "complex64"):
        w = np.array([3.0, 2.0, 0.0], dtype) + (1j if dtype == "complex64" else 0)
        got = moved(project_halfspace(2.0, 4.0), {"w": w}, engine)["w"]
        np.testing.assert_array_equal(got, w - np.array(1.0, dtype))
        got = moved(project_halfspace(-1.0, 4.0), {"w": w}, engine)["w"]
        bits.assert_same_bits(got, w)


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", [*bits.DTYPES, *bits.COMPLEX])
def test_outside_of_a_support_all_is_zero(dtype, engine):
    engine_runs.require(engine)
    w = bits.special_values(np.empty(0, dtype).real.dtype).astype(dtype)
    mask = np.arange(len(w)) % 2 == 0
    got = moved(support(mask), {"w": w}, engine)["w"]
    bits.assert_same_bits(got[mask], w[mask])
    bits.assert_same_bits(got[~mask], np.zeros(np.sum(~mask), dtype))


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_parameters_that_are_in_a_set_stay_there_to_the_bit(dtype, engine):
    """They come there once, and a second time changes nothing, but for roundings of a sum."""
    engine_runs.require(engine)
    sets = [project_l1(2.0), project_l1(2.0, "last"), project_halfspace(1.0, -1.0), support(1.0)]
    sets += [project_simplex(1.0)] if dtype == "float32" else []
    for transform in sets:
        once = moved(transform, drawn(dtype), engine)
        twice = moved(transform, once, engine)
        for key, w in once.items():
            eps = np.finfo(dtype).eps
            np.testing.assert_allclose(twice[key], w, rtol=4 * eps, atol=4 * eps, err_msg=key)
    inside = {"w": np.array([0.25, -0.0, 0.5], dtype)}
    for transform in (project_l1(0.75), project_l1(0.75, "first"), project_halfspace(2.0, 1.5)):
        bits.assert_same_bits(moved(transform, inside, engine)["w"], inside["w"])


@pytest.mark.parametrize("n", [5, 100_000])
def test_a_small_share_of_large_numbers_keeps_its_digits(n):
    """In float32, where a threshold is rounded to 1e-2, and shares are 1e-5."""
    w = (1e5 + np.linspace(0, 1e-1, n)).astype("float32")
    got = moved(project_simplex(1.0), {"w": w}, "auto")["w"]
    expected = loop_simplex(w.astype(float).tolist(), 1.0) if n < 10 else None
    if expected:
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert abs(got.astype(float).sum() - 1.0) < 1e-6
    shrunk = moved(project_l1(1.0), {"w": -w}, "auto")["w"]
    bits.assert_same_bits(shrunk[got > 0], -got[got > 0])


def test_equal_elements_have_equal_shares():
    for n in (1, 2, 3, 1000, 16_384, 100_003):
        w = moved(project_simplex(1.0), {"w": np.full(n, -7.0)}, "auto")["w"]
        assert len(set(w.tolist())) == 1
        assert w[0] == pytest.approx(1 / n, rel=1e-12)


# Bits ---------------------------------------------------------------------------------------


def make(name, **settings):
    """Return a chain with a constraint after an optimizer that has state."""
    transforms = {
        "simplex": lambda: [project_simplex(2.0)],
        "simplexes": lambda: [project_simplex(lambda t: 1 / t, "last")],
        "ball": lambda: [project_l1(3.0)],
        "balls": lambda: [project_l1(lambda t: 5 / t, "first")],
        "plane": lambda: [project_halfspace(-1.0, lambda t: -1.0 * t)],
        "planes": lambda: [project_halfspace(1.0, 0.5), project_halfspace(-2.0, 1.0)],
    }
    return chain(Momentum(0.5), *transforms[name](), **settings)


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("dtype", [*bits.DTYPES, *bits.COMPLEX])
@pytest.mark.parametrize("name", ["simplex", "simplexes", "ball", "balls", "plane", "planes"])
def test_engines_agree_on_every_layout(name, dtype, engine, threads, eager_threads):
    engine_runs.require(engine)
    if name.startswith("simplex") and dtype in bits.COMPLEX:
        pytest.skip("it has no meaning")
    runs = []
    for settings in ({"engine": "array_api"}, {"engine": engine, "threads": threads}):
        params, optimizer = bits.leaves_of(dtype), make(name, **settings)
        params = {key: w for key, (w, _) in params.items()}
        for grads in bits.gradients_of(dtype, 3):
            optimizer.update(params, grads)
        runs.append((params, optimizer))
    engine_runs.assert_same_run(*runs)


def test_every_library_meets_the_same_points(xp):
    rng = np.random.default_rng(7)
    w, g = (bits.ordinary(rng, (33, 70), "float32") for _ in "wg")
    for parts in (
        [project_simplex(1.0)],
        [project_simplex(2.0, "last")],
        [project_l1(3.0), project_l1(0.5, "first")],
    ):
        (got,) = chain(SGD(1.0), *parts).update([xp.asarray(w.copy())], [xp.asarray(g)])
        bits.assert_same_bits(arrays.to_numpy(got), chain(SGD(1.0), *parts).update(w.copy(), g))


def test_they_take_one_pass_or_two():
    w = {"w": np.ones((8, 8), "float32")}
    one = chain(Adam(), support(np.ones((8, 8), bool))).explain(w).buckets[0]
    assert (one.passes, one.bytes_per_element) == (1, 29)
    for transform in (project_halfspace(), project_simplex(), project_l1()):
        assert chain(Adam(), transform).explain(w).buckets[0].passes == 2


# Masks --------------------------------------------------------------------------------------

KINDS = ["bool", "uint8", "int8", "float16", "float32", "float64"]


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("dtype", [*bits.DTYPES, *bits.COMPLEX])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_of_every_dtype_and_layout_are_read_alike(kind, dtype, engine, threads):
    engine_runs.require(engine)
    rng = np.random.default_rng(1)
    start, mask = bits.ordinary(rng, (37, 29), dtype), rng.random((37, 29)) < 0.4
    gradient = bits.ordinary(rng, (37, 29), dtype)
    expected = np.where(mask, Momentum(0.5).update(start.copy(), gradient), 0).astype(dtype)
    for own, other in itertools.product(("C order", "Fortran order", "every second"), repeat=2):
        given = bits.LAYOUTS[other](mask.astype(kind))
        w = bits.LAYOUTS[own](start)
        optimizer = chain(Momentum(0.5), support(given), engine=engine, threads=threads)
        optimizer.update(w, gradient)
        bits.assert_same_bits(w, expected, f"{own}, mask in {other}")


@engine_runs.every_engine
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0), (65,), (70_003,)])
def test_masks_of_every_shape_are_read(shape, engine):
    engine_runs.require(engine)
    w = np.asarray(np.random.default_rng(2).standard_normal(shape), "float32")
    mask = np.asarray(w > 0)
    given = mask if mask.ndim else float(mask)  # an array without dimensions is a number
    got = moved(support(given), {"w": w}, engine, threads=2)["w"]
    bits.assert_same_bits(got, np.where(mask, w, np.float32(0)))


@engine_runs.every_engine
def test_a_mask_is_read_at_every_step_and_kept_as_it_is(engine):
    engine_runs.require(engine)
    mask, w = np.array([True, True, False]), np.zeros(3)
    transform = support(mask)
    optimizer = chain(SGD(1.0), transform, engine=engine)
    assert transform.mask is mask
    optimizer.update(w, -np.ones(3))
    mask[0] = False
    optimizer.update(w, -np.ones(3))
    assert w.tolist() == [0.0, 2.0, 0.0]
    assert repr(transform) == "support(mask=array(bool, (3,)))"


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "state_dict", "file"])
@pytest.mark.parametrize("kind", ["bool", "int8", "float32"])
def test_a_chain_with_a_mask_goes_on(kind, how, tmp_path):
    def optimizer(mask):
        return chain(Momentum(0.5), project_halfspace(np.array([1j, 2.0])), support(mask))

    one, w = optimizer(np.array([1, 0], kind)), np.ones(2, complex)
    one.update(w, np.full(2, -1j))
    match how:
        case "pickle":
            other = pickle.loads(pickle.dumps(one))
        case "deepcopy":
            other = copy.deepcopy(one)
        case "state_dict":
            other = optimizer(1.0).load_state_dict(one.state_dict())
        case _:
            one.save(tmp_path / "state.npz")
            other = optimizer(1.0)
            other.load(tmp_path / "state.npz")
    x = w.copy()
    for _ in range(2):
        one.update(w, np.full(2, -1j))
        other.update(x, np.full(2, -1j))
    bits.assert_same_bits(x, w)
    assert w[1] == 0


def test_each_parameter_of_a_tree_has_its_own_mask_and_direction():
    params = {"a": np.ones(3), "b": np.ones((2, 2))}
    optimizer = chain(
        SGD(1.0),
        support(),
        project_halfspace(offset=1e9),
        overrides={
            "a": {"support_mask": np.array([True, False, True])},
            "b": {"project_halfspace_normal": np.eye(2), "project_halfspace_offset": 0.0},
        },
    )
    optimizer.update(params, {key: np.zeros_like(w) for key, w in params.items()})
    assert params["a"].tolist() == [1.0, 0.0, 1.0]
    assert params["b"].tolist() == [[0.0, 1.0], [1.0, 0.0]]


# Pairs --------------------------------------------------------------------------------------


@engine_runs.every_engine
def test_parts_of_complex_numbers_are_numbers_where_they_are_pairs(engine):
    engine_runs.require(engine)
    rng = np.random.default_rng(3)
    w = bits.ordinary(rng, (5, 4), "complex64")
    normal, mask = bits.ordinary(rng, (5, 4), "complex128"), rng.random((5, 4)) < 0.5
    parts = [support(mask), project_halfspace(normal, -1.0)]
    got = w.copy()
    chain(SGD(1.0), *parts, engine=engine, complex="pairs").update(got, np.zeros_like(w))
    real = chain(SGD(1.0), support(np.stack([mask, mask], -1)), engine=engine)
    expected = w.view("float32").reshape(5, 4, 2).copy()
    real.update(expected, np.zeros_like(expected))
    plane = project_halfspace(normal.view("float64").reshape(5, 4, 2), -1.0)
    chain(SGD(1.0), plane, engine=engine).update(expected, np.zeros_like(expected))
    np.testing.assert_allclose(got.view("float32").reshape(5, 4, 2), expected, rtol=1e-6)
    moduli = moved(project_halfspace(normal, -1.0), moved(support(mask), {"w": w}, engine), engine)
    np.testing.assert_allclose(got, moduli["w"], rtol=1e-6)
    shares = w.copy()
    chain(SGD(1.0), project_simplex(), engine=engine, complex="pairs").update(
        shares, np.zeros_like(w)
    )
    parts = shares.view("float32")
    assert parts.min() == 0
    assert parts.sum() == pytest.approx(1.0, rel=1e-6)


# What is not finite -------------------------------------------------------------------------


@engine_runs.every_engine
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_is_in_no_set(poison, engine):
    """Nothing of its unit is finite then, and no other tensor changes."""
    engine_runs.require(engine)
    start = {"bad": np.array([[0.5, poison], [3.0, 4.0]]), "good": np.array([3.0, 4.0])}
    for cls in (project_simplex, project_l1):
        got = moved(cls(1.0), start, engine)
        assert np.isnan(got["bad"]).all()
        np.testing.assert_allclose(got["good"], [0.0, 1.0])
        got = moved(cls(1.0, "first"), start, engine)
        assert np.isnan(got["bad"][0]).all()
        np.testing.assert_allclose(got["bad"][1], [0.0, 1.0])
    got = moved(project_halfspace(1.0, -4.0), start, engine)
    assert not np.isfinite(got["bad"]).any()
    assert got["good"].tolist() == [-2.5, -1.5]


@engine_runs.every_engine
def test_infinities_on_the_far_side_are_met_where_there_is_a_nearest_point(engine):
    engine_runs.require(engine)
    start = {"w": np.array([-np.inf, 1.0, 0.5])}
    assert moved(project_simplex(), start, engine)["w"].tolist() == [0.0, 0.75, 0.25]
    assert np.isnan(moved(project_l1(), start, engine)["w"]).all()
    bits.assert_same_bits(moved(project_halfspace(1.0, 1.0), start, engine)["w"], start["w"])


@engine_runs.every_engine
def test_numbers_at_the_ends_of_the_range_are_met(engine):
    engine_runs.require(engine)
    for dtype in ("float32", "float64"):
        largest = float(np.finfo(dtype).max)
        w = {"w": np.array([largest, -largest, largest / 2], dtype)}
        assert moved(project_simplex(), w, engine)["w"].tolist() == [1.0, 0.0, 0.0]
        assert moved(project_l1(), w, engine)["w"].tolist() == [0.5, -0.5, 0.0]
        least = float(np.finfo(dtype).smallest_subnormal)
        w = {"w": np.array([least, 3 * least, 0.0], dtype)}
        bits.assert_same_bits(moved(project_l1(), w, engine)["w"], w["w"])


# What is no set -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0.0, -1.0, np.nan, np.inf])
def test_a_sum_that_no_point_has_is_refused_when_it_is_set(number):
    with pytest.raises(ValueError, match="project_simplex: total must be a finite number > 0"):
        project_simplex(number)
    with pytest.raises(ValueError, match="project_l1: radius must be a finite number > 0"):
        project_l1(number)


NO_SETS = [
    (project_simplex, {"units": "rows"}, ValueError, "units must be one of 'tensor', 'first'"),
    (project_l1, {"units": 1}, TypeError, "units must be one of 'tensor', 'first', 'last'"),
    (project_halfspace, {"normal": 0.0}, ValueError, "normal must be a direction, .* got 0.0"),
    (
        project_halfspace,
        {"normal": np.zeros(3)},
        ValueError,
        r"must be .* array\(float64, \(3,\)\)",
    ),
    (project_halfspace, {"normal": np.zeros(3, complex)}, ValueError, "normal must be a direction"),
    (project_halfspace, {"normal": 1e-200}, ValueError, "and multiply offset by as much"),
    (project_halfspace, {"normal": np.full(3, 1e200)}, ValueError, "multiply offset by as much"),
    (project_halfspace, {"normal": np.array([1, 2])}, TypeError, "to complex numbers or floats"),
    (project_halfspace, {"normal": np.array([1j, np.nan])}, ValueError, r"got \(nan\+0j\) at \(1"),
    (project_halfspace, {"normal": 1j}, TypeError, "an array of complex numbers or floats of the"),
    (project_halfspace, {"offset": np.inf}, ValueError, "offset must be a finite number"),
    (support, {"mask": np.array([0.0, 0.5])}, ValueError, r"from 0 to 1.*got 0.5 at \(1,\)"),
    (support, {"mask": np.array([0, 2], "uint8")}, ValueError, r"got 2.0 at \(1,\)"),
    (support, {"mask": np.array([-1, 0], "int8")}, ValueError, r"got -1.0 at \(0,\)"),
    (support, {"mask": np.array([0, 1])}, TypeError, "int64 .* convert it to booleans or floats"),
    (support, {"mask": np.array([1j, 0])}, TypeError, "an array of booleans or floats of the"),
    (support, {"mask": 0.5}, ValueError, "mask must be an integer from 0 to 1"),
    (support, {"mask": [True, False]}, TypeError, "mask must be an integer from 0 to 1"),
]


@pytest.mark.parametrize("number", range(len(NO_SETS)))
def test_what_is_no_set_is_refused_when_it_is_set(number):
    cls, arguments, error, message = NO_SETS[number]
    with pytest.raises(error, match=f"^{cls.__name__}: .*{message}"):
        cls(**arguments)


def test_what_functions_on_whole_arrays_need_is_a_number():
    for cls, name in ((project_simplex, "total"), (project_l1, "radius")):
        w = np.ones(2)
        with pytest.raises(TypeError, match=f"{cls.__name__}_{name} is an array.* give a number"):
            chain(SGD(), cls(np.ones(2))).update(w, w.copy())


@engine_runs.every_engine
def test_what_is_no_set_at_a_step_is_refused_before_anything_changes(engine):
    engine_runs.require(engine)
    cases = [
        (project_simplex(lambda t: 2.0 - t), "step 2: total must be a finite number > 0, got 0.0"),
        (project_l1(lambda t: 2.0 - t), "step 2: radius must be a finite number > 0, got 0.0"),
        (project_halfspace(lambda t: 2.0 - t), "step 2: normal must be a direction"),
        (support(lambda t: 1 / t), "step 2: mask must be an integer from 0 to 1, got 0.5"),
    ]
    for transform, message in cases:
        w, optimizer = np.ones(2), chain(SGD(0.0), transform, engine=engine)
        optimizer.update(w, w.copy())
        before = w.copy()
        with pytest.raises(ValueError, match=re.escape(message)):
            optimizer.update(w, np.ones(2))
        bits.assert_same_bits(w, before)
        assert optimizer.t == 1


@engine_runs.every_engine
def test_what_does_not_fit_a_parameter_is_refused(engine):
    engine_runs.require(engine)
    w = np.ones(2)
    for transform, error, message in [
        (
            support(np.ones(3, bool)),
            ValueError,
            r"support.mask is numpy bool \(3,\), and params is",
        ),
        (project_halfspace(np.ones(2, complex)), TypeError, "which is real; give real numbers"),
        (
            project_halfspace(np.array([1, 1e39j])),
            ValueError,
            r"at \(1,\) is .*, which is infinite in float32",
        ),
        (project_simplex(1e-50), ValueError, "total=1e-50 is 0 in float32"),
        (project_l1(1e39), ValueError, "radius=1e[+]39 is infinite in float32"),
    ]:
        dtype = "complex64" if "at " in message else "float32" if "float32" in message else "f8"
        w = np.ones(2, dtype)
        with pytest.raises(error, match=message):
            chain(SGD(), transform, engine=engine).update(w, w.copy())
        assert (w == 1.0).all()


@engine_runs.every_engine
def test_complex_numbers_are_no_shares(engine):
    engine_runs.require(engine)
    w = np.ones(3, complex)
    with pytest.raises(TypeError, match='complex="pairs"'):
        chain(SGD(), project_simplex(), engine=engine).update(w, w.copy())
    assert (w == 1).all()


def test_a_mask_that_is_a_parameter_is_refused():
    w = np.ones(4, "float32")
    with pytest.raises(ValueError, match=r"params and support.mask share memory"):
        chain(SGD(), support(w)).update(w, np.ones(4, "float32"))


def test_a_constraint_after_another_keeps_the_last_one():
    w = np.array([3.0, 4.0])
    optimizer = chain(SGD(0.0), project_l1(5.0), project_norm(1.0))
    optimizer.update(w, np.zeros(2))
    assert np.linalg.norm(w) == pytest.approx(1.0)


def test_bounds_may_be_arrays_of_a_strict_library():
    strict = array_api_strict.asarray
    w = strict([1.0, 2.0])
    walls = project(lower=strict([0.0, 0.0]), upper=strict([0.5, 9.0]))
    chain(SGD(lr=1.0), walls).update(w, strict([0.0, 3.0]))
    np.testing.assert_array_equal(np.asarray(w), [0.5, 0.0])
    with pytest.raises(ValueError, match="lower must not be above upper"):
        project(lower=strict([1.0, 0.0]), upper=strict([0.5, 9.0]))

"""Every engine gives the same bits: parameters and state, for all dtypes, layouts and trees."""

import functools

import bits
import cases
import engine_runs
import numpy as np
import pytest
from bits import DTYPES, ordinary, wild
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

STEPS = 20


def run(case, leaves, gradients, engine, threads=None):
    """Take a step for each of `gradients`, with a learning rate that changes at each."""
    params = {name: w for name, (w, _) in leaves.items()}
    optimizer = case.make(engine=engine, threads=threads)
    optimizer.lr = cases.changing(optimizer.lr)
    for grads in gradients:
        cases.step(optimizer, params, grads)
    return params, optimizer


@pytest.fixture(scope="module")
def reference():
    """Runs on `array_api`, which is the specification; each is computed once."""

    @functools.cache
    def find(number, dtype):
        gradients = bits.gradients_of(dtype, STEPS)
        return run(cases.CASES[number], bits.leaves_of(dtype), gradients, "array_api")

    return find


def assert_agrees_on_every_layout(case, dtype, engine, threads, reference):
    engine_runs.require(engine)
    gradients = bits.gradients_of(dtype, STEPS)
    got = run(case, bits.leaves_of(dtype), gradients, engine, threads)
    engine_runs.assert_same_run(got, reference(cases.CASES.index(case), dtype))


@pytest.mark.slow  # all of them together
@engine_runs.every_numpy_engine
@cases.every_case
def test_engines_agree_on_every_layout(case, engine, threads, reference, eager_threads):
    assert_agrees_on_every_layout(case, "float32", engine, threads, reference)


@pytest.mark.slow  # all of them together
@engine_runs.divided("float16", "float64")
@cases.every_class
def test_engines_agree_on_other_dtypes(case, dtype, engine, threads, reference, eager_threads):
    assert_agrees_on_every_layout(case, dtype, engine, threads, reference)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_numbers_of_these_runs_are_of_all_kinds(dtype, reference):
    """The comparison above would be empty if they all ended as ordinary numbers or as NaN."""
    number = next(i for i, case in enumerate(cases.CASES) if case.optimizer is cases.Momentum)
    params, optimizer = reference(number, dtype)
    w = np.concatenate([w.ravel() for w in params.values()])
    v = np.concatenate([slots["v"].ravel() for slots in engine_runs.slots_of(optimizer).values()])
    assert np.isnan(w).any()
    assert np.isinf(w).any()
    assert np.isfinite(w).mean() > 0.9
    for x in (w, v):
        subnormal = (x != 0) & (np.abs(x) < np.finfo(dtype).tiny)
        assert subnormal.mean() > 0.02
    start = np.concatenate([w.ravel() for w, _ in bits.leaves_of(dtype).values()])
    assert set(np.signbit(start[start == 0]).tolist()) == {True, False}


def large_run(case, dtype, engine, threads=None):
    """Take steps on arrays beside the borders of blocks and of the shares of threads."""
    rng = np.random.default_rng(5)
    sizes = (131_077, 65_537, 16_383, 1)
    leaves = {f"size {n}": (ordinary(rng, (n,), dtype), "C order") for n in sizes}
    gradients = [{name: w[::-1].copy() for name, (w, _) in leaves.items()}] * 3
    return run(case, leaves, gradients, engine, threads)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, id=f"{case.optimizer.__name__}-{dtype}")
        for case in cases.CLASSES
        for dtype in (DTYPES if case.optimizer is cases.Adam else ["float32"])
    ],
)
def test_engines_agree_on_arrays_that_threads_share(case, dtype, eager_threads):
    expected = large_run(case, dtype, "array_api")
    for engine, threads in [*engine_runs.NUMPY_ENGINES, ("native", 5)]:
        if engine_runs.why_not(engine) is None:
            engine_runs.assert_same_run(large_run(case, dtype, engine, threads), expected)


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("empty", ["first", "middle", "last", "only", "all"])
def test_a_tensor_without_elements_changes_nothing_for_its_neighbours(engine, threads, empty):
    """A zero-size last tensor leaves the pending batch unlaunched in one well-known library."""
    engine_runs.require(engine)
    sizes = {
        "first": (0, 5, 7),
        "middle": (5, 0, 7),
        "last": (5, 7, 0),
        "only": (0,),
        "all": (0, 0, 0),
    }[empty]
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(n) for n in sizes]
    expected = [w - 0.5 * np.ones_like(w) for w in params]
    optimizer = cases.SGD(lr=0.5, engine=engine, threads=threads)
    optimizer.update(params, [np.ones_like(w) for w in params])
    for got, want in zip(params, expected, strict=True):
        bits.assert_same_bits(got, want)
    assert optimizer.t == 1


# Property tests ---------------------------------------------------------------------------


@st.composite
def problems(draw):
    """Draw a parameter with a layout, and a gradient for each of a few steps."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    elements = st.one_of(
        st.sampled_from(bits.special_values(dtype).tolist()),
        st.floats(width=dtype.itemsize * 8),
    )
    parameter = draw(hnp.arrays(dtype, shape, elements=elements))
    gradients = [
        draw(hnp.arrays(dtype, shape, elements=elements)) for _ in range(draw(st.integers(1, 3)))
    ]
    names = [draw(st.sampled_from(sorted(bits.LAYOUTS))) for _ in range(2)]
    return parameter, gradients, names


@given(problem=problems(), case=st.sampled_from(cases.CASES), lr=st.floats(0, 1e30))
@settings(max_examples=150)
def test_engines_agree_on_any_values_and_strides(problem, case, lr):
    parameter, gradients, (layout, gradient_layout) = problem
    runs = []
    for engine, threads in [("array_api", None), *engine_runs.NUMPY_ENGINES]:
        if engine_runs.why_not(engine) is None:
            optimizer = case.make(lr=lr, engine=engine, threads=threads)
            params = {"w": bits.LAYOUTS[layout](parameter)}
            for gradient in gradients:
                cases.step(optimizer, params, {"w": bits.LAYOUTS[gradient_layout](gradient)})
            runs.append((params, optimizer))
    for got in runs[1:]:
        engine_runs.assert_same_run(got, runs[0])


@given(
    data=st.data(),
    case=st.sampled_from(cases.CASES),
    dtype=st.sampled_from(DTYPES),
    shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=9),
)
@settings(max_examples=100)
def test_any_view_of_a_larger_array_is_updated_in_place_and_nothing_beside_it(
    data, case, dtype, shape
):
    rng = np.random.default_rng(1)
    base = wild(rng, shape, dtype)
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    if np.ndim(base[index]) == 0 and not isinstance(base[index], np.ndarray):
        index = (..., index) if not isinstance(index, tuple) else (..., *index)
    gradient = wild(rng, base[index].shape, dtype)
    inside = np.zeros(shape, dtype=bool)
    inside[index] = True
    results = []
    for engine, threads in [("array_api", None), *engine_runs.NUMPY_ENGINES]:
        if engine_runs.why_not(engine) is None:
            copy = base.copy()
            optimizer = case.make(engine=engine, threads=threads)
            for _ in range(2):
                cases.step(optimizer, {"w": copy[index]}, {"w": gradient})
            bits.assert_same_bits(copy[~inside], base[~inside], "elements outside of the view")
            results.append(copy)
    for got in results[1:]:
        bits.assert_same_bits(got, results[0])

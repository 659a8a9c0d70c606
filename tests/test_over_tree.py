"""Rules whose sums are over the tree, on numbers that leave them finite: elsewhere one NaN is all.

Gradients lead to 0, so that estimates of the distance to it grow.
"""

import bits
import cases
import engine_runs
import numpy as np
import pytest

CASES = [case for case in cases.CASES if case.over_tree]
ESTIMATING = [case for case in CASES if "initial" in case.keywords]

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_tree = pytest.mark.parametrize(
    "dtypes", [("float32", "float64"), ("complex64", "float16")], ids=str
)


def noise(seed, dtypes):
    rng = np.random.default_rng(seed)
    return {dtype: bits.ordinary(rng, (7, 5), dtype) for dtype in dtypes}


def gradients(params, step):
    """Return gradients that lead to 0, with noise; that of one leaf is missing at times."""
    found = {k: g / 4 + params[k] for k, g in noise(step + 1, params).items()}
    return found | ({min(found): None} if step in (0, 7) else {})


def run(optimizer, dtypes, steps=20):
    params = noise(0, dtypes)
    for step in range(steps):
        cases.step(optimizer, params, gradients(params, step))
    return params, optimizer


@every_tree
@every_case
@engine_runs.every_numpy_engine
def test_all_engines_have_the_bits_of_the_specification(engine, threads, case, dtypes):
    engine_runs.require(engine)
    got = run(case.make(engine=engine, threads=threads), dtypes)
    engine_runs.assert_same_run(got, run(case.make(engine="array_api"), dtypes))
    assert all(np.isfinite(w).all() for w in got[0].values())
    if case in ESTIMATING:
        assert got[1].state_dict()["numbers"]["d"] > case.keywords["initial"]


@pytest.mark.parametrize("case", ESTIMATING, ids=str)
def test_a_path_on_which_the_estimate_grows_is_that_of_the_textbook(case):
    rng = np.random.default_rng(0)
    w, optimizer = rng.standard_normal(30), case.make(initial=1e-6)
    start, given, path = w.copy(), [], []
    for _ in range(30):
        given.append(w + rng.standard_normal(30) / 4)
        path.append(optimizer.update(w, given[-1]).copy())
    assert optimizer.state_dict()["numbers"]["d"] > 100e-6
    for got, expected in zip(path, case.follow(start, given, initial=1e-6), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", ["short", "long"])
@engine_runs.every_engine
def test_the_rate_of_barzilai_and_borwein_stays_where_none_can_be_found(engine, size):
    engine_runs.require(engine)
    w = np.array([4.0, -2.0])
    optimizer = cases.BarzilaiBorwein(lr=0.25, size=size, engine=engine)
    for g, expected in (
        ([2.0, 0.0], [3.5, -2.0]),  # the first step
        ([1.0, 0.0], [3.0, -2.0]),  # a curvature of 2 along x: a rate of 1/2
        ([1.0, 0.0], [2.5, -2.0]),  # none
        ([0.0, 0.0], [2.5, -2.0]),  # 2 again
        ([0.0, 4.0], [2.5, -4.0]),  # nothing has moved
        ([0.0, 4.0], [2.5, -6.0]),
    ):
        optimizer.update(w, np.array(g))
        np.testing.assert_array_equal(w, expected)

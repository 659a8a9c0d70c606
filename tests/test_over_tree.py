"""Rules whose sums are over the tree, on numbers that leave them finite: elsewhere one NaN is all.

Gradients lead to 0, so that estimates of the distance to it grow.
"""

import bits
import cases
import engine_runs
import numpy as np
import pytest

from instep import (
    LAMB,
    SGD,
    BarzilaiBorwein,
    Muon,
    Optimizer,
    Prodigy,
    chain,
    partition,
)
from instep.transforms import (
    centralize,
    clip_by_global_norm,
    project_norm,
    skip_nonfinite,
    trust_ratio,
)

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


class WarmClip(Optimizer):
    """Gradient descent, clipped to a length of 1 after two steps."""

    lr: float = 0.1

    @staticmethod
    def scalars(h):
        return {"warm": h.t > 2}

    @staticmethod
    def rule(xp, w, g, s, h):
        length = xp.tree_norm(g)
        return w - h.lr * (g / length if h.warm else g), {}


@engine_runs.every_engine
def test_leaves_that_do_not_use_a_sum_have_their_part_in_it(engine):
    engine_runs.require(engine)
    optimizer, params = WarmClip(engine=engine), {"a": np.zeros(2), "b": np.zeros(2)}
    for t in range(4):  # at the third step of `a`, `b` takes its second
        optimizer.update(params, {"a": np.ones(2), "b": np.ones(2) if t else None})
    np.testing.assert_allclose(params["a"], -0.1 * (1 + 1 + 1 / 2 + 1 / 2), rtol=1e-12)


#: What comes after a guard and a transform of whole arrays, and reduces once more over tensors.
LATE = {
    "clip": lambda: (clip_by_global_norm(0.1), SGD(lr=1.0), project_norm(1.0)),
    "LAMB": lambda: (clip_by_global_norm(0.1), LAMB()),
    "Muon": lambda: (Muon(), trust_ratio()),
    "Prodigy": lambda: (Prodigy(), project_norm(1.0)),
    "BarzilaiBorwein": lambda: (BarzilaiBorwein(), trust_ratio()),
    "partition": lambda: (
        clip_by_global_norm(0.1),
        partition({"bias": Prodigy(), "*": LAMB()}),
        project_norm(1.0),
    ),
}


every_late = pytest.mark.parametrize("rules", LATE.values(), ids=LATE)


def of_two_kinds():
    """Return leaves with units and without, in two dtypes."""
    return {
        "bias": np.ones(2),
        "kernel": np.ones((2, 2)),
        "other": np.ones((2, 2), "float32"),
        "short": np.ones(3, "float32"),
    }


def rising(params, step):
    """Return gradients, of which one is missing at the second step."""
    grads = {name: np.linspace(1, 40, w.size).reshape(w.shape) for name, w in params.items()}
    return grads | ({"bias": None} if step == 1 else {})


@every_late
@engine_runs.every_numpy_engine
def test_no_leaf_reads_a_sum_to_which_others_are_to_add(engine, threads, rules):
    """Leaves without units come to the sums over the tree before those with units."""
    engine_runs.require(engine)
    runs = []
    for name in (engine, "array_api"):
        params = of_two_kinds()
        optimizer = chain(skip_nonfinite(), centralize(), *rules(), engine=name, threads=threads)
        for step in range(3):
            optimizer.update(params, rising(params, step))
        runs.append((params, optimizer))
    engine_runs.assert_same_run(*runs)

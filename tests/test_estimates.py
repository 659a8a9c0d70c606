"""Rules that estimate the distance to a solution, on the way to one, where estimates grow."""

import bits
import engine_runs
import numpy as np
import pytest
import textbook

from instep import DAdaptAdamW, Prodigy

ESTIMATING = {Prodigy: textbook.prodigy, DAdaptAdamW: textbook.dadapt_adamw}

every_rule = pytest.mark.parametrize("rule", ESTIMATING, ids=lambda rule: rule.__name__)


def noise(seed, dtypes):
    rng = np.random.default_rng(seed)
    return {dtype: bits.ordinary(rng, (7, 5), dtype) for dtype in dtypes}


def run(optimizer, dtypes, steps=20):
    params = noise(0, dtypes)
    for step in range(steps):
        grads = {k: g / 4 + params[k] for k, g in noise(step + 1, dtypes).items()}
        optimizer.update(params, grads)
    return params, optimizer


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("complex64", "float16")], ids=str)
@every_rule
@engine_runs.every_numpy_engine
def test_all_engines_have_the_bits_of_the_specification(engine, threads, rule, dtypes):
    engine_runs.require(engine)
    got = run(rule(engine=engine, threads=threads), dtypes)
    engine_runs.assert_same_run(got, run(rule(engine="array_api"), dtypes))
    assert got[1].state_dict()["numbers"]["d"] > 10 * rule().initial


@every_rule
def test_a_path_on_which_the_estimate_grows_is_that_of_the_textbook(rule):
    rng = np.random.default_rng(0)
    w, optimizer = rng.standard_normal(30), rule()
    start, gradients, path = w.copy(), [], []
    for _ in range(30):
        gradients.append(w + rng.standard_normal(30) / 4)
        path.append(optimizer.update(w, gradients[-1]).copy())
    assert optimizer.state_dict()["numbers"]["d"] > 100 * rule().initial
    for got, expected in zip(path, ESTIMATING[rule](start, gradients), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)

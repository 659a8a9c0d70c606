"""Chains on the device: every transform, on trees of several dtypes, layouts and phases."""

import engine_runs
import numpy as np
import pytest
from chains import CHAINS, steps_of, trees
from device_arrays import arrays_of, mirrors

from instep import Adam, chain
from instep.transforms import skip_nonfinite


@pytest.mark.parametrize("seed", ["", "7"])
@pytest.mark.parametrize("name", CHAINS)
def test_chains_have_the_bits_of_numpy(cupy, name, seed, monkeypatch):
    monkeypatch.setenv("CUPY_ON_CPU_SHUFFLE", seed)
    make, ordinary = CHAINS[name]
    expected, gradients = trees(steps_of(name), ordinary)
    params = mirrors(cupy, expected)
    optimizers = make(engine="cuda"), make(engine="blocked")
    for grads in gradients:
        given = {key: None if g is None else cupy.asarray(g) for key, g in grads.items()}
        optimizers[0].update(arrays_of(params), given)
        optimizers[1].update(expected, grads)
    got = {key: mirror.read() for key, mirror in params.items()}
    engine_runs.assert_same_run((got, optimizers[0]), (expected, optimizers[1]))
    assert optimizers[0].skipped == optimizers[1].skipped


def test_one_bad_element_of_a_hundred_tensors_turns_the_call_away(cupy):
    """Nothing changes, and the next good step is as if the bad one had never been."""
    rng = np.random.default_rng(3)
    start = {f"{i:02}": rng.standard_normal(50 + i).astype("float32") for i in range(100)}
    found = []
    for calls in ("good good", "good bad good"):
        params = {key: cupy.asarray(w) for key, w in start.items()}
        optimizer = chain(skip_nonfinite(), Adam())
        for call in calls.split():
            grads = {key: cupy.full_like(w, 0.5) for key, w in start.items()}
            if call == "bad":
                grads["61"][17] = np.inf
            optimizer.update(params, grads)
        found.append(({key: w.get() for key, w in params.items()}, optimizer))
    engine_runs.assert_same_run(found[1], found[0])
    assert (found[0][1].skipped, found[1][1].skipped) == (0, 1)
    assert found[0][1].t == found[1][1].t == 2

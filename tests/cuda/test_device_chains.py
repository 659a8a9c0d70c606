"""Chains on the device: every transform, on trees of several dtypes, layouts and phases."""

import bits
import engine_runs
import numpy as np
import pytest
from bits import special_values, wild
from chains import CHAINS, steps_of, trees
from device_arrays import arrays_of, mirrors

from instep import SGD, Adam, ScheduleFreeAdamW, chain
from instep.transforms import (
    average,
    project_halfspace,
    project_l1,
    project_norm,
    skip_nonfinite,
)


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


def hard_trees(dtype):
    """Return parameters with all that is hard on arithmetic, subnormal numbers among them."""
    rng, info = np.random.default_rng(5), np.finfo(dtype)
    small = rng.uniform(-4, 4, size=200) * float(info.tiny)
    return {
        "wild": wild(rng, (17, 9), dtype),
        "special": special_values(dtype),
        "subnormal": small.astype(dtype),
        "strided": wild(rng, (9, 12), dtype)[::2, ::3],
        "empty": np.zeros((0, 3), dtype),
    }


def read(tree):
    return {name: x.get() for name, x in tree.items()}


@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_averages_have_the_bits_of_numpy_and_keep_subnormal_numbers(cupy, dtype):
    expected = hard_trees(dtype)
    params = {name: cupy.asarray(w) for name, w in expected.items()}
    optimizer, reference = (chain(SGD(0.5), average(0.9)) for _ in range(2))
    for _ in range(3):
        optimizer.update(params, {name: w * 0 for name, w in params.items()})
        with np.errstate(all="ignore"):
            reference.update(expected, {name: w * 0 for name, w in expected.items()})
    got, wanted = read(optimizer.averaged(params)), reference.averaged(expected)
    least = float(np.finfo(dtype).tiny)
    kept = np.abs(wanted["subnormal"].astype("float64"))
    assert ((kept > 0) & (kept < least)).any(), "what would be flushed"
    for name, mean in wanted.items():
        bits.assert_same_bits(got[name], mean, name)
    before = read(params)
    with optimizer.answer_in_place(params):
        for name, mean in wanted.items():
            bits.assert_same_bits(params[name].get(), mean, name)
    for name, w in before.items():
        bits.assert_same_bits(params[name].get(), w, name)


@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_averages_of_a_state_that_comes_from_elsewhere_have_the_bits_of_numpy(cupy, dtype):
    expected = hard_trees(dtype)
    reference = chain(SGD(0.5), average(0.9))
    with np.errstate(all="ignore"):
        reference.update(expected, {name: w * 0 for name, w in expected.items()})
    optimizer = chain(SGD(0.5), average(0.9)).load_state_dict(reference.state_dict())
    for other in (dtype, "float64"):
        with np.errstate(over="ignore"):
            there = {name: w.astype(other) for name, w in expected.items()}
            wanted = reference.averaged(there)
        got = read(optimizer.averaged({name: cupy.asarray(w) for name, w in there.items()}))
        for name, mean in wanted.items():
            bits.assert_same_bits(got[name], mean, name)


@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_means_of_schedule_free_adamw_have_the_bits_of_numpy(cupy, dtype):
    expected = hard_trees(dtype)
    params = {name: cupy.asarray(w) for name, w in expected.items()}
    optimizer, reference = (ScheduleFreeAdamW(lr=1e-30) for _ in range(2))
    for _ in range(3):
        optimizer.update(params, {name: w * 0 for name, w in params.items()})
        with np.errstate(all="ignore"):
            reference.update(expected, {name: w * 0 for name, w in expected.items()})
    got, wanted = read(optimizer.eval_params(params)), reference.eval_params(expected)
    for name, mean in wanted.items():
        bits.assert_same_bits(got[name], mean, name)


@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64"])
def test_answers_in_sets_have_the_bits_of_numpy(cupy, dtype):
    rng = np.random.default_rng(0)
    expected = {"a": bits.ordinary(rng, (40, 7), dtype), "b": bits.ordinary(rng, (5,), dtype)}
    params = {name: cupy.asarray(w) for name, w in expected.items()}
    bound = {"a": {"project_halfspace_normal": bits.ordinary(rng, (40, 7), dtype)}}
    bound_there = {"a": {"project_halfspace_normal": cupy.asarray(*bound["a"].values())}}
    optimizer, reference = (
        chain(
            *(ScheduleFreeAdamW(0.1), project_l1(4.0), project_halfspace(-1.0, lambda t: -t / 9)),
            *(project_norm(1.0), average(0.9)),
            overrides=overrides,
        )
        for overrides in (bound_there, bound)
    )
    for _ in range(4):
        grads = {name: bits.ordinary(rng, w.shape, dtype) for name, w in expected.items()}
        optimizer.update(params, {name: cupy.asarray(g) for name, g in grads.items()})
        reference.update(expected, grads)
        for which in (0, 1):
            got = read(optimizer.answer(params, which=which))
            for name, mean in reference.answer(expected, which=which).items():
                bits.assert_same_bits(got[name], mean, name)


def test_what_state_starts_as_is_not_flushed(cupy):
    from instep import Optimizer

    class Starting(Optimizer):
        start: float = 1e-40
        slots = ("number", "named", "copied")

        def initial_state(self):
            return {"number": 1e-41, "named": "start", "copied": "w"}

        @staticmethod
        def rule(xp, w, g, s, h):
            return w, {}

    for dtype in bits.DTYPES:
        expected = hard_trees(dtype)
        params = {name: cupy.asarray(w) for name, w in expected.items()}
        optimizers = Starting(), Starting()
        for optimizer, tree in zip(optimizers, (params, expected), strict=True):
            with np.errstate(all="ignore"):
                optimizer.update(tree, {name: w * 0 for name, w in tree.items()})
        engine_runs.assert_same_state(*optimizers)


def test_subclasses_of_arrays_are_refused(cupy):
    class Labelled(cupy.ndarray):
        pass

    good = cupy.zeros(3)
    for warm in (False, True):
        optimizer = SGD()
        for _ in range(3 * warm):
            optimizer.update({"w": good}, {"w": cupy.ones(3)})
        before = good.get()
        with pytest.raises(TypeError, match=r"params\['w'\] is a .*Labelled, a subclass of cupy"):
            optimizer.update({"w": good.view(Labelled)}, {"w": cupy.ones(3)})
        with pytest.raises(TypeError, match=r"grads\['w'\] is a .*Labelled.*view\(cupy.ndarray"):
            optimizer.update({"w": good}, {"w": cupy.ones(3).view(Labelled)})
        bits.assert_same_bits(good.get(), before)
        assert optimizer.t == 3 * warm

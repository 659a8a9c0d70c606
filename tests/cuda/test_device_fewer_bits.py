"""State in fewer bits on the device: the codes of NumPy, whatever the kernel."""

import copy

import bits
import engine_runs
import numpy as np
import pytest
from bits import ordinary
from device_arrays import arrays_of, mirrors
from drawing import Noisy, layouts
from emitted import clipped, guarded

from instep import LAMB, AdaGrad, Adam, AdamW, Momentum, Muon, Optimizer
from instep.engines.cuda.counters import counters
from instep.numerics import TILE
from instep.words import BLOCK

FEWER = {"min_float8_size": 0}

#: Elements of lines: fewer than a thread takes, about a block, and several chunks of a launch.
SIZES = (0, 1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 5001)


def trees(dtype, *, tiles=False):
    """Return parameters of every size and layout, by name, and what makes gradients of them.

    Those of several tiles are many times larger.
    """
    rng = np.random.default_rng(0)
    params = {f"{n}": np.zeros(n, dtype) for n in SIZES}
    params |= {
        "Fortran": np.asfortranarray(np.zeros((37, 30), dtype)),
        "reversed": np.zeros((80, 90), dtype)[::2, ::-1],
        "rows": np.zeros((3, 600), dtype)[:, :599],
        "transposed": np.zeros((5, 7, 11), dtype).transpose(1, 2, 0),
        "no dimensions": np.zeros((), dtype),
        "misaligned": np.zeros(1001, dtype)[1:],  # for loads of 16 bytes
    }
    if tiles:
        params |= {name: w for name, w in layouts(dtype).items() if w.size > TILE}

    def gradients():
        found = {name: np.empty_like(w) for name, w in params.items()}
        for g in found.values():
            g[...] = ordinary(rng, g.shape, dtype)
        return found

    for name, x in gradients().items():
        params[name][...] = x
    return params, gradients


def assert_same_steps(cupy, make, dtype, *, tiles=False, **settings):
    """Raise unless steps on the device and those of the specification have the same bits."""
    params, gradients = trees(dtype, tiles=tiles)
    mirrored = mirrors(cupy, params)
    there, here = (make(engine=engine, **settings) for engine in ("cuda", "array_api"))
    for step in range(3):
        grads = gradients()
        if step == 1:  # a block of zeros, and what is not finite
            line = grads["5001"]
            line[BLOCK : 3 * BLOCK], line[7], line[-1] = 0, np.inf, np.nan
        there.update(arrays_of(mirrored), {name: cupy.asarray(g) for name, g in grads.items()})
        with np.errstate(all="ignore"):
            here.update(params, grads)
    read = {name: mirror.read() for name, mirror in mirrored.items()}
    engine_runs.assert_same_run((read, there), (params, here))
    return there


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize("state_dtype", ["bfloat16", "float8"])
def test_codes_are_those_of_numpy(cupy, state_dtype, dtype):
    rounding = "stochastic" if dtype == "float16" else None
    settings = {"state_dtype": state_dtype, "rounding": rounding, **FEWER}
    optimizer = assert_same_steps(cupy, Adam, dtype, **settings)
    dtypes = {slot.dtype.kind for slot in engine_runs.slots_of(optimizer)["5001"].values()}
    assert dtypes == {"u"}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("state_dtype", ["bfloat16", "float8"])
def test_codes_that_are_rounded_to_the_nearest_are_those_of_numpy(cupy, state_dtype, dtype):
    assert_same_steps(cupy, AdamW, dtype, state_dtype=state_dtype, rounding="nearest", **FEWER)


@pytest.mark.parametrize("make", [LAMB, AdaGrad, Momentum])
@pytest.mark.parametrize("state_dtype", ["bfloat16", "float8"])
def test_every_rule_has_the_codes_of_numpy(cupy, make, state_dtype):
    settings = {"state_dtype": state_dtype, **FEWER}
    assert_same_steps(cupy, make, "float32", tiles=make is LAMB, **settings)


@pytest.mark.parametrize("state_dtype", [None, "float32", "bfloat16", "float8"])
def test_parameters_that_are_kept_whole_are_those_of_numpy(cupy, state_dtype):
    assert_same_steps(cupy, Adam, "float16", state_dtype=state_dtype, master=True, **FEWER)


def test_sums_of_what_is_kept_whole_and_in_codes_are_those_of_numpy(cupy):
    assert_same_steps(cupy, LAMB, "float16", state_dtype="float8", master=True, **FEWER)
    assert_same_steps(cupy, LAMB, "complex64", state_dtype="float8", **FEWER)


@pytest.mark.parametrize("meaning", ["modulus", "pairs"])
def test_complex_numbers_of_either_meaning_have_the_codes_of_numpy(cupy, meaning):
    settings = {"state_dtype": "float8", "complex": meaning, **FEWER}
    assert_same_steps(cupy, Momentum, "complex128", **settings)


class NoisyInCodes(Noisy):
    """Draws for elements, and words for rounding by chance."""

    positive_slots = ()


def test_rules_that_draw_round_by_chance_as_well(cupy):
    assert_same_steps(cupy, NoisyInCodes, "float32", state_dtype="float8", **FEWER)


@pytest.mark.parametrize("make", [clipped, guarded])
def test_chains_have_the_codes_of_numpy(cupy, make):
    """One of the steps is turned away where that is guarded."""
    assert_same_steps(cupy, make, "float32", state_dtype="float8", **FEWER)


def test_gradients_of_another_dtype_leave_the_codes_of_numpy(cupy):
    w, g = np.ones(1000, "float32"), np.linspace(-1, 1, 1000)
    there, here = (
        Adam(engine=engine, state_dtype="float8", **FEWER) for engine in ("cuda", "array_api")
    )
    on_device = cupy.asarray(w)
    for _ in range(3):
        there.update(on_device, cupy.asarray(g))
        here.update(w, g)
    engine_runs.assert_same_run(({"w": on_device.get()}, there), ({"w": w}, here))


def test_a_copy_of_an_optimizer_has_codes_of_its_own(cupy):
    w, g = cupy.ones(1000, "float32"), cupy.linspace(-1, 1, 1000, dtype="float32")
    optimizer, reference = (Adam(engine="cuda", state_dtype="float8", **FEWER) for _ in range(2))
    for one in (optimizer, reference):
        one.update(w.copy(), g)
    copy.deepcopy(optimizer).update(w.copy(), -g)
    engine_runs.assert_same_state(optimizer, reference)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "float8"])
def test_what_a_function_of_the_library_is_given_is_decoded(cupy, state_dtype):
    """What it makes of it depends on the library; its own state does not."""
    states = []
    for engine, to in (("cuda", cupy.asarray), ("native", np.asarray)):
        rng = np.random.default_rng(1)
        w, *grads = (to(ordinary(rng, (40, 30), "float32")) for _ in range(3))
        optimizer = Muon(engine=engine, state_dtype=state_dtype, **FEWER)
        for g in grads:
            optimizer.update(w, g)
        (slots,) = engine_runs.slots_of(optimizer).values()
        states.append(slots)
    for name, slot in states[0].items():
        bits.assert_same_bits(slot, states[1][name], name)


class Constant(Optimizer):
    """Leaves a slot the same everywhere, so that the largest of a block is known before."""

    lr: float = 0.1
    slots = ("m", "all")
    positive_slots = ("m",)

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.lr * (g + s.m), {"m": xp.ones_like(g) * h.lr, "all": xp.sum(g) + s.all * 0.5}


def test_a_slot_that_is_the_same_everywhere_has_the_codes_of_numpy(cupy):
    assert_same_steps(cupy, Constant, "float32", state_dtype="float8", **FEWER)


@pytest.mark.parametrize("seed", ["", "1"])
def test_the_order_of_blocks_and_threads_does_not_matter(cupy, seed, monkeypatch):
    monkeypatch.setenv("CUPY_ON_CPU_SHUFFLE", seed)
    assert_same_steps(cupy, Adam, "float32", state_dtype="float8", **FEWER)


def test_a_step_is_one_launch_and_moves_as_many_bytes_as_are_counted(cupy):
    params = {name: cupy.ones(1000, "float32") for name in "abc"}
    grads = {name: cupy.ones(1000, "float32") for name in "abc"}
    optimizer = Adam(engine="cuda", state_dtype="float8", **FEWER)
    optimizer.update(params, grads)
    before = counters.launches
    for _ in range(5):
        optimizer.update(params, grads)
    assert counters.launches == before + 5
    assert optimizer.explain(params).buckets[0].bytes_per_element == 16 + 4 / BLOCK


@pytest.mark.parametrize("state_dtype", ["bfloat16", "float8"])
def test_codes_go_from_device_to_host_and_back_without_a_trace(cupy, state_dtype):
    rng = np.random.default_rng(0)
    settings = {"state_dtype": state_dtype, **FEWER}
    expected = {"w": ordinary(rng, (50, 60), "float32"), "b": ordinary(rng, (3,), "float32")}
    expected["f"] = np.asfortranarray(ordinary(rng, (30, 40), "float32"))
    params = {name: cupy.asarray(w, order="K") for name, w in expected.items()}
    reference, optimizer = Adam(engine="blocked", **settings), Adam(**settings)
    for step in range(9):
        if step % 3 == 0:  # to the other side
            optimizer = Adam(**settings).load_state_dict(optimizer.state_dict())
            to = np.asarray if step % 2 else cupy.asarray
            params = {name: to(getattr(w, "get", w.copy)()) for name, w in params.items()}
        grads = {name: ordinary(rng, w.shape, w.dtype) for name, w in expected.items()}
        optimizer.update(params, {name: to(g) for name, g in grads.items()})
        reference.update(expected, grads)
    for name, w in params.items():
        bits.assert_same_bits(getattr(w, "get", w.copy)(), expected[name], name)
    engine_runs.assert_same_state(optimizer, reference)

"""Random numbers on the device: the words of NumPy, whatever the kernel."""

import bits
import engine_runs
import numpy as np
import pytest
from device_arrays import arrays_of, mirrors
from drawing import Noisy, Summed, layouts, numbers

from instep import Adam, Optimizer
from instep.engines.cuda.counters import counters


def on_both(cupy, make, params, steps=3):
    """Take steps on the device and on NumPy; return what they end in."""
    mirrored, grads = mirrors(cupy, params), numbers(params)
    there, here = make(engine="cuda"), make(engine="array_api")
    device_grads = {name: cupy.asarray(g) for name, g in grads.items()}
    for _ in range(steps):
        there.update(arrays_of(mirrored), device_grads)
        here.update(params, grads)
    return ({name: one.read() for name, one in mirrored.items()}, there), (params, here)


class Weighed(Optimizer):
    """A step by the sum of what is loaded and drawn."""

    needs_random = True

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - xp.sum(g * xp.random(h.t)) * g, {}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_sums_of_what_is_loaded_and_drawn_are_those_of_numpy(cupy, dtype):
    got, expected = on_both(cupy, Weighed, layouts(dtype))
    engine_runs.assert_same_run(got, expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("rule", [Noisy, Summed])
def test_the_words_are_those_of_numpy(cupy, dtype, rule):
    got, expected = on_both(cupy, rule, layouts(dtype))
    engine_runs.assert_same_run(got, expected)


@pytest.mark.parametrize("shift", range(1, 8))
def test_elements_that_no_16_bytes_can_be_read_of_have_their_words(cupy, shift):
    for dtype in ("float16", "float32", "float64"):
        params = {"a": np.zeros(5000, dtype)[shift:], "b": np.zeros((9, 700), dtype)[:, shift:]}
        got, expected = on_both(cupy, Noisy, params)
        engine_runs.assert_same_run(got, expected)


def test_numbers_of_16_bits_are_rounded_alike(cupy):
    def make(**settings):
        return Adam(lr=0.01, rounding="stochastic", **settings)

    got, expected = on_both(cupy, make, layouts("float16"))
    engine_runs.assert_same_run(got, expected)


def test_a_step_that_rounds_by_chance_is_one_launch(cupy):
    params = {name: cupy.ones(100, "float16") for name in "abc"}
    grads = {name: cupy.ones(100, "float16") for name in "abc"}
    optimizer = Adam(rounding="stochastic", engine="cuda")
    optimizer.update(params, grads)
    before = counters.launches
    for _ in range(5):
        optimizer.update(params, grads)
    assert counters.launches == before + 5


def test_no_bit_is_that_of_a_neighbour(cupy):
    w = cupy.zeros(4096)
    Noisy(lr=1.0, engine="cuda").update(w, w.copy())
    drawn = -w.get()
    assert len(set(drawn)) == 4096
    bits.assert_same_bits(drawn, np.abs(drawn))

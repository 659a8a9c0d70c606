"""The value of the objective on the device: no step waits for it."""

import bits
import engine_runs
import numpy as np
import pytest
from device_arrays import arrays_of, mirrors
from test_objective import CHAINS, every_chain, trees, value_of
from with_value import Polyak

from instep.engines.cuda.counters import counters
from instep.plan import objective

DTYPES = [("float32", "float64"), ("complex64", "float16")]


@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
@pytest.mark.parametrize("on_device", [False, True], ids=["a float", "on the device"])
@every_chain
def test_bits_are_those_of_numpy(cupy, make, on_device, dtypes):
    expected = trees(0, dtypes)
    params = mirrors(cupy, expected)
    optimizers = make(engine="cuda"), make(engine="blocked")
    for step in range(8):
        grads, value = trees(step + 1, dtypes), value_of(expected)
        given = cupy.asarray(value) if on_device else value
        optimizers[0].update(arrays_of(params), arrays_of(mirrors(cupy, grads)), value=given)
        optimizers[1].update(expected, grads, value=value)
    got = {name: mirror.read() for name, mirror in params.items()}
    engine_runs.assert_same_run((got, optimizers[0]), (expected, optimizers[1]))


@pytest.mark.parametrize("dtype", ["float16", "float32", "int32"])
def test_a_value_of_the_device_may_have_any_dtype(cupy, dtype):
    w, expected = cupy.ones(3), np.ones(3)
    Polyak().update(w, cupy.full(3, 2.0), value=cupy.asarray(3, dtype=dtype))
    Polyak().update(expected, np.full(3, 2.0), value=3)
    bits.assert_same_bits(w.get(), expected)


@every_chain
def test_what_is_no_real_number_is_refused(cupy, make):
    optimizer, params = make(engine="cuda"), {"a": cupy.ones(3)}
    for value in (cupy.ones(1), cupy.asarray(1j), cupy.asarray(True)):
        with pytest.raises(TypeError, match="the value must be a real number"):
            optimizer.update(params, {"a": cupy.ones(3)}, value=value)
    assert optimizer.t == 0
    bits.assert_same_bits(params["a"].get(), np.ones(3))


def test_a_step_with_a_value_launches_what_one_without_does(cupy):
    params, optimizer = {"a": cupy.ones(3)}, CHAINS["alone"](engine="cuda")
    grads, value = {"a": cupy.ones(3)}, cupy.asarray(2.0)
    for _ in range(3):
        before = counters.launches
        optimizer.update(params, grads, value=value)
    assert counters.launches - before == 3  # the sum, the numbers, the step


def test_a_value_of_the_device_is_not_fetched(cupy, monkeypatch):
    def fetched(value):
        raise AssertionError(value)

    monkeypatch.setattr(objective, "real", fetched)
    Polyak().update(cupy.ones(3), cupy.ones(3), value=cupy.asarray(2.0))

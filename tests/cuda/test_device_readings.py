"""What can be read of steps on a device: NumPy's bits, and nothing is fetched before."""

import numpy as np
import pytest
from device_arrays import arrays_of, mirrors
from test_readings import every_chain, read, run, trees

from instep import SGD, chain
from instep.engines.cuda.sums import DeviceSums
from instep.transforms import clip_by_global_norm, skip_nonfinite


@every_chain
def test_readings_are_those_of_numpy(cupy, make):
    params, optimizer, found = mirrors(cupy, trees(0)), make(engine="cuda"), []
    for call in range(9):
        grads = arrays_of(mirrors(cupy, trees(call + 1)))
        if call == 3:
            grads["b1"] = None
        if call == 5:
            grads["a"][1, 2:] = cupy.asarray([np.inf, np.nan, -np.inf])
        optimizer.update(arrays_of(params), grads)
        found.append(read(optimizer))
    assert found == run(make(engine="blocked"))


@pytest.mark.parametrize("taken", [(1, 1, 1), (1, 0, 1, 0, 0), (0, 1), (0,), (1,) * 20 + (0,)])
def test_calls_that_the_host_has_not_heard_of_are_read(cupy, taken):
    optimizer = chain(skip_nonfinite(), SGD(lr=lambda step: 1.0 / step), engine="cuda")
    w = cupy.ones(3)
    optimizer.update(w, cupy.ones(3))
    for call in taken:
        optimizer.update(w, cupy.full(3, 1.0 if call else np.nan))
    found = optimizer.readings
    assert optimizer.t == 1 + sum(taken)
    assert found["SGD_t"] == 1 + sum(taken[:-1]) + 1
    assert found["SGD_lr"] == 1.0 / found["SGD_t"]
    assert found["skip_nonfinite_count"] == (0 if taken[-1] else 3)


def test_nothing_is_fetched_unless_it_is_read(cupy, monkeypatch):
    fetched, total = [], DeviceSums.total
    monkeypatch.setattr(
        DeviceSums, "total", lambda sums, number: fetched.append(number) or total(sums, number)
    )
    w, optimizer = cupy.zeros(2), chain(clip_by_global_norm(1.0), SGD(), engine="cuda")
    for _ in range(3):
        optimizer.update(w, cupy.asarray([3.0, 4.0]))
    assert not fetched
    assert optimizer.readings["clip_by_global_norm_norm"] == 5.0
    assert fetched

# ruff: noqa: SLF001  (it looks inside on purpose)
"""The scale of the loss on a device: known there, and waited for by nobody."""

import engine_runs
import numpy as np
import pytest
import test_dynamic_scale
from device_arrays import arrays_of, mirrors

from instep import SGD, Adam, Muon, chain
from instep.engines.cuda.verdicts import DeviceVerdicts
from instep.engines.sums import Verdicts
from instep.transforms import clip_by_global_norm, dynamic_scale


@pytest.mark.parametrize("late", [False, True], ids=["heard at once", "heard late"])
@pytest.mark.parametrize(
    "make", test_dynamic_scale.CHAINS.values(), ids=list(test_dynamic_scale.CHAINS)
)
def test_bits_are_those_of_numpy(cupy, make, late, monkeypatch):
    if late:
        monkeypatch.setattr(DeviceVerdicts, "_has_arrived", lambda self, event: False)
    expected = test_dynamic_scale.parameters()
    params, optimizers = mirrors(cupy, expected), (make(engine="cuda"), make(engine="blocked"))
    for call in range(25):
        grads = test_dynamic_scale.gradients(call)
        optimizers[0].update(arrays_of(params), arrays_of(mirrors(cupy, grads)))
        optimizers[1].update(expected, grads)
        assert float(optimizers[0].scale) == np.float32(optimizers[1].scale)
    got = {name: mirror.read() for name, mirror in params.items()}
    engine_runs.assert_same_run((got, optimizers[0]), (expected, optimizers[1]))
    assert optimizers[0].skipped == optimizers[1].skipped == len(test_dynamic_scale.BAD)


def test_the_scale_is_an_array_of_the_device_that_later_calls_leave_as_it_is(cupy):
    optimizer, w = chain(dynamic_scale(8.0, interval=1), SGD(lr=1.0)), cupy.zeros(3, "f4")
    assert optimizer.scale == 8.0
    optimizer.update(w, cupy.full(3, np.inf, "f4"))
    scale = optimizer.scale
    assert isinstance(scale, cupy.ndarray)
    assert (scale.shape, scale.dtype.name) == ((), "float32")
    assert (cupy.ones(3, "float16") * scale).dtype == "float32"
    optimizer.update(w, scale * cupy.ones(3, "f4"))
    assert (float(scale), float(optimizer.scale), w.get().tolist()) == (4.0, 8.0, [-1.0] * 3)
    scale += 1.0  # it is the user's
    assert float(optimizer.scale) == 8.0


def test_neither_a_step_nor_the_scale_waits(cupy, monkeypatch):
    """No call that waits: none that synchronizes, none that copies to the host and waits."""
    optimizer = chain(dynamic_scale(8.0, interval=1), clip_by_global_norm(1.0), Adam())
    params = {"w": cupy.zeros(1000, "float32"), "v": cupy.zeros(3, "float32")}
    grads = {"w": cupy.ones(1000, "float32"), "v": cupy.ones(3, "float32")}
    for _ in range(4):  # all graphs are compiled, all tables are there
        optimizer.update(params, grads)
        _ = optimizer.scale

    def wait(*_):
        raise AssertionError("the step waits for the device")

    runtime = cupy.cuda.runtime
    for name in ("streamSynchronize", "deviceSynchronize", "eventSynchronize", "memcpy"):
        monkeypatch.setattr(runtime, name, wait)
    monkeypatch.setattr(DeviceVerdicts, "_has_arrived", lambda self, event: False)
    undecided = type(optimizer._state.plan._judging._undecided)
    monkeypatch.setattr(undecided, "hear", lambda self, most: None)
    scales = []
    for call in range(Verdicts.MOST):
        grads["v"][...] = np.inf if call % 3 == 0 else 1.0
        optimizer.update(params, grads)
        scales.append(optimizer.scale)
    monkeypatch.undo()
    expected = [2.0 ** (7 + n // 3 + (0, 1, 2)[n % 3] - 1) for n in range(Verdicts.MOST)]
    assert [float(scale) for scale in scales] == expected


def test_a_state_goes_to_the_device_and_back(cupy):
    optimizer, w = chain(dynamic_scale(8.0), SGD()), np.zeros(3, "f4")
    optimizer.update(w, np.full(3, np.nan, "f4"))
    there = chain(dynamic_scale(8.0), SGD()).load_state_dict(optimizer.state_dict())
    assert there.scale == 4.0
    there.update(cupy.asarray(w), cupy.full(3, np.nan, "f4"))
    back = chain(dynamic_scale(8.0), SGD()).load_state_dict(there.state_dict())
    assert (back.scale, back.skipped) == (2.0, 2)


@pytest.mark.parametrize("first", [1.0, np.inf], ids=["after a step", "before one"])
def test_what_the_host_judges_changes_the_scale_on_the_device(cupy, first):
    """Muon multiplies matrices between two passes: the host has to know of the verdict."""
    optimizer, w = chain(dynamic_scale(8.0), Muon()), cupy.ones((4, 4), "float32")
    optimizer.update(w, cupy.full((4, 4), first, "float32"))
    before, scale = w.get(), float(optimizer.scale)
    optimizer.update(w, cupy.full((4, 4), np.inf, "float32"))
    assert float(optimizer.scale) == scale / 2
    assert np.array_equal(w.get(), before)


def test_a_tree_on_host_and_device_is_refused(cupy):
    params = {"a": np.zeros(3), "b": cupy.zeros(3)}
    with pytest.raises(ValueError, match="is one number of the tree, and the tree has parameters"):
        chain(dynamic_scale(), SGD()).update(params, {"a": np.ones(3), "b": cupy.ones(3)})

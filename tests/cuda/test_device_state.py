"""State that moves between host and device, counts far, and belongs to many tensors."""

import copy
import pickle

import bits
import engine_runs
import numpy as np
import pytest
from bits import ordinary

from instep import Adam, Prodigy, chain
from instep.engines.cuda.counters import counters
from instep.transforms import accumulate, average


def test_state_goes_from_device_to_host_and_back_without_a_trace(cupy):
    rng = np.random.default_rng(0)
    expected = {"w": ordinary(rng, (5, 6), "float32"), "b": ordinary(rng, (3,), "float16")}
    params = {name: cupy.asarray(w) for name, w in expected.items()}
    reference, optimizer = Adam(engine="blocked"), Adam()
    for step in range(9):
        if step % 3 == 0:  # to the other side
            optimizer = Adam().load_state_dict(optimizer.state_dict())
            to = np.asarray if step % 2 else cupy.asarray
            params = {name: to(getattr(w, "get", w.copy)()) for name, w in params.items()}
        grads = {name: ordinary(rng, w.shape, w.dtype) for name, w in expected.items()}
        optimizer.update(params, {name: to(g) for name, g in grads.items()})
        reference.update(expected, grads)
    for name, w in params.items():
        bits.assert_same_bits(getattr(w, "get", w.copy)(), expected[name], name)
    engine_runs.assert_same_state(optimizer, reference)


@pytest.mark.parametrize("t", [2**24, 2**31, 2**63])
def test_the_step_number_does_not_overflow_on_the_device(cupy, t):
    optimizers, arrays = (Adam(engine="cuda"), Adam(engine="blocked")), []
    for optimizer, to in zip(optimizers, (cupy.asarray, np.asarray), strict=True):
        w, g = to(np.ones(3, "float32")), to(np.full(3, 0.5, "float32"))
        optimizer.update(w, g)
        optimizer.load_state_dict({**optimizer.state_dict(), "t": t})
        for _ in range(3):
            optimizer.update(w, g)
        arrays.append(w)
    bits.assert_same_bits(arrays[0].get(), arrays[1])
    assert optimizers[0].t == optimizers[1].t == t + 3


def test_ten_thousand_tensors_take_one_launch(cupy):
    flat, slope = np.ones(10_000 * 7, "float32"), np.linspace(-1, 1, 70_000).astype("float32")
    on_device = cupy.asarray(flat), cupy.asarray(slope)
    params, grads = (dict(enumerate(x.reshape(10_000, 7))) for x in on_device)
    optimizer, reference = Adam(), Adam(engine="blocked")
    for _ in range(2):
        before = counters.launches
        optimizer.update(params, grads)
        assert counters.launches == before + 1
        reference.update(flat, slope)
    bits.assert_same_bits(on_device[0].get(), flat)


def test_parameters_may_be_replaced_resized_added_and_removed(cupy):
    """Each is a new signature: the state of the others goes on."""
    rng = np.random.default_rng(1)
    optimizers = Adam(), Adam(engine="blocked")
    params = {"a": ordinary(rng, (4,), "float32"), "b": ordinary(rng, (2, 3), "float32")}
    on_device = {name: cupy.asarray(w) for name, w in params.items()}
    for step in range(8):
        match step:
            case 2:  # moved
                on_device["a"] = on_device["a"].copy()
            case 3:
                params["c"] = ordinary(rng, (5,), "float32")
                on_device["c"] = cupy.asarray(params["c"])
            case 5:
                del params["b"], on_device["b"]
            case 6:  # another layout
                params["c"] = params["c"][::-1]
                on_device["c"] = on_device["c"][::-1]
        grads = {name: ordinary(rng, w.shape, w.dtype) for name, w in params.items()}
        optimizers[0].update(on_device, {name: cupy.asarray(g) for name, g in grads.items()})
        optimizers[1].update(params, grads)
    for name, w in params.items():
        bits.assert_same_bits(on_device[name].get(), w, name)


def test_a_pickle_from_a_device_holds_no_array_of_it(cupy):
    """It can be read without CuPy, and goes on with the same bits on either side."""
    w, reference, v = cupy.ones(5, "float32"), Prodigy(engine="blocked"), np.ones(5, "float32")
    optimizer = Prodigy()
    for _ in range(2):
        optimizer.update(w, cupy.linspace(-1, 1, 5, dtype="float32"))
        reference.update(v, np.linspace(-1, 1, 5, dtype="float32"))
    content = pickle.dumps(optimizer)
    assert b"cupy" not in content
    on_host, again = pickle.loads(content), pickle.loads(content)
    u = w.get()
    on_host.update(u, np.full(5, 0.5, "float32"))
    for one in (again, optimizer, copy.deepcopy(optimizer)):
        x = w.copy()
        one.update(x, cupy.full(5, 0.5, "float32"))
        bits.assert_same_bits(x.get(), u)


def test_state_on_a_device_is_resized_forgotten_and_flushed(cupy):
    def run(xp, engine):
        optimizer = chain(accumulate(4), Adam(0.1), average(0.5), engine=engine)
        params = {"w": xp.ones((4, 3), "float32"), "v": xp.ones(2, "float32")}
        for step in range(6):
            g = np.random.default_rng(step).standard_normal((4, 3)).astype("float32")
            optimizer.update(params, {"w": xp.asarray(g), "v": xp.asarray(g[0, :2])})
        optimizer.resize("w", xp.asarray([0, 0, 3]))
        params = {"w": xp.ones((3, 3), "float32"), "v": params["v"]}
        optimizer.flush(params)
        optimizer.forget("v")
        optimizer.update(params, {name: w + 1 for name, w in params.items()})
        return params, optimizer

    (params, optimizer), (expected, reference) = run(cupy, "cuda"), run(np, "blocked")
    assert optimizer.t == reference.t == 9
    for name, w in params.items():
        bits.assert_same_bits(w.get(), expected[name], name)
    engine_runs.assert_same_state(optimizer, reference)

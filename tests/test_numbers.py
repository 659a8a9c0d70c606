"""Floats of Python and NumPy in the place of arrays: new ones take their place in the tree."""

import math

import bits
import engine_runs
import numpy as np
import pytest

from instep import SGD, AdaGrad, Adam, Momentum, chain
from instep.transforms import average, clip_by_global_norm

MAKERS = {
    "SGD": lambda **settings: SGD(0.95, **settings),
    "Momentum": lambda **settings: Momentum(0.1, **settings),
    "AdaGrad": lambda **settings: AdaGrad(1.5, **settings),
    "Adam": lambda **settings: Adam(0.3, **settings),
    "chain": lambda **settings: chain(clip_by_global_norm(1.0), Adam(0.3), **settings),
    "schedule": lambda **settings: SGD(lambda t: 0.5 / t, **settings),
}


@engine_runs.every_engine
@pytest.mark.parametrize("name", MAKERS)
def test_a_path_of_python_floats_is_that_of_arrays(name, engine):
    """The experiment of the text: x and y of f(x, y) = x**2 / 20 + y**2, kept as plain numbers."""
    engine_runs.require(engine)
    optimizer, other = MAKERS[name](engine=engine), MAKERS[name](engine="array_api")
    params, grads, history = {"x": -7.0, "y": 2.0}, {"x": 0.0, "y": 0.0}, []
    arrays = {"x": np.array(-7.0), "y": np.array(2.0)}
    for step in range(30):
        history.append((params["x"], params["y"]))
        assert history[-1] == (arrays["x"], arrays["y"]), step
        grads["x"], grads["y"] = params["x"] / 10.0, 2.0 * params["y"]
        assert optimizer.update(params, grads) is params
        other.update(arrays, {"x": arrays["x"] / 10.0, "y": 2.0 * arrays["y"]})
    assert len(set(history)) == 30
    assert {type(value) for value in params.values()} == {float}
    assert optimizer.t == 30


@engine_runs.every_engine
def test_numbers_keep_their_types_and_may_stand_beside_arrays(engine):
    engine_runs.require(engine)
    optimizer = Adam(0.1, engine=engine)
    params = {"a": np.float32(1.5), "b": [2.5, np.float64(0.5)], "c": np.ones(3), "n": 7}
    optimizer.frozen = ["n"]
    expected = {"a": np.array(1.5, "f4"), "b": [np.array(2.5), np.array(0.5)], "c": np.ones(3)}
    other = Adam(0.1)
    for _ in range(3):
        optimizer.update(
            params, {"a": 1.0, "b": [np.float32(0.5), 2.0], "c": np.ones(3), "n": None}
        )
        half = np.array(0.5, "f4")
        other.update(expected, {"a": np.array(1.0), "b": [half, np.array(2.0)], "c": np.ones(3)})
    assert [type(x) for x in (params["a"], *params["b"])] == [np.float32, float, np.float64]
    assert (params["a"], *params["b"]) == (expected["a"], *expected["b"])
    bits.assert_same_bits(params["c"], expected["c"])
    assert params["n"] == 7


def test_a_number_or_a_tuple_of_them_is_returned():
    assert SGD(0.5).update(3.0, 2.0) == 2.0
    assert SGD(0.5).update((3.0, np.ones(2)), (2.0, np.zeros(2)))[0] == 2.0


def test_numbers_are_gradients_of_arrays_without_dimensions():
    w, optimizer = np.array(3.0), SGD(0.5)
    for g in (2.0, np.float64(2.0), np.array(2.0), np.float32(2.0), 2.0):
        assert optimizer.update(w, g) is w
    assert w == -2.0
    assert optimizer.update(4.0, np.array(2.0)) == 3.0
    with pytest.raises(ValueError, match=r"shapes must be equal"):
        optimizer.update(np.ones(3), 2.0)


def test_arrays_and_numbers_may_come_by_turns():
    optimizer, other, w = Adam(0.1), Adam(0.1), np.array(1.0)
    value = 1.0
    for step in range(6):
        kind = (float, np.float64, np.array)[step % 3]
        value = optimizer.update({"w": kind(value)}, {"w": 0.5})["w"]
        other.update({"w": w}, {"w": np.array(0.5)})
        assert value == w
    assert optimizer.t == 6


def test_special_values_and_rounding_are_those_of_arrays():
    for value in (-0.0, math.inf, math.nan, 5e-324, 1.7e308):
        for g in (0.0, -0.0, 1.0, math.nan):
            w = np.array(value)
            got = SGD(1.0).update(value, g)
            SGD(1.0).update(w, np.array(g))
            bits.assert_same_bits(np.array(got), w)


def test_the_state_of_numbers_is_that_of_arrays(tmp_path):
    optimizer, params = Adam(0.1), {"x": 1.0}
    optimizer.update(params, {"x": 2.0})
    optimizer.save(tmp_path / "state")
    loaded, arrays = Adam(0.1).load(tmp_path / "state"), {"x": np.array(params["x"])}
    optimizer.update(params, {"x": -1.0})
    loaded.update(arrays, {"x": np.array(-1.0)})
    assert params["x"] == arrays["x"]


@engine_runs.every_engine
def test_the_answer_of_numbers_is_numbers(engine):
    engine_runs.require(engine)
    optimizer, params = chain(SGD(1.0), average(0.5), engine=engine), {"x": 0.0, "y": [np.ones(2)]}
    for _ in range(2):
        optimizer.update(params, {"x": -3.0, "y": [np.ones(2)]})
    answer = optimizer.answer(params)
    assert (answer["x"], type(answer["x"]), params["x"]) == (5.0, float, 6.0)
    with optimizer.answer_in_place(params) as there:
        assert there is params
        assert (params["x"], type(params["x"])) == (5.0, float)
        bits.assert_same_bits(params["y"][0], answer["y"][0])
    assert params["x"] == 6.0
    assert params["y"][0].tolist() == [-1.0, -1.0]
    optimizer.update(params, {"x": -3.0, "y": [np.ones(2)]})


@pytest.mark.parametrize("bad", [1, True, np.int32(1), np.bool_(True)])
def test_other_numbers_are_refused_and_nothing_is_changed(bad):
    optimizer, params = SGD(), {"x": 1.0, "y": 2.0}
    for p, g in [({"x": bad, "y": 2.0}, {"x": 1.0, "y": 1.0}), (params, {"x": 1.0, "y": bad})]:
        with pytest.raises(TypeError, match=r"SGD.update: .*\['[xy]'\] is .*; .*float"):
            optimizer.update(p, g)
    assert (optimizer.t, params) == (0, {"x": 1.0, "y": 2.0})


def test_a_step_on_numbers_is_explained():
    (bucket,) = Adam().explain({"x": 1.0, "y": np.float32(2.0)}).buckets[:1]
    assert (bucket.elements, bucket.dtype) == (1, "float64")

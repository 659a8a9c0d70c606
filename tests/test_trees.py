"""Trees of parameters: containers, the order of keys, missing gradients, changes between steps."""

import collections
import random
from typing import Any, NamedTuple

import bits
import cases
import engine_runs
import numpy as np
import pytest

from conftest import why_missing
from instep import SGD, Adam, Momentum


class Pair(NamedTuple):
    first: Any
    second: Any


def ones(*shape):
    return np.ones(shape, "float32")


def test_a_single_array_is_a_tree():
    w = ones(3)
    assert SGD(lr=0.5).update(w, ones(3)) is w
    assert w.tolist() == [0.5] * 3


@engine_runs.every_engine
def test_dicts_lists_and_tuples_nest(engine):
    engine_runs.require(engine)
    params = {
        "a": [ones(2), (ones(1), {"deep": ones(3)})],
        "b": Pair(ones(1), ones(2, 2)),
        3: ones(1),
    }
    leaves = [params["a"][0], params["a"][1][0], params["a"][1][1]["deep"], *params["b"], params[3]]
    grads = {
        "a": [ones(2), (ones(1), {"deep": ones(3)})],
        "b": Pair(ones(1), ones(2, 2)),
        3: ones(1),
    }
    optimizer = SGD(lr=0.5, engine=engine)
    for _ in range(2):
        assert optimizer.update(params, grads) is params
    assert params["a"][0] is leaves[0], "arrays are updated where they are"
    assert params["b"].second is leaves[4]
    for leaf in leaves:
        assert (leaf == 0.0).all()


def test_gradients_may_be_tuples_where_parameters_are_lists():
    params = [ones(2), ones(3)]
    SGD(lr=0.5).update(params, (ones(2), ones(3)))
    assert params[1].tolist() == [0.5] * 3


def test_subclasses_of_dict_are_dicts():
    params = collections.OrderedDict(b=ones(1), a=ones(2))
    grads = collections.defaultdict(None, {"a": ones(2), "b": ones(1)})
    SGD(lr=0.5).update(params, grads)
    assert list(params) == ["b", "a"]
    assert params["a"].tolist() == [0.5] * 2


@pytest.mark.parametrize("empty", [{}, [], (), {"a": {}, "b": []}])
@engine_runs.every_engine
def test_an_empty_tree_is_a_step_of_nothing(empty, engine):
    engine_runs.require(engine)
    optimizer = Adam(engine=engine)
    for _ in range(3):
        optimizer.update(empty, empty)
    assert optimizer.t == 3


@engine_runs.every_engine
@cases.every_class
def test_the_order_of_keys_changes_no_bit(case, engine):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    keys = [f"layer{i}" for i in range(12)]
    values = {key: bits.ordinary(rng, (5, 3), "float32") for key in keys}
    gradients = [{key: bits.ordinary(rng, (5, 3), "float32") for key in keys} for _ in range(4)]
    results = []
    for seed in range(3):
        order = keys.copy()
        random.Random(seed).shuffle(order)
        params = {key: values[key].copy() for key in order}
        optimizer = case.make(engine=engine)
        for grads in gradients:
            random.Random(seed + 1).shuffle(order)  # gradients in yet another order, at each step
            cases.step(optimizer, params, {key: grads[key] for key in order})
        results.append((dict(sorted(params.items())), optimizer))
    for got in results[1:]:
        engine_runs.assert_same_run(got, results[0])


@pytest.mark.parametrize(
    "keys",
    [["b", "a"], [2, 10, 1], ["x", 1, (0, 1), 2.5, None], [True, "True "]],
    ids=["text", "numbers", "of several types", "booleans"],
)
@engine_runs.every_engine
def test_keys_may_be_anything_hashable(keys, engine):
    engine_runs.require(engine)
    params = {key: ones(i + 1) for i, key in enumerate(keys)}
    optimizer = Momentum(lr=0.5, engine=engine)
    for _ in range(2):
        optimizer.update(params, {key: ones(i + 1) for i, key in reversed(list(enumerate(keys)))})
    for i, key in enumerate(keys):
        assert params[key].tolist() == pytest.approx([1 - 0.5 - 0.95] * (i + 1))
    assert len(optimizer.state_dict()["states"]) == len(keys)


# Missing gradients ---------------------------------------------------------------------------


@engine_runs.every_engine
@cases.every_class
def test_a_missing_gradient_leaves_parameter_and_state_alone_and_counts_no_step(case, engine):
    """As in torch: the step number is the parameter's own. Missing at step 3 of 7."""
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    values = {key: bits.ordinary(rng, (9,), "float32") for key in "abc"}
    gradients = [{key: bits.ordinary(rng, (9,), "float32") for key in "abc"} for _ in range(7)]
    params = {key: w.copy() for key, w in values.items()}
    optimizer = case.make(engine=engine)
    for t, grads in enumerate(gradients, 1):
        before = params["b"].copy()
        state = engine_runs.slots_of(optimizer).get("b", {})
        cases.step(optimizer, params, {**grads, "b": None} if t == 3 else grads)
        if t == 3:
            bits.assert_same_bits(params["b"], before)
            for name, slot in engine_runs.slots_of(optimizer)["b"].items():
                bits.assert_same_bits(slot, state[name])
    assert optimizer.t == 7
    if case.over_tree:
        return
    alone = {key: w.copy() for key, w in values.items()}
    for key in "abc":
        single = case.make(engine=engine)
        for t, grads in enumerate(gradients, 1):
            if (key, t) != ("b", 3):
                cases.step(single, {key: alone[key]}, {key: grads[key]})
        bits.assert_same_bits(params[key], alone[key], key)


@engine_runs.every_engine
def test_the_first_gradient_may_come_late(engine):
    engine_runs.require(engine)
    params = {"a": ones(3), "late": ones(3)}
    optimizer = Adam(lr=0.5, eps=0.0, engine=engine)
    for _ in range(3):
        optimizer.update(params, {"a": ones(3), "late": None})
    assert params["late"].tolist() == [1.0] * 3
    optimizer.update(params, {"a": ones(3), "late": ones(3)})
    assert params["late"].tolist() == [0.5] * 3, "a first step of Adam is lr long"


@engine_runs.every_engine
def test_all_gradients_may_be_missing(engine):
    engine_runs.require(engine)
    optimizer, w = Adam(engine=engine), ones(3)
    optimizer.update({"w": w}, {"w": None})
    optimizer.update(w, None)
    assert optimizer.t == 2
    assert w.tolist() == [1.0] * 3


@engine_runs.every_engine
def test_a_schedule_goes_on_while_a_gradient_is_missing(engine):
    """The step number in a rule is the leaf's own; that of a schedule is the optimizer's."""
    engine_runs.require(engine)
    params = {"a": ones(1), "b": ones(1)}
    optimizer = SGD(lr=float, engine=engine)
    optimizer.update(params, {"a": ones(1), "b": None})
    optimizer.update(params, {"a": ones(1), "b": ones(1)})
    assert params["a"].tolist() == [1.0 - 1.0 - 2.0]
    assert params["b"].tolist() == [1.0 - 2.0]


FROZEN = {
    "read-only": lambda: np.broadcast_to(np.float32(1), (3,)),
    "integers": lambda: np.arange(3),
    "complex": lambda: np.ones(3, complex),
}


@pytest.mark.parametrize("kind", FROZEN)
@engine_runs.every_engine
def test_a_frozen_parameter_may_be_anything(kind, engine):
    engine_runs.require(engine)
    frozen = FROZEN[kind]()
    before = frozen.copy()
    params = {"a": ones(3), "frozen": frozen}
    optimizer = SGD(lr=0.5, engine=engine)
    for _ in range(3):
        optimizer.update(params, {"a": ones(3), "frozen": None})
    assert params["frozen"] is frozen
    assert (frozen == before).all()
    assert params["a"].tolist() == [-0.5] * 3


# What changes between steps ---------------------------------------------------------------------


@engine_runs.every_engine
def test_an_array_may_be_replaced_by_another_of_its_kind(engine):
    engine_runs.require(engine)
    one, other = Momentum(engine=engine), Momentum(engine="array_api")
    params, expected = {"w": ones(20)}, {"w": ones(20)}
    for t in range(6):
        layout = list(bits.LAYOUTS.values())[t]
        params["w"] = layout(params["w"])  # in another place and layout at every step
        old = params["w"]
        one.update(params, {"w": layout(ones(20) * t)})
        assert params["w"] is old
        other.update(expected, {"w": ones(20) * t})
    engine_runs.assert_same_run(({"w": np.array(params["w"])}, one), (expected, other))


@engine_runs.every_engine
def test_keys_may_be_added_and_removed(engine):
    engine_runs.require(engine)
    optimizer = Adam(lr=0.5, eps=0.0, engine=engine)
    params = {"a": ones(2)}
    optimizer.update(params, {"a": ones(2)})
    params["new"] = ones(3)
    optimizer.update(params, {"a": ones(2), "new": ones(3)})
    assert params["new"].tolist() == [0.5] * 3, "its own first step"
    gone = params.pop("a")
    kept = engine_runs.slots_of(optimizer)["a"]
    optimizer.update(params, {"new": ones(3)})
    assert optimizer.t == 3
    params["a"] = gone  # it comes back to the state it left
    for name, slot in engine_runs.slots_of(optimizer)["a"].items():
        bits.assert_same_bits(slot, kept[name])
    optimizer.update(params, {"a": ones(2), "new": ones(3)})
    expected, w = Adam(lr=0.5, eps=0.0, engine="array_api"), ones(2)
    for _ in range(3):
        expected.update({"a": w}, {"a": ones(2)})
    bits.assert_same_bits(params["a"], w)


@engine_runs.every_engine
def test_a_leaf_may_become_a_branch(engine):
    engine_runs.require(engine)
    optimizer = Momentum(lr=0.5, engine=engine)
    optimizer.update({"a": ones(2)}, {"a": ones(2)})
    params = {"a": {"b": ones(2)}}
    optimizer.update(params, {"a": {"b": ones(2)}})
    assert params["a"]["b"].tolist() == [0.5] * 2
    assert optimizer.t == 2


@engine_runs.every_engine
def test_one_optimizer_may_serve_two_trees_in_turn(engine):
    engine_runs.require(engine)
    optimizer = Momentum(lr=0.5, engine=engine)
    first, second = {"a": ones(2)}, {"b": ones(3)}
    for _ in range(3):
        optimizer.update(first, {"a": ones(2)})
        optimizer.update(second, {"b": ones(3)})
    expected, w = Momentum(lr=0.5), ones(2)
    for _ in range(3):
        expected.update(w, ones(2))
    bits.assert_same_bits(first["a"], w)
    assert optimizer.t == 6


@engine_runs.every_engine
def test_dtypes_may_be_mixed_in_one_tree(engine):
    engine_runs.require(engine)
    params = {dtype: np.full(3, 0.1, dtype) for dtype in bits.DTYPES}
    optimizer = Adam(lr=0.01, engine=engine)
    for _ in range(5):
        optimizer.update(params, {dtype: np.full(3, 0.1, dtype) for dtype in bits.DTYPES})
    for dtype in bits.DTYPES:
        alone, w = Adam(lr=0.01, engine="array_api"), np.full(3, 0.1, dtype)
        for _ in range(5):
            alone.update(w, np.full(3, 0.1, dtype))
        bits.assert_same_bits(params[dtype], w)


@engine_runs.every_engine
def test_interleaved_views_of_one_array_are_different_parameters(engine):
    engine_runs.require(engine)
    room = np.arange(12.0)
    params = {"even": room[::2], "odd": room[1::2]}
    optimizer = SGD(lr=1.0, engine=engine)
    for _ in range(3):
        optimizer.update(params, {"even": np.ones(6), "odd": np.full(6, 2.0)})
    assert room.tolist() == [i - (6.0 if i % 2 else 3.0) for i in range(12)]


@engine_runs.every_engine
def test_gradients_may_share_memory_with_each_other(engine):
    engine_runs.require(engine)
    g = np.ones(3)
    params = [np.zeros(3), np.zeros(3), np.zeros(2)]
    SGD(lr=1.0, engine=engine).update(params, [g, g, g[1:]])
    assert [w.tolist() for w in params] == [[-1.0] * 3, [-1.0] * 3, [-1.0] * 2]


@engine_runs.every_engine
def test_memory_mapped_files_are_arrays(engine, tmp_path):
    engine_runs.require(engine)
    w = np.memmap(tmp_path / "w", dtype="float32", mode="w+", shape=(1000,))
    optimizer = Momentum(lr=0.5, engine=engine)
    for _ in range(2):
        optimizer.update({"w": w}, {"w": ones(1000)})
    w.flush()
    assert (np.fromfile(tmp_path / "w", "float32") == np.float32(-0.5 - 0.95)).all()


@pytest.mark.slow  # all of them together
@engine_runs.every_engine
def test_ten_thousand_tensors(engine):
    engine_runs.require(engine)
    params = {str(i): np.full(3, i, "float32") for i in range(10_000)}
    grads = {str(i): ones(3) for i in range(10_000)}
    optimizer = SGD(lr=0.5, engine=engine)
    for _ in range(2):
        optimizer.update(params, grads)
    assert all(w[0] == i - 1 for i, w in enumerate(params.values()))


# Libraries whose arrays cannot be written ------------------------------------------------------


@pytest.fixture
def jnp():
    if why_missing("jax.numpy"):
        pytest.skip(why_missing("jax.numpy"))
    import jax.numpy

    return jax.numpy


def test_jax_arrays_are_replaced_in_dicts_and_lists(jnp):
    params = {"a": [jnp.ones(2), np.ones(2)], "b": (jnp.ones(1),)}
    inner, writable, pair = params["a"], params["a"][1], params["b"]
    optimizer = SGD(lr=0.5)
    for _ in range(2):
        updated = optimizer.update(params, {"a": [jnp.ones(2), np.ones(2)], "b": (jnp.ones(1),)})
        assert updated is params
    assert params["a"] is inner
    assert params["a"][1] is writable
    assert params["a"][0].tolist() == writable.tolist() == [0.0, 0.0]
    assert params["b"] is not pair, "a tuple is made anew"
    assert params["b"][0].tolist() == [0.0]


def test_a_single_jax_array_is_returned(jnp):
    w = jnp.ones(3)
    optimizer = SGD(lr=0.5)
    w = optimizer.update(w, jnp.ones(3))
    w = optimizer.update(w, jnp.ones(3))
    assert w.tolist() == [0.0] * 3


def test_a_named_tuple_of_jax_arrays_stays_one(jnp):
    params = SGD(lr=0.5).update(Pair(jnp.ones(1), jnp.ones(2)), Pair(jnp.ones(1), jnp.ones(2)))
    assert isinstance(params, Pair)
    assert params.second.tolist() == [0.5, 0.5]

"""State follows parameters that go, grow and are cut; pickles hold arrays of NumPy alone."""

import contextlib
import copy
import pickle
import threading
from collections import Counter

import array_api_strict
import bits
import engine_runs
import faults
import numpy as np
import pytest

from instep import SGD, Adam, Momentum, Muon, Prodigy, Shampoo, chain, partition
from instep.schedules import Linear
from instep.transforms import (
    accumulate,
    average,
    clip_by_global_norm,
    dynamic_scale,
    grokfast,
    scale_gradients,
    skip_nonfinite,
    weight_decay,
)

# Pickles -------------------------------------------------------------------------------------


def can_be_copied(array):
    """Return whether a library lets its arrays be copied: older ones of array-api-strict do not."""
    try:
        return copy.deepcopy(array) is not None
    except TypeError:
        return False


def test_a_pickle_holds_no_arrays_but_those_of_numpy():
    """Here those of another library; a pickle that was made on a GPU can be read without one."""
    xp = array_api_strict
    lr = xp.asarray([0.5, 0.25, 0.125])
    optimizer = chain(scale_gradients(lr), Momentum(lr), overrides={"*": {"momentum": lr}})
    params = {"w": xp.ones(3)}
    optimizer.update(params, {"w": xp.ones(3)})
    content = pickle.dumps(optimizer)
    assert b"array_api_strict" not in content
    loaded = pickle.loads(content)
    engine_runs.assert_same_state(loaded, optimizer)
    for array, expected in ((loaded.lr, lr), (loaded.overrides["*"]["momentum"], lr)):
        assert type(array) is np.ndarray
        bits.assert_same_bits(array, np.asarray(expected))
    # Copies keep arrays where they are, and the optimizer itself has them still.
    copies = [make(optimizer) for make in (copy.copy, copy.deepcopy) if can_be_copied(lr)]
    for one in (*copies, optimizer):
        assert type(one.lr) is type(lr)
        one.update({"w": xp.ones(3)}, {"w": xp.ones(3)})


def test_numbers_of_the_tree_are_pickled_and_go_on():
    optimizer, params = Prodigy(), {"w": np.ones(3)}
    optimizer.update(params, {"w": np.array([1.0, 2.0, 3.0])})
    loaded, other = pickle.loads(pickle.dumps(optimizer)), {"w": params["w"].copy()}
    for one, own in ((optimizer, params), (loaded, other)):
        one.update(own, {"w": np.array([0.5, 2.0, 3.0])})
    bits.assert_same_bits(other["w"], params["w"])


class Rates:
    def __init__(self):
        self.lock = threading.Lock()

    def at(self, step):
        return 0.5

    def choose(self, path, w):
        return path == "w"


@pytest.mark.parametrize(
    "wrap", [SGD, lambda rate, **kw: chain(SGD(rate), **kw)], ids=["", "chain"]
)
def test_a_deep_copy_has_the_functions_of_the_user_themselves(wrap):
    rates = Rates()
    optimizer = wrap(rates.at, frozen=(rates.choose,), overrides={rates.choose: {"lr": rates.at}})
    for new in (copy.deepcopy(optimizer), copy.copy(optimizer)):
        assert new.lr.__self__ is rates
        assert new.frozen[0].__self__ is rates
    scheduled = wrap(Linear(1.0, 0.0, steps=4) * rates.at)
    assert copy.deepcopy(scheduled).lr.parts[1].__self__ is rates


# Forgetting ----------------------------------------------------------------------------------


def tree(*names):
    return {name: np.ones(2) for name in names}


def test_what_is_forgotten_takes_no_memory_and_begins_anew():
    optimizer, fresh = Adam(0.1), Adam(0.1)
    params = tree("a", "b", "c[0]")
    for _ in range(3):
        optimizer.update(params, tree("a", "b", "c[0]"))
    assert optimizer.forget("[ab]") == ("a", "b")
    assert [*optimizer.state_dict()["states"]] == ["c[0]"]
    assert optimizer.forget(["c[0]"]) == ("c[0]",)
    assert not optimizer.state_dict()["states"]
    assert optimizer.t == 3
    one, other = tree("a"), tree("a")
    bits.assert_same_bits(
        optimizer.update(one, tree("a"))["a"], fresh.update(other, tree("a"))["a"]
    )
    optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        ("x*", ValueError, r"no state of 'x\*'; there is that of 'a', 'b'"),
        (["a", "x"], ValueError, "no state of 'x'"),
        (["[ab]"], ValueError, r"no state of '\[ab\]'"),
        (1, TypeError, "give a pattern of paths, or paths, got 1"),
        ([1], TypeError, "give a pattern of paths"),
    ],
)
def test_what_is_not_there_cannot_be_forgotten(which, error, message):
    optimizer = Adam()
    optimizer.update(tree("a", "b"), tree("a", "b"))
    with pytest.raises(error, match=rf"Adam\.forget: .*{message}"):
        optimizer.forget(which)
    assert len(optimizer.state_dict()["states"]) == 2


def test_numbers_go_with_the_last_parameter_but_those_of_calls():
    optimizer = chain(dynamic_scale(8.0), Prodigy())
    optimizer.update(tree("a"), tree("a"))
    optimizer.update(tree("a"), {"a": np.array([np.inf, 1.0])})
    assert "Prodigy_d" in optimizer.state_dict()["numbers"]
    optimizer.forget("*")
    numbers = optimizer.state_dict()["numbers"]
    assert numbers == {"dynamic_scale_loss_scale": 4.0, "dynamic_scale_streak": 0.0}
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.scale == 4.0


def test_forgotten_names_are_not_missed_after_a_load():
    old = Adam()
    old.update(tree("a", "b"), tree("a", "b"))
    new = Adam().load_state_dict(old.state_dict())
    new.forget("b")
    new.update(tree("a", "c"), tree("a", "c"))
    assert new.t == 2


def test_what_was_not_stepped_for_long_is_named():
    optimizer = SGD()
    for step in range(300):
        name = f"key{step}"
        optimizer.update(tree(name), tree(name))
    found = optimizer.explain(tree("key299"))
    assert "key0" in found.idle
    assert "key299" not in found.idle
    assert "that forget() can free: 'key0'" in str(found)
    optimizer.forget(found.idle)
    assert optimizer.explain(tree("key299")).idle == ()


def test_what_is_stepped_in_turn_is_not_idle_and_what_is_left_alone_is():
    names = [f"key{number}" for number in range(150)]
    params = tree(*names)
    optimizer = SGD()
    for _ in range(3):
        for name in names:
            optimizer.update({name: params[name]}, tree(name))
    assert optimizer.explain(params).idle == ()
    other = SGD()
    other.update(tree("a", "b"), tree("a", "b"))
    for _ in range(100):
        assert other.explain(tree("a")).idle == ()
        other.update(tree("a"), tree("a"))
    assert other.explain(tree("a")).idle == ("b",)


# Growing and cutting -------------------------------------------------------------------------

INDEX = [3, 0, 0, 2]


@engine_runs.every_engine
@pytest.mark.parametrize(
    "make",
    [
        lambda **kw: Adam(0.1, **kw),
        lambda **kw: chain(clip_by_global_norm(1.0), Adam(0.1), average(0.9), **kw),
        lambda **kw: Adam(0.1, state_dtype="bfloat16", rounding="nearest", **kw),
    ],
    ids=["Adam", "chain", "bfloat16"],
)
def test_rows_that_are_taken_again_go_on_as_if_they_had_been_there(make, engine):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    small, other = make(engine=engine), make(engine=engine)
    start = bits.ordinary(rng, (4, 3), "float32")
    one, many = {"w": start.copy()}, {"w": start[INDEX].copy()}
    for step in range(6):
        g = bits.ordinary(np.random.default_rng(step), (4, 3), "float32")
        if step < 3:
            small.update(one, {"w": g})
            if step == 2:
                small.resize("w", INDEX)
                one = {"w": one["w"][INDEX]}
        else:
            small.update(one, {"w": g[INDEX]})
        if "clip" not in repr(small):  # whose norm is that of all rows
            other.update(many, {"w": g[INDEX]})
    assert small.t == 6
    if "clip" not in repr(small):
        bits.assert_same_bits(one["w"], many["w"])
        engine_runs.assert_same_state(small, other)
    assert small.state_dict()["states"]["w"]["slots"].keys()


@pytest.mark.parametrize(
    "index",
    [np.array([True, False, True, True]), slice(1, None), (slice(None), [0, 2]), np.array(2)],
)
def test_any_index_will_do(index):
    optimizer, w = Adam(0.1), np.arange(12.0).reshape(4, 3)
    optimizer.update(w, w + 1)
    slots = optimizer.state_dict()["states"][""]["slots"]
    optimizer.resize("", index)
    new = optimizer.state_dict()["states"][""]["slots"]
    for name, slot in slots.items():
        bits.assert_same_bits(new[name], slot[index])
    w = w[index].copy()
    optimizer.update(w, w + 1)
    assert optimizer.t == 2


@pytest.mark.parametrize("state_dtype", [None, "bfloat16", "float8"])
def test_a_function_carries_state_to_a_finer_grid(state_dtype):
    settings = {"state_dtype": state_dtype, "min_float8_size": 0}
    optimizer, w = Adam(0.1, **settings), np.linspace(0, 1, 600, dtype="float32")
    optimizer.update({"w": w}, {"w": w + 1})
    optimizer.resize("w", lambda old: np.repeat(old, 2))
    w = np.repeat(w, 2)
    expected = Adam(0.1, **settings)
    expected.update({"w": np.repeat(np.linspace(0, 1, 600, dtype="float32"), 2)}, {"w": w + 1})
    optimizer.update({"w": w}, {"w": w + 1})
    slots = optimizer.state_dict()["states"]["w"]["slots"]
    assert slots["m"].shape == (1200,)
    if state_dtype == "float8":
        assert slots["m"].dtype == np.uint8
        assert slots["m.unit"].shape == (5,)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_whole_of_a_parameter_comes_along_with_an_index(dtype):
    optimizer, w = SGD(1e-5, master=True), np.ones(3, dtype)
    optimizer.update({"w": w}, {"w": np.ones(3, dtype)})
    optimizer.resize("w", [0, 0, 1, 2])
    w, g = np.ones(4, dtype) if dtype == "float16" else w[[0, 0, 1, 2]], np.ones(4, dtype)
    optimizer.update({"w": w}, {"w": g})
    if dtype == "float16":
        kept = optimizer.state_dict()["states"]["w"]["slots"]["master"]
        assert (
            kept.tolist() == [np.float32(np.float32(1) - np.float32(1e-5)) - np.float32(1e-5)] * 4
        )
    optimizer.resize("w", lambda old: old[:2])
    w = w[:2].copy()
    optimizer.update({"w": w}, {"w": g[:2]})
    assert w.shape == (2,)


def test_state_that_cannot_be_carried_along_is_refused_and_nothing_changes():
    optimizer, w = Shampoo(), np.ones((4, 4))
    optimizer.update({"w": w}, {"w": w + 1})
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"Shampoo\.resize: 'w': Shampoo keeps .* with `forget`"):
        optimizer.resize("w", [0, 1])
    adam = Adam()
    adam.update({"w": w}, {"w": w + 1})
    with pytest.raises(ValueError, match=r"Adam\.resize: there is no state of 'v'; .* of 'w'"):
        adam.resize("v", [0])
    with pytest.raises(IndexError):
        adam.resize("w", [7])
    with pytest.raises(TypeError, match="for 'm', of float64, the function returned <U1"):
        adam.resize("w", lambda old: "x")
    shapes = iter([np.ones(3), np.ones(4)])
    with pytest.raises(ValueError, match=r"of the shapes \(3,\), \(4,\) for those of one"):
        adam.resize("w", lambda old: next(shapes))
    engine_runs.assert_same_state(optimizer, Shampoo().load_state_dict(before))
    adam.update({"w": w}, {"w": w + 1})
    assert Muon().t == 0


def test_a_slice_is_a_leaf_of_its_own():
    """Users who keep momentum of one mode alone hand over that mode, under a key of its own."""
    optimizer, probe = Momentum(1.0), np.zeros((2, 3))
    optimizer.update({"probe/0": probe[0]}, {"probe/0": np.ones(3)})
    optimizer.update({"probe/0": probe[0]}, {"probe/0": np.zeros(3)})
    assert probe.tolist() == [[-1.9] * 3, [0.0] * 3]
    assert optimizer.state_dict()["states"]["probe/0"]["slots"]["v"].shape == (3,)


# Flushing ------------------------------------------------------------------------------------


def gradient(step, shape=3):
    return np.random.default_rng(step).standard_normal(shape)


@engine_runs.every_engine
@pytest.mark.parametrize("gathered", [0, 1, 2, 3])
def test_a_flush_takes_the_step_of_the_mean_of_what_is_there(gathered, engine):
    engine_runs.require(engine)
    before, after = (weight_decay(0.125), grokfast()), (clip_by_global_norm(0.5),)
    rate = Linear(0.5, 0.25, steps=10)
    optimizer = chain(*before, accumulate(4), *after, Adam(rate), average(0.5), engine=engine)
    plain = chain(*after, Adam(rate), average(0.5), engine=engine)
    watching = chain(*before, SGD(0.0), engine=engine)
    params = {"a": np.ones(3), "b": np.ones((2, 2))}
    expected = {key: w.copy() for key, w in params.items()}
    seen = []

    def means():
        return {key: sum(g[key] for g in seen) / len(seen) for key in params}

    for step in range(4 + gathered):
        grads = {key: gradient(step, w.shape) for key, w in params.items()}
        seen.append(gradient_after(watching, expected, grads))
        optimizer.update(params, grads)
        if len(seen) == 4:
            plain.update(expected, means())
            seen = []
    if gathered:
        plain.update(expected, means())
    assert optimizer.flush(params) is params
    assert optimizer.t == (8 if gathered else 4)
    means_of_path = optimizer.answer(params), plain.answer(expected)
    for one, other in ((params, expected), means_of_path):
        for key, w in one.items():
            # The gradients that `watching` tells are differences of numbers near 1.
            np.testing.assert_allclose(w, other[key], rtol=1e-12)
    assert optimizer.flush(params) is params  # there is nothing left
    assert optimizer.t == (8 if gathered else 4)


def gradient_after(watching, params, grads):
    """Return gradients after the rules before `accumulate`: those of a step of length one."""
    watching.lr = 1.0
    moved = {key: w.copy() for key, w in params.items()}
    watching.update(moved, grads)
    return {key: params[key] - moved[key] for key in params}


def test_after_a_flush_everything_begins_anew():
    optimizer, w = chain(accumulate(4), SGD(1.0)), np.zeros(1)
    for g in (1.0, 3.0):
        optimizer.update(w, np.array([g]))
    assert optimizer.flush(w) == [-2.0]
    for g in (4.0, 4.0, 4.0):
        optimizer.update(w, np.array([g]))
    assert w == [-2.0]
    optimizer.update(w, np.array([8.0]))
    assert w == [-7.0]
    assert optimizer.t == 8


def test_leaves_that_missed_calls_flush_what_they_have():
    optimizer = chain(accumulate(4), SGD(1.0), overrides={"b": {"lr": 0.5}}, frozen=("c",))
    params = {"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1), "d": np.zeros(1)}
    ones = np.ones(1)
    optimizer.update(params, {"a": ones, "b": None, "c": ones, "d": None})
    optimizer.update(params, {"a": 3 * ones, "b": 5 * ones, "c": ones, "d": None})
    optimizer.flush(params)
    assert {key: w.item() for key, w in params.items()} == {"a": -2, "b": -2.5, "c": 0, "d": 0}
    for _ in range(4):
        optimizer.update(params, {"a": ones, "b": ones, "c": ones, "d": ones})
    assert {key: w.item() for key, w in params.items()} == {"a": -3, "b": -3, "c": 0, "d": -1}


def test_a_flush_after_a_load_goes_on_with_what_was_saved(tmp_path):
    optimizer, w = chain(skip_nonfinite(), accumulate(3), Momentum(1.0)), np.zeros(2)
    optimizer.update({"w": w}, {"w": np.array([1.0, 2.0])})
    optimizer.save(tmp_path / "run.npz")
    loaded = chain(skip_nonfinite(), accumulate(3), Momentum()).load(tmp_path / "run.npz")
    loaded.flush({"w": w})
    assert w.tolist() == [-1.0, -2.0]
    assert loaded.t == 3
    loaded.load_state_dict(loaded.state_dict())


def test_branches_of_a_partition_flush_what_they_gather():
    optimizer = partition({"a": chain(accumulate(2), SGD(1.0)), "*": SGD(1.0)})
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    optimizer.update(params, {"a": np.ones(1), "b": np.ones(1)})
    optimizer.flush(params)
    assert {key: w.item() for key, w in params.items()} == {"a": -1, "b": -1}


def test_what_gathers_nothing_cannot_be_flushed():
    for optimizer in (chain(SGD()), partition({"*": SGD()})):
        with pytest.raises(TypeError, match=r"\.flush: nothing in it gathers gradients; put"):
            optimizer.flush(np.zeros(1))
    twice = chain(accumulate(2), accumulate(2), SGD())
    with pytest.raises(TypeError, match="accumulate, accumulate cannot be flushed; only a single"):
        twice.flush(np.zeros(1))


def test_a_flush_that_fails_changes_nothing():
    optimizer, w = chain(accumulate(4), SGD(1.0)), np.zeros(2)
    optimizer.update(w, np.ones(2))
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match="but its state"):
        optimizer.flush(np.zeros(3))
    assert repr(optimizer.state_dict()) == repr(before)
    assert optimizer.flush(w).tolist() == [-1.0, -1.0]


@pytest.mark.slow
@pytest.mark.parametrize("call", ["flush", "resize", "forget"])
def test_what_is_interrupted_is_whole_or_was_not_begun(call):
    def run(fault, what=call):
        params = {"w": np.zeros(2), "v": np.zeros(2)}
        optimizer = chain(accumulate(4), Momentum(1.0), engine="blocked")
        for _ in range(6):
            optimizer.update(params, {"w": np.ones(2), "v": np.ones(2)})
        calls = {
            "flush": lambda: optimizer.flush(params),
            "resize": lambda: optimizer.resize("w", [0]),
            "forget": lambda: optimizer.forget("w"),
            "nothing": lambda: None,
        }
        with contextlib.suppress(KeyboardInterrupt), fault:
            calls[what]()
        return repr((optimizer.state_dict(), params))

    after, before = (run(faults.Fault(0, None), what) for what in (call, "nothing"))
    assert before != after
    seen = Counter()
    for fault, found in faults.each_line(run, [KeyboardInterrupt()], stride=11):
        assert found in (before, after), fault.place
        seen[found] += 1
    assert seen[before] > 3

# ruff: noqa: SLF001  (it looks inside on purpose)
"""Numbers that a rule remembers from step to step, made of what sums leave."""

import copy
import threading
from types import MappingProxyType

import bits
import engine_runs
import numpy as np
import pytest
from remembering import Counting, Loop, Remembering

from instep import SGD, Optimizer, Prodigy, chain
from instep.graph.errors import RuleError
from instep.transforms import accumulate, skip_nonfinite

SHAPES = {"a": (5, 7), "b": (3,), "c": ()}


def trees(dtypes=("float64",) * 3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        key: rng.standard_normal(shape).astype(dtype)
        for (key, shape), dtype in zip(SHAPES.items(), dtypes, strict=True)
    }


def numbers_of(optimizer, prefix=""):
    state = optimizer.state_dict()
    own = {key: float(entry["slots"][f"{prefix}v"]) for key, entry in state["states"].items()}
    return own, state["numbers"][f"{prefix}largest"]


@engine_runs.every_engine
def test_numbers_are_what_a_loop_makes_of_them(engine):
    engine_runs.require(engine)
    params = trees()
    loop, optimizer = Loop(params), Remembering(engine=engine)
    for step in range(7):
        grads = trees(seed=step + 1)
        if step == 3:
            grads["b"] = None
        loop.update(grads)
        optimizer.update(params, grads)
        own, largest = numbers_of(optimizer)
        assert own == pytest.approx(loop.v, rel=1e-13)
        assert largest == pytest.approx(loop.largest, rel=1e-13)
    for key, w in params.items():
        np.testing.assert_allclose(w, loop.params[key], rtol=1e-12)


@pytest.mark.parametrize(
    "dtypes", [("float32",) * 3, ("float32", "float64", "float16"), ("complex64",) * 3], ids=str
)
@engine_runs.every_numpy_engine
def test_numbers_have_the_bits_of_the_specification(engine, threads, dtypes):
    engine_runs.require(engine)
    params, expected = trees(dtypes), trees(dtypes)
    optimizer = Remembering(engine=engine, threads=threads)
    specification = Remembering(engine="array_api")
    for step in range(6):
        grads = trees(dtypes, seed=step + 1)
        grads["a"] = None if step == 2 else grads["a"]
        optimizer.update(params, grads)
        specification.update(expected, grads)
    engine_runs.assert_same_run((params, optimizer), (expected, specification))
    assert numbers_of(optimizer) == numbers_of(specification)


@engine_runs.every_engine
def test_a_tensor_without_a_gradient_keeps_its_number_and_sees_that_of_the_tree(engine):
    engine_runs.require(engine)
    optimizer, params = Remembering(engine=engine), trees()
    optimizer.update(params, trees(seed=1))
    (before, _), grads = numbers_of(optimizer), trees(seed=2)
    grads["a"] = None
    grads["b"] = grads["b"] * 1e6
    optimizer.update(params, grads)
    after, largest = numbers_of(optimizer)
    assert after["a"] == before["a"]
    assert after["b"] > 1e10
    assert largest > 1e5
    alone = {"a": params["a"].copy()}
    optimizer.update(alone, {"a": np.ones((5, 7))})
    assert numbers_of(optimizer)[1] == largest


@engine_runs.every_engine
def test_a_state_goes_on_where_it_was_saved(engine, tmp_path):
    engine_runs.require(engine)
    params, optimizer = trees(), Remembering(engine=engine)
    for step in range(3):
        optimizer.update(params, trees(seed=step))
    optimizer.save(tmp_path / "state.npz")
    others = [
        Remembering(engine=engine).load(tmp_path / "state.npz"),
        Remembering(engine="blocked").load_state_dict(optimizer.state_dict()),
        copy.copy(optimizer),
    ]
    start = copy.deepcopy(params)
    optimizer.update(params, trees(seed=9))
    for other in others:
        again = copy.deepcopy(start)
        other.update(again, trees(seed=9))
        engine_runs.assert_same_run((again, other), (params, optimizer))
        assert numbers_of(other) == numbers_of(optimizer)


@engine_runs.every_engine
def test_a_step_that_is_turned_away_remembers_nothing(engine):
    engine_runs.require(engine)
    params = trees()
    optimizer = chain(skip_nonfinite(), Remembering(engine=engine))
    optimizer.update(params, trees(seed=1))
    before, spoilt = optimizer.state_dict(), trees(seed=2)
    spoilt["b"][1] = np.nan
    optimizer.update(params, spoilt)
    assert optimizer.skipped == 1
    after = optimizer.state_dict()
    assert after["numbers"] == before["numbers"]
    assert numbers_of(optimizer, "Remembering_")[0] == {
        key: float(entry["slots"]["Remembering_v"]) for key, entry in before["states"].items()
    }


@engine_runs.every_engine
def test_gathered_gradients_are_remembered_once_a_step(engine):
    engine_runs.require(engine)
    params, optimizer = trees(), chain(accumulate(2), Remembering(engine=engine))
    loop = Loop(params)
    for step in range(4):
        grads = [trees(seed=10 * step + i) for i in range(2)]
        for part in grads:
            optimizer.update(params, part)
        loop.update({key: (grads[0][key] + grads[1][key]) / 2 for key in params})
    own, largest = numbers_of(optimizer, "Remembering_")
    assert own == pytest.approx(loop.v, rel=1e-12)
    assert largest == pytest.approx(loop.largest, rel=1e-12)


@engine_runs.every_engine
def test_threads_that_step_one_optimizer_lose_no_number(engine):
    engine_runs.require(engine)

    class Count(Optimizer):
        tree_numbers = MappingProxyType({"steps": 0.0})

        @staticmethod
        def rule(xp, w, g, s, h):
            return w, {"steps": s.steps + 1}

    optimizer, w = Count(engine=engine), np.zeros(3)

    def work():
        for _ in range(20):
            optimizer.update({"w": w}, {"w": np.ones(3)})

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert optimizer.state_dict()["numbers"] == {"steps": 60.0}


def failing(make, **declared):
    """Return an optimizer whose rule returns ``make(xp, g, s)`` for its numbers."""

    def rule(xp, w, g, s, h):
        return w - g, make(xp, g, s)

    return type("Wrong", (Optimizer,), {"rule": staticmethod(rule), **declared})


@engine_runs.every_engine
def test_a_number_that_is_an_array_is_refused(engine):
    engine_runs.require(engine)
    wrong = failing(lambda xp, g, s: {"v": g * g}, tensor_numbers={"v": 0.0})
    w = np.ones(3)
    with pytest.raises(TypeError, match=r"Wrong\.rule returns an array for 'v'.*xp\.sum"):
        wrong(engine=engine).update(w, w.copy())
    assert w.tolist() == [1.0, 1.0, 1.0]


@engine_runs.every_engine
def test_a_number_of_the_tree_that_is_made_of_one_of_a_tensor_is_refused(engine):
    engine_runs.require(engine)
    wrong = failing(lambda xp, g, s: {"r": s.r + xp.sum(g)}, tree_numbers={"r": 0.0})
    params = {"a": np.ones(3), "b": np.ones(2)}
    with pytest.raises(
        TypeError, match=r"Wrong\.rule: 'r' is (a|one) number of the tree.*tree_sum"
    ):
        wrong(engine=engine).update(params, copy.deepcopy(params))
    assert params["a"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("engine", ["native", "blocked"])
def test_a_number_of_the_tree_needs_one_value_of_what_it_is_made_of(engine):
    engine_runs.require(engine)

    class Rated(Optimizer):
        lr: float = 0.1
        tree_numbers = MappingProxyType({"r": 0.0})

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - h.lr * g, {"r": s.r + h.lr * xp.tree_sum(g)}

    params = {"a": np.ones(3), "b": np.ones(2)}
    optimizer = Rated(engine=engine, overrides={"b": {"lr": 0.5}})
    with pytest.raises(ValueError, match=r"Rated\.update: 'r' is made of lr for the whole tree"):
        optimizer.update(params, copy.deepcopy(params))
    assert params["a"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"tensor_numbers": ["v"]}, "must be a dict of names and first values"),
        ({"tree_numbers": {"w": 0.0}}, "cannot be the name of a slot"),
        ({"tensor_numbers": {"v": None}}, "must start at a number"),
        ({"tensor_numbers": {"v": "rate"}}, "must start at a number"),
        ({"slots": ("v",), "tree_numbers": {"v": 0.0}}, "another slot has that name"),
        ({"tensor_numbers": {"v": 0.0}, "tree_numbers": {"v": 0.0}}, "another slot has that name"),
    ],
)
def test_declarations_that_mean_nothing_are_refused(declared, message):
    with pytest.raises(TypeError, match=message):
        failing(lambda xp, g, s: {}, **declared)


def test_explain_lists_what_is_remembered():
    text = str(Remembering().explain(trees()))
    assert "remembers v of each tensor, largest of the tree" in text


def test_a_state_with_other_numbers_is_refused():
    optimizer = Remembering()
    optimizer.update(trees(), trees(seed=1))
    state = optimizer.state_dict()
    for wrong in ({}, {"other": 1.0}):
        with pytest.raises(ValueError, match="the state has the numbers"):
            Remembering().load_state_dict({**state, "numbers": wrong})
    with pytest.raises(TypeError, match="'largest' must be a number"):
        Remembering().load_state_dict({**state, "numbers": {"largest": "large"}})


@engine_runs.every_engine
def test_plans_that_take_turns_see_the_same_numbers(engine):
    engine_runs.require(engine)
    together, apart = trees(), trees()
    optimizer = Remembering(engine=engine)
    for step in range(4):
        for key in SHAPES:
            optimizer.update({key: apart[key]}, {key: trees(seed=step)[key]})
    other = Remembering(engine="array_api")
    for step in range(4):
        for key in SHAPES:
            grads = dict.fromkeys(SHAPES) | {key: trees(seed=step)[key]}
            other.update(together, grads)
    assert numbers_of(optimizer) == numbers_of(other)
    for key in SHAPES:
        bits.assert_same_bits(apart[key], together[key])


@pytest.mark.parametrize("dtypes", [("float32",) * 3, ("float32", "float64", "float16")], ids=str)
def test_steps_that_remember_numbers_are_repeated_the_short_way(dtypes):
    engine_runs.require("native")
    params, expected = trees(dtypes), trees(dtypes)
    optimizer, other = Remembering(engine="native"), Remembering(engine="blocked")
    for step in range(6):
        grads = trees(dtypes, seed=step)
        optimizer.lr = other.lr = 0.1 / (1 + step)
        if step == 4:  # another plan in between
            for one, tree in ((optimizer, params), (other, expected)):
                one.update({"b": tree["b"]}, {"b": grads["b"]})
        optimizer.update(params, grads)
        other.update(expected, grads)
    assert optimizer._state.plan._repetition.last is not None
    engine_runs.assert_same_run((params, optimizer), (expected, other))


class Counted(Optimizer):
    """What is remembered are constants, and a hyperparameter, that are no sums."""

    lr: float = 0.1

    slots = ("m",)
    tensor_numbers = MappingProxyType({"k": 0.0, "j": 0.0})
    tree_numbers = MappingProxyType({"n": 0.0, "rate": 0.0})

    @staticmethod
    def rule(xp, w, g, s, h):
        w = w - h.lr * g - 0.01 * s.rate * w - s.k
        return w, {"m": g, "n": 4.0, "k": 5.0, "j": 11.0, "rate": h.lr}


@engine_runs.every_engine
def test_a_constant_is_remembered_whatever_number_it_is(engine):
    engine_runs.require(engine)
    optimizer, params = Counted(engine=engine), {"a": np.ones(3), "b": np.ones(2)}
    for _ in range(3):
        optimizer.update(params, {name: np.ones_like(w) for name, w in params.items()})
    state = optimizer.state_dict()
    assert state["numbers"] == {"n": 4.0, "rate": 0.1}
    for entry in state["states"].values():
        assert (float(entry["slots"]["k"]), float(entry["slots"]["j"])) == (5.0, 11.0)


@engine_runs.every_engine
@pytest.mark.parametrize("leaf", ["a", "b", "c"])
def test_a_number_of_the_tree_has_one_first_value(engine, leaf):
    engine_runs.require(engine)
    params = {"a": np.ones(2), "b": np.ones(2), "c": np.ones(2, "float32")}
    optimizer = Prodigy(overrides={leaf: {"initial": 1e-3}}, engine=engine)
    with pytest.raises(ValueError, match=r"'d' is one number of the tree.*no overrides of it"):
        optimizer.update(params, {name: np.ones_like(w) for name, w in params.items()})
    assert optimizer.t == 0


@pytest.mark.parametrize("engine", ["auto", "array_api"])
@pytest.mark.parametrize("bad", [None, "w", [1.0, 2.0]], ids=repr)
@pytest.mark.parametrize("name", ["w", "m", "n"])
def test_what_is_no_array_cannot_be_returned(engine, bad, name):
    class Odd(Optimizer):
        slots = ("m",)
        tree_numbers = MappingProxyType({"n": 0.0})

        @staticmethod
        def rule(xp, w, g, s, h):
            found = {"w": w, "m": g, "n": xp.tree_sum(g)} | {name: bad}
            return found.pop("w"), found

    with pytest.raises(RuleError, match=rf"Odd.rule returned .* for '{name}'; return an array"):
        Odd(engine=engine).update(np.ones(2), np.ones(2))


#: Calls that are turned away.
BAD = {0, 1, 4, 8, 9}


@engine_runs.every_engine
def test_numbers_last_that_a_rule_says_do(engine):
    """They change in a call that is turned away too, and before the first step."""
    engine_runs.require(engine)
    optimizer, params = chain(Counting(), SGD(), engine=engine), trees(("float32", "float64", "f2"))
    expected = Counting.expected(12, are_finite=lambda call: call not in BAD)
    for call, numbers in enumerate(expected):
        grads = trees(seed=call)
        grads["b"][1] = np.nan if call in BAD else 1.0
        optimizer.update(params, grads)
        assert optimizer.state_dict()["numbers"] == numbers
    assert (optimizer.t, optimizer.skipped) == (7, 5)


def test_of_a_state_without_steps_numbers_are_loaded_that_last():
    optimizer, w = chain(Counting(), Remembering()), np.zeros(3)
    optimizer.update(w, np.full(3, np.nan))
    state = optimizer.state_dict()
    assert state["states"] == {}
    loaded = chain(Counting(), Remembering()).load_state_dict(state)
    for one in (loaded, optimizer):
        one.update(w.copy(), np.ones(3))
    engine_runs.assert_same_state(loaded, optimizer)
    with pytest.raises(ValueError, match="the state has the numbers Remembering_largest, expected"):
        loaded.load_state_dict(state | {"numbers": {"Remembering_largest": 1.0}})

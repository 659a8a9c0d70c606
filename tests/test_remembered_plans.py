"""Steps on several trees in turn: plans are remembered, and nobody can tell but by the clock."""

import copy
import gc
import itertools
import pickle
import random
import weakref

import bits
import engine_runs
import numpy as np
import pytest
import whole_steps
from whole_steps import Problem, assert_whole

from instep import SGD, Adam, AdamW, Momentum, Muon, NAdam, RMSProp, chain, partition
from instep.plan import remembered
from instep.plan.step import Plan
from instep.transforms import (
    accumulate,
    average,
    clip_by_global_norm,
    skip_nonfinite,
    weight_decay,
)

SHAPES = {"a": (3, 4), "b": (5,), "c": ()}

#: An engine that remembers plans, wherever the tests run.
FASTEST = "native" if engine_runs.why_not("native") is None else "blocked"


def tree(names="abc", seed=0, dtypes=("float32",)):
    rng, dtypes = np.random.default_rng(seed), itertools.cycle(dtypes)
    return {name: np.asarray(rng.standard_normal(SHAPES[name]), next(dtypes)) for name in names}


@pytest.fixture
def plans(monkeypatch):
    """Collect the plans that are made."""
    made, make = [], Plan.__init__

    def count(self, *arguments):
        made.append(weakref.ref(self))
        make(self, *arguments)

    monkeypatch.setattr(Plan, "__init__", count)
    return made


@pytest.fixture
def long_ways(monkeypatch):
    """Count the steps that are not taken the short way."""
    taken, step = [], Plan.step

    def count(self, *arguments):
        taken.append(self)
        return step(self, *arguments)

    monkeypatch.setattr(Plan, "step", count)
    return taken


# What is found again -----------------------------------------------------------------------------

#: Names of the leaves of a call, and of those whose gradients are None.
CALLS = {
    "leaf by leaf": [("a", ""), ("b", ""), ("c", "")],
    "a part and all": [("ab", ""), ("abc", "")],
    "without some gradients": [("abc", ""), ("abc", "b"), ("abc", "ac")],
}


@pytest.mark.parametrize("calls", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("form", ["dict", "list", "nested"])
@engine_runs.every_engine
def test_a_few_kinds_of_calls_are_planned_a_few_times(calls, form, engine, plans):
    engine_runs.require(engine)
    params, optimizer = tree(), Adam(engine=engine)

    def update(names, missing, seed):
        own = {name: params[name] for name in names}
        grads = {**tree(names, seed), **dict.fromkeys(missing)}
        if form == "list":  # places are names in the state, so each keeps its own
            own = [params[name] if name in own else {} for name in params]
            grads = [grads.get(name, {}) for name in params]
        optimizer.update(*(({"in": x} if form == "nested" else x) for x in (own, grads)))

    for seed, call in zip(range(4 * len(calls)), itertools.cycle(calls), strict=False):
        update(*call, seed)
    made = len(plans)
    for seed, call in zip(range(12 * len(calls)), itertools.cycle(calls), strict=False):
        update(*call, seed)
    assert len(plans) == made


def test_gradients_of_two_kinds_are_planned_twice(plans):
    """Leaves of one name may lie in another order, or have another dtype."""
    params, optimizer = tree("ab"), Adam(engine=FASTEST)
    for kind in itertools.islice(itertools.cycle(["C", "F", "float64"]), 30):
        grads = {name: np.ones_like(w) for name, w in params.items()}
        grads["a"] = (
            np.ones((3, 4), "float64")
            if kind == "float64"
            else np.ones_like(params["a"], order=kind)
        )
        optimizer.update(params, grads)
    assert len(plans) == 3


@pytest.fixture
def asked(monkeypatch):
    """Count the plans that are asked to repeat a step, and those of them that do."""
    found, repeat = [], Plan.repeat

    def count(self, *arguments):
        found.append(repeat(self, *arguments))
        return found[-1]

    monkeypatch.setattr(Plan, "repeat", count)
    return found


@pytest.mark.parametrize(
    ("calls", "others"),
    [(["a", "b", "c"], 0), (["a", "ab"], 0), (["abc", "c", "b", "ab"], 0), (["a", "a", "b"], 2)],
)
def test_the_plan_that_came_next_the_last_time_is_asked_first(calls, others, asked):
    engine_runs.require("native")
    params, optimizer = tree(), Adam(engine="native")

    def turn():
        for names in calls:
            optimizer.update({name: params[name] for name in names}, tree(names))

    for _ in range(4):
        turn()
    asked.clear()
    turn()
    assert asked.count(True) == len(calls)
    assert asked.count(False) == others


def test_no_plan_is_expected_while_the_answer_is_in_place():
    engine_runs.require("native")
    params, optimizer = tree("ab"), chain(SGD(), average(0.5), engine="native")
    for names in ("a", "b") * 4:
        optimizer.update({name: params[name] for name in names}, tree(names))
    before = {name: w.copy() for name, w in params.items()}
    with optimizer.answer_in_place(params):
        for names in ("a", "b", "a"):
            with pytest.raises(RuntimeError, match="the answer is in their place"):
                optimizer.update({name: params[name] for name in names}, tree(names))
    for name, w in params.items():
        bits.assert_same_bits(w, before[name])
    assert optimizer.t == 8


def test_the_order_of_keys_makes_no_other_plan(plans):
    params, optimizer = tree(), SGD(engine=FASTEST)
    for names in itertools.chain(*itertools.repeat(list(itertools.permutations("abc")), 2)):
        optimizer.update({name: params[name] for name in names}, tree(names))
        optimizer.update({"a": params["a"]}, tree("a"))
    assert len(plans) == 3  # the second of all has two groups: "a" has taken more steps


def test_of_many_plans_the_least_recently_used_is_forgotten(monkeypatch, plans):
    monkeypatch.setattr(remembered, "MOST_KINDS", 3)
    names = "pqrst"
    params = {name: np.zeros(2) for name in names}
    optimizer = SGD(engine="blocked")

    def step(name):
        before = len(plans)
        optimizer.update({name: params[name]}, {name: np.ones(2)})
        return len(plans) > before

    assert [step(name) for name in "pqr"] == [True] * 3
    assert [step(name) for name in "pqrpqr"] == [False] * 6
    assert step("s")
    assert not step("q")
    assert not step("r")
    assert step("p")
    gc.collect()
    assert sum(plan() is not None for plan in plans) == 3
    assert [float(params[name][0]) for name in "pqrs"] == pytest.approx(
        [-0.01 * n for n in (4, 4, 4, 1)]
    )


def test_as_many_plans_of_trees_that_look_alike_are_kept(plans):
    """The same names with other shapes are other parameters: after a reset, say."""
    optimizer = SGD(engine="blocked")
    for ndim in range(1, 12):
        optimizer.update({"a": np.zeros((1,) * ndim)}, {"a": np.ones((1,) * ndim)})
    gc.collect()
    assert sum(plan() is not None for plan in plans) == remembered.MOST_ALIKE


# What a plan keeps -------------------------------------------------------------------------------


@engine_runs.every_engine
def test_plans_that_are_remembered_keep_no_arrays_of_the_user(engine):
    engine_runs.require(engine)
    optimizer, alive = Momentum(engine=engine), []
    for _ in range(3):
        for names in ("a", "ab", "b"):
            params, grads = tree(names), tree(names)
            alive += [weakref.ref(x) for x in (*params.values(), *grads.values())]
            optimizer.update(params, grads)
    del params, grads
    gc.collect()
    assert not any(array() is not None for array in alive)


@engine_runs.every_engine
def test_an_optimizer_with_several_plans_is_freed_without_the_collector(engine):
    engine_runs.require(engine)
    optimizer = chain(clip_by_global_norm(1.0), Momentum(), engine=engine)
    for names in ("a", "ab", "b", "a"):
        optimizer.update(tree(names), tree(names))
    gc.collect()
    state = optimizer._state  # noqa: SLF001
    gone = [weakref.ref(x) for x in (optimizer, *itertools.chain(*state.plans.values()))]
    gone += [weakref.ref(leaf.slots["Momentum_v"]) for leaf in state.leaves.values()]
    gc.disable()
    try:
        del optimizer, state
        assert [reference() for reference in gone] == [None] * len(gone)
    finally:
        gc.enable()


@pytest.mark.parametrize("how", ["setting", "option", "reset", "load"])
def test_plans_are_forgotten_where_they_are_of_no_use(how, plans):
    optimizer = RMSProp(engine=FASTEST)
    for names in ("a", "ab", "a"):
        optimizer.update(tree(names), tree(names))
    if how == "setting":
        optimizer.engine = "blocked"
    elif how == "option":
        optimizer.centered = True
    elif how == "reset":
        optimizer.reset()
    else:
        optimizer.load_state_dict(optimizer.state_dict())
    gc.collect()
    assert [plan() for plan in plans] == [None, None]


def test_state_that_is_made_anew_is_held_once():
    """A plan whose state lies otherwise leaves none behind in another plan."""
    optimizer, w = Momentum(engine=FASTEST), np.zeros((200, 300))
    optimizer.update({"w": w}, {"w": np.ones_like(w)})
    optimizer.update({"w": w, "b": w[0].copy()}, {"w": np.ones_like(w), "b": w[0].copy()})
    old = weakref.ref(optimizer._state.leaves["w"].slots["v"])  # noqa: SLF001
    transposed = np.asfortranarray(w)
    optimizer.update({"w": transposed}, {"w": np.ones_like(transposed)})
    gc.collect()
    assert old() is None


def test_of_plans_with_arrays_between_passes_one_is_kept(plans):
    params = {"a": np.ones((3, 4)), "b": np.ones((4, 5))}
    optimizer = Muon(engine=FASTEST)
    for names in ("ab", "a", "b", "ab", "a"):
        own = {name: params[name] for name in names}
        optimizer.update(own, {name: np.ones_like(w) for name, w in own.items()})
    gc.collect()
    assert sum(plan() is not None for plan in plans) == 1


# What is computed --------------------------------------------------------------------------------

MAKERS = {
    "plain": Adam,
    "a schedule": lambda **k: Adam(lr=lambda t: 0.1 / t, **k),
    "overrides": lambda **k: Momentum(
        overrides={"a": {"lr": 0.5}, "b": {"momentum": lambda t: 1 / (1 + t)}}, **k
    ),
    "an option": lambda **k: RMSProp(centered=True, **k),
    "numbers that are remembered": NAdam,
    "a norm of all": lambda **k: chain(clip_by_global_norm(0.5), Adam(), **k),
    "everything": lambda **k: chain(
        skip_nonfinite(),
        accumulate(2),
        weight_decay(0.1),
        clip_by_global_norm(0.5),
        NAdam(overrides={"c": {"lr": 0.5}}),
        average(0.9),
        **k,
    ),
}


def forgetful(optimizer):
    """Return the optimizer without its plans."""
    return copy.copy(optimizer)


@pytest.mark.slow  # all of them together
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("dtypes", [("float32",), ("float32", "float64")], ids=["one", "two"])
@engine_runs.every_engine
def test_steps_have_the_bits_of_plans_that_are_made_anew(make, dtypes, engine):
    engine_runs.require(engine)
    rng, kept = random.Random(3), []
    params, others = tree(dtypes=dtypes), tree(dtypes=dtypes)
    one, other = make(engine=engine), make(engine=engine)
    for seed in range(60):
        names, missing = rng.choice(
            [("abc", ""), ("abc", "b"), ("ab", ""), ("ca", ""), ("c", ""), ("bc", "c")]
        )
        if "overrides" in repr(one):
            names = "abc"  # patterns are to match
        grads = {**tree("abc", seed, dtypes), **dict.fromkeys(missing)}
        grads = {name: grads[name] for name in names}
        if seed % 11 == 7:
            first = next(name for name in names if grads[name] is not None)
            grads[first][...] = np.nan if "skip" in repr(one) else 1.0
        if seed % 17 == 16:
            one.lr = other.lr = 0.01 * rng.random()
        kept.append(grads)  # all are alive, so that none has the address of another
        one.update({name: params[name] for name in names}, grads)
        other = forgetful(other)
        other.update({name: others[name] for name in names}, grads)
        assert one.t == other.t
    engine_runs.assert_same_run((params, one), (others, other))


def test_what_a_leaf_missed_is_counted_though_nobody_looks():
    params, optimizer = tree(), Adam(engine=FASTEST)
    taken = dict.fromkeys(params, 0)
    for step, names in enumerate(["a", "ab", "b", "abc", "abc", "c", "ab", "ab", "a"], 1):
        optimizer.update({name: params[name] for name in names}, tree(names, step))
        for name in names:
            taken[name] += 1
        states = optimizer.state_dict()["states"]
        assert {name: step - entry["missed"] for name, entry in states.items()} == {
            name: count for name, count in taken.items() if name in states
        }


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_share_nothing_of_what_leaves_have_been_through(way):
    params, optimizer = tree("ab"), NAdam(engine=FASTEST)
    for names in ("ab", "a", "ab"):
        optimizer.update({name: params[name] for name in names}, tree(names))
    before, other = optimizer.state_dict(), way(optimizer)
    other.update(tree("ab"), tree("ab"))
    after = optimizer.state_dict()
    assert after["t"] == before["t"] == other.t - 1
    for name, entry in before["states"].items():
        assert after["states"][name]["scalars"] == entry["scalars"]
        assert after["states"][name]["missed"] == entry["missed"]


def test_leaves_that_part_and_meet_again_are_groups_of_their_own():
    """One group of the first plan is two when it comes back: its leaves have other numbers."""
    params, others = tree("ab"), tree("ab")
    one, (a, b) = Adam(engine=FASTEST), (Adam(engine=FASTEST) for _ in range(2))
    for step, names in enumerate(["ab", "ab", "a", "ab", "ab", "b", "ab"]):
        grads = tree("ab", step)
        one.update({name: params[name] for name in names}, {name: grads[name] for name in names})
        for name, own in zip("ab", (a, b), strict=True):
            if name in names:
                own.update({name: others[name]}, {name: grads[name]})
    for name, w in params.items():
        bits.assert_same_bits(w, others[name])


# The short way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_every_kind_of_step_goes_the_short_way(make, long_ways):
    engine_runs.require("native")
    params, optimizer, kept = tree(dtypes=("float32", "float64")), make(engine="native"), []
    for step in range(12):
        kept.append(tree("abc", step, ("float32", "float64")))
        if step > 1:
            kept[-1]["b"] = None
        optimizer.update(params, kept[-1])
        if step == 5:
            long_ways.clear()
    assert not long_ways


def test_trees_in_turn_go_the_short_way(long_ways):
    engine_runs.require("native")
    params, optimizer, kept = tree(), Adam(engine="native"), []
    calls = itertools.cycle([("a", ""), ("abc", ""), ("abc", "b"), ("bc", "")])
    for step, (names, missing) in enumerate(itertools.islice(calls, 48)):
        kept.append({**tree(names, step), **dict.fromkeys(missing)})
        optimizer.update({name: params[name] for name in names}, kept[-1])
        if step == 20:
            long_ways.clear()
    assert not long_ways


@pytest.mark.parametrize("kinds", [("float32", "float64"), ("float64", "float32")])
def test_a_gradient_upon_the_parameter_of_another_dtype_is_refused(kinds):
    """Buckets are compared one by one, and look at the parameters of all."""
    engine_runs.require("native")
    room = np.zeros(24)
    params = {"a": np.zeros(3, kinds[0]), "b": np.zeros(3, kinds[1])}
    params["b"] = room[:3].view(kinds[1])[:3]
    optimizer = SGD(engine="native")
    for _ in range(4):
        optimizer.update(params, {name: np.ones(3, w.dtype) for name, w in params.items()})
    before = room.copy()
    grads = {"a": room[1:4].view(kinds[0])[:3], "b": np.ones(3, kinds[1])}
    for _ in range(3):
        with pytest.raises(ValueError, match="share memory"):
            optimizer.update(params, grads)
    bits.assert_same_bits(room, before)
    assert optimizer.t == 4


def test_arrays_that_a_refused_step_has_shown_are_looked_at_again():
    """The comparison stops where a leaf differs; what came before is no longer that of a step."""
    engine_runs.require("native")
    memory = np.zeros(20, "float32")
    params = {"a": memory[:5], "b": memory[10:15]}
    grads = {name: np.ones(5, "float32") for name in params}
    optimizer = SGD(engine="native")
    for _ in range(3):
        optimizer.update(params, grads)
    upon = {"a": memory[12:17], "b": params["b"]}
    with pytest.raises(ValueError, match="grads"):
        optimizer.update(upon, {"a": grads["a"], "b": np.ones(4, "float32")})
    with pytest.raises(ValueError, match="share memory"):
        optimizer.update(upon, grads)
    with pytest.raises(ValueError, match="grads"):
        optimizer.update(params, {"a": memory[11:16], "b": np.ones(4, "float32")})
    with pytest.raises(ValueError, match="share memory"):
        optimizer.update(params, {"a": memory[11:16], "b": grads["b"]})
    assert optimizer.t == 3


@pytest.mark.parametrize("lr", [-1.0, 1e39, "x"])
def test_a_schedule_that_goes_wrong_changes_nothing(lr):
    engine_runs.require("native")
    params = tree()
    optimizer = SGD(lr=lambda t: lr if t == 5 else 0.5, engine="native")
    for _ in range(4):
        optimizer.update(params, tree(seed=1))
    before = copy.deepcopy(params)
    for _ in range(3):
        with pytest.raises((TypeError, ValueError), match="lr"):
            optimizer.update(params, tree(seed=1))
    assert optimizer.t == 4
    for name, w in params.items():
        bits.assert_same_bits(w, before[name])


MAKERS = [Adam, NAdam, lambda **settings: chain(clip_by_global_norm(9.0), Adam(**settings))]


@engine_runs.every_engine
@pytest.mark.parametrize("make", MAKERS, ids=["Adam", "NAdam", "chain"])
@pytest.mark.parametrize("moving", ["lr", "beta2"])
def test_what_a_schedule_sets_takes_effect_as_soon_as_on_every_engine(engine, make, moving):
    """What comes before it in the order of hyperparameters is as it was."""
    engine_runs.require(engine)

    def run(engine):
        def cycle(step):
            if step != 4:
                rule.beta1, rule.eps = 0.5 + 0.4 / step, 1e-3 / step
            return 0.1

        optimizer = make(**{moving: cycle})
        optimizer.engine = engine
        rule = [*optimizer.parts.values()][-1]
        params = tree()
        for step in range(6):
            optimizer.update(params, tree(seed=step))
        return params

    expected = run("array_api")
    for name, w in run(engine).items():
        bits.assert_same_bits(w, expected[name])


@engine_runs.every_engine
def test_what_a_schedule_sets_is_seen_by_the_groups_that_come_after(engine):
    engine_runs.require(engine)
    later = SGD(lr=0.1)

    def cycle(step):
        later.lr = 0.1 * step
        return 1.0

    optimizer = partition({"a": SGD(lr=cycle), "b": later}, engine=engine)
    params = {"a": np.zeros(3), "b": np.zeros(3)}
    path = []
    for _ in range(4):
        optimizer.update(params, {"a": np.ones(3), "b": np.ones(3)})
        path.append(params["b"][0])
    np.testing.assert_allclose(path, [-0.1, -0.3, -0.6, -1.0], rtol=1e-15)


@engine_runs.every_engine
@pytest.mark.parametrize("overrides", [{}, {"a": {"weight_decay": 0.0}}, {"b": {"beta1": 0.5}}])
def test_overrides_of_something_else_change_nothing_of_that(engine, overrides):
    engine_runs.require(engine)

    def cycle(step):
        optimizer.eps = float(step)
        return 1.0

    optimizer = AdamW(lr=cycle, weight_decay=0.0, engine=engine, overrides=overrides)
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    before, steps = 0.0, []
    for _ in range(4):
        optimizer.update(params, {"a": np.ones(1), "b": np.ones(1)})
        steps.append(before - params["a"][0])
        before = params["a"][0]
    np.testing.assert_allclose(steps, [1 / (1 + t) for t in range(1, 5)], rtol=1e-12)


# Interruptions -----------------------------------------------------------------------------------


class Turns(Problem):
    """Steps on a part of the tree, or without a gradient, in turn."""

    def trees(self, run, number):
        params, grads = run[0], self.gradients(number)
        names = list(params)[number % 3 == 2 :]
        return {name: params[name] for name in names}, {name: grads[name] for name in names}


PROBLEMS = {
    "plain": Turns(Adam, whole_steps.PLAIN | {"c": (2,)}, missing=("c",), stride=5),
    "chained": Turns(
        lambda **settings: chain(clip_by_global_norm(0.5), NAdam(), average(0.9), **settings),
        whole_steps.PLAIN | {"c": (2,)},
        missing=("c",),
        stride=7,
    ),
}


@pytest.mark.slow  # all of them together
@pytest.mark.parametrize("taken", [7, 8])
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@engine_runs.every_engine
def test_a_step_of_a_plan_that_comes_back_is_whole_or_not_taken(engine, problem, taken):
    engine_runs.require(engine)
    counts = assert_whole(problem, taken, {"engine": engine}, stride=problem.stride)
    assert min(counts) > 1

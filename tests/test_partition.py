# ruff: noqa: SLF001  (it looks inside on purpose)
"""Partitions: several optimizers on the parts of one tree, as one."""

import copy
import pickle
import re

import bits
import engine_runs
import numpy as np
import pytest
from remembering import Remembering
from test_groups import flat, sixty

from instep import (
    LAMB,
    SGD,
    Adam,
    AdamW,
    DoG,
    Momentum,
    Muon,
    NAdam,
    Optimizer,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
    Transform,
    chain,
    partition,
)
from instep.schedules import Exponential
from instep.transforms import (
    accumulate,
    average,
    cautious,
    clip_by_global_norm,
    clip_by_norm,
    skip_nonfinite,
    weight_decay,
)

PARTS = ("encoder/*/weight", "encoder/*/bias", "head/*")


def three(first, second, third, **settings):
    return partition(dict(zip(PARTS, (first, second, third), strict=True)), **settings)


def part_of(tree, number):
    """Return the leaves of one of the three parts, in the order that they have in the tree."""
    part, kind = [("encoder", "weight"), ("encoder", "bias"), ("head", "")][number]
    return {
        f"{i:02}/{name}": w
        for i, layer in enumerate(tree[part])
        for name, w in layer.items()
        if name.endswith(kind)
    }


def copies(tree):
    return copy.deepcopy(tree)


# What is computed ------------------------------------------------------------------------------

TRIPLES = {
    "elementwise": (AdamW, lambda: chain(weight_decay(0.1), Momentum()), SGD),
    "norms": (LAMB, lambda: chain(clip_by_norm(1.0), NAdam()), lambda: chain(Adam(), cautious())),
    "over the tree": (
        lambda: chain(clip_by_global_norm(0.5), AdamW()),
        lambda: chain(clip_by_global_norm(0.25), SGD(lr=0.5), average(0.5)),
        lambda: chain(clip_by_norm(2.0), clip_by_global_norm(0.125), LAMB()),
    ),
    "remembering": (DoG, Remembering, lambda: chain(accumulate(3), Remembering())),
    "whole arrays": (Muon, Muon, lambda: chain(clip_by_global_norm(1.0), AdamW())),
}


def mixed(seed=0):
    """Return sixty tensors of four dtypes."""
    trees = [sixty(seed, dtype) for dtype in ("float16", "float32", "float64", "complex64")]
    return {part: [trees[i % 4][part][i] for i in range(15)] for part in trees[0]}


@pytest.mark.parametrize("name", TRIPLES)
@pytest.mark.parametrize(
    ("engine", "threads"), [*engine_runs.NUMPY_ENGINES, ("array_api", 1)], ids=str
)
def test_each_part_has_the_bits_of_its_optimizer_alone(name, engine, threads):
    engine_runs.require(engine)
    settings = {"engine": engine, "threads": threads}
    params, alone = mixed(), [part_of(mixed(), i) for i in range(3)]
    optimizer = three(*(make() for make in TRIPLES[name]), **settings)
    others = [chain(*make().parts.values(), **settings) for make in TRIPLES[name]]
    for step in range(5):
        grads = mixed(seed=step + 1)
        if step % 2:  # some are missing
            grads["encoder"][3]["bias"] = grads["head"][7]["weight"] = None
        optimizer.update(params, grads)
        for i, other in enumerate(others):
            other.update(alone[i], part_of(grads, i))
    for i, expected in enumerate(alone):
        got = part_of(params, i)
        assert got.keys() == expected.keys()
        for key, w in got.items():
            bits.assert_same_bits(w, expected[key], key)


@engine_runs.every_engine
def test_a_norm_before_a_partition_is_that_of_the_whole_tree(engine):
    engine_runs.require(engine)
    params, expected = sixty(), sixty()
    of_parts = chain(
        *(weight_decay(0.1), clip_by_global_norm(0.5)),
        *(three(Momentum(0.1), Momentum(0.1), Momentum(0.1)), average(0.5)),
        engine=engine,
    )
    whole = chain(weight_decay(0.1), clip_by_global_norm(0.5), Momentum(0.1), average(0.5))
    for step in range(4):
        of_parts.update(params, sixty(seed=step + 1))
        whole.update(expected, sixty(seed=step + 1))
    for key, w in flat(params).items():
        bits.assert_same_bits(w, flat(expected)[key], key)


@engine_runs.every_engine
def test_a_norm_in_a_branch_is_apart_from_one_before(engine):
    """Also where the one before leaves the gradients as they are, to the same operations."""

    class Measured(Transform):
        stage = "gradient"

        @staticmethod
        def rule(xp, w, g, s, h):
            return xp.where(xp.tree_norm(g) >= 0, g, 0.0), {}

    engine_runs.require(engine)
    params = {"a": np.zeros(2), "b": np.zeros(2)}
    grads = {"a": np.array([3.0, 4.0]), "b": np.array([60.0, 80.0])}

    def clipped():
        return chain(clip_by_global_norm(1.0), SGD(lr=1.0))

    optimizer = chain(Measured(), partition({"a": clipped(), "b": clipped()}), engine=engine)
    optimizer.update(params, grads)
    for w in params.values():
        assert np.allclose(w, [-0.6, -0.8])


@engine_runs.every_engine
def test_a_number_of_the_tree_is_one_for_all_before_and_one_for_each_branch(engine):
    class Largest(Transform):
        stage = "gradient"
        tree_numbers = {"top": 1.0}  # noqa: RUF012

        @staticmethod
        def rule(xp, w, g, s, h):
            top = xp.maximum(s.top, xp.tree_max(xp.abs(g)))
            return g / top, {"top": top}

    engine_runs.require(engine)
    optimizer = chain(
        Largest(),
        partition({"a": Remembering(), "*": chain(Largest(), Remembering())}),
        engine=engine,
    )
    w = {"a": np.zeros(2), "b": np.zeros(2, "float32"), "c": np.zeros(1)}
    for scale in (1.0, 4.0, 2.0):
        optimizer.update(w, {key: np.full_like(x, scale * len(x)) for key, x in w.items()})
    numbers = optimizer.state_dict()["numbers"]
    assert numbers["Largest_top"] == 8.0
    assert numbers["Largest2_top"] == 1.0  # of what the first has left
    assert numbers["Remembering_largest"] == np.sqrt(2.0)
    assert numbers.keys() == {
        *("Largest_top", "Largest2_top", "Remembering_largest", "Remembering2_largest")
    }


def test_a_number_of_the_tree_may_not_differ_between_branches():
    class Scaled(Transform):
        stage = "gradient"
        factor: float = 1.0
        tree_numbers = {"norm": 0.0}  # noqa: RUF012

        @staticmethod
        def rule(xp, w, g, s, h):
            return g, {"norm": h.factor * xp.tree_norm(g)}

    w = {"a": np.zeros(2), "b": np.zeros(2)}
    optimizer = chain(Scaled(), partition({"a": SGD(), "b": Momentum()}))
    optimizer.overrides = {"a": {"Scaled_factor": 2.0}}
    with pytest.raises(ValueError, match="Scaled_norm' is made of Scaled_factor for the whole"):
        optimizer.update(w, {"a": np.ones(2), "b": np.ones(2)})


class Called(Optimizer):
    """A rule that no engine can fuse."""

    lr: float = 0.25

    slots = ("m",)

    @staticmethod
    def rule(xp, w, g, s, h):
        m = s.m + xp.sign(g) * float(xp.any(xp.abs(g) > xp.tree_max(xp.abs(w))))
        return w - h.lr * (g + m), {"m": m}


@pytest.mark.parametrize("engine", ["auto", "array_api"])
def test_a_rule_that_is_called_sums_with_those_that_are_fused(engine):
    """Where a pass makes several sums at once, it comes to one after the other."""
    expected = None
    for choice in ("array_api", engine):
        optimizer = chain(
            *(skip_nonfinite(), clip_by_global_norm(2.0), clip_by_global_norm(1.0)),
            partition({"a": Called(), "b": chain(clip_by_global_norm(0.5), Called()), "*": LAMB()}),
            average(0.5),
            engine=choice,
        )
        rng = np.random.default_rng(0)
        params = {key: bits.ordinary(rng, 9, "float64") for key in "abcd"}
        for step in range(5):
            grads = {key: bits.ordinary(rng, 9, "float64") for key in "abcd"}
            if step == 3:
                grads["acd"[step % 3]][-1] = np.inf
            optimizer.update(params, grads)
        expected = expected or (params, optimizer)
    assert optimizer.skipped == 1
    engine_runs.assert_same_run((params, optimizer), expected)
    called = {bucket.engine for bucket in optimizer.explain(params).buckets if bucket.graphs == ()}
    assert called == {"array_api"}


# How it runs -----------------------------------------------------------------------------------


def test_each_rule_takes_one_launch_a_pass():
    optimizer = chain(clip_by_global_norm(1.0), three(AdamW(), SGD(), LAMB()), average(0.9))
    optimizer.overrides = {"*/1*": {"lr": 0.5}}
    found = optimizer.explain(sixty())
    assert [bucket.launches for bucket in found.buckets] == [2, 2, 3]
    assert [bucket.groups for bucket in found.buckets] == [2, 2, 2]
    assert [bucket.branch for bucket in found.buckets] == [
        f"{pattern!r}: clip_by_global_norm, {name}, average"
        for pattern, name in zip(
            [PARTS[1], PARTS[0], PARTS[2]], ["SGD", "AdamW", "LAMB"], strict=True
        )
    ]
    assert "branch 'head/*': clip_by_global_norm, LAMB, average" in str(found)
    assert sorted(sum((bucket.leaves for bucket in found.buckets), ())) == sorted(flat(sixty()))


def test_explain_counts_the_calls_of_each_branch():
    optimizer = partition({"a": chain(accumulate(2), SGD()), "*": SGD()})
    w = {"a": np.zeros(1), "b": np.zeros(1)}
    optimizer.update(w, w | {"a": np.ones(1), "b": np.ones(1)})
    assert optimizer.explain(w).calls == (
        "  2 calls make a step of branch 'a'; this is number 2 of them"
    )


def test_later_steps_take_the_short_way():
    engine_runs.require("native")
    optimizer = chain(skip_nonfinite(), three(AdamW(), NAdam(), SGD()), average(0.9))
    optimizer.engine = "native"
    params, expected = sixty(), sixty()
    other = copy.deepcopy(optimizer)
    other.engine = "blocked"
    for step in range(6):
        if step == 3:
            optimizer.branches["head/*"].lr = other.branches["head/*"].lr = 0.5
        before = optimizer._state.plan
        optimizer.update(params, sixty(seed=step))
        other.update(expected, sixty(seed=step))
        if step > 1:
            assert optimizer._state.plan is before
            assert before._repetition.last is not None
    for key, w in flat(params).items():
        bits.assert_same_bits(w, flat(expected)[key], key)


@pytest.mark.parametrize("engine", ["native", "blocked", "array_api"])
def test_a_bad_gradient_in_one_part_leaves_all_alone(engine):
    engine_runs.require(engine)
    optimizer = chain(skip_nonfinite(), three(AdamW(), NAdam(), SGD()), engine=engine)
    params = sixty()
    optimizer.update(params, sixty(seed=1))
    before, state = copies(params), pickle.dumps(optimizer.state_dict())
    for number in range(2):
        grads = sixty(seed=2)
        grads["head"][14]["weight"][-1, -1] = np.nan
        optimizer.update(params, grads)
        assert (optimizer.t, optimizer.skipped) == (1, number + 1)
    for wrong in (np.zeros((2, 2), "float32"), np.zeros((17, 5), "int8")):
        grads["head"][14]["weight"] = wrong
        with pytest.raises((TypeError, ValueError), match=r"Chain\.update"):
            optimizer.update(params, grads)
    for key, w in flat(params).items():
        bits.assert_same_bits(w, flat(before)[key], key)
    assert pickle.dumps(optimizer.state_dict() | {"skipped": 0}) == state


# What can be set -------------------------------------------------------------------------------


def test_hyperparameters_are_those_of_the_branches():
    optimizer = partition({"a": SGD(lr=1.0), "*": chain(clip_by_norm(1.0), Momentum(lr=1.0))})
    whole = chain(skip_nonfinite(), optimizer)
    optimizer.branches["a"].lr = 0.5
    whole.branches["*"].lr = Exponential(2.0, factor=0.5)
    w = {"a": np.zeros(1), "b": np.zeros(1)}
    for one in (optimizer, whole):
        one.update(w, {"a": np.ones(1), "b": np.ones(1)})
    assert (w["a"], w["b"]) == (-1.0, -4.0)
    for one in (optimizer, whole):
        remedy = re.escape("optimizer.branches['a'].lr")
        with pytest.raises(AttributeError, match=remedy):
            one.lr = 1.0
        with pytest.raises(AttributeError, match=remedy):
            _ = one.lr
        assert not hasattr(one, "_nothing")
    with pytest.raises(TypeError, match="does not support item assignment"):
        optimizer.branches["b"] = SGD()


def test_overrides_name_the_hyperparameters_of_the_rule_that_a_leaf_has():
    optimizer = chain(
        weight_decay(0.0),
        partition({"a*": SGD(lr=1.0), "*": chain(clip_by_norm(9.0), Momentum(lr=1.0))}),
        overrides={
            "?2": {"lr": 0.5, "momentum": 0.0, "weight_decay_rate": 1.0},
            "b3": {"clip_by_norm_max_norm": 1.0},
        },
        frozen=["a3"],
    )
    w = {key: np.ones(1) for key in ("a1", "a2", "a3", "b1", "b2", "b3")}
    for _ in range(2):
        optimizer.update(w, {key: np.full(1, 2.0) for key in w})
    found = [float(x[0]) for x in w.values()]
    expected = [1 - 2 - 2, 1 - 1.5 - 0.75, 1, 1 - 2 - 3.8, 1 - 1.5 - 0.75, 1 - 1 - 1.9]
    assert np.allclose(found, expected)
    optimizer.overrides = {"a*": {"momentum": 0.5}}
    with pytest.raises(ValueError, match="'momentum' cannot be overridden; Chain has the numbers"):
        optimizer.update(w, w)
    assert np.allclose(found, [float(x[0]) for x in w.values()])


def test_an_option_of_a_branch_makes_another_plan():
    optimizer = partition({"a": Adam(lr=0.1), "*": SGD()})
    w = {"a": np.zeros(1), "b": np.zeros(1)}
    for step in range(4):
        optimizer.branches["a"].amsgrad = step > 1
        optimizer.update(w, {"a": np.ones(1), "b": np.ones(1)})
    slots = engine_runs.slots_of(optimizer)
    assert set(slots["a"]) == {"Adam_m", "Adam_v", "Adam_x"}
    assert slots["b"] == {}


def test_functions_choose_branches():
    def is_matrix(path, array):
        return array.ndim == 2

    optimizer = partition({is_matrix: SGD(lr=1.0), "*": SGD(lr=0.5)})
    w = {"a": np.zeros((1, 1)), "b": np.zeros(1)}
    for _ in range(2):
        optimizer.update(w, {"a": np.ones((1, 1)), "b": np.ones(1)})
    assert (w["a"], w["b"]) == (-2.0, -1.0)
    assert "is_matrix" in repr(optimizer)
    other = partition({is_matrix: SGD(), "*": SGD()}).load_state_dict(optimizer.state_dict())
    other.update(w, {"a": np.ones((1, 1)), "b": np.ones(1)})
    assert (other.t, w["a"], w["b"]) == (3, -3.0, -1.5)


def test_repr_is_what_was_written():
    optimizer = chain(
        partition({"a/*": SGD(lr=0.5), "*": chain(clip_by_norm(1.0), SGD())}, frozen=["a/b"]),
        average(0.5),
    )
    text = (
        "chain(partition({'a/*': SGD(lr=0.5), '*': chain(clip_by_norm(max_norm=1.0), "
        "SGD(lr=0.01))}, frozen=('a/b',)), average(decay=0.5))"
    )
    assert repr(optimizer) == text
    assert repr(eval(text)) == text


# State -----------------------------------------------------------------------------------------


def make_three():
    return chain(
        *(skip_nonfinite(), clip_by_global_norm(1.0)),
        three(AdamW(), chain(weight_decay(0.1), Remembering()), SGD()),
        average(0.9),
    )


@pytest.mark.parametrize("how", ["state_dict", "file", "pickle", "deepcopy", "copy"])
def test_a_restored_partition_goes_on_with_the_same_bits(how, tmp_path):
    params, optimizer = sixty(), make_three()
    optimizer.branches["head/*"].lr = 0.25
    for step in range(3):
        optimizer.update(params, sixty(seed=step + 1))
    match how:
        case "state_dict":
            restored = make_three().load_state_dict(
                pickle.loads(pickle.dumps(optimizer.state_dict()))
            )
        case "file":
            optimizer.save(tmp_path / "state")
            restored = make_three().load(tmp_path / "state")
        case "pickle":
            restored = pickle.loads(pickle.dumps(optimizer))
        case "deepcopy":
            restored = copy.deepcopy(optimizer)
        case _:
            restored = copy.copy(optimizer)
    assert restored.branches["head/*"] is not optimizer.branches["head/*"]
    other = copies(params)
    for step in range(3):
        optimizer.update(params, sixty(seed=step + 9))
        restored.update(other, sixty(seed=step + 9))
    engine_runs.assert_same_run((flat(other), restored), (flat(params), optimizer))
    restored.branches["head/*"].lr = 0.5
    assert optimizer.branches["head/*"].lr == 0.25


def test_a_state_of_other_rules_is_refused():
    w = {"a": np.zeros(2), "b": np.zeros(2)}
    optimizer = partition({"a": Adam(), "*": Momentum()})
    optimizer.update(w, {"a": np.ones(2), "b": np.ones(2)})
    state = optimizer.state_dict()
    assert state["parts"] == {"Adam_": "Adam", "Momentum_": "Momentum"}
    for other in (partition({"a": Momentum(), "*": Adam()}), chain(Adam())):
        with pytest.raises(ValueError, match="load_state_dict: the state"):
            other.load_state_dict(state)
    mixed = copies(state)
    mixed["states"]["b"]["slots"] |= state["states"]["a"]["slots"]
    with pytest.raises(ValueError, match="the state of 'b' has the slots"):
        partition({"a": Adam(), "*": Momentum()}).load_state_dict(mixed)
    moved = partition({"b": Adam(), "*": Momentum()}).load_state_dict(state)
    with pytest.raises(ValueError, match=r"params\['a'\] is of another branch than in earlier"):
        moved.update(w, {"a": np.ones(2), "b": np.ones(2)})
    assert moved.t == 1


def test_a_branch_that_took_no_step_has_no_numbers_to_be_loaded():
    w = {"a": np.zeros(2), "b": np.zeros(2)}
    optimizer = partition({"a": Remembering(), "*": Remembering()})
    optimizer.update(w, {"a": np.ones(2), "b": None})
    other = partition({"a": Remembering(), "*": Remembering()})
    other.load_state_dict(optimizer.state_dict())
    for one in (optimizer, other):
        x = copies(w)
        one.update(x, {"a": np.ones(2), "b": np.ones(2)})
        assert one.state_dict()["numbers"].keys() == {
            *("Remembering_largest", "Remembering2_largest")
        }
    engine_runs.assert_same_state(other, optimizer)
    state = optimizer.state_dict() | {"numbers": {"x": 1.0}}
    with pytest.raises(ValueError, match="the state has the numbers x, expected none"):
        partition({"a": Remembering(), "*": Remembering()}).load_state_dict(state)


def test_answers_are_those_of_the_branches():
    w = {"a": np.zeros(2), "b": np.zeros(2), "c": np.zeros(2)}
    free = partition({"a": ScheduleFreeSGD(lr=1.0), "b": ScheduleFreeAdamW(), "*": SGD(lr=1.0)})
    alone = ScheduleFreeSGD(lr=1.0), ScheduleFreeAdamW(), SGD(lr=1.0)
    others = [{key: x.copy()} for key, x in w.items()]
    for step in range(3):
        grads = {key: np.full(2, 1.0 + step) for key in w}
        free.update(w, grads)
        for other, x in zip(alone, others, strict=True):
            other.update(x, {key: grads[key] for key in x})
    answer = free.answer(w)
    for other, x in zip(alone, others, strict=True):
        ((key, expected),) = other.answer(x).items()
        bits.assert_same_bits(answer[key], expected, key)
    assert not np.array_equal(answer["a"], w["a"])
    before = copies(w)
    with free.answer_in_place(w) as answered:
        for key, x in answered.items():
            bits.assert_same_bits(x, answer[key], key)
    for key, x in w.items():
        bits.assert_same_bits(x, before[key], key)
    both = chain(partition({"a": ScheduleFreeSGD(), "*": SGD()}), average(0.5))
    both.update(w, copies(w))
    with pytest.raises(ValueError, match="which must say whose answer"):
        both.answer(w)
    assert both.answer(w, which=1).keys() == w.keys()


def test_parts_of_a_tree_may_take_turns():
    optimizer = partition({"a*": Adam(), "b*": SGD(lr=1.0)})
    w = {"a": np.zeros(1), "b": np.zeros(1)}
    for step in range(6):
        keep = "ab"[step % 2]
        optimizer.update(w, {key: np.ones(1) if key == keep else None for key in w})
    assert w["b"] == -3.0
    states = optimizer.state_dict()["states"]
    assert [states[key]["missed"] for key in "ab"] == [3, 3]


# What is refused -------------------------------------------------------------------------------


class Guarded(Optimizer):
    @staticmethod
    def rule(xp, w, g, s, h):
        xp.require(xp.isfinite(g))
        return w - g, {}


class NormAfter(Transform):
    stage = "parameter"

    @staticmethod
    def rule(xp, w, g, s, h):
        return w / xp.tree_norm(w), {}


@pytest.mark.parametrize(
    ("branches", "error", "message"),
    [
        ({}, TypeError, "give a dict of optimizers by path patterns"),
        ([SGD()], TypeError, "give a dict of optimizers by path patterns"),
        ({1: SGD()}, TypeError, "give a dict of optimizers by path patterns"),
        ({"*": SGD}, TypeError, r"SGD is a class; write SGD\(...\)"),
        ({"*": clip_by_norm(1.0)}, TypeError, "is a transform; put it before the partition"),
        ({"*": None}, TypeError, "is no optimizer"),
        ({"*": lambda w, g: w}, TypeError, "is no optimizer"),
        ({"*": partition({"*": SGD()})}, TypeError, "is no optimizer, and no chain of one"),
        ({"*": chain(partition({"*": SGD()}))}, TypeError, "is no optimizer, and no chain of one"),
        ({"*": SGD(engine="blocked")}, ValueError, r"partition\(..., engine='blocked'\)"),
        ({"*": SGD(threads=1)}, ValueError, "setting of its own, threads"),
        ({"*": SGD(complex="pairs")}, ValueError, "setting of its own, complex"),
        ({"*": SGD(frozen=["a"])}, ValueError, "setting of its own, frozen"),
        ({"*": chain(SGD(), overrides={"a": {"lr": 1.0}})}, ValueError, "its own, overrides"),
        ({"*": chain(skip_nonfinite(), SGD())}, ValueError, "put what turns calls away before"),
    ],
)
def test_what_is_no_branch_is_refused(branches, error, message):
    with pytest.raises(error, match=message):
        partition(branches)


def test_optimizers_that_have_a_state_or_another_place_are_refused():
    optimizer = SGD()
    with pytest.raises(ValueError, match="stands in two branches"):
        partition({"a": optimizer, "b": optimizer})
    optimizer.update(np.zeros(1), np.ones(1))
    with pytest.raises(ValueError, match="has taken 1 steps"):
        partition({"*": optimizer})


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("a", "b"), r"no branch is for params\['c'\]; add one, such as \"\*\""),
        (("a", "d", "*"), "the pattern 'd' matches no parameter; there are 'a', 'b', 'c'"),
        (("*", "a"), "'a' decides for no parameter, for those before it have all"),
    ],
)
def test_every_leaf_has_a_branch_and_every_branch_a_leaf(patterns, message):
    w = {key: np.zeros(1) for key in "abc"}
    optimizer = partition({pattern: SGD() for pattern in patterns})
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            optimizer.update(w, {key: np.ones(1) for key in "abc"})
        with pytest.raises(ValueError, match=message):
            optimizer.explain(w)
    assert optimizer.t == 0
    assert all(x == 0.0 for x in w.values())


def test_what_is_frozen_needs_no_branch():
    w = {"a": np.zeros(1), "b": "anything"}
    partition({"a": SGD(lr=1.0)}, frozen=["b"]).update(w, {"a": np.ones(1), "b": None})
    assert w["a"] == -1.0


@engine_runs.every_engine
def test_sums_and_guards_in_the_wrong_place_are_refused(engine):
    engine_runs.require(engine)
    w = {"a": np.ones(1), "b": np.ones(1)}
    for optimizer, message in [
        (
            partition({"a": Guarded(), "*": SGD()}),
            "Guarded may turn calls away, those of the whole",
        ),
        (
            chain(partition({"a": Guarded(), "*": SGD()})),
            "Guarded may turn calls away, those of the whole",
        ),
        (chain(partition({"a": SGD(), "*": SGD()}), NormAfter()), "NormAfter sums over the tree"),
    ]:
        optimizer.engine = engine
        with pytest.raises(ValueError, match=message):
            optimizer.update(w, {"a": np.ones(1), "b": np.ones(1)})
    assert (w["a"], w["b"]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="after a partition"):
        chain(partition({"*": SGD()}), _Numbered())


class _Numbered(Transform):
    stage = "parameter"
    tree_numbers = {"n": 0.0}  # noqa: RUF012

    @staticmethod
    def rule(xp, w, g, s, h):
        return w, {"n": s.n + 1.0}


def test_the_order_of_a_chain_is_that_of_each_branch():
    with pytest.raises(ValueError, match="cautious works on the step, and average"):
        chain(partition({"a": SGD(), "*": chain(SGD(), average(0.5))}), cautious())
    with pytest.raises(ValueError, match="average works on the parameters after the step"):
        chain(average(0.5), partition({"*": SGD()}))

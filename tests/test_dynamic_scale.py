"""The scale of the loss: what calls make of it, those that are turned away above all."""

import copy
import math
import pickle
from types import MappingProxyType

import bits
import engine_runs
import numpy as np
import pytest

from instep import SGD, Adam, Momentum, Muon, chain, partition
from instep.plan.step import Plan
from instep.transforms import (
    accumulate,
    clip_by_global_norm,
    dynamic_scale,
    scale_gradients,
    skip_nonfinite,
)

SHAPES = {"a": (5, 7), "b": (3,), "c": ()}
DTYPES = {"a": "float32", "b": "float16", "c": "float64"}

#: Calls whose gradients are not finite: the first ones, some in a row, some just before it grows.
BAD = {0, 1, 5, 9, 10, 11, 20}


def parameters(dtypes=DTYPES):
    rng = np.random.default_rng(0)
    return {key: bits.ordinary(rng, shape, dtypes[key]) for key, shape in SHAPES.items()}


def gradients(call, dtypes=DTYPES):
    rng = np.random.default_rng(call + 1)
    grads = {key: bits.ordinary(rng, shape, dtypes[key]) for key, shape in SHAPES.items()}
    if call in BAD:
        grads["b"][call % 3] = (np.inf, -np.inf, np.nan)[call % 3]
    return grads


class Loop:
    """The scale as a loop."""

    def __init__(self, scale, growth=2.0, backoff=0.5, interval=2000):
        self.scale, self.growth, self.backoff, self.interval = scale, growth, backoff, interval
        self.streak = 0

    def call(self, *, is_finite):
        self.streak = self.streak + 1 if is_finite else 0
        if not is_finite:
            self.scale *= self.backoff
        elif self.streak == self.interval:
            self.scale, self.streak = self.scale * self.growth, 0


@engine_runs.every_engine
@pytest.mark.parametrize("how", [(2.0, 0.5, 3), (3.0, 0.25, 1), (1.0, 0.5, 2), (2.0, 1.0, 4)])
def test_the_scale_is_what_a_loop_makes_of_it(engine, how):
    engine_runs.require(engine)
    optimizer, loop = chain(dynamic_scale(8.0, *how), SGD(), engine=engine), Loop(8.0, *how)
    params = parameters()
    assert optimizer.scale == 8.0
    for call in range(25):
        optimizer.update(params, gradients(call))
        loop.call(is_finite=call not in BAD)
        assert type(optimizer.scale) is float
        assert (optimizer.scale, optimizer.skipped) == (loop.scale, len(BAD & {*range(call + 1)}))
    assert optimizer.t == 25 - len(BAD)


@engine_runs.every_engine
def test_steps_are_those_on_the_gradient_of_the_loss_itself(engine):
    """What clipping sees, too: powers of two do not round."""
    engine_runs.require(engine)
    rest = clip_by_global_norm(0.5), Adam()
    optimizer = chain(dynamic_scale(2.0**10, interval=2), *rest, engine=engine)
    expected = chain(skip_nonfinite(), *copy.deepcopy(rest), engine=engine)
    dtypes = dict.fromkeys(SHAPES, "float32")
    params, others = parameters(dtypes), parameters(dtypes)
    for call in range(25):
        grads = gradients(call, dtypes)
        scale = np.float32(optimizer.scale)
        optimizer.update(params, {key: scale * g for key, g in grads.items()})
        expected.update(others, grads)
        for key, w in params.items():
            bits.assert_same_bits(w, others[key], key)
    assert (optimizer.t, optimizer.skipped) == (expected.t, expected.skipped)


CHAINS = {
    "clipped": lambda **how: chain(
        *(dynamic_scale(3.0, interval=2), clip_by_global_norm(1.0), Adam()), **how
    ),
    "accumulated": lambda **how: chain(
        *(dynamic_scale(3.0, growth=1.5, interval=2), accumulate(3), Momentum()),
        frozen=("c",),
        **how,
    ),
    "partitioned": lambda **how: chain(
        dynamic_scale(interval=1), partition({"a": Adam(), "*": Momentum()}), **how
    ),
}


@engine_runs.every_numpy_engine
@pytest.mark.parametrize(
    "dtypes", [DTYPES, dict.fromkeys(SHAPES, "complex64")], ids=["real", "complex"]
)
@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
def test_all_engines_have_the_bits_of_the_specification(engine, threads, make, dtypes):
    engine_runs.require(engine)
    params, expected = parameters(dtypes), parameters(dtypes)
    optimizer, specification = make(engine=engine, threads=threads), make(engine="array_api")
    for call in range(25):
        grads = gradients(call, dtypes)
        if call % 4 == 2:
            grads["a"] = None
        optimizer.update(params, grads)
        specification.update(expected, grads)
        assert repr(optimizer.scale) == repr(specification.scale)
    engine_runs.assert_same_run((params, optimizer), (expected, specification))
    assert optimizer.skipped == specification.skipped == len(BAD)


def test_leaves_that_are_left_alone_do_not_count():
    optimizer, params = chain(dynamic_scale(8.0), SGD(), frozen=("b",)), parameters()
    for call in BAD:
        optimizer.update(params, gradients(call))
        optimizer.update(params, gradients(call) | {"b": None})
    assert (optimizer.scale, optimizer.skipped) == (8.0, 0)


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_overflows_when_it_is_divided_is_turned_away(engine, dtype):
    engine_runs.require(engine)
    optimizer, w = chain(dynamic_scale(2.0**-9), SGD(), engine=engine), np.ones(3, dtype)
    optimizer.update(w, np.full(3, np.finfo(dtype).max / 256, dtype))
    assert (w.tolist(), optimizer.skipped, optimizer.scale) == ([1.0] * 3, 1, 2.0**-10)


@engine_runs.every_engine
@pytest.mark.parametrize(
    ("initial", "gradient", "change"),
    [(2.0**125, 1.0, 2.0), (3.0 * 2.0**124, 1.0, 1.0), (2.0**-126, np.inf, 1.0)],
)
def test_the_scale_and_its_reciprocal_stay_normal_numbers(engine, initial, gradient, change):
    engine_runs.require(engine)
    optimizer = chain(dynamic_scale(initial, interval=1), SGD(), engine=engine)
    for _ in range(3):
        optimizer.update(np.zeros(3, "f4"), np.full(3, gradient, "f4"))
    assert optimizer.scale == change * initial
    inverse = np.float32(1 / optimizer.scale)
    assert np.finfo("f4").tiny <= inverse <= np.finfo("f4").max


def test_a_scale_that_float32_does_not_have_is_refused():
    for initial in (2.0**127, 2.0**-127, 0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="dynamic_scale: initial must be a finite number in"):
            dynamic_scale(initial)
    for name, value in {"growth": 0.5, "backoff": 0.0, "interval": 1.5}.items():
        with pytest.raises(ValueError, match=f"dynamic_scale: {name} must be"):
            dynamic_scale(**{name: value})


def test_hyperparameters_are_set_between_calls():
    transform, w = dynamic_scale(8.0, interval=100), np.zeros(3)
    optimizer = chain(transform, SGD())
    for _ in range(5):
        optimizer.update(w, np.ones(3))
    transform.interval, transform.growth = 3, 4.0  # there were more in a row
    optimizer.update(w, np.ones(3))
    assert optimizer.scale == 32.0
    transform.backoff = 0.25
    optimizer.update(w, np.full(3, np.nan))
    assert optimizer.scale == 8.0
    with pytest.raises(AttributeError, match="initial cannot be changed, from 8 to 4"):
        transform.initial = 4.0


def test_hyperparameters_are_those_of_the_tree():
    params, grads = parameters(), gradients(2)
    for name in ("growth", "backoff", "interval"):
        optimizer = chain(
            dynamic_scale(),
            SGD(),
            overrides={"a": {f"dynamic_scale_{name}": 1.0}},
            engine="blocked",
        )
        with pytest.raises(ValueError, match=r"'dynamic_scale_.*' is made of .* give all the same"):
            optimizer.update(params, grads)
    with pytest.raises(ValueError, match="'dynamic_scale_initial' cannot be overridden"):
        chain(dynamic_scale(), SGD(), overrides={"*": {"dynamic_scale_initial": 1.0}})


# What is kept of a call that is turned away -----------------------------------------------------


@engine_runs.every_engine
def test_of_first_calls_that_are_turned_away_only_the_scale_is_kept(engine):
    engine_runs.require(engine)
    optimizer = chain(dynamic_scale(8.0), Remembering(1.0), engine=engine)
    w = np.zeros(3)
    for _ in range(2):
        optimizer.update(w, np.full(3, np.inf))
    state = optimizer.state_dict()
    assert (optimizer.t, optimizer.skipped, optimizer.scale, state["states"]) == (0, 2, 2.0, {})
    assert state["numbers"] == {"dynamic_scale_loss_scale": 2.0, "dynamic_scale_streak": 0.0}
    optimizer.first = 5.0  # with which it starts
    optimizer.update(w, np.ones(3))
    assert optimizer.state_dict()["numbers"]["Remembering_calls"] == 6.0


class Remembering(SGD):
    """A number that a call leaves only if it is a step."""

    first: float = 0.0

    tree_numbers = MappingProxyType({"calls": "first"})

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.lr * g, {"calls": s.calls + 1}


@pytest.mark.parametrize("calls", [2, 4], ids=["before a step", "after some"])
def test_copies_and_files_have_the_scale(calls, tmp_path):
    def make():
        return chain(dynamic_scale(8.0, interval=3), Remembering())

    optimizer, params = make(), parameters()
    for call in range(calls):
        optimizer.update(params, gradients(call))
    optimizer.save(tmp_path / "state")
    others = [
        *(copy.copy(optimizer), copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))),
        *(make().load(tmp_path / "state"), make().load_state_dict(optimizer.state_dict())),
    ]
    before = {key: w.copy() for key, w in params.items()}
    for call in range(calls, 12):
        optimizer.update(params, gradients(call))
    for other in others:
        own = {key: w.copy() for key, w in before.items()}
        assert other.scale == 2.0
        for call in range(calls, 12):
            other.update(own, gradients(call))
        engine_runs.assert_same_run((own, other), (params, optimizer))
        assert (other.scale, other.skipped) == (optimizer.scale, optimizer.skipped)
    optimizer.reset()
    assert (optimizer.scale, optimizer.skipped) == (8.0, 0)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_short_step_that_is_turned_away_changes_the_scale(groups, monkeypatch):
    engine_runs.require("native")
    long_ways, step = [], Plan.step
    monkeypatch.setattr(Plan, "step", lambda *given: long_ways.append(1) or step(*given))
    optimizer = chain(
        *(dynamic_scale(2.0**20, interval=2), Remembering()),
        overrides={"b": {"lr": 0.5}} if groups == 2 else {},
        engine="native",
    )
    loop, params = Loop(2.0**20, interval=2), parameters()
    taken = 0
    for call in range(2, 25):
        optimizer.update(params, gradients(call))
        loop.call(is_finite=call not in BAD)
        taken += call not in BAD
        numbers = optimizer.state_dict()["numbers"]
        assert (optimizer.scale, numbers["dynamic_scale_streak"]) == (loop.scale, loop.streak)
        assert (numbers["Remembering_calls"], optimizer.t) == (taken, taken)
    assert len(long_ways) == 1


@engine_runs.every_engine
def test_plans_in_turn_share_the_scale(engine):
    engine_runs.require(engine)
    optimizer, loop = chain(dynamic_scale(8.0, interval=2), SGD(), engine=engine), Loop(8.0)
    loop.interval, params = 2, parameters()
    for call in range(25):
        keys = ("ab", "b", "abc")[call % 3]
        grads = gradients(call)
        optimizer.update({key: params[key] for key in keys}, {key: grads[key] for key in keys})
        loop.call(is_finite=call not in BAD)
        assert optimizer.scale == loop.scale


@engine_runs.every_engine
def test_the_last_call_can_be_read_though_it_was_turned_away(engine):
    engine_runs.require(engine)
    optimizer, params = chain(dynamic_scale(8.0), SGD(), engine=engine), parameters()
    for call, (scale, count) in {0: (4.0, 1.0), 2: (4.0, 0.0), 5: (2.0, 1.0)}.items():
        optimizer.update(params, gradients(call))
        readings = optimizer.readings
        assert readings["dynamic_scale_loss_scale"] == scale
        assert readings["dynamic_scale_count"] == count
        assert readings.leaves["a"]["dynamic_scale_loss_scale"] == scale


def test_explain_says_what_a_call_leaves_that_is_turned_away():
    optimizer = chain(dynamic_scale(), Remembering(), engine="blocked")
    text = str(optimizer.explain({"w": np.zeros(3)}))
    assert "dynamic_scale_loss_scale of the tree (turned away or not), " in text
    assert text.endswith("bytes an element")
    assert "Remembering_calls of the tree\n" in text


@pytest.mark.parametrize("engine", ["native", "blocked", "array_api"])
def test_functions_on_whole_arrays_leave_nothing_in_a_call_that_is_turned_away(engine):
    engine_runs.require(engine)
    optimizer = chain(dynamic_scale(8.0), Muon(), engine=engine)
    w = np.eye(3, dtype="f4")
    optimizer.update(w, np.ones((3, 3), "f4"))
    before, slots = w.copy(), repr(engine_runs.slots_of(optimizer))
    optimizer.update(w, np.full((3, 3), np.inf, "f4"))
    assert (optimizer.scale, optimizer.t) == (4.0, 1)
    bits.assert_same_bits(w, before)
    assert repr(engine_runs.slots_of(optimizer)) == slots


def test_every_library_has_a_scale(xp):
    optimizer, params = chain(dynamic_scale(8.0), SGD(1.0)), {"a": xp.zeros(2), "b": xp.zeros(1)}
    params = optimizer.update(params, {"a": xp.asarray([0.0, float("inf")]), "b": xp.ones(1)})
    assert (float(params["b"][0]), float(optimizer.scale), optimizer.skipped) == (0.0, 4.0, 1)
    params = optimizer.update(
        params, {"a": xp.asarray([0.0, 2.0]), "b": optimizer.scale * xp.ones(1)}
    )
    assert (float(params["b"][0]), float(optimizer.scale), optimizer.t) == (-1.0, 4.0, 1)
    optimizer.update(params, {"a": xp.asarray([0.0, float("nan")]), "b": xp.ones(1)})
    assert (float(optimizer.scale), optimizer.skipped) == (2.0, 2)


# Where it stands ---------------------------------------------------------------------------------


def test_without_it_there_is_no_scale():
    for optimizer in (
        chain(skip_nonfinite(), SGD()),
        partition({"*": SGD()}),
        chain(skip_nonfinite(), partition({"*": SGD()})),
    ):
        assert not hasattr(optimizer, "scale")
        with pytest.raises(AttributeError, match=r"no attribute 'scale'; put dynamic_scale\(\) be"):
            _ = optimizer.scale
        with pytest.raises(AttributeError, match="scale"):
            optimizer.scale = 2.0


def test_a_loss_has_one_scale():
    with pytest.raises(ValueError, match="dynamic_scale and dynamic_scale would each divide by"):
        chain(dynamic_scale(), dynamic_scale(), SGD())
    with pytest.raises(ValueError, match="put dynamic_scale before accumulate"):
        chain(accumulate(2), dynamic_scale(), SGD())
    with pytest.raises(ValueError, match=r"dynamic_scale may turn calls away.*before the part"):
        partition({"a": chain(dynamic_scale(), SGD()), "*": SGD()})


def test_of_other_transforms_before_it_it_sees_the_result():
    optimizer = chain(scale_gradients(2.0**-10), dynamic_scale(8.0), SGD(lr=1.0))
    w = np.zeros(1, "f4")
    optimizer.update(w, np.array([2.0**13]))
    assert w == -1.0


@engine_runs.every_engine
def test_numbers_in_float16_that_would_vanish_do_not(engine):
    """A gradient below the smallest subnormal of float16, of a loss that is not scaled."""
    engine_runs.require(engine)
    optimizer, w = chain(dynamic_scale(), SGD(lr=2.0**30), engine=engine), np.zeros(2, "f4")
    for _ in range(3):
        with np.errstate(over="ignore"):
            scaled = (np.array([2.0**-30, 1.0]) * optimizer.scale).astype("float16")
        optimizer.update(w, scaled)
    assert (optimizer.t, optimizer.skipped, optimizer.scale) == (2, 1, 2.0**15)
    assert w[0] == -2.0

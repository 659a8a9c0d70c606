# ruff: noqa: SLF001  (it looks inside on purpose)
"""The short way of a step that repeats the one before, and what must not take it."""

import bits
import engine_runs
import numpy as np
import pytest

from instep import LAMB, SGD, Adam, NAdam, chain
from instep.engines.fused import FusedBucket
from instep.plan import overlaps, validation
from instep.plan.step import Plan
from instep.transforms import accumulate, average, clip_by_global_norm, skip_nonfinite


def problem(count=3, size=7):
    generator = np.random.default_rng(0)
    params = {f"w{i}": generator.standard_normal(size).astype("float32") for i in range(count)}
    return params, {name: w[::-1].copy() for name, w in params.items()}


def copies(tree):
    return {name: array.copy() for name, array in tree.items()}


@pytest.mark.parametrize("make", [SGD, Adam, lambda **k: SGD(0.5, **k)])
@engine_runs.every_engine
def test_repeated_steps_have_the_bits_of_steps_with_new_arrays(make, engine):
    engine_runs.require(engine)
    params, grads = problem()
    others = copies(params)
    one, other = make(engine=engine), make(engine=engine)
    for t in range(12):
        if t == 5:
            one.lr = other.lr = 0.25
        if t == 8:
            one.lr = other.lr = lambda step: 1.0 / step
        one.update(params, grads)
        other.update(others, copies(grads))
    for name, w in params.items():
        bits.assert_same_bits(w, others[name])
    assert one.t == other.t == 12


@engine_runs.every_engine
def test_arrays_that_were_refused_once_are_refused_again(engine):
    engine_runs.require(engine)
    memory = np.zeros(20, "float32")
    params, grads = {"a": memory[:7], "b": memory[10:17]}, problem(2)[1]
    grads = dict(zip("ab", grads.values(), strict=True))
    optimizer = SGD(engine=engine)
    optimizer.update(params, grads)
    optimizer.update(params, grads)
    before = memory.copy()
    params["b"] = memory[3:10]
    for _ in range(3):
        with pytest.raises(ValueError, match="share memory"):
            optimizer.update(params, grads)
    bits.assert_same_bits(memory, before)
    assert optimizer.t == 2


@engine_runs.every_engine
def test_a_gradient_that_moves_onto_its_parameter_is_refused(engine):
    engine_runs.require(engine)
    params, grads = problem()
    optimizer = Adam(engine=engine)
    for _ in range(3):
        optimizer.update(params, grads)
    for _ in range(2):
        with pytest.raises(ValueError, match="share memory"):
            optimizer.update(params, {**grads, "w1": params["w1"][:]})
    optimizer.update(params, grads)
    assert optimizer.t == 4


@engine_runs.every_engine
def test_frozen_parts_and_overrides_are_not_forgotten(engine):
    engine_runs.require(engine)
    params, grads = problem()
    start = copies(params)
    optimizer = SGD(0.5, engine=engine)
    for _ in range(3):
        optimizer.update(params, grads)
    optimizer.frozen = ("w0",)
    held = params["w0"].copy()
    for _ in range(3):
        optimizer.update(params, grads)
    bits.assert_same_bits(params["w0"], held)
    optimizer.overrides = {"w1": {"lr": 0.0}}
    held = params["w1"].copy()
    for _ in range(3):
        optimizer.update(params, grads)
    bits.assert_same_bits(params["w1"], held)
    assert (params["w2"] != start["w2"]).any()


@engine_runs.every_engine
def test_a_chain_of_nothing_but_an_optimizer_is_that_optimizer(engine):
    engine_runs.require(engine)
    params, grads = problem()
    others = copies(params)
    one, other = chain(Adam(), engine=engine), Adam(engine=engine)
    for t in range(6):
        if t == 3:
            one.lr = other.lr = 0.25
        one.update(params, grads)
        other.update(others, grads)
    for name, w in params.items():
        bits.assert_same_bits(w, others[name])
    assert one.t == other.t == 6


@pytest.mark.parametrize("engine", ["native", "blocked"])
def test_passes_that_come_back_are_prepared_once(engine, monkeypatch):
    """`accumulate` has another graph in every second call. The short way asks for none."""
    engine_runs.require(engine)
    prepared, prepare = [], FusedBucket.arrangement

    def count(self, rows):
        arrangement = prepare(self, rows)
        prepared.append(arrangement)
        return arrangement

    monkeypatch.setattr(FusedBucket, "arrangement", count)
    params, grads = problem()
    optimizer = chain(accumulate(2), Adam(), engine=engine)
    for _ in range(10):
        optimizer.update(params, grads)
    assert len(prepared) == (2 if engine == "native" else 10)
    assert len({id(arrangement) for arrangement in prepared}) == 2


@pytest.fixture
def long_ways(monkeypatch):
    """Count the steps that are not taken the short way."""
    taken, step = [], Plan.step

    def count(self, *arguments):
        taken.append(self)
        return step(self, *arguments)

    monkeypatch.setattr(Plan, "step", count)
    return taken


def test_gradients_that_are_new_arrays_go_the_short_way(long_ways):
    """Most users compute new arrays at every step."""
    engine_runs.require("native")
    params, grads = problem()
    others, kept = copies(params), []
    one, other = Adam(engine="native"), Adam(engine="blocked")
    for _ in range(6):
        kept.append(copies(grads))  # all are alive, so that none has the address of another
        one.update(params, kept[-1])
    assert len(long_ways) == 1
    for _ in range(6):
        other.update(others, grads)
    for name, w in params.items():
        bits.assert_same_bits(w, others[name])


@pytest.mark.parametrize("step", [2, -2, -1])
def test_strided_gradients_that_are_new_arrays_go_the_short_way(long_ways, step):
    """Arrays that are no lines, or lines that run backwards, begin within what they take."""
    engine_runs.require("native")
    params = {"a": np.zeros((6, 4), "float32")[:, ::2], "b": np.zeros(30, "float32")[::step]}
    others, kept = copies(params), []
    one, other = Adam(engine="native"), Adam(engine="blocked")
    for t in range(6):
        new = {
            "a": np.full((6, 2), t + 1.0, "float32"),
            "b": np.full(30, t - 1.0, "float32")[::step],
        }
        kept.append(new)  # all are alive, so that none has the address of another
        one.update(params, kept[-1])
        other.update(others, kept[-1])
    assert len(long_ways) == 1 + 6
    for name, w in params.items():
        bits.assert_same_bits(w, others[name])


@pytest.mark.parametrize("first", range(11, 36))
def test_a_gradient_that_runs_backwards_onto_a_parameter_is_refused(first):
    """It begins behind the parameter, or ends before it, or touches it: of six elements, by two."""
    engine_runs.require("native")
    room = np.zeros(40, "float32")
    w, optimizer = room[14:20], SGD(engine="native")
    for _ in range(3):
        optimizer.update(w, np.ones(12, "float32")[::-2])
    gradient = room[first - 10 : first + 1][::-2]
    touches = np.shares_memory(w, gradient)
    for _ in range(2):
        if touches:
            with pytest.raises(ValueError, match="share memory"):
                optimizer.update(w, gradient)
        else:
            optimizer.update(w, gradient)
    assert optimizer.t == (3 if touches else 5)


def test_a_chain_of_an_optimizer_alone_goes_the_short_way(long_ways):
    engine_runs.require("native")
    params, grads = problem()
    others = copies(params)
    one, other = chain(Adam(), engine="native"), Adam(engine="blocked")
    for step in range(6):
        one.lr = other.lr = 0.1 if step < 3 else 0.2
        one.update(params, grads)
        other.update(others, grads)
    assert len(long_ways) == 1 + 6
    for name, w in params.items():
        bits.assert_same_bits(w, others[name])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda **settings: chain(clip_by_global_norm(0.5), LAMB(), average(0.9), **settings),
        lambda **settings: chain(clip_by_global_norm(0.5), accumulate(2), Adam(), **settings),
        lambda **settings: LAMB(overrides={"b": {"lr": 0.5}}, **settings),
    ],
    ids=["clipped LAMB", "accumulated", "grouped LAMB"],
)
def test_sums_of_short_steps_have_the_bits_of_long_ones(make, threads, long_ways):
    """Of tensors of no tile, one, several, of those that are no lines, and of two dtypes."""
    engine_runs.require("native")
    rng = np.random.default_rng(0)
    shapes = {"a": (7,), "b": (40_000,), "c": (0,), "d": (300, 200), "e": (260_000,), "f": (5,)}

    def arrays():
        found = {name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
        return found | {"d": found["d"][:, ::2], "f": found["f"].astype("f8")}

    params = arrays()
    others = copies(params)
    one, other = make(engine="native", threads=threads), make(engine="blocked")
    for _ in range(7):
        grads = arrays()
        one.update(params, grads)
        other.update(others, grads)
    assert sum(plan is one._state.plan for plan in long_ways) <= 2
    for name, w in params.items():
        bits.assert_same_bits(w, others[name])


def test_a_short_step_that_is_turned_away_changes_nothing(long_ways):
    engine_runs.require("native")
    params, grads = problem(2)
    optimizer = chain(skip_nonfinite(), NAdam(), average(0.5), engine="native")
    for _ in range(4):
        optimizer.update(params, grads)
    before, state = copies(params), repr(optimizer.state_dict()["states"])
    for bad in (np.nan, np.inf, -np.inf):
        optimizer.update(params, {**grads, "w1": np.full(7, bad, "float32")})
    assert (optimizer.t, optimizer.skipped, len(long_ways)) == (4, 3, 1)
    assert repr(optimizer.state_dict()["states"]) == state
    for name, w in params.items():
        bits.assert_same_bits(w, before[name])
    optimizer.update(params, grads)
    assert (optimizer.t, optimizer.skipped, len(long_ways)) == (5, 3, 1)


def test_parameters_that_move_go_the_long_way_once(long_ways):
    engine_runs.require("native")
    params, grads = problem()
    optimizer = Adam(engine="native")
    for step in range(9):
        if step in (3, 6):
            params["w1"] = params["w1"].copy()
        optimizer.update(params, copies(grads))
    assert len(long_ways) == 3


@pytest.mark.parametrize("shift", [-7, -6, -1, 0, 1, 6, 7])
@pytest.mark.parametrize("owner", range(3))
def test_a_gradient_beside_a_parameter_is_taken_and_one_upon_it_is_refused(owner, shift):
    """Parameters and gradient are in one block of memory, a parameter's length apart."""
    engine_runs.require("native")
    block = np.zeros(70, "float32")
    params = {f"w{i}": block[14 + 14 * i :][:7] for i in range(3)}
    optimizer = SGD(engine="native")
    for _ in range(3):
        optimizer.update(params, {name: np.ones(7, "float32") for name in params})
    before, start = block.copy(), 14 + 14 * owner + shift
    grads = {name: np.ones(7, "float32") for name in params}
    grads["w1"] = block[start:][:7]
    if abs(shift) == 7:
        optimizer.update(params, grads)
        assert optimizer.t == 4
    else:
        for _ in range(2):
            with pytest.raises(ValueError, match="share memory"):
                optimizer.update(params, grads)
        bits.assert_same_bits(block, before)
        assert optimizer.t == 3


def test_empty_parameters_and_gradients_touch_nothing(long_ways):
    engine_runs.require("native")
    params = {"a": np.zeros(0), "b": np.ones(5), "c": np.zeros(0)}
    optimizer, kept = SGD(1.0, engine="native"), []
    for _ in range(4):
        kept.append({name: np.ones_like(w) for name, w in params.items()})
        kept[-1]["a"] = params["b"][2:2]
        optimizer.update(params, kept[-1])
    assert params["b"].tolist() == [-3.0] * 5
    assert len(long_ways) == 1


# Views that interleave -------------------------------------------------------------------------


@pytest.fixture
def plans(monkeypatch):
    """Collect the plans that are made."""
    made, make = [], Plan.__init__

    def count(self, *arguments):
        made.append(self)
        make(self, *arguments)

    monkeypatch.setattr(Plan, "__init__", count)
    return made


@engine_runs.every_engine
def test_the_columns_of_a_matrix_are_planned_once(engine, plans):
    """Their bounds overlap, and they share nothing."""
    engine_runs.require(engine)
    matrix, gradient, kept = np.zeros((5, 40), "float32"), np.ones((5, 40), "float32"), []
    expected = matrix.copy()
    one, other = SGD(0.5, engine=engine), SGD(0.5, engine=engine)
    params = [matrix[:, i] for i in range(40)]
    for step in range(9):
        kept.append(gradient * (step + 1))  # all are alive, so that none has another's address
        one.update(params, list(kept[-1].T))
    assert len(plans) == 1
    for step in range(9):
        other.update(expected, kept[step])
    bits.assert_same_bits(matrix, expected)


@engine_runs.every_engine
def test_gradients_between_the_columns_of_their_parameters_are_planned_once(engine, plans):
    engine_runs.require(engine)
    room = np.ones((5, 60), "float32")
    params = [room[:, i] for i in range(0, 60, 3)]
    optimizer = SGD(1.0, engine=engine)
    for step in range(8):
        optimizer.update(params, [room[:, i + 1 + step % 2] for i in range(0, 60, 3)])
    assert len(plans) == 1
    assert (room[:, ::3] == -7.0).all()
    assert (room[:, 1::3] == 1.0).all()


@engine_runs.every_engine
def test_columns_that_move_onto_each_other_are_refused(engine):
    engine_runs.require(engine)
    room = np.zeros((5, 12), "float32")
    grads = [np.ones(5, "float32") for _ in range(4)]
    optimizer = SGD(1.0, engine=engine)
    for columns in ([0, 3, 6, 9], [0, 3, 6, 9], [1, 4, 7, 10]):
        optimizer.update([room[:, i] for i in columns], grads)
    before = room.copy()
    for columns in ([1, 4, 7, 7], [1, 4, 4, 10], [0, 3, 6, 0]):
        for _ in range(2):
            with pytest.raises(ValueError, match="share memory"):
                optimizer.update([room[:, i] for i in columns], grads)
    for place in range(4):
        shared = [*grads[:place], room[:, 7], *grads[place + 1 :]]
        with pytest.raises(ValueError, match=r"params\[2\] and grads|grads.* and params\[2\]"):
            optimizer.update([room[:, i] for i in (1, 4, 7, 10)], shared)
    bits.assert_same_bits(room, before)
    assert optimizer.t == 3
    optimizer.update([room[:, i] for i in (1, 4, 7, 10)], grads)
    assert optimizer.t == 4


def view_of(rng, room):
    """Return a random view of an array of three dimensions, whose elements are apart."""
    slices = []
    for n in room.shape:
        first, step = int(rng.integers(n)), int(rng.choice([1, 1, 2, 3, -1, -2]))
        slices.append(slice(first, None, step) if rng.random() < 0.6 else first)
    view = room[tuple(slices)]
    return view[..., :2] if view.ndim and rng.random() < 0.3 else view


def test_what_shares_memory_is_found_exactly():
    rng = np.random.default_rng(0)
    found = {True: 0, False: 0}
    for _ in range(2000):
        room = np.zeros(rng.integers(2, 8, size=3), "float32")
        params = [view_of(rng, room) for _ in range(rng.integers(2, 5))]
        grads = [
            view_of(rng, room) if rng.random() < 0.3 else np.zeros(w.shape, w.dtype) for w in params
        ]
        leaves = [
            validation.Leaf(i, (i,), w, g)
            for i, (w, g) in enumerate(zip(params, grads, strict=True))
        ]
        others = [(w, x) for i, w in enumerate(params) for x in (*params[:i], *grads)]
        shares = any(w.size and x.size and np.shares_memory(w, x) for w, x in others)
        found[shares] += 1
        if shares:
            with pytest.raises(ValueError, match="share memory"):
                overlaps.check_overlaps("SGD.update", leaves)
        else:
            overlaps.check_overlaps("SGD.update", leaves)
    assert min(found.values()) > 200

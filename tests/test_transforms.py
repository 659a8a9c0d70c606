"""Each transform against its textbook loop, and what it does at its edges."""

import pickle

import bits
import engine_runs
import numpy as np
import pytest
from error_analysis import Rounded

from instep import SGD, Adam, Rprop, arrays, chain
from instep.transforms import (
    accumulate,
    average,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    lookahead,
    maximize,
    project,
    project_norm,
    scale_gradients,
    skip_nonfinite,
    weight_decay,
)

LR = 0.3
STEPS = 20

# As in the test of the rules: where a rule groups the operations of its textbook in another way,
# two roundings stand for one.
REGROUPED = 2


def with_gradients(change):
    """Return the textbook loop of gradient descent on changed gradients."""

    def follow(w, gradients):
        for g in gradients:
            w = w - LR * change(w, g)
            yield w

    return follow


def with_parameters(change):
    """Return the textbook loop of gradient descent whose parameters are changed afterwards."""

    def follow(w, gradients):
        for g in gradients:
            w = change(w - LR * g)
            yield w

    return follow


def norm(x):
    return np.sqrt(np.sum(x * x))


def accumulated(w, gradients):
    total = 0 * w
    for call, g in enumerate(gradients, 1):
        total = total + g
        if call % 3 == 0:
            w, total = w - LR * (total / 3), 0 * w
        yield w


def looked_ahead(w, gradients):
    slow = w
    for t, g in enumerate(gradients, 1):
        w = w - LR * g
        if t % 4 == 0:
            w = slow = slow + 0.25 * (w - slow)
        yield w


TEXTBOOK = [
    (clip_by_value(0.5), with_gradients(lambda w, g: np.minimum(np.maximum(g, -0.5), 0.5))),
    (clip_by_norm(1.5), with_gradients(lambda w, g: 1.5 / np.maximum(norm(g), 1.5) * g)),
    (clip_by_global_norm(1.5), with_gradients(lambda w, g: 1.5 / np.maximum(norm(g), 1.5) * g)),
    (weight_decay(0.2), with_gradients(lambda w, g: g + 0.2 * w)),
    (scale_gradients(0.7), with_gradients(lambda w, g: 0.7 * g)),
    (maximize(), with_gradients(lambda w, g: -g)),
    (skip_nonfinite(), with_gradients(lambda w, g: g)),
    (accumulate(3), accumulated),
    (lookahead(4, 0.25), looked_ahead),
    (project(-0.3, 0.4), with_parameters(lambda w: np.minimum(np.maximum(w, -0.3), 0.4))),
    (project_norm(2.0), with_parameters(lambda w: 2.0 / np.maximum(norm(w), 2.0) * w)),
    (average(0.9), with_gradients(lambda w, g: g)),
]


def problem(dtype, size=300):
    rng = np.random.default_rng(8)
    return [bits.ordinary(rng, size, dtype) for _ in range(1 + STEPS)]


def assert_within_bound(path, expected):
    for step, (got, want) in enumerate(zip(path, expected, strict=True), 1):
        error = abs(got.astype(np.longdouble) - want.value)
        assert (error <= REGROUPED * want.error).all(), f"step {step}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("transform", "textbook"), TEXTBOOK, ids=lambda x: getattr(x, "name", ""))
def test_a_transform_follows_its_textbook(transform, textbook, dtype):
    start, *gradients = problem(dtype)
    order = (transform, SGD(LR)) if transform.stage == "gradient" else (SGD(LR), transform)
    optimizer, w, path = chain(*order), start.copy(), []
    for g in gradients:
        optimizer.update(w, g)
        path.append(w.copy())
    rounded = [Rounded(g, dtype) for g in gradients]
    assert_within_bound(path, list(textbook(Rounded(start, dtype), rounded)))


# Clipping -------------------------------------------------------------------------------


@engine_runs.every_engine
@pytest.mark.parametrize("transform", [clip_by_norm, clip_by_global_norm])
def test_gradients_within_the_norm_keep_their_bits(transform, engine):
    engine_runs.require(engine)
    gradient = np.array([3.0, -0.0, 4.0, 1e-40], "float32")
    for limit, expected in [(5.0, gradient), (5.1, gradient), (1e30, gradient)]:
        w = np.zeros(4, "float32")
        chain(transform(limit), maximize(), SGD(1.0), engine=engine).update(w, gradient)
        bits.assert_same_bits(w, 0 + expected)


@engine_runs.every_engine
def test_the_global_norm_is_that_of_all_tensors(engine):
    engine_runs.require(engine)
    params = {"b": np.zeros((1, 2)), "a": np.zeros(1), "c": np.zeros(0), "d": np.zeros(1)}
    grads = {"b": np.array([[1.0, 2.0]]), "a": np.array([2.0]), "c": np.zeros(0), "d": None}
    chain(clip_by_global_norm(1.5), SGD(1.0), engine=engine).update(params, grads)
    np.testing.assert_array_equal(params["b"], [[-0.5, -1.0]])
    np.testing.assert_array_equal(params["a"], [-1.0])
    np.testing.assert_array_equal(params["d"], [0.0])


@engine_runs.every_engine
def test_exploding_gradients_are_clipped_and_not_lost(engine):
    """Their squares are beyond float32, and in other libraries their norm is infinite."""
    engine_runs.require(engine)
    w = np.zeros(2, "float32")
    gradient = np.array([3e30, 4e30], "float32")
    chain(clip_by_global_norm(1.0), SGD(1.0), engine=engine).update(w, gradient)
    np.testing.assert_allclose(w, [-0.6, -0.8], rtol=2**-22)  # four roundings to float32


@engine_runs.every_engine
def test_nan_is_not_clipped_away(engine):
    engine_runs.require(engine)
    for transform in (clip_by_value(1.0), clip_by_norm(1.0), project(-1.0, 1.0)):
        w = np.zeros(2)
        order = (transform, SGD(1.0)) if transform.stage == "gradient" else (SGD(1.0), transform)
        chain(*order, engine=engine).update(w, np.array([np.nan, 5.0]))
        assert np.isnan(w[0])


# Averages -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decay", [0.9, lambda t: min(0.9, t / (t + 3))], ids=["fixed", "schedule"])
def test_an_average_is_the_weighted_mean_of_the_path(decay, dtype):
    start, *gradients = problem(dtype)
    optimizer, w = chain(SGD(LR), average(decay)), start.copy()
    total, weight, expected, path = 0 * Rounded(start, dtype), 0.0, [], []
    for t, g in enumerate(gradients, 1):
        optimizer.update(w, g)
        path.append(optimizer.averaged(w))
        rate = decay(t) if callable(decay) else decay
        total = rate * total + (1 - rate) * Rounded(w, dtype)
        weight = rate * weight + (1 - rate)
        expected.append(total / weight)
    assert_within_bound(path, expected)


def test_a_decay_of_zero_averages_nothing():
    start, *gradients = problem("float32")
    optimizer = chain(Adam(), average(0.0))
    for g in gradients:
        optimizer.update(start, g)
    bits.assert_same_bits(optimizer.averaged(start), start)


def test_a_missing_gradient_leaves_its_average_alone():
    rng = np.random.default_rng(0)
    params, alone = {"a": np.ones(5), "b": np.ones(5), "never": np.ones(2)}, np.ones(5)
    both, one = chain(Adam(), average(0.9)), chain(Adam(), average(0.9))
    for step in range(9):
        g = rng.standard_normal(5)
        present = step % 3 != 1
        both.update(params, {"a": g, "b": g if present else None, "never": None})
        if present:
            one.update(alone, g)
    averages = both.averaged(params)
    bits.assert_same_bits(averages["b"], one.averaged(alone))
    bits.assert_same_bits(averages["never"], params["never"])
    assert averages["never"] is not params["never"]
    assert not np.array_equal(averages["a"], averages["b"])


@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_averages_swapped_in_and_out_leave_the_very_bits(dtype):
    rng = np.random.default_rng(0)
    params = {"a": bits.wild(rng, 50, dtype), "b": [np.array([np.nan, -0.0, 1e-7], dtype)]}
    optimizer = chain(Adam(), average(0.5))
    for _ in range(3):
        optimizer.update(params, {"a": bits.ordinary(rng, 50, dtype), "b": [None]})
    before, state = [params["a"].copy(), params["b"][0].copy()], optimizer.state_dict()
    averages = optimizer.averaged(params)
    assert optimizer.swap_averaged(params) is params
    bits.assert_same_bits(params["a"], averages["a"])
    with pytest.raises(RuntimeError, match="averages are swapped in"):
        optimizer.update(params, {"a": np.ones(50, dtype), "b": [None]})
    optimizer = pickle.loads(pickle.dumps(optimizer))
    optimizer.swap_averaged(params)
    assert params["a"].tobytes() == before[0].tobytes()
    assert params["b"][0].tobytes() == before[1].tobytes()
    optimizer.update(params, {"a": np.ones(50, dtype), "b": [None]})
    assert optimizer.t == state["t"] + 1


def test_averages_are_refused_where_they_do_not_fit():
    params = {"a": np.ones(3), "b": np.ones(2)}
    optimizer = chain(SGD(), average(0.5))
    optimizer.update(params, {"a": np.ones(3), "b": np.ones(2)})
    with pytest.raises(ValueError, match=r"\['a'\] is numpy float64 \(4,\), but its average"):
        optimizer.averaged({"a": np.ones(4)})
    frozen = np.ones(3)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        optimizer.swap_averaged({"a": frozen})
    optimizer.swap_averaged(params)
    kept = params["a"].copy()
    for other in ({"a": kept}, {"a": kept, "b": np.ones(9)}, {"a": kept, "x": np.ones(2)}):
        with pytest.raises(ValueError, match="not the tree of the first call"):
            optimizer.swap_averaged(other)
    optimizer.swap_averaged(params)
    with pytest.raises(ValueError, match=r"put average\(decay\) at its end"):
        chain(clip_by_value(1.0), SGD()).averaged(params)


def test_every_library_averages(xp):
    start, *gradients = problem("float32", 40)
    expected, w = chain(Adam(), average(0.9)), start.copy()
    optimizer, params = chain(Adam(), average(0.9)), {"w": xp.asarray(start)}
    for g in gradients:
        expected.update({"w": w}, {"w": g})
        params = optimizer.update(params, {"w": xp.asarray(g)})
    # Into an optimizer that has not met the library yet, too.
    loaded = chain(Adam(), average(0.9)).load_state_dict(expected.state_dict())
    for source in (optimizer, loaded):
        averages = source.averaged(params)
        assert type(averages["w"]) is type(params["w"])
        got = arrays.to_numpy(averages["w"])
        np.testing.assert_allclose(got, expected.averaged({"w": w})["w"], rtol=1e-5)
    swapped = optimizer.swap_averaged(params)
    got = arrays.to_numpy(swapped["w"])
    np.testing.assert_allclose(got, expected.averaged({"w": w})["w"], rtol=1e-5)


def test_lookahead_starts_from_where_the_parameters_started():
    w = np.array([8.0])
    optimizer = chain(SGD(1.0), lookahead(k=2, alpha=0.5))
    seen = [optimizer.update(w, np.array([2.0])).item() for _ in range(4)]
    assert seen == [6.0, 6.0, 4.0, 4.0]


@pytest.mark.parametrize("bad", [0, 1.5, -1, "two", None])
def test_counts_are_integers(bad):
    for transform in (accumulate, lookahead):
        with pytest.raises(
            (TypeError, ValueError), match=f"{transform.__name__}: k must be an int"
        ):
            transform(bad)


# Constraints ----------------------------------------------------------------------------


@engine_runs.every_engine
def test_projection_bounds_what_is_stored(engine):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal(1000), "b": rng.standard_normal((30, 20))}
    optimizer = chain(SGD(1.0), project(0.0, 0.25), engine=engine)
    for _ in range(3):
        optimizer.update(params, {k: rng.standard_normal(w.shape) for k, w in params.items()})
        assert all(((w >= 0) & (w <= 0.25)).all() for w in params.values())
        assert all((w == 0.25).any() and (w == 0).any() for w in params.values())


def test_a_bound_that_is_not_given_is_none():
    for keywords, expected in [({}, [-9, 9]), ({"lower": 0}, [0, 9]), ({"upper": 0}, [-9, 0])]:
        w = chain(SGD(0.0), project(**keywords)).update(np.array([-9.0, 9.0]), np.ones(2))
        np.testing.assert_array_equal(w, expected)
    with pytest.raises(ValueError, match="lower must not be above upper"):
        project(1.0, 0.0)
    with pytest.raises(ValueError, match="upper must be a number"):
        project(upper=float("nan"))


@engine_runs.every_engine
def test_a_ball_holds_each_tensor(engine):
    engine_runs.require(engine)
    params = {"in": np.array([0.6, 0.0]), "out": np.array([30.0, -40.0]), "none": np.zeros(0)}
    grads = {key: np.zeros_like(w) for key, w in params.items()}
    chain(SGD(1.0), project_norm(1.0), engine=engine).update(params, grads)
    np.testing.assert_array_equal(params["in"], [0.6, 0.0])
    np.testing.assert_array_equal(params["out"], np.array([30.0, -40.0]) * (1 / 50))


# Accumulation ---------------------------------------------------------------------------


@engine_runs.every_engine
def test_accumulated_calls_are_a_step_along_their_mean(engine):
    """Bias corrections and schedules of what stands after it count steps, not calls."""
    engine_runs.require(engine)
    start, *gradients = problem("float32")
    rates = {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5}
    gathering = chain(accumulate(4), Adam(lr=rates.__getitem__), average(0.5), engine=engine)
    plain = chain(Adam(lr=rates.__getitem__), average(0.5), engine=engine)
    w, expected = start.copy(), start.copy()
    for call, g in enumerate(gradients, 1):
        gathering.update(w, g)
        if call % 4 == 0:
            total = np.zeros(300, "float32")
            for part in gradients[call - 4 : call]:
                total += part
            plain.update(expected, total / np.float32(4))
        bits.assert_same_bits(w, expected)
        if call >= 4:
            bits.assert_same_bits(gathering.averaged(w), plain.averaged(expected))
    assert (gathering.t, plain.t) == (20, 5)


@engine_runs.every_engine
def test_a_parameter_steps_after_its_own_gradients(engine):
    """It takes no part in norms of other calls: only what steps is clipped together."""
    engine_runs.require(engine)
    optimizer = chain(accumulate(2), clip_by_global_norm(1.0), SGD(1.0), engine=engine)
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    steps = []
    for call in range(6):
        b = None if call == 0 else np.array([4.0])
        optimizer.update(params, {"a": np.array([3.0]), "b": b})
        steps.append((params["a"].item(), params["b"].item()))
    assert steps == [(0, 0), (-1, 0), (-1, -1), (-2, -1), (-2, -2), (-3, -2)]


def test_accumulations_may_be_nested():
    """The inner one counts what the outer one lets through."""
    optimizer, w = chain(accumulate(2), accumulate(3), SGD(lr=lambda t: t)), np.zeros(1)
    seen = [optimizer.update(w, np.array([float(i)])).item() for i in range(12)]
    assert seen == [0.0] * 5 + [-2.5] * 6 + [-2.5 - 2 * 8.5]


def test_the_number_of_calls_is_fixed():
    gather = accumulate(2)
    optimizer = chain(gather, SGD())
    gather.k = 2
    with pytest.raises(AttributeError, match="k cannot be changed, from 2 to 3"):
        gather.k = 3
    with pytest.raises(TypeError, match="k must be an integer >= 1, got"):
        accumulate(lambda t: t)
    other = chain(accumulate(3), SGD(0.5))
    before = other.state_dict()
    with pytest.raises(ValueError, match="saved with accumulate_k=2, and this optimizer has 3"):
        other.load_state_dict(optimizer.state_dict())
    assert other.state_dict() == before


# Steps that are turned away -------------------------------------------------------------


def snapshot(params, optimizer):
    state = optimizer.state_dict()
    arrays = {key: w.tobytes() for key, w in params.items()}
    slots = {
        (key, name): slot.tobytes()
        for key, entry in state["states"].items()
        for name, slot in entry["slots"].items()
    }
    rest = {key: (e["missed"], e["scalars"]) for key, e in state["states"].items()}
    return arrays, slots, rest, state["t"], state["hyperparameters"]


def hundred(rng, dtype):
    return {f"{i:03}": bits.ordinary(rng, 1 + 7 * i, dtype) for i in range(100)}


@pytest.mark.parametrize(
    ("dtype", "value"), [("float16", np.inf), ("float32", np.nan), ("float64", -np.inf)]
)
@pytest.mark.parametrize("calls", [[0, 1], [1, 2, 4], [3]], ids=str)
@engine_runs.every_engine
def test_a_call_that_is_turned_away_has_never_been(engine, dtype, value, calls):
    engine_runs.require(engine)
    rng = np.random.default_rng(6)
    start, gradients = hundred(rng, dtype), [hundred(rng, dtype) for _ in range(3)]

    def make():
        # Everything that remembers something.
        parts = (skip_nonfinite(), clip_by_global_norm(1.0), Rprop(), average(0.9), lookahead(2))
        return chain(*parts, engine=engine)

    expected, expected_params = make(), {key: w.copy() for key, w in start.items()}
    optimizer, params = make(), {key: w.copy() for key, w in start.items()}
    good = iter(gradients)
    for call in range(3 + len(calls)):
        if call not in calls:
            grads = next(good)
            expected.update(expected_params, grads)
            optimizer.update(params, grads)
            continue
        grads = dict(gradients[0])
        grads["093"] = grads["093"].copy()
        grads["093"][-1] = value
        before = snapshot(params, optimizer)
        assert optimizer.update(params, grads) is params
        assert snapshot(params, optimizer) == before
    assert optimizer.skipped == len(calls)
    assert snapshot(params, optimizer) == snapshot(expected_params, expected)


@engine_runs.every_engine
def test_what_is_changed_after_a_first_call_that_was_turned_away_counts(engine):
    """State that starts from parameters or hyperparameters starts at the first step taken."""
    engine_runs.require(engine)
    optimizer = chain(skip_nonfinite(), Rprop(lr=0.25), lookahead(1, 0.5), engine=engine)
    w = np.array([1.0])
    optimizer.update(w, np.array([np.inf]))
    w[...] = 3.0
    optimizer.lr = 1.0
    optimizer.update(w, np.array([1.0]))
    assert w.item() == 2.5


@engine_runs.every_engine
@pytest.mark.parametrize("bad", [0, 1, 2, 3])
def test_calls_may_be_turned_away_before_they_are_accumulated(engine, bad):
    engine_runs.require(engine)
    optimizer = chain(skip_nonfinite(), accumulate(2), Adam(0.1), engine=engine)
    expected = chain(accumulate(2), Adam(0.1), engine=engine)
    w, other = np.ones(3), np.ones(3)
    for call in range(5):
        g = np.array([1.0, -2.0, call])
        if call == bad:
            optimizer.update(w, np.array([1.0, np.nan, 1.0]))
        optimizer.update(w, g)
        expected.update(other, g)
        bits.assert_same_bits(w, other)
    assert (optimizer.t, optimizer.skipped) == (5, 1)


@engine_runs.every_engine
def test_a_mean_gradient_may_be_turned_away_as_a_whole(engine):
    """The calls before it stay gathered, as if the last one had not been."""
    engine_runs.require(engine)
    optimizer, w = chain(accumulate(2), skip_nonfinite(), SGD(1.0), engine=engine), np.zeros(1)
    for g, value in [(1.0, 0.0), (np.inf, 0.0), (3.0, -2.0)]:
        optimizer.update(w, np.array([g]))
        assert w.item() == value
    assert (optimizer.t, optimizer.skipped) == (2, 1)


@engine_runs.every_engine
def test_a_step_is_turned_away_for_all_dtypes_together(engine):
    engine_runs.require(engine)
    params = {"half": np.zeros(3, "float16"), "double": np.zeros(3), "no": np.zeros(2, "float32")}
    optimizer = chain(skip_nonfinite(), SGD(1.0), engine=engine)
    # Where it stands it looks: after the scaling the half-precision gradient is finite.
    scaled = chain(scale_gradients(2.0**-10), skip_nonfinite(), SGD(1.0), engine=engine)
    grads = {"half": np.array([0, np.inf, 0], "float16"), "double": np.ones(3), "no": None}
    for each in (optimizer, scaled):
        each.update(params, grads)
        assert (each.t, each.skipped) == (0, 1)
        assert not any(w.any() for w in params.values())
    grads["half"] = np.full(3, 60000, "float16")
    scaled.update(params, grads)
    assert (scaled.t, scaled.skipped) == (1, 1)
    assert params["double"].all()


def test_the_number_of_skipped_calls_is_part_of_the_state():
    optimizer = chain(skip_nonfinite(), SGD())
    for _ in range(3):
        optimizer.update(np.zeros(1), np.array([np.nan]))
    assert optimizer.skipped == 3
    loaded = chain(skip_nonfinite(), SGD()).load_state_dict(optimizer.state_dict())
    assert (loaded.skipped, loaded.t) == (3, 0)
    loaded.reset()
    assert loaded.skipped == 0


def test_every_library_turns_steps_away(xp):
    optimizer, params = chain(skip_nonfinite(), SGD(1.0)), {"a": xp.zeros(2), "b": xp.zeros(1)}
    params = optimizer.update(params, {"a": xp.asarray([0.0, float("inf")]), "b": xp.ones(1)})
    assert (float(params["b"][0]), optimizer.t, optimizer.skipped) == (0.0, 0, 1)
    params = optimizer.update(params, {"a": xp.asarray([0.0, 2.0]), "b": xp.ones(1)})
    assert (float(params["b"][0]), optimizer.t, optimizer.skipped) == (-1.0, 1, 1)

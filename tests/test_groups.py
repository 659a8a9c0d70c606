"""Hyperparameters by path, and frozen parameters: as separate optimizers, in one launch."""

import copy
import importlib
import pickle

import bits
import cases
import engine_runs
import numpy as np
import pytest

from instep import SGD, Adam, AdamW, RMSProp, Rprop, chain, partition
from instep.transforms import accumulate, average, clip_by_global_norm, weight_decay

STEPS = 6


def sixty(seed=0, dtype="float32"):
    """Return a tree of 60 tensors: weights and biases of an encoder and a head."""
    rng = np.random.default_rng(seed)
    return {
        part: [
            {
                "weight": bits.ordinary(rng, (3 + i, 5), dtype),
                "bias": bits.ordinary(rng, 3 + i, dtype),
            }
            for i in range(15)
        ]
        for part in ("encoder", "head")
    }


def flat(tree):
    return {
        f"{part}/{i}/{name}": w
        for part, layers in tree.items()
        for i, layer in enumerate(layers)
        for name, w in layer.items()
    }


GROUPS = {"*/bias": {"weight_decay": 0.0}, "encoder/*": {"lr": 1e-4, "beta1": 0.5}}


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_groups_have_the_bits_of_separate_optimizers(engine, threads, dtype):
    engine_runs.require(engine)
    params, separate = sixty(dtype=dtype), flat(sixty(dtype=dtype))
    settings = {"engine": engine, "threads": threads}
    optimizer = AdamW(lr=1e-3, overrides=GROUPS, frozen=["head/1[01]/*"], **settings)
    others = {
        ("encoder", "weight"): AdamW(lr=1e-4, beta1=0.5, **settings),
        ("encoder", "bias"): AdamW(lr=1e-4, beta1=0.5, weight_decay=0.0, **settings),
        ("head", "weight"): AdamW(lr=1e-3, **settings),
        ("head", "bias"): AdamW(lr=1e-3, weight_decay=0.0, **settings),
    }
    for step in range(STEPS):
        grads = sixty(seed=step + 1, dtype=dtype)
        optimizer.update(params, grads)
        for (part, name), other in others.items():
            chosen = {
                key: w
                for key, w in separate.items()
                if key.startswith(part)
                and key.endswith(name)
                and not key.startswith(("head/10/", "head/11/"))
            }
            other.update(chosen, {key: flat(grads)[key] for key in chosen})
    for key, w in flat(params).items():
        bits.assert_same_bits(w, separate[key], key)


class Spy:
    """Counts the calls of what the native engine compiles of rules."""

    def __init__(self, monkeypatch):
        self.calls = 0
        module = importlib.import_module("instep.engines.native.one_call")
        add, make = module.Calls.run, module.OneCall.__init__

        def add_and_count(calls, *arguments):
            calls.kernels = getattr(calls, "kernels", 0) + 1
            add(calls, *arguments)

        def make_counting(one, first, last, *arguments):
            make(one, first, last, *arguments)
            run, count = one.run, sum(getattr(calls, "kernels", 0) for calls in (first, last))

            def run_and_count(*scalars):
                self.calls += count
                return run(*scalars)

            one.run = run_and_count

        monkeypatch.setattr(module.Calls, "run", add_and_count)
        monkeypatch.setattr(module.OneCall, "__init__", make_counting)


@pytest.mark.parametrize(
    ("make", "passes"),
    [
        (AdamW, 1),
        (lambda **groups: chain(clip_by_global_norm(1.0), AdamW(**groups), average(0.9)), 2),
    ],
    ids=["AdamW", "clipped, averaged AdamW"],
)
def test_three_groups_of_sixty_tensors_take_one_native_call_a_pass(make, passes, monkeypatch):
    engine_runs.require("native")
    spy = Spy(monkeypatch)
    params = sixty()
    optimizer = make(overrides=GROUPS | {"head/0/*": {"lr": lambda t: 1 / t}})
    for step in range(1, STEPS):
        optimizer.update(params, sixty(step))
        assert spy.calls == step * passes
    (bucket,) = optimizer.explain(params).buckets
    assert (bucket.launches, len(bucket.leaves)) == (passes, 60)
    assert bucket.groups == 6  # weights and biases of three parts
    assert "6 groups of hyperparameters in the same launches" in str(bucket)


def test_a_schedule_of_a_group_follows_the_steps():
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    optimizer = SGD(1.0, overrides={"a": {"lr": lambda t: 10.0**-t}})
    for _ in range(3):
        optimizer.update(params, {"a": np.ones(1), "b": np.ones(1)})
    np.testing.assert_allclose(params["a"], -0.111, rtol=1e-15)
    assert params["b"].item() == -3.0


def test_of_several_patterns_the_later_wins():
    params = {key: np.zeros(1) for key in ("a", "ab", "abc")}
    grads = {key: np.ones(1) for key in params}
    SGD(1.0, overrides={"a*": {"lr": 2.0}, "*c": {"lr": 3.0}}).update(params, grads)
    assert {key: -w.item() for key, w in params.items()} == {"a": 2.0, "ab": 2.0, "abc": 3.0}
    SGD(1.0, overrides={"*c": {"lr": 3.0}, "a*": {"lr": 2.0}}).update(params, grads)
    assert -params["abc"].item() == 5.0
    # Each speaks only of what it names.
    w = {"ab": np.zeros(1)}
    optimizer = Adam(overrides={"a*": {"lr": 2.0}, "*b": {"eps": 1.0}})
    optimizer.update(w, {"ab": np.ones(1)})
    assert w["ab"].item() == pytest.approx(-2.0 / 2.0)


def test_patterns_match_whole_paths():
    tree = {"layers": [{"bias": np.zeros(1)}, {"bias": np.zeros(1)}], "bias": np.zeros(1)}
    grads = {"layers": [{"bias": np.ones(1)}, {"bias": np.ones(1)}], "bias": np.ones(1)}
    for pattern, expected in [
        ("*/bias", [2.0, 2.0, 1.0]),
        ("*bias", [2.0, 2.0, 2.0]),
        ("bias", [1.0, 1.0, 2.0]),
        ("layers/1/*", [1.0, 2.0, 1.0]),
        ("layers/[!1]/bias", [2.0, 1.0, 1.0]),
        ("layers/?/*", [2.0, 2.0, 1.0]),
    ]:
        params = copy.deepcopy(tree)
        SGD(1.0, overrides={pattern: {"lr": 2.0}}).update(params, grads)
        leaves = [*(layer["bias"] for layer in params["layers"]), params["bias"]]
        assert [-w.item() for w in leaves] == expected, pattern
    w = np.zeros(1)
    SGD(1.0, overrides={"*": {"lr": 2.0}}).update(w, np.ones(1))  # one array has the path ""
    assert w.item() == -2.0


def test_a_pattern_that_matches_nothing_is_an_error():
    params, grads = {"a": np.zeros(1), "b": [np.zeros(1)]}, {"a": np.ones(1), "b": [np.ones(1)]}
    for settings in ({"overrides": {"c*": {"lr": 1.0}}}, {"frozen": ["c*"]}):
        optimizer = SGD(1.0, **settings)
        for call in (lambda o: o.update(params, grads), lambda o: o.explain(params)):
            with pytest.raises(
                ValueError, match=r"'c\*' matches no parameter; there are 'a', 'b/0'"
            ):
                call(optimizer)
        assert optimizer.t == 0
        assert params["a"].item() == 0.0


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (
            {"centered": True},
            ValueError,
            "'centered' cannot be overridden; RMSProp has the numbers",
        ),
        ({"nonsense": 1.0}, ValueError, "'nonsense' cannot be overridden; .* lr, decay, eps, mom"),
        ({"engine": "blocked"}, ValueError, "'engine' cannot be overridden"),
        ({"lr": -1.0}, ValueError, r"overrides\['a'\]: lr must be a finite number >= 0, got -1.0"),
        ({"lr": "fast"}, TypeError, r"overrides\['a'\]: lr must be"),
    ],
)
def test_an_override_that_makes_no_sense_is_an_error(values, error, message):
    params = {"a": np.zeros(1)}
    overrides = {"a": {}}
    optimizer = RMSProp(overrides=overrides)
    overrides["a"] |= values  # which nobody hears of
    with pytest.raises(error, match=message):
        optimizer.update(params, {"a": np.ones(1)})
    assert (optimizer.t, params["a"].item()) == (0, 0.0)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"centered": True}, ValueError, "'centered' cannot be overridden; RMSProp has the num"),
        ({"learning_rate": 0}, ValueError, "'learning_rate' cannot be overridden; it is called lr"),
        ({"decai": 0.5}, ValueError, r"'decai' cannot be overridden; did you mean decay\?"),
        ({"lr": -1}, ValueError, "lr must be a finite number >= 0.*, got -1$"),
        ({"lr": "fast"}, TypeError, "lr must be"),
    ],
)
def test_an_override_that_makes_no_sense_is_refused_when_it_is_given(values, error, message):
    where = r"overrides\['a'\]: "
    optimizer, other = RMSProp(), partition({"b": SGD(), "*": RMSProp()})
    with pytest.raises(error, match=f"^RMSProp, {where}{message}"):
        RMSProp(overrides={"a": values})
    with pytest.raises(error, match=f"^RMSProp, {where}{message}"):
        optimizer.overrides = {"a": values}
    with pytest.raises(
        error, match=f"^Partition, {where}{message.replace('RMSProp', 'Partition')}"
    ):
        other.overrides = {"a": values}
    assert optimizer.overrides == other.overrides == {}


def test_a_chain_takes_over_overrides_of_its_transforms():
    main = SGD(1.0, overrides={"a": {"weight_decay_rate": 0.5}})
    w = chain(weight_decay(0.0), main).update({"a": np.ones(1)}, {"a": np.zeros(1)})
    assert w["a"].item() == 0.5


def test_settings_of_the_wrong_kind_are_refused():
    for overrides in (["a"], {"a": 1.0}, {1: {"lr": 1.0}}):
        with pytest.raises(TypeError, match="overrides must be a dict of path patterns"):
            SGD(overrides=overrides)
    for frozen in ("a", [1]):
        with pytest.raises(TypeError, match="frozen must be a sequence of path patterns"):
            SGD(frozen=frozen)


@pytest.mark.parametrize("how", ["assigned", "in place", "in place within"])
def test_overrides_may_change_between_steps(how):
    params, grads = {"a": np.zeros(1), "b": np.zeros(1)}, {"a": np.ones(1), "b": np.ones(1)}
    optimizer = SGD(1.0, overrides={"a": {"lr": 2.0}})
    optimizer.update(params, grads)
    match how:
        case "assigned":
            optimizer.overrides = {"a": {"lr": 3.0}}
        case "in place":
            optimizer.overrides["a"] = {"lr": 3.0}
        case _:
            optimizer.overrides["a"]["lr"] = 3.0
    optimizer.update(params, grads)
    optimizer.overrides = {}
    optimizer.update(params, grads)
    assert (params["a"].item(), params["b"].item()) == (-6.0, -3.0)


def test_state_that_starts_from_a_hyperparameter_takes_that_of_its_group():
    params = {"a": np.zeros(1), "b": np.zeros(1)}
    Rprop(0.25, overrides={"a": {"lr": 0.5}}).update(params, {k: np.ones(1) for k in params})
    assert (params["a"].item(), params["b"].item()) == (-0.5, -0.25)


# Frozen parameters ------------------------------------------------------------------------


def test_a_step_with_frozen_leaves_that_are_no_arrays_can_be_explained():
    params = {"w": np.zeros(3), "calls": 7, "table": np.arange(4)}
    optimizer = SGD(frozen=["calls", "table"])
    (bucket,) = optimizer.explain(params).buckets
    assert bucket.leaves == ("w",)
    optimizer.update(params, {"w": np.ones(3), "calls": None, "table": None})
    with pytest.raises(TypeError, match=r"SGD\.explain: params\['calls'\]"):
        SGD().explain(params)


def test_leaves_that_do_different_things_are_explained_apart():
    params = {"a": np.zeros(3), "b": np.zeros(3)}
    optimizer = chain(accumulate(2), SGD())
    optimizer.update(params, {"a": np.ones(3), "b": None})
    explanation = optimizer.explain(params)
    assert [(b.leaves, b.bytes_per_element) for b in explanation.buckets] == [
        (("a",), 40),
        (("b",), 24),
    ]
    assert "2 calls make a step; this is number 2 of them" in str(explanation)


@engine_runs.every_engine
def test_frozen_parameters_are_left_alone(engine):
    engine_runs.require(engine)
    params = {"a": np.ones(3), "b": {"x": np.ones(3), "y": np.ones(3)}}
    grads = {"a": np.full(3, 3.0), "b": {"x": np.full(3, np.inf), "y": None}}
    optimizer = chain(clip_by_global_norm(3.0), SGD(1.0, frozen=["b/*"]), engine=engine)
    optimizer.update(params, grads)
    # No part of the norm, and without state.
    np.testing.assert_allclose(params["a"], 1 - 3**0.5, rtol=1e-15)
    assert all((w == 1).all() for w in params["b"].values())
    assert set(optimizer.state_dict()["states"]) == {"a"}
    optimizer.frozen = ["*"]
    optimizer.update(params, grads)
    np.testing.assert_allclose(params["a"], 1 - 3**0.5, rtol=1e-15)
    assert optimizer.t == 2


@engine_runs.every_engine
def test_what_thaws_goes_on_from_where_it_was(engine):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    params, alone = {"a": np.ones(4), "b": np.ones(4)}, np.ones(4)
    optimizer, other = Adam(0.1, engine=engine), Adam(0.1, engine=engine)
    for step in range(9):
        optimizer.frozen = ["b"] if step in (0, 3, 4) else []
        grads = {"a": rng.standard_normal(4), "b": rng.standard_normal(4)}
        optimizer.update(params, grads)
        if step not in (0, 3, 4):
            other.update(alone, grads["b"])
    bits.assert_same_bits(params["b"], alone)


def test_what_is_frozen_may_be_read_only_only_where_it_has_no_gradient():
    fixed = np.ones(2)
    fixed.flags.writeable = False
    params = {"a": np.zeros(2), "fixed": fixed}
    optimizer = SGD(1.0, frozen=["fixed"])
    optimizer.update(params, {"a": np.ones(2), "fixed": None})
    assert (params["a"] == -1).all()


# Chains, state, engines -------------------------------------------------------------------


@engine_runs.every_numpy_engine
def test_groups_in_a_chain_are_those_of_its_optimizer(engine, threads):
    engine_runs.require(engine)
    runs = []
    for settings in ({"engine": engine, "threads": threads}, {"engine": "array_api"}):
        params = sixty()
        optimizer = chain(
            accumulate(2),
            clip_by_global_norm(1.0),
            AdamW(overrides=GROUPS),
            average(0.9),
            **settings,
        )
        optimizer.frozen = ["head/3/bias"]
        for step in range(STEPS):
            grads = sixty(step)
            if step % 4 == 1:
                grads["head"][2]["bias"] = None
            optimizer.update(params, grads)
        runs.append((flat(params), optimizer))
    engine_runs.assert_same_run(*runs)
    bits.assert_same_bits(runs[0][0]["head/3/bias"], flat(sixty())["head/3/bias"])


@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
def test_a_restored_optimizer_keeps_its_groups(how):
    def make():
        return AdamW(0.1, overrides=GROUPS, frozen=["head/0/*"])

    params, optimizer = sixty(), make()
    for step in range(3):
        optimizer.update(params, sixty(step))
    match how:
        case "state_dict":
            restored = make().load_state_dict(optimizer.state_dict())
        case "pickle":
            restored = pickle.loads(pickle.dumps(optimizer))
        case _:
            restored = copy.deepcopy(optimizer)
    assert repr(restored) == repr(optimizer)
    assert "overrides={'*/bias': {'weight_decay': 0.0}" in repr(restored)
    other = copy.deepcopy(params)
    for step in range(3):
        optimizer.update(params, sixty(step + 9))
        restored.update(other, sixty(step + 9))
    engine_runs.assert_same_run((flat(other), restored), (flat(params), optimizer))


@cases.every_class
def test_every_optimizer_takes_groups(case):
    """One that multiplies the learning rate of a part by 0 leaves it alone."""
    if case.moves_at_rate_zero:
        pytest.skip(f"{case} has a smallest step")
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal(5), "b": rng.standard_normal(5)}
    before = copy.deepcopy(params)
    optimizer = case.make(overrides={"b": {"lr": 0.0}})
    for _ in range(3):
        grads = {"a": rng.standard_normal(5), "b": rng.standard_normal(5)}
        cases.step(optimizer, params, grads)
    assert (params["a"] != before["a"]).all()
    bits.assert_same_bits(params["b"], before["b"])


def test_every_library_takes_groups(xp):
    params = {"a": xp.zeros(2), "b": xp.zeros(2), "c": xp.zeros(2)}
    optimizer = SGD(1.0, overrides={"b": {"lr": 0.5}}, frozen=["c"])
    params = optimizer.update(params, {key: xp.ones(2) for key in params})
    assert [float(params[key][1]) for key in "abc"] == [-1.0, -0.5, 0.0]


class TestFunctions:
    """Functions of path and array, in the place of patterns."""

    def test_they_choose_as_patterns_do(self):
        params, expected = sixty(), sixty()
        asked = []

        def is_vector(path, array):
            asked.append((path, array.shape))
            return array.ndim == 1

        def is_frozen(path, array):
            return path.startswith("head/1") and array.shape[0] > 5

        optimizer = AdamW(overrides={is_vector: {"weight_decay": 0.0}}, frozen=[is_frozen])
        other = AdamW(overrides={"*/bias": {"weight_decay": 0.0}}, frozen=["head/1[0-4]/*"])
        for step in range(3):
            optimizer.update(params, sixty(seed=step))
            other.update(expected, sixty(seed=step))
        params = flat(params)
        engine_runs.assert_same_run((params, optimizer), (flat(expected), other))
        # Once for the plan that serves all steps.
        assert sorted(asked) == sorted((path, w.shape) for path, w in params.items())
        optimizer.explain(sixty())
        assert len(asked) == 2 * 60

    def test_a_number_is_shown_as_an_array(self):
        params = {"x": 1.0, "y": 2.0}
        SGD(lr=1.0, frozen=[lambda path, w: path == "x" and w.shape == ()]).update(
            params, {"x": 1.0, "y": 1.0}
        )
        assert params == {"x": 1.0, "y": 1.0}

    def test_errors_show_them(self):
        w = {"a": np.ones(2)}

        def is_matrix(path, array):
            return array.ndim == 2

        with pytest.raises(ValueError, match=r"the function .*is_matrix.* matches no parameter"):
            SGD(overrides={is_matrix: {"lr": 1.0}}).update(w, w)
        with pytest.raises(TypeError, match=r"asked of params\['a'\], must return True or False"):
            SGD(frozen=[lambda path, array: array]).update(w, {"a": np.ones(2)})
        with pytest.raises(TypeError, match="frozen must be a sequence"):
            SGD(frozen=is_matrix)
        with pytest.raises(ValueError, match=r"is_matrix.*'beta' cannot be overridden"):
            SGD(overrides={is_matrix: {"beta": 1.0}}).update(np.ones((2, 2)), np.ones((2, 2)))

    def test_an_optimizer_is_copied_and_pickled_with_functions_that_can_be(self):
        optimizer = SGD(lr=1.0, overrides={_is_short: {"lr": 0.5}}, frozen=[_is_long])
        for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
            params = {"a": np.zeros(1), "b": np.zeros(2), "c": np.zeros(3)}
            other.update(params, {key: np.ones_like(w) for key, w in params.items()})
            assert [w[0] for w in params.values()] == [-0.5, -1.0, 0.0]
        with pytest.raises((AttributeError, pickle.PicklingError)):
            pickle.dumps(SGD(frozen=[lambda path, array: True]))


def _is_short(path, array):
    return len(array) < 2


def _is_long(path, array):
    return len(array) > 2

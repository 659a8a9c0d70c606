"""What can be read of the last step: hyperparameters, and what rules let be read."""

import contextlib
import copy
import pickle

import bits
import engine_runs
import faults
import numpy as np
import pytest

from instep import SGD, Adam, AdamW, Momentum, Optimizer, Prodigy, chain, partition, schedules
from instep.hyperparameters import DecayRate
from instep.transforms import (
    accumulate,
    clip_by_global_norm,
    clip_by_norm,
    skip_nonfinite,
    trust_ratio,
    weight_decay,
)


class Spread(Optimizer):
    """Descent whose rate is derived, with numbers of all kinds to be read."""

    lr: float = 0.1
    decay: DecayRate = 0.5

    tree_readings = ("mean",)
    tensor_readings = ("largest",)
    tensor_numbers = {"longest": 0.0}  # noqa: RUF012
    scalar_slots = {"steps": 0.0}  # noqa: RUF012

    @staticmethod
    def scalars(h):
        return {"rate": h.lr / h.t, "steps": h.steps + 1, "odd": h.t % 2 == 1}

    @staticmethod
    def rule(xp, w, g, s, h):
        norm = xp.norm(g)
        mean = h.lr * xp.tree_sum(xp.abs(g)) / xp.tree_sum(xp.ones_like(g))
        new = {"mean": mean, "longest": xp.maximum(s.longest, norm)}
        if h.odd:
            new["largest"] = xp.max(xp.abs(g))
        return w - h.rate * h.decay_t * g / norm, new


CHAINS = {
    "guarded": lambda **how: chain(
        skip_nonfinite(),
        clip_by_global_norm(1.0),
        AdamW(lr=schedules.Cosine(0.1, steps=20), overrides={"b*": {"weight_decay": 0.0}}),
        **how,
    ),
    "of tensors": lambda **how: chain(clip_by_norm(0.5), SGD(), trust_ratio(), **how),
    "of one's own": lambda **how: Spread(decay=schedules.Linear(0.2, 0.9, steps=8), **how),
    "gathering": lambda **how: chain(skip_nonfinite(), accumulate(2), Spread(), **how),
    "prodigy": Prodigy,
    "parted": lambda **how: chain(
        clip_by_global_norm(0.5),
        partition({"a": Momentum(), "*": chain(clip_by_norm(0.1), Prodigy())}),
        **how,
    ),
}
every_chain = pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
SHAPES = {"a": ((3, 5), "float32"), "b1": ((70,), "float64"), "b2": ((4,), "float32")}


def trees(seed):
    rng = np.random.default_rng(seed)
    return {key: bits.ordinary(rng, shape, dtype) for key, (shape, dtype) in SHAPES.items()}


def read(optimizer):
    """Return all that can be read, as text, in which NaN is itself."""
    found = optimizer.readings
    return repr(dict(found)), {key: repr(dict(one)) for key, one in found.leaves.items()}


def run(optimizer, calls=9):
    """Return what can be read after each of some calls, one of which is no finite one."""
    params, found = trees(0), []
    for call in range(calls):
        grads = trees(call + 1)
        if call == 3:
            grads["b1"] = None
        if call == 5:
            grads["a"][1, 2:] = np.inf, np.nan, -np.inf
        optimizer.update(params, grads)
        found.append(read(optimizer))
    return found


@every_chain
@engine_runs.every_numpy_engine
def test_all_engines_read_the_bits_of_the_specification(engine, threads, make):
    engine_runs.require(engine)
    assert run(make(engine=engine, threads=threads)) == run(make(engine="array_api"))


@every_chain
@engine_runs.every_engine
def test_steps_are_the_same_where_they_are_read(engine, make):
    engine_runs.require(engine)
    optimizers = make(engine=engine), make(engine=engine)
    params = trees(0), trees(0)
    for call in range(6):
        for optimizer, w in zip(optimizers, params, strict=True):
            optimizer.update(w, trees(call + 1))
        read(optimizers[0])
    engine_runs.assert_same_run(*zip(params, optimizers, strict=True))


@engine_runs.every_engine
def test_the_norm_is_that_before_clipping(engine):
    engine_runs.require(engine)
    optimizer, w = chain(clip_by_global_norm(1.0), SGD(lr=1.0), engine=engine), [np.zeros(1)]
    for length in (3.0, 0.25, 7.0, 11.0):
        optimizer.update(w, [np.array([length])])
        assert optimizer.readings["clip_by_global_norm_norm"] == length
        assert optimizer.readings["SGD_lr"] == 1.0


@engine_runs.every_engine
def test_a_call_that_was_turned_away_is_read(engine):
    engine_runs.require(engine)
    optimizer = chain(skip_nonfinite(), clip_by_global_norm(1.0), SGD(), engine=engine)
    w, wrong = np.ones(6), np.array([1.0, np.nan, np.inf, 0.0, -np.inf, 2.0])
    for count in (3, 3, 0, 0, 3, 3, 0):
        optimizer.update(w, wrong if count else np.ones(6))
        assert optimizer.readings["skip_nonfinite_count"] == count
        assert np.isnan(optimizer.readings["clip_by_global_norm_norm"]) == (count > 0)
    assert (optimizer.t, optimizer.skipped) == (3, 4)


@engine_runs.every_engine
def test_hyperparameters_are_those_of_the_last_step(engine):
    engine_runs.require(engine)
    rate = schedules.Linear(1.0, 0.0, steps=10)
    optimizer, w = AdamW(lr=rate, overrides={"b": {"lr": 0.5}}, engine=engine), trees(0)
    w = {"a": w["a"], "b": w["b1"]}
    for t in range(1, 5):
        optimizer.update(w, {key: np.ones_like(x) for key, x in w.items()})
        found = optimizer.readings
        assert "lr" not in found
        assert [found.leaves[key]["lr"] for key in ("a", "b")] == [rate(t), 0.5]
        assert found["beta1_t"] == found.leaves["a"]["beta1_t"] == pytest.approx(0.9**t)
        assert found["t"] == t
    optimizer.lr = 0.25
    assert optimizer.readings.leaves["a"]["lr"] == rate(4)
    optimizer.update(w, copy.deepcopy(w))
    assert optimizer.readings.leaves["a"]["lr"] == 0.25


def test_several_plans_tell_of_the_last_step():
    optimizer, params = chain(clip_by_global_norm(1.0), SGD()), trees(0)
    for call in range(8):
        grads = dict.fromkeys(params)
        key = list(params)[call % 3]
        grads[key] = np.full_like(params[key], call + 1)
        optimizer.update(params, grads)
        found = optimizer.readings
        assert list(found.leaves) == [key]
        norm = (call + 1) * np.sqrt(params[key].size)
        assert found["clip_by_global_norm_norm"] == pytest.approx(norm)


def test_there_is_nothing_before_a_step_and_after_what_starts_anew(tmp_path):
    optimizer, w = AdamW(), np.ones(3)
    for start in (
        lambda: None,
        optimizer.reset,
        lambda: optimizer.load_state_dict(optimizer.state_dict()),
        lambda: (optimizer.save(tmp_path / "state"), optimizer.load(tmp_path / "state")),
    ):
        start()
        assert dict(optimizer.readings) == {}
        assert dict(optimizer.readings.leaves) == {}
        with pytest.raises(KeyError, match=r"AdamW\.readings: there is nothing to read before"):
            optimizer.readings["lr"]
        optimizer.update(w, copy.deepcopy(w))
        assert optimizer.readings["lr"] == 0.001
    for other in (copy.copy(optimizer), copy.deepcopy(optimizer)):
        assert not other.readings
    assert not pickle.loads(pickle.dumps(optimizer)).readings


def test_what_is_read_stays_and_what_is_not_is_refused_after_another_step():
    optimizer, w = chain(clip_by_norm(1.0), SGD()), np.ones(4)
    optimizer.update(w, np.ones(4))
    found = optimizer.readings
    before, of_leaf = dict(found), found.leaves[""]
    for _ in range(3):
        optimizer.update(w, np.full(4, 2.0))
        assert dict(found) == before
        assert of_leaf["clip_by_norm_norm"] == 2.0
        with pytest.raises(RuntimeError, match="another step has been taken since"):
            found.leaves[""]
    assert optimizer.readings.leaves[""]["clip_by_norm_norm"] == 4.0


def test_what_is_not_there_is_said_with_what_is():
    optimizer, w = chain(clip_by_norm(1.0), SGD()), {"a": np.ones(4)}
    optimizer.update(w, copy.deepcopy(w))
    with pytest.raises(KeyError, match=r"no 'rate'; there are .*SGD_lr.*clip_by_norm_norm"):
        optimizer.readings["rate"]
    with pytest.raises(KeyError, match=r"not one number .*leaves\['a'\]\['clip_by_norm_norm'\]"):
        optimizer.readings["clip_by_norm_norm"]
    with pytest.raises(KeyError, match="no leaf 'b' took the step; there are a"):
        optimizer.readings.leaves["b"]
    with pytest.raises(AttributeError):
        optimizer.readings = {}


def test_a_rule_that_no_graph_can_hold_is_read_too():
    class Branching(Optimizer):
        tree_readings = ("norm",)

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - xp.exp(g), {"norm": xp.tree_norm(g)}

    optimizer, w = Branching(), np.ones(2)
    for _ in range(3):
        optimizer.update(w, np.array([3.0, 4.0]))
        assert optimizer.readings["norm"] == 5.0


def failing(what, **declared):
    rule = staticmethod(lambda xp, w, g, s, h: (w - g, what(xp, g, s)))
    return type("Failing", (Optimizer,), {"rule": rule, **declared})()


@pytest.mark.parametrize(
    ("what", "declared", "message"),
    [
        (lambda xp, g, s: {"x": g}, {"tree_readings": ("x",)}, "returns an array for 'x'"),
        (lambda xp, g, s: {"x": xp.sum(g)}, {"tree_readings": ("x",)}, "number of one tensor"),
        (
            lambda xp, g, s: {"x": 2 * s.n, "n": xp.sum(g)},
            {"tensor_readings": ("x",), "tensor_numbers": {"n": 0.0}},
            "made of what steps before have left",
        ),
    ],
)
@engine_runs.every_engine
def test_what_no_reading_can_be_is_refused(engine, what, declared, message):
    engine_runs.require(engine)
    optimizer = failing(what, **declared)
    optimizer.engine = engine
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.update(np.ones(3), np.ones(3))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"tree_readings": "x"}, "write \\('x',\\), with a comma"),
        ({"tree_readings": ("x",), "slots": ("x",)}, "something else has that name"),
        ({"tree_readings": ("x",), "tensor_readings": ("x",)}, "something else has that name"),
        ({"tree_readings": ("readings",)}, "the attribute `readings` of the base class"),
        ({"readings": ("x",)}, "'readings' is an attribute of the base class"),
    ],
)
def test_what_cannot_be_declared_is_refused(declared, message):
    with pytest.raises(TypeError, match=message):
        failing(lambda xp, g, s: {}, **declared)


@pytest.mark.parametrize("steps", [0, 3], ids=["the first step", "a later one"])
@pytest.mark.parametrize("name", ["guarded", "of one's own", "parted"])
@engine_runs.every_engine
def test_an_interrupted_step_is_read_whole_or_not_at_all(engine, name, steps):
    engine_runs.require(engine)

    def begin():
        optimizer, params = CHAINS[name](engine=engine), trees(0)
        for call in range(steps):
            optimizer.update(params, trees(call + 1))
        return optimizer, params

    optimizer, params = begin()
    before = read(optimizer)
    optimizer.update(params, trees(steps + 1))
    after = read(optimizer)
    line, raised = 1, True
    while raised:
        optimizer, params = begin()
        with contextlib.suppress(TimeoutError), faults.Fault(line, TimeoutError) as fault:
            optimizer.update(params, trees(steps + 1))
        raised, found = fault.raised, read(optimizer)
        expected = {after[0]} if optimizer.t > steps else {before[0], "{}"}
        assert found[0] in expected, fault.place
        line += 401 if steps == 0 else 13 if engine == "native" else 101


def test_a_number_that_one_rule_alone_has_can_be_read_without_the_name_of_the_rule():
    optimizer = chain(clip_by_global_norm(1.0), weight_decay(0.1), SGD(lr=0.5))
    optimizer.update(np.ones(2), np.ones(2))
    found = optimizer.readings
    assert found["lr"] == found["SGD_lr"] == 0.5
    assert found["norm"] == found["clip_by_global_norm_norm"]
    assert "lr" in found
    assert found.get("warmth") is None
    assert "decay_rate" not in found  # it is no name, but the end of one
    assert "lr" not in dict(found)


def test_a_number_of_several_rules_is_read_by_its_whole_name():
    optimizer = partition({"a": SGD(lr=0.5), "b": Adam(lr=0.25)})
    optimizer.update({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2), "b": np.ones(2)})
    found = optimizer.readings
    names = [name for name in found if name.endswith("lr")]
    assert len(names) == 2
    assert "lr" not in found
    with pytest.raises(KeyError, match=f"'lr' is of several rules; read {' or '.join(names)}"):
        found["lr"]
    assert found["beta1"] == 0.9

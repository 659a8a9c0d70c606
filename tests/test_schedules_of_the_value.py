"""Schedules that see the value of the objective that a call of `update` is given."""

import copy
import pickle

import bits
import engine_runs
import numpy as np
import pytest

from instep import SGD, Adam, AdamW, chain, partition, schedules
from instep.schedules import After, Join, ReduceOnPlateau, WarmUp
from instep.transforms import accumulate, clip_by_global_norm, skip_nonfinite


class Proportional:
    """A rate that is a part of the value, and notes what it was asked."""

    needs_value = True

    def __init__(self, factor=0.125):
        self.factor, self.asked = factor, []

    def __call__(self, step, value):
        self.asked.append((step, value))
        return self.factor * value

    def __repr__(self):
        return "Proportional()"


MAKERS = {
    "alone": lambda rate, **how: SGD(lr=rate, **how),
    "derived": lambda rate, **how: Adam(beta1=lambda t: 0.5, lr=rate, **how),
    "overridden": lambda rate, **how: AdamW(overrides={"b": {"lr": rate}}, **how),
    "in a chain": lambda rate, **how: chain(clip_by_global_norm(rate), SGD(lr=rate), **how),
    "parted": lambda rate, **how: partition({"a": SGD(), "*": Adam(lr=rate)}, **how),
}
every_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def run(optimizer, values):
    params = {"a": np.ones((3, 2), "float32"), "b": np.full(5, 2.0)}
    for call, value in enumerate(values):
        grads = {"a": np.full((3, 2), 0.5 + call, "float32"), "b": np.full(5, -1.0)}
        optimizer.update(params, grads, value=value)
    return params, optimizer


@every_maker
@engine_runs.every_engine
def test_a_rate_that_is_made_of_the_value_is_that_rate(engine, make):
    engine_runs.require(engine)
    values = [4.0, 2.0, 3.0, 1.0, 0.5, 0.25]
    got = run(make(Proportional(), engine=engine), values)
    expected = run(make(lambda step: 0.125 * values[step - 1], engine=engine), values)
    engine_runs.assert_same_run(got, expected)


@engine_runs.every_engine
def test_the_schedule_is_asked_with_step_and_value(engine):
    engine_runs.require(engine)
    rate, w = Proportional(), np.ones(3)
    optimizer = SGD(lr=rate, engine=engine)
    for value in (np.float32(4.0), 2, np.array(3.0), 1.0, 0.5):
        rate.asked.clear()
        optimizer.update(w, np.ones(3), value=value)
        assert set(rate.asked) == {(optimizer.t, float(value))}
        assert type(rate.asked[0][1]) is float
        assert optimizer.readings["lr"] == 0.125 * float(value)


@every_maker
@engine_runs.every_engine
def test_what_is_no_number_of_the_host_is_refused_and_nothing_is_changed(engine, make):
    engine_runs.require(engine)
    optimizer, params = make(Proportional(), engine=engine), {"a": np.ones(3), "b": np.ones(2)}
    grads = {key: np.ones_like(w) for key, w in params.items()}
    for t in range(4):
        before = copy.deepcopy(params)
        for value, error in ((None, ValueError), ("1", TypeError), (10**400, ValueError)):
            match = r"update: Proportional\(\) needs the value of the objective"
            with pytest.raises(error, match=match):
                optimizer.update(params, grads, value=value)
        assert optimizer.t == t
        for key, w in params.items():
            bits.assert_same_bits(w, before[key])
        optimizer.update(params, grads, value=1.0)


def test_a_value_of_a_device_is_refused(cupy):
    with pytest.raises(TypeError, match=r"is on a device; wait for it, as in value=float\(loss\)"):
        SGD(lr=Proportional()).update(cupy.ones(3), cupy.ones(3), value=cupy.asarray(1.0))
    for _ in range(3):
        SGD().update(cupy.ones(3), cupy.ones(3), value=cupy.asarray(1.0))


def test_steps_of_which_a_device_decides_are_told_too(cupy):
    rates = plateau(values=1), plateau(values=1)
    optimizers = [chain(skip_nonfinite(), SGD(lr=rate)) for rate in rates]
    params = cupy.zeros(1), np.zeros(1)
    for value, g in ((3.0, 1.0), (2.0, np.nan), (9.0, 1.0), (2.0, 1.0), (2.0, np.inf), (2.0, 1.0)):
        optimizers[0].update(params[0], cupy.full(1, g), value=value)
        optimizers[1].update(params[1], np.full(1, g), value=value)
    bits.assert_same_bits(params[0].get(), params[1])
    assert rates[0] == rates[1]


def test_a_schedule_may_be_set_between_steps():
    optimizer, w = SGD(lr=0.5), np.zeros(1)
    transform = clip_by_global_norm(1.0)
    chained, v = chain(transform, SGD(lr=1.0)), np.zeros(1)
    for _ in range(3):
        optimizer.update(w, np.ones(1))
        chained.update(v, np.ones(1))
    optimizer.lr, transform.max_norm = Proportional(), Proportional()
    for value in (4.0, 2.0, 8.0):
        before = w.copy(), v.copy()
        optimizer.update(w, np.ones(1), value=value)
        chained.update(v, np.full(1, 9.0), value=value)
        assert before[0] - w == 0.125 * value
        assert before[1] - v == 0.125 * value
    with pytest.raises(ValueError, match="it is missing"):
        optimizer.update(w, np.ones(1))
    optimizer.lr = 0.5
    optimizer.update(w, np.ones(1))


def test_no_array_of_the_user_is_kept():
    class Value(np.ndarray):
        alive = 0

        def __del__(self):
            Value.alive -= 1

    for optimizer in (SGD(lr=Proportional()), SGD()):
        w = np.ones(3)
        for _ in range(4):
            value = np.array(2.0).view(Value)
            Value.alive += 1
            optimizer.update(w, np.ones(3), value=value)
            del value
            assert Value.alive == 0


def test_an_optimizer_is_explained_without_a_value():
    optimizer, w = SGD(lr=ReduceOnPlateau(0.1, values=2)), np.ones(3)
    assert "SGD" in str(optimizer.explain(w))


def plateau(**given):
    return ReduceOnPlateau(1.0, factor=0.5, patience=1, threshold=0.0, **given)


@engine_runs.every_engine
def test_a_plateau_of_values_lowers_the_rate(engine):
    engine_runs.require(engine)
    values = [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0]
    reported, w = plateau(), np.zeros(1)
    optimizer = SGD(lr=plateau(values=1), engine=engine)
    for value in values:
        reported.report(value)
        optimizer.update(w, np.ones(1), value=value)
        assert optimizer.readings["lr"] == reported(1)
    assert reported(1) == 0.25


def test_a_plateau_hears_the_mean_of_several_values():
    reported, optimizer, w = plateau(), SGD(lr=plateau(values=4)), np.zeros(1)
    for mean in (3.0, 2.0, 2.0, 2.0, 1.0):
        for part in (-0.5, 0.5, 0.25, -0.25):
            optimizer.update(w, np.ones(1), value=mean + part)
        reported.report(mean)
        assert optimizer.readings["lr"] == reported(1)


def test_a_call_that_is_repeated_counts_once():
    optimizer, w = chain(skip_nonfinite(), SGD(lr=plateau(values=1))), np.zeros(1)
    for value in (3.0, 2.0):
        for _ in range(5):
            optimizer.update(w, np.full(1, np.nan), value=value)
            with pytest.raises(ValueError, match="value of the objective"):
                optimizer.update(w, np.ones(1))
        optimizer.update(w, np.ones(1), value=value)
        assert optimizer.readings["SGD_lr"] == 1.0
    gathered = chain(accumulate(2), SGD(lr=plateau(values=1)))
    for value in (9.0, 3.0, 9.0, 2.0):
        gathered.update(w, np.ones(1), value=value)
    assert gathered.readings["SGD_lr"] == 1.0


def test_a_plateau_of_values_stands_in_other_schedules():
    values = [3.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    alone, rates = plateau(values=1), []
    for step, value in enumerate(values, 1):
        rates.append(alone(step, value))
    assert rates[-1] == 0.25
    for other, expected in (
        (2.0 * plateau(values=1), [2 * rate for rate in rates]),
        (plateau(values=1) + 1.0, [1 + rate for rate in rates]),
        (After(3, of=plateau(values=1)), rates),
        (Join([plateau(values=1), 7.0], [5]), [*rates[:5], 7.0]),
        (WarmUp(2, then=plateau(values=1)), [0.0, 0.5, 1.0, 1.0, 0.5, 0.5]),
    ):
        assert other.needs_value is True
        got = [other(step, value) for step, value in enumerate(values, 1)]
        assert got == expected, other
    assert schedules.Cosine(1.0, steps=3).needs_value is False


def test_a_plateau_of_values_refuses_reports_and_is_copied_with_what_it_heard():
    schedule = plateau(values=2)
    with pytest.raises(TypeError, match="with values=2, the values that `update` is given"):
        schedule.report(1.0)
    schedule(1, 3.0)
    for other in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert other == schedule
        assert [other(step, 3.0) for step in (2, 3, 4, 5, 6)] == [1.0, 1.0, 1.0, 1.0, 0.5]
    assert schedule(9) == 1.0

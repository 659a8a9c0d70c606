"""The value of the objective, which `update` is given and rules read as a number."""

import bits
import engine_runs
import numpy as np
import pytest
from with_value import Polyak, Times

from instep import SGD, Optimizer, chain, schedules
from instep.transforms import accumulate, average, clip_by_global_norm, skip_nonfinite

CHAINS = {
    "alone": Polyak,
    "scheduled": lambda **how: Polyak(lr=schedules.Exponential(1.0, 0.9), **how),
    "in a chain": lambda **how: chain(clip_by_global_norm(1.0), Polyak(), average(0.5), **how),
    "of a transform": lambda **how: chain(Times(), SGD(), **how),
    "of both": lambda **how: chain(Times(), skip_nonfinite(), Polyak(), **how),
    "gathering": lambda **how: chain(accumulate(2), Polyak(), **how),
}
every_chain = pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)


def trees(seed, dtypes=("float32", "float64")):
    rng = np.random.default_rng(seed)
    shapes = ((3, 5), (7,))
    return {
        dtype: bits.ordinary(rng, shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)
    }


def value_of(params):
    return float(sum((np.abs(w.astype("complex128")) ** 2).sum() for w in params.values()))


def run(optimizer, dtypes, steps=9):
    params, values = trees(0, dtypes), []
    for step in range(steps):
        values.append(value_of(params))
        grads = trees(step + 1, dtypes)
        if step == 4:
            grads[dtypes[0]] = None
        optimizer.update(params, grads, value=values[-1])
    return params, optimizer


@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("complex64", "float16")], ids=str)
@every_chain
@engine_runs.every_numpy_engine
def test_all_engines_have_the_bits_of_the_specification(engine, threads, make, dtypes):
    engine_runs.require(engine)
    got = run(make(engine=engine, threads=threads), dtypes)
    engine_runs.assert_same_run(got, run(make(engine="array_api"), dtypes))


@engine_runs.every_engine
def test_a_step_is_what_the_value_makes_it(engine):
    engine_runs.require(engine)
    w, g = np.array([1.0, 2.0]), np.array([0.0, 2.0])
    optimizer = Polyak(engine=engine)
    for value, least, m in ((1.0, 1.0, g), (8.0, 1.0, 1.5 * g)):
        before = w.copy()
        optimizer.update(w, g, value=value)
        rate = min(1.0, value / (m @ m))
        np.testing.assert_array_equal(w, before - rate * m + (value - least))


@pytest.mark.parametrize(
    "kind", [float, np.float32, np.array, lambda x: np.array(x, dtype="float16"), int]
)
@engine_runs.every_engine
def test_a_number_of_any_kind_is_a_value(engine, kind):
    engine_runs.require(engine)
    w, expected = np.ones(3), np.ones(3)
    for _ in range(3):
        Polyak(engine=engine).update(w, np.full(3, 2.0), value=kind(2.0))
        Polyak(engine="array_api").update(expected, np.full(3, 2.0), value=2.0)
    bits.assert_same_bits(w, expected)


def test_an_array_of_any_library_is_a_value(xp):
    w, g = xp.ones(3, dtype=xp.float64), xp.full((3,), 2.0, dtype=xp.float64)
    expected = np.ones(3)
    optimizers = Polyak(), Polyak()
    for value in (2.0, 1.0, 0.5):
        w = optimizers[0].update(w, g, value=xp.asarray(value, dtype=xp.float32))
        optimizers[1].update(expected, np.full(3, 2.0), value=value)
    found = w.get() if hasattr(w, "get") else np.asarray(w)
    np.testing.assert_allclose(found, expected, rtol=1e-15)


@every_chain
def test_a_missing_value_is_refused_by_name_and_nothing_is_changed(make):
    optimizer, params = make(), trees(0)
    before = {key: w.copy() for key, w in params.items()}
    for t in range(4):
        with pytest.raises(ValueError, match=r"(Polyak|Times) needs the value .* value=loss"):
            optimizer.update(params, trees(1))
        assert optimizer.t == t
        for key, w in params.items():
            bits.assert_same_bits(w, before[key])
        optimizer.update(params, trees(1), value=1.0)
        before = {key: w.copy() for key, w in params.items()}


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("1.0", TypeError),
        (1j, TypeError),
        (True, TypeError),
        (np.ones(1), TypeError),
        (10**400, ValueError),
    ],
    ids=repr,
)
@engine_runs.every_engine
def test_what_is_no_number_is_refused_and_nothing_is_changed(engine, value, error):
    engine_runs.require(engine)
    optimizer, w = Polyak(engine=engine), np.ones(3)
    for t in range(3):
        before = w.copy()
        with pytest.raises(error, match=r"Polyak.update: the value must be a real number"):
            optimizer.update(w, np.ones(3), value=value)
        assert optimizer.t == t
        bits.assert_same_bits(w, before)
        optimizer.update(w, np.ones(3), value=1.0)


def test_rules_that_do_not_ask_for_it_are_given_it_in_vain():
    w, expected = np.ones(3), np.ones(3)
    SGD().update(w, np.ones(3), value=object())
    SGD().update(expected, np.ones(3))
    bits.assert_same_bits(w, expected)


def test_it_is_no_state():
    optimizer, w = Polyak(), np.ones(3)
    optimizer.update(w, np.ones(3), value=3.0)
    state = optimizer.state_dict()
    assert state["numbers"] == {"least": 3.0}
    again = Polyak().load_state_dict(state)
    v = w.copy()
    optimizer.update(w, np.ones(3), value=2.0)
    again.update(v, np.ones(3), value=2.0)
    bits.assert_same_bits(v, w)


@engine_runs.every_engine
def test_trees_in_turn_have_each_their_value(engine):
    engine_runs.require(engine)
    both, expected = trees(0), trees(0)
    optimizer, specification = Polyak(engine=engine), Polyak(engine="array_api")
    for step in range(12):
        key = list(both)[step % 2]
        for one, params in ((optimizer, both), (specification, expected)):
            one.update({key: params[key]}, {key: trees(step)[key]}, value=1.0 + step)
    engine_runs.assert_same_run((both, optimizer), (expected, specification))


def test_a_rule_that_does_not_say_so_is_told_how():
    class Silent(Optimizer):
        lr: float = 0.1

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - h.lr * h.value * g, {}

    for engine in ("array_api", "auto"):
        with pytest.raises(AttributeError, match=r"'value'.*set needs_value = True"):
            Silent(engine=engine).update(np.ones(3), np.ones(3), value=1.0)


def test_no_hyperparameter_has_its_name():
    with pytest.raises(TypeError, match=r"Wrong: with needs_value.*choose another name"):

        class Wrong(Optimizer):
            value: float = 0.1
            needs_value = True

            @staticmethod
            def rule(xp, w, g, s, h):
                return w, {}

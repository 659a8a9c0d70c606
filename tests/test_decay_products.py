"""Bias corrections where decay rates are schedules: by the product of the rates, not a power."""

import copy
import math
import pickle

import engine_runs
import numpy as np
import pytest

import instep
from instep import (
    SGD,
    AdaBelief,
    Adam,
    AdaMax,
    AdamW,
    Adan,
    AMSGrad,
    Momentum,
    NAdam,
    RAdam,
    Yogi,
    chain,
)
from instep.hyperparameters import DecayRate
from instep.optimizer import Optimizer
from instep.plan import step as plan
from instep.schedules import Linear
from instep.transforms import accumulate, average, skip_nonfinite

RATES = Linear(0.85, 0.95, steps=10)
STEPS = 12


def rates(steps=STEPS, schedule=RATES):
    return [schedule(t) for t in range(1, steps + 1)]


def moves(optimizer, steps=STEPS, gradient=1.0):
    """Return the steps that an optimizer takes on a constant gradient."""
    w, found = np.zeros(1), []
    for _ in range(steps):
        before = w.copy()
        optimizer.update(w, np.full(1, gradient))
        found.append(float((w - before)[0]))
    return found


@pytest.mark.parametrize("rate", ["beta1", "beta2"])
@pytest.mark.parametrize("make", [Adam, AdamW, AMSGrad, AdaMax], ids=lambda make: make.__name__)
def test_a_constant_gradient_gives_steps_of_the_learning_rate(make, rate):
    """The weights of a mean add up to 1 less the product of the rates so far."""
    keywords = {"weight_decay": 0.0} if make is AdamW else {}
    optimizer = make(lr=1.0, eps=0.0, **{rate: RATES}, **keywords)
    if make is AMSGrad and rate == "beta2":  # its largest v is never corrected down
        assert moves(optimizer, 1) == [-1.0]
        return
    np.testing.assert_allclose(moves(optimizer), -1.0, rtol=1e-14)


class Corrected(Optimizer):
    """Takes a step of the product itself."""

    beta: DecayRate = 0.5

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.beta_t * g, {}


def products(optimizer, steps=STEPS):
    return [-step for step in moves(optimizer, steps)]


@engine_runs.every_engine
def test_the_product_of_a_constant_rate_is_its_power_to_the_bit(engine):
    engine_runs.require(engine)
    w = np.zeros(1)
    optimizer = Corrected(0.9, engine=engine)
    for t in range(1, 200):
        w[:] = 0.0
        optimizer.update(w, np.ones(1))
        assert -float(w[0]) == instep.correctly_rounded.power(0.9, t)
    assert optimizer.state_dict()["states"][""]["scalars"] == {}


@engine_runs.every_engine
def test_the_product_of_a_schedule_is_that_of_its_values(engine):
    engine_runs.require(engine)
    got, want = products(Corrected(RATES, engine=engine)), np.cumprod(rates())
    np.testing.assert_allclose(got, want, rtol=1e-14)


@engine_runs.every_engine
def test_each_part_of_the_tree_has_a_product_of_its_own(engine):
    engine_runs.require(engine)
    optimizer = Corrected(0.5, overrides={"b": {"beta": RATES}, "c": {"beta": 0.25}}, engine=engine)
    params = {name: np.zeros(2) for name in "abcd"}
    for t in range(1, 6):
        for w in params.values():
            w[:] = 0.0
        grads = {name: np.ones(2) for name in "abc"} | {"d": np.ones(2) if t % 2 else None}
        optimizer.update(params, grads)
        found = {name: -float(w[0]) for name, w in params.items()}
        expected = {"a": 0.5**t, "b": math.prod(rates(t)), "c": 0.25**t, "d": 0.0}
        if t % 2:
            expected["d"] = 0.5 ** (t // 2 + 1)  # it counts its own steps
        assert found == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    "restore",
    [
        lambda old, new: pickle.loads(pickle.dumps(old)),
        lambda old, new: copy.copy(old),
        lambda old, new: new.load_state_dict(old.state_dict()),
    ],
    ids=["pickle", "copy", "state_dict"],
)
@engine_runs.every_engine
def test_a_state_that_is_restored_goes_on_with_the_product(engine, restore):
    engine_runs.require(engine)
    one = Adam(0.1, beta1=RATES, beta2=Linear(0.9, 0.99, steps=20), engine=engine)
    first = moves(one, 5, 0.3)
    other = restore(one, Adam(0.1, engine=engine))
    assert first != moves(one, 5, 0.3) == moves(other, 5, 0.3)


@engine_runs.every_engine
def test_a_state_in_a_file_goes_on_with_the_product(engine, tmp_path):
    engine_runs.require(engine)
    one = Adam(0.1, beta1=RATES, engine=engine)
    moves(one, 5)
    one.save(tmp_path / "state.npz")
    other = Adam(0.1, beta1=RATES, engine=engine).load(tmp_path / "state.npz")
    assert moves(one) == moves(other)


@engine_runs.every_engine
def test_a_rate_that_becomes_constant_goes_on_from_its_product(engine):
    engine_runs.require(engine)
    optimizer = Corrected(RATES, engine=engine)
    products(optimizer, 4)
    optimizer.beta = 0.5
    want = math.prod(rates(4)) * 0.5 ** np.arange(1, 5)
    np.testing.assert_allclose(products(optimizer, 4), want, rtol=1e-14)


@engine_runs.every_engine
def test_a_rate_that_becomes_a_schedule_is_taken_to_have_been_constant(engine):
    engine_runs.require(engine)
    optimizer = Corrected(0.5, engine=engine)
    products(optimizer, 4)
    optimizer.beta = lambda t: 0.5 if t == 5 else 0.25
    np.testing.assert_allclose(products(optimizer, 3), 0.5**5 * 0.25 ** np.arange(3), rtol=1e-14)


@engine_runs.every_engine
def test_a_rate_that_is_set_by_hand_is_multiplied_too(engine):
    engine_runs.require(engine)
    optimizer, found = Corrected(0.5, engine=engine), []
    for rate in (0.5, 0.5, 0.25, 0.5, 0.5):
        optimizer.beta = rate
        found += products(optimizer, 1)
    np.testing.assert_allclose(found, np.cumprod([0.5, 0.5, 0.25, 0.5, 0.5]), rtol=1e-14)


@engine_runs.every_engine
def test_rates_that_have_been_the_same_in_all_steps_give_the_bits_of_constant_ones(engine):
    engine_runs.require(engine)
    constant, by_hand = Corrected(0.9, engine=engine), Corrected(0.5, engine=engine)
    by_hand.beta = 0.9
    assert products(by_hand, 40) == products(constant, 40)
    scheduled = Corrected(lambda t: 0.9, engine=engine)
    assert products(scheduled, 40) != products(constant, 40) == products(scheduled, 40)


def test_the_plan_of_a_chain_is_kept_while_rates_are_constant(monkeypatch):
    made = []
    init = plan.Plan.__init__
    monkeypatch.setattr(plan.Plan, "__init__", lambda *given: made.append(1) or init(*given))
    for main in (Adam(), Adam(beta1=RATES)):
        made.clear()
        moves(chain(skip_nonfinite(), main), 6)
        assert len(made) == 1


@engine_runs.every_engine
def test_a_rate_in_a_chain_may_become_a_schedule_and_constant_again(engine):
    engine_runs.require(engine)
    main = Corrected(0.5)
    optimizer = chain(skip_nonfinite(), main, average(0.5), engine=engine)
    products(optimizer, 2)
    main.beta = lambda t: 0.5 if t == 3 else 0.25
    np.testing.assert_allclose(products(optimizer, 2), [0.5**3, 0.5**3 * 0.25], rtol=1e-14)
    main.beta = 0.5
    np.testing.assert_allclose(products(optimizer, 2), [0.5**4 * 0.25, 0.5**5 * 0.25], rtol=1e-14)


@engine_runs.every_engine
def test_a_call_that_is_turned_away_multiplies_nothing(engine):
    engine_runs.require(engine)
    optimizer = chain(skip_nonfinite(), Corrected(RATES), engine=engine)
    found = products(optimizer, 2)
    w = np.zeros(1)
    optimizer.update(w, np.full(1, np.nan))
    found += products(optimizer, 2)
    np.testing.assert_allclose(found, np.cumprod(rates(4)), rtol=1e-14)


@engine_runs.every_engine
def test_calls_that_only_gather_multiply_nothing(engine):
    engine_runs.require(engine)
    found = products(chain(accumulate(3), Corrected(RATES), engine=engine), 9)
    np.testing.assert_allclose(found[2::3], np.cumprod(rates(3)), rtol=1e-14)
    assert not any(found[0::3] + found[1::3])


@pytest.mark.parametrize(
    "make", [NAdam, RAdam, AdaBelief, Yogi, Adan, instep.LAMB, instep.ScheduleFreeAdamW]
)
def test_engines_agree_where_rates_are_schedules(make):
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((STEPS, 40)).astype("float32")
    names = [entry.name for entry in make.hyperparameters if entry.domain.decays]
    found = []
    for engine in ("array_api", "blocked", "native"):
        if engine_runs.why_not(engine) is None:
            w = np.ones(40, "float32")
            optimizer = make(engine=engine, **dict.fromkeys(names, RATES))
            for g in gradients:
                optimizer.update(w, g)
            found.append(w)
    for w in found:
        assert np.isfinite(w).all()
        assert w.tobytes() == found[0].tobytes()


def test_scalars_see_the_product_too():
    """RAdam's length of the mean is of the weights so far: with rates that rise, it is shorter."""
    seen = []

    class Watching(RAdam):
        @staticmethod
        def scalars(h):
            seen.append(float(h.beta2_t))
            return RAdam.scalars(h)

    moves(Watching(beta2=RATES), 4)
    np.testing.assert_allclose(sorted(set(seen), reverse=True), np.cumprod(rates(4)), rtol=1e-14)
    seen.clear()
    moves(Watching(beta2=0.5), 4)
    assert sorted(set(seen), reverse=True) == [0.5, 0.25, 0.125, 0.0625]


def test_names_of_products_may_be_taken():
    class Taken(Optimizer):
        beta: DecayRate = 0.5
        beta_t: float = 3.0

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - h.beta_t * g, {}

    assert products(Taken(), 2) == [3.0, 3.0]
    assert products(Taken(beta=RATES), 2) == [3.0, 3.0]


def test_rates_that_do_not_decay_have_no_product():
    class Rated(SGD):
        @staticmethod
        def rule(xp, w, g, s, h):
            return w - h.lr_t * g, {}

    with pytest.raises(AttributeError, match="reads the hyperparameter 'lr_t', which does not"):
        Rated().update(np.ones(1), np.ones(1))


ARRAY = np.array([0.5, 0.75])


@engine_runs.every_engine
def test_no_product_is_read_where_the_rate_is_an_array(engine):
    """As with a constant rate, of which the power would be taken: an error, and not NaN."""
    engine_runs.require(engine)
    params, grads = {"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2), "b": np.ones(2)}
    for make, rate, message in (
        (Adam, "beta1", "Adam: beta1 is an array, which Adam.rule cannot take there"),
        (RAdam, "beta2", "RAdam: beta2 is an array, and RAdam.scalars computes numbers"),
    ):
        optimizer = make(**{rate: RATES}, overrides={"a": {rate: ARRAY}}, engine=engine)
        with pytest.raises(TypeError, match=message):
            optimizer.update(params, grads)
        moved, w = make(engine=engine), np.ones(2)
        setattr(moved, rate, 0.5)
        moved.update(w, np.ones(2))
        before = w.copy()
        setattr(moved, rate, ARRAY)
        with pytest.raises(TypeError, match=message):
            moved.update(w, np.ones(2))
        assert w.tolist() == before.tolist()
    assert params["b"].tolist() == [1.0, 1.0]


@engine_runs.every_engine
def test_steps_with_an_array_leave_the_product_as_it_was(engine):
    engine_runs.require(engine)
    optimizer, w = Momentum(momentum=0.5, engine=engine), np.ones(2)
    for rate in (0.25, 0.5, ARRAY, ARRAY, 0.5):
        optimizer.momentum = rate
        optimizer.update(w, np.ones(2))
    assert optimizer.state_dict()["states"][""]["scalars"] == {"momentum_t": 0.25 * 0.5 * 0.5}


@engine_runs.every_engine
@pytest.mark.parametrize("at", [1, 2, 5, 17, 18])
@pytest.mark.parametrize(
    "make", [Adam, lambda **s: chain(accumulate(1), Adam(**s))], ids=["Adam", "chain"]
)
def test_a_rate_that_a_schedule_sets_in_the_midst_of_a_step_counts_from_the_next(make, at, engine):
    engine_runs.require(engine)
    gradients = np.random.default_rng(0).standard_normal((20, 5))
    found = []
    for is_amid in (True, False):
        optimizer, w = make(lr=0.01, engine=engine), np.ones(5)

        def rate(step, optimizer=optimizer, is_amid=is_amid):
            if is_amid and step == at:
                optimizer.beta1 = 0.5
            return 0.01

        optimizer.lr = rate
        for step, gradient in enumerate(gradients, 1):
            if not is_amid and step == at + 1:
                optimizer.beta1 = 0.5
            optimizer.update(w, gradient)
        found.append(w)
    assert np.array_equal(*found)

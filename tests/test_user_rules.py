"""Rules that a user writes are fused like the kit's own; those that cannot be, run all the same."""

import math

import bits
import cases
import engine_runs
import numpy as np
import pytest
from cases import ClippedAMSGrad, UserSignum

from instep import Optimizer
from instep.graph import FusionError
from instep.hyperparameters import NonNegative


class Saturating(Optimizer):
    """A step along a saturated gradient: tanh is not rounded exactly."""

    lr: NonNegative = 0.5
    slots = ("m",)

    @staticmethod
    def rule(xp, w, g, s, h):
        m = 0.5 * s.m + xp.exp(-abs(g))
        return w - h.lr * xp.tanh(g) * m, {"m": m}


@pytest.mark.parametrize("engine", ["native", "blocked"])
@pytest.mark.parametrize("rule", [UserSignum, ClippedAMSGrad])
def test_a_rule_of_a_user_is_fused(rule, engine):
    engine_runs.require(engine)
    w = np.ones(100, "float32")
    optimizer = rule(engine=engine)
    optimizer.update({"w": w}, {"w": w * 2})
    (bucket,) = optimizer.explain({"w": w}).buckets
    assert bucket.engine == engine
    assert bucket.passes == 1
    read_and_written = 2 * len(optimizer.slots) + 3
    assert bucket.bytes_per_element == 4 * read_and_written


@pytest.mark.parametrize("engine", ["native", "blocked"])
def test_an_operation_that_cannot_be_fused_is_an_error_where_fusion_was_asked_for(engine):
    engine_runs.require(engine)
    w = np.ones(3)
    optimizer = Saturating(engine=engine)
    with pytest.raises(
        FusionError, match=r"Saturating\.rule cannot be fused: .*xp\.exp.*array_api"
    ):
        optimizer.update(w, np.ones(3))
    assert (w == 1).all()
    assert optimizer.t == 0


@pytest.mark.parametrize("engine", ["auto", "array_api"])
def test_it_runs_on_the_array_library_otherwise(engine):
    w, m = np.ones(3), 0.0
    optimizer = Saturating(engine=engine)
    for _ in range(3):
        expected = w.copy()
        optimizer.update(w, np.full(3, 2.0))
        m = 0.5 * m + math.exp(-2.0)
        # Not rounded exactly: a few units in the last place.
        assert w == pytest.approx(expected - 0.5 * math.tanh(2.0) * m, rel=1e-14)


def test_explain_says_why_it_is_not_fused():
    text = str(Saturating().explain({"w": np.ones(3)}))
    assert "array_api" in text
    assert "xp.exp" in text
    assert "bits may differ" in text


def test_explain_of_a_fused_rule_shows_the_code():
    w = {"w": np.ones(3, "float32")}
    optimizer = UserSignum(engine="blocked")
    text = str(optimizer.explain(w))
    assert "blocked" in text
    assert "20 bytes" in text
    (bucket,) = optimizer.explain(w).buckets
    assert "multiply" in bucket.code[0]
    assert optimizer.t == 0


class WithScalars(Optimizer):
    """Branches on a number of the step in `scalars`, where plain Python runs."""

    lr: NonNegative = 1.0

    @staticmethod
    def scalars(h):
        return {"warm": h.t > 3, "length": math.exp(-h.t)}

    @staticmethod
    def rule(xp, w, g, s, h):
        if h.warm:
            return w - h.lr * g, {}
        return w - h.length * g, {}


@engine_runs.every_engine
def test_numbers_and_branches_may_come_from_the_step(engine):
    engine_runs.require(engine)
    optimizer, w, expected = WithScalars(engine=engine), np.zeros(3), 0.0
    for t in range(1, 7):
        optimizer.update(w, np.ones(3))
        expected -= 1.0 if t > 3 else math.exp(-t)
        assert w.tolist() == [expected] * 3


class Starting(Optimizer):
    """State that does not start from zero."""

    lr: NonNegative = 0.25
    slots = ("ones", "anchor", "rate")

    def initial_state(self):
        return {"ones": 1.0, "anchor": "w", "rate": "lr"}

    @staticmethod
    def rule(xp, w, g, s, h):
        return w + s.ones + s.rate * (s.anchor - w), {}


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_state_may_start_from_numbers_parameters_and_hyperparameters(engine, dtype):
    engine_runs.require(engine)
    optimizer, w = Starting(engine=engine), np.full(3, 2.0, dtype)
    optimizer.update(w, np.zeros(3, dtype))
    assert w.tolist() == [3.0] * 3
    optimizer.update(w, np.zeros(3, dtype))
    assert w.tolist() == [3.0 + 1.0 + 0.25 * (2.0 - 3.0)] * 3
    slots = engine_runs.slots_of(optimizer)[""]
    assert slots["anchor"].tolist() == [2.0] * 3
    assert slots["anchor"].dtype == ("float64" if dtype == "float64" else "float32")


class Constant(Optimizer):
    """Returns numbers in place of arrays."""

    lr: NonNegative = 0.5
    slots = ("m",)

    @staticmethod
    def rule(xp, w, g, s, h):
        return 0.0 * w + h.lr, {"m": 1.5}


@engine_runs.every_engine
def test_a_number_may_be_returned_as_a_slot(engine):
    engine_runs.require(engine)
    optimizer, w = Constant(engine=engine), np.full((2, 3), 7.0)
    optimizer.update({"w": w}, {"w": w + 1})
    assert w.tolist() == [[0.5] * 3] * 2
    assert engine_runs.slots_of(optimizer)["w"]["m"].tolist() == [[1.5] * 3] * 2


@engine_runs.every_engine
def test_two_classes_of_one_name_do_not_share_code(engine):
    engine_runs.require(engine)

    def make(factor):
        class Same(Optimizer):
            @staticmethod
            def rule(xp, w, g, s, h):
                return w - factor * g, {}

        return Same

    for factor in (1.0, 2.0):
        w = np.zeros(3)
        make(factor)(engine=engine).update(w, np.ones(3))
        assert w.tolist() == [-factor] * 3


@engine_runs.every_engine
def test_a_rule_may_use_one_array_in_many_places(engine):
    """More values alive at once than there are registers."""
    engine_runs.require(engine)

    class Wide(Optimizer):
        @staticmethod
        def rule(xp, w, g, s, h):
            terms = [w * float(i) + g for i in range(40)]
            total = terms[0]
            for term in terms[1:]:
                total = total + xp.sqrt(abs(term))
            for term in terms:
                total = total - term
            return total, {}

    results = []
    for name in (engine, "array_api"):
        w = np.linspace(-2, 2, 1001, dtype="float32")
        Wide(engine=name).update(w, np.full(1001, 0.1, "float32"))
        results.append(w)
    bits.assert_same_bits(*results)


def test_every_user_rule_of_the_tests_has_a_case():
    assert {UserSignum, ClippedAMSGrad} <= {case.optimizer for case in cases.CASES}


def test_numbers_that_a_rule_derives_have_the_same_names_at_every_step():
    class Changing(Optimizer):
        @staticmethod
        def scalars(h):
            return {"early": 1.0} if h.t < 2 else {"late": 2.0}

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - h.early * g, {}

    optimizer, w = Changing(), np.zeros(1)
    optimizer.update(w, np.ones(1))
    with pytest.raises(
        TypeError, match=r"returned the numbers \('late',\), and \('early',\) before"
    ):
        optimizer.update(w, np.ones(1))
    assert (w.item(), optimizer.t) == (-1.0, 1)

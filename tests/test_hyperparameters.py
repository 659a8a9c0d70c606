"""Hyperparameters are checked when they are set, may change between steps, and may be schedules."""

import functools
import importlib
import math
import re
from fractions import Fraction
from typing import Annotated, Literal

import bits
import cases
import engine_runs
import numpy as np
import pytest
from cases import ClippedAMSGrad, UserSignum

from instep import (
    SGD,
    Adafactor,
    AdaGrad,
    Adam,
    AdamW,
    Momentum,
    Muon,
    Optimizer,
    RMSProp,
    chain,
    schedules,
)
from instep.hyperparameters import Domain, Schedule

NEGATIVE = [-1.0, -1e-300, -1]
NOT_FINITE = [math.nan, math.inf, -math.inf, np.float32("nan")]
NO_NUMBER = [None, "0.1", True, 1j, [0.1], {}]
NO_NUMBER_OF_NUMPY = [np.True_, np.array(True), np.array("0.1"), np.array(1j), np.array(None)]


def numbers_of(case):
    """Return the names of the hyperparameters that are numbers."""
    optimizer = case.make()
    return [field.name for field in optimizer.hyperparameters if not field.option]


def refused(case, name):
    """Return values that hyperparameter `name` must refuse, with the error for each."""
    wrong = [(value, ValueError) for value in (*NEGATIVE, *NOT_FINITE)]
    wrong += [(value, TypeError) for value in NO_NUMBER]
    exponent = case.optimizer is Adafactor and name == "decay"
    if (name.startswith("beta") or name in ("decay", "momentum")) and not exponent:
        wrong += [(1.0, ValueError), (1, ValueError), (1.5, ValueError)]
    any_float = name == "lowest" or (case.optimizer is Muon and name in ("ns_a", "ns_b", "ns_c"))
    if case.optimizer is UserSignum or any_float:  # float alone: any finite number
        wrong = [entry for entry in wrong if entry[1] is TypeError or not math.isfinite(entry[0])]
    if name == "psi":  # infinity is a number for it
        wrong = [entry for entry in wrong if entry[0] != math.inf]
    return wrong


@pytest.mark.parametrize(
    ("case", "name"),
    [
        pytest.param(case, name, id=f"{case.optimizer.__name__}-{name}")
        for case in cases.CLASSES
        for name in numbers_of(case)
    ],
)
def test_a_value_outside_of_the_domain_is_refused_by_name(case, name):
    owner = case.optimizer.__name__
    optimizer = case.make()
    before = repr(optimizer)
    for value, error in refused(case, name):
        for set_it in (
            lambda value=value: case.make(**{name: value}),
            lambda value=value: setattr(optimizer, name, value),
        ):
            with pytest.raises(error) as caught:
                set_it()
            text = str(caught.value)
            assert text.startswith(f"{owner}: {name} must be "), text
            assert repr(value) in text
        assert repr(optimizer) == before


@pytest.mark.parametrize(
    "value",
    [
        *(0, 1, 0.5, Fraction(1, 8)),
        *(np.float16(0.1), np.float32(0.1), np.float64(0.1), np.longdouble("0.1")),
        *(np.int64(2), np.uint8(2)),
        *(np.array(0.1), np.array(0.1, "float32"), np.array(2), np.array(np.longdouble("0.1"))),
    ],
    ids=repr,
)
def test_any_real_number_is_taken_as_a_float(value):
    params, grads = {"a": np.zeros(1)}, {"a": np.ones(1)}
    for optimizer in (SGD(lr=value), SGD(lambda t: value), SGD(overrides={"a": {"lr": value}})):
        before = params["a"].copy()
        optimizer.update(params, grads)
        assert params["a"] == before - float(value)
    optimizer = SGD()
    optimizer.lr = value
    assert type(optimizer.lr) is float
    assert optimizer.lr == float(value)
    value = np.array(value)  # a number that the user's array holds later is another one
    optimizer.lr = value
    value[...] = 7
    assert optimizer.lr != 7


def test_what_numpy_holds_and_is_no_number_is_refused():
    for value in NO_NUMBER_OF_NUMPY:
        with pytest.raises(TypeError, match="SGD: lr must be a finite number >= 0, or a schedule"):
            SGD(value)
    assert RMSProp(centered=np.True_).centered is True
    with pytest.raises(TypeError, match=r"RMSProp: centered must be True or False, got array\(1"):
        RMSProp(centered=np.array(1))


@pytest.mark.parametrize("function", [lambda: 0.1, lambda step, value: 0.1], ids=["none", "two"])
def test_a_function_that_takes_no_step_is_refused_at_once(function):
    text = r"^Adam: lr is a function that cannot be called with the number of a step \(.*\); write"
    with pytest.raises(TypeError, match=text):
        Adam(lr=function)
    optimizer = Adam()
    with pytest.raises(TypeError, match=text):
        optimizer.lr = function
    assert optimizer.lr == 0.001


def test_a_schedule_that_is_adapted_is_what_is_called():
    @functools.wraps(lambda step, total: None)
    def adapted(step):
        return 0.5 / step

    assert SGD(lr=adapted).lr is adapted


@engine_runs.every_engine
def test_an_array_that_a_schedule_sets_in_the_midst_of_steps_is_told_or_taken(engine):
    engine_runs.require(engine)
    optimizer, w = Momentum(lr=0.1, engine=engine), np.ones(3)
    for _ in range(6):
        optimizer.update(w, np.ones(3))
    optimizer.lr = np.full(3, 0.1)
    optimizer.update(w, np.ones(3))
    optimizer.lr = np.full(3, 0.2)
    optimizer.update(w, np.ones(3))
    assert optimizer.t == 8


def test_a_class_of_schedules_in_place_of_one_is_refused():
    class Own:
        def __call__(self, step):
            return 1 / step

    for kind in (schedules.Linear, schedules.Schedule, Own):
        with pytest.raises(TypeError, match=r"SGD: lr must be .*, or a schedule .*, got <class"):
            SGD(lr=kind)
    assert SGD(lr=float).lr is float  # a function that gives a number


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: SGD(0.1), {"lr": 0.1}),
        (lambda: Momentum(0.1, 0.5), {"lr": 0.1, "momentum": 0.5}),
        (lambda: AdaGrad(0.1, 1e-3), {"lr": 0.1, "eps": 1e-3}),
        (lambda: RMSProp(0.1, 0.5, 1e-3), {"lr": 0.1, "decay": 0.5, "eps": 1e-3}),
        (lambda: Adam(0.1, 0.2, 0.3, 0.4), {"lr": 0.1, "beta1": 0.2, "beta2": 0.3, "eps": 0.4}),
        (lambda: AdamW(0.1, 0.2, 0.3, 0.4, 0.5), {"eps": 0.4, "weight_decay": 0.5}),
    ],
)
def test_arguments_come_in_the_order_of_the_specification(make, expected):
    optimizer = make()
    assert {name: getattr(optimizer, name) for name in expected} == expected


def test_settings_are_keywords_only():
    with pytest.raises(TypeError):
        SGD(0.1, "blocked")


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"engine": "fast"}, ValueError, "Adam: engine must be one of 'auto', 'native', .*'fast'"),
        ({"engine": None}, ValueError, "Adam: engine must be one of .*None"),
        ({"threads": 0}, ValueError, "Adam: threads must be .* 1, got 0"),
        ({"threads": -2}, ValueError, "Adam: threads must be .*-2"),
        ({"threads": 1.5}, ValueError, "Adam: threads must be .*1.5"),
        ({"threads": True}, ValueError, "Adam: threads must be .*True"),
        ({"frozen": None}, TypeError, r"Adam: frozen must be a sequence of .*, or \(\) .*None"),
        ({"frozen": 1}, TypeError, "Adam: frozen must be a sequence of path patterns.*got 1"),
        ({"frozen": "a"}, TypeError, "Adam: frozen must be a sequence of path patterns.*'a'"),
        ({"frozen": [None]}, TypeError, "Adam: frozen must be a sequence of path patterns.*None"),
        ({"overrides": None}, TypeError, "Adam: overrides must be a dict of path patterns.*None"),
        ({"learning_rate": 0.1}, TypeError, "learning_rate"),
    ],
)
def test_a_wrong_setting_is_refused(keywords, error, message):
    with pytest.raises(error, match=message):
        Adam(**keywords)


def test_frozen_patterns_may_come_from_anything_that_yields_them():
    for patterns in (["a", "b"], ("a", "b"), (pattern for pattern in "ab"), {"a": 1, "b": 2}):
        assert SGD(frozen=patterns).frozen == ("a", "b")


def test_a_mistyped_attribute_is_refused_with_the_names_that_exist():
    optimizer = Adam()
    with pytest.raises(
        AttributeError, match=r"^Adam has no hyperparameter 'warmth'; it has lr, beta1, beta2, eps"
    ):
        optimizer.warmth = 0.1
    with pytest.raises(AttributeError):
        optimizer.t = 5
    assert optimizer.t == 0


@pytest.mark.parametrize(
    "value", ["False", "True", "", b"False", 1, 0, 0.0, None, [], np.ones(1)], ids=repr
)
@pytest.mark.parametrize(
    ("rule", "name"), [(RMSProp, "centered"), (Adafactor, "relative_step")], ids=str
)
def test_an_option_that_is_true_or_false_takes_nothing_else(rule, name, value):
    message = f"{rule.__name__}: {name} must be True or False, got {value!r}"
    with pytest.raises(TypeError, match=re.escape(message)):
        rule(**{name: value})
    optimizer = rule()
    before = repr(optimizer)
    with pytest.raises(TypeError, match=re.escape(message)):
        setattr(optimizer, name, value)
    state = optimizer.state_dict()
    state["hyperparameters"][name] = value
    with pytest.raises(TypeError, match=f"{name} must be True or False"):
        optimizer.load_state_dict(state)
    assert repr(optimizer) == before


def test_an_option_of_text_takes_the_choices_that_its_rule_declares():
    class Rounded(Optimizer):
        mode: Literal["up", "down"] = "up"
        exact: Literal[True, "nearly"] = True
        label: str = "any"
        plain: bool | str = False

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - (g if h.mode == "up" else -g), {}

    for value in ("up", "down", np.array("down"), np.str_("up")):
        assert Rounded(mode=value).mode == str(value)
    assert Rounded(exact=np.True_).exact is True
    assert Rounded(label="anything", plain="text").plain == "text"
    for keywords, error, message in [
        ({"mode": "Up"}, ValueError, "mode must be one of 'up', 'down', got 'Up'"),
        ({"mode": True}, TypeError, "mode must be one of 'up', 'down', got True"),
        ({"exact": False}, ValueError, "exact must be one of True, 'nearly', got False"),
        ({"exact": 1}, TypeError, "exact must be one of True, 'nearly', got 1"),
        ({"label": True}, TypeError, "label must be a string, got True"),
        ({"plain": 1}, TypeError, "plain must be True or False or a string, got 1"),
    ]:
        with pytest.raises(error, match=f"Rounded: {message}"):
            Rounded(**keywords)
    w, optimizer = np.zeros(1), Rounded()
    optimizer.update(w, np.ones(1))
    optimizer.mode = "down"
    optimizer.update(w, np.ones(1))
    assert w.item() == 0.0


@engine_runs.every_engine
@pytest.mark.parametrize(
    "value",
    [
        *("0.1", b"0.1", True, np.True_, 0.1j, np.complex64(0.1), None, [0.1], {}, 10**400),
        *(np.array([1]), np.array(True), np.array("0.1"), np.timedelta64(1, "s"), math.nan),
        *(np.ma.masked, np.ma.array(0.1), -0.1, np.datetime64("2020-01-01"), abs),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_schedule_may_return_numbers_only(value, engine):
    """What float() would make of text and booleans is no number that anyone meant."""
    engine_runs.require(engine)

    def odd(t):
        return value if t == 3 else 0.1

    w, expected = np.zeros(3), np.zeros(3)
    optimizer, other = SGD(odd, engine=engine), SGD(0.1, engine=engine)
    for _ in range(2):
        optimizer.update(w, np.ones(3))
        other.update(expected, np.ones(3))
    with pytest.raises((TypeError, ValueError)) as caught:
        optimizer.update(w, np.ones(3))
    text = str(caught.value)
    assert text.startswith("SGD, schedule at step 3: lr must be a finite number >= 0, got "), text
    assert "odd" in text
    assert len(text) < 1000
    assert optimizer.t == 2
    bits.assert_same_bits(w, expected)
    for wrong in (value,) if not callable(value) else ():
        with pytest.raises((TypeError, ValueError), match="SGD: lr must be a finite number >= 0"):
            SGD(wrong)


def test_an_array_without_dimensions_of_any_library_is_a_number(xp):
    for number in (xp.asarray(0.25), xp.asarray(0.25, dtype=xp.float32), xp.asarray(1)):
        w, expected = np.zeros(3), np.zeros(3)
        SGD(lambda t, number=number: number).update(w, np.ones(3))
        SGD(number).update(expected, np.ones(3))
        assert w.tolist() == expected.tolist() == [-float(number)] * 3
    for wrong in (xp.asarray(True), xp.asarray([1]), xp.asarray(1j)):
        with pytest.raises(TypeError, match="lr must be a finite number >= 0"):
            SGD(wrong)
        with pytest.raises(TypeError, match="schedule at step 1: lr must be"):
            SGD(lambda t, wrong=wrong: wrong).update(np.zeros(3), np.ones(3))


@pytest.mark.parametrize("engine", ["native", "blocked"])
def test_changing_a_number_compiles_nothing_and_takes_effect_at_the_next_step(engine):
    engine_runs.require(engine)
    calls = []

    class Counted(Optimizer):
        lr: float = 0.1
        slots = ("m",)

        @staticmethod
        def rule(xp, w, g, s, h):
            calls.append(1)
            return w - h.lr * g, {"m": s.m + h.lr * g}

    optimizer, w = Counted(engine=engine), np.zeros(4)
    optimizer.update(w, np.ones(4))
    traced = len(calls)
    for lr in (0.5, 0.25, 2.0):
        before = w.copy()
        optimizer.lr = lr
        optimizer.update(w, np.ones(4))
        bits.assert_same_bits(w, before - lr)
    optimizer.lr = lambda t: 1.0 / t
    optimizer.update(w, np.ones(4))
    assert len(calls) == traced


@engine_runs.every_engine
@cases.every_class
def test_a_schedule_is_called_with_the_step_number_from_one(case, engine):
    engine_runs.require(engine)
    steps = []

    def schedule(t):
        steps.append(t)
        return 0.1 / t

    scheduled, by_hand = case.make(lr=schedule, engine=engine), case.make(engine=engine)
    w, expected = np.ones(5, "float32"), np.ones(5, "float32")
    for t in range(1, 8):
        cases.step(scheduled, w, w * 2)
        by_hand.lr = 0.1 / t
        cases.step(by_hand, expected, expected * 2)
        bits.assert_same_bits(w, expected)
    assert sorted(set(steps)) == list(range(1, 8))
    assert steps == sorted(steps)


def test_every_number_may_be_a_schedule():
    keywords = {
        "lr": lambda t: 0.1 / t,
        "beta1": lambda t: 1 - 1 / (t + 1),
        "beta2": lambda t: 0.9,
        "eps": lambda t: 1e-3,
        "weight_decay": lambda t: 0.01 * t,
    }
    scheduled, by_hand = AdamW(**keywords), AdamW()
    w, expected = np.ones(5), np.ones(5)
    for t in range(1, 6):
        for name, schedule in keywords.items():
            setattr(by_hand, name, schedule(t))
        scheduled.update({"w": w}, {"w": w * 3})
        by_hand.update({"w": expected}, {"w": expected * 3})
        bits.assert_same_bits(w, expected)


@engine_runs.every_engine
def test_an_option_may_change_between_steps(engine):
    engine_runs.require(engine)
    optimizer, w = RMSProp(lr=0.1, engine=engine), np.ones(3)
    optimizer.update(w, np.ones(3))
    optimizer.centered = True
    optimizer.update(w, np.ones(3))
    assert "mean" in engine_runs.slots_of(optimizer)[""]
    optimizer.momentum = 0.9
    optimizer.update(w, np.ones(3))
    assert "velocity" in engine_runs.slots_of(optimizer)[""]
    assert optimizer.t == 3
    assert np.isfinite(w).all()


# Where eps underflows -------------------------------------------------------------------------


@engine_runs.every_engine
@pytest.mark.parametrize(
    ("dtype", "eps", "refused"),
    [
        ("float16", 1e-8, False),  # 0 in float16, but the arithmetic is float32
        ("float16", 1e-46, True),
        ("float32", 1e-8, False),
        ("float32", 1e-44, False),  # a subnormal number is not 0
        ("float32", 2.0**-150, True),  # half of the smallest number: a tie, which goes to 0
        ("float32", math.nextafter(2.0**-150, 1), False),
        ("float64", 1e-46, False),
        ("float64", 5e-324, False),
        ("float32", 0.0, False),
    ],
)
def test_an_eps_that_rounds_to_zero_is_an_error(dtype, eps, refused, engine):
    engine_runs.require(engine)
    for case in (
        cases.Case(Adam, None),
        cases.Case(AdaGrad, None),
        cases.Case(ClippedAMSGrad, None),
    ):
        optimizer = case.make(eps=eps, engine=engine)
        w = np.ones(3, dtype)
        if refused:
            with pytest.raises(
                ValueError, match=rf"{case.optimizer.__name__}: eps={eps!r} is 0 in"
            ):
                optimizer.update(w, w.copy())
            assert (w == 1).all()
            assert optimizer.t == 0
        else:
            optimizer.update(w, w.copy())
            assert optimizer.t == 1


@engine_runs.every_engine
def test_an_eps_of_one_subnormal_keeps_the_division_finite(engine):
    engine_runs.require(engine)
    least = float(np.finfo("float32").smallest_subnormal)
    optimizer, w = AdaGrad(lr=1.0, eps=least, engine=engine), np.ones(3, "float32")
    optimizer.update(w, np.zeros(3, "float32"))
    assert w.tolist() == [1.0] * 3


# Where a number overflows ---------------------------------------------------------------------

LEAST_INFINITE = 2.0**128 - 2.0**103  # half-way from the largest float32 number to 2**128


@engine_runs.every_engine
@pytest.mark.parametrize(
    ("dtype", "value", "refused"),
    [
        ("float16", 1e5, False),  # infinite in float16, but the arithmetic is float32
        ("float16", 1e39, True),
        ("float32", LEAST_INFINITE, True),
        ("float32", math.nextafter(LEAST_INFINITE, 0), False),
        ("float64", 1.7e308, False),
    ],
)
def test_a_number_that_rounds_to_infinity_is_an_error(dtype, value, refused, engine):
    """Multiplied by a zero it would be NaN."""
    engine_runs.require(engine)

    class Shifted(Optimizer):
        shift: float = 0.0

        @staticmethod
        def rule(xp, w, g, s, h):
            return w + h.shift * g, {}

    w = {"w": np.zeros(3, dtype)}
    for name, optimizer in [
        ("lr", SGD(value, engine=engine)),
        ("lr", SGD(lambda t: value, engine=engine)),
        ("lr", SGD(0.1, overrides={"w": {"lr": value}}, engine=engine)),
        ("shift", Shifted(value, engine=engine)),
        ("shift", Shifted(-value, engine=engine)),
    ]:
        if not refused:
            optimizer.update(w, {"w": np.zeros(3, dtype)})
            assert not w["w"].any()
            continue
        with pytest.raises(ValueError, match=rf"{name}=-?\d.* is infinite in float32, the dtype"):
            optimizer.update(w, {"w": np.zeros(3, dtype)})
        assert optimizer.t == 0


@engine_runs.every_engine
def test_a_domain_may_admit_infinities(engine):
    engine_runs.require(engine)

    class Bounded(Optimizer):
        bound: Annotated[float | Schedule, Domain(lower=0.0, infinite=True)] = 1.0

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - xp.clip(g, -h.bound, h.bound), {}

    for bound, expected in [(1e39, -9.0), (math.inf, -9.0), (0.5, -0.5), (1e-50, 0.0)]:
        w = np.zeros(1, "float32")
        Bounded(bound, engine=engine).update(w, np.full(1, 9.0, "float32"))
        assert w.item() == expected
    with pytest.raises(ValueError, match="Bounded: bound must be a number >= 0, got -1"):
        Bounded(-1)


# Numbers that must fit together ---------------------------------------------------------------


def test_hyperparameters_that_do_not_fit_together_are_refused_together():
    class Between(Optimizer):
        low: float = 0.0
        high: float = 1.0
        open: bool = False

        def check_values(self, values):
            if values["low"] > values["high"] or (values["open"] and values["low"] == 0):
                raise ValueError(f"{self.name}: low and high do not fit")

        @staticmethod
        def rule(xp, w, g, s, h):
            return xp.clip(w, h.low, h.high), {}

    for values in ({"low": 2.0}, {"high": -1.0}, {"open": True}, {"low": 3.0, "high": 2.0}):
        with pytest.raises(ValueError, match="Between: low and high do not fit"):
            Between(**values)
    optimizer = Between(low=0.5, open=True)
    for name, value in [("low", 2.0), ("low", 0.0), ("high", 0.25)]:
        with pytest.raises(ValueError, match="do not fit"):
            setattr(optimizer, name, value)
    assert (optimizer.low, optimizer.high, optimizer.open) == (0.5, 1.0, True)


# Domains of a user's own ----------------------------------------------------------------------


def test_annotations_may_be_postponed(tmp_path, monkeypatch):
    (tmp_path / "late_rule.py").write_text(
        """
from __future__ import annotations
from instep import Optimizer
from instep.hyperparameters import DecayRate

class Late(Optimizer):
    lr: float = 0.1
    beta: DecayRate = 0.5

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.lr * h.beta * g, {}
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    late = importlib.import_module("late_rule").Late
    with pytest.raises(ValueError, match="Late: beta must be"):
        late(beta=1.0)


def test_a_subclass_inherits_hyperparameters_and_adds_its_own():
    class Damped(Adam):
        damping: float = 0.5

        @staticmethod
        def rule(xp, w, g, s, h):
            return Adam.rule(xp, w, h.damping * g, s, h)

    optimizer = Damped(lr=0.1, damping=0.25)
    assert repr(optimizer).startswith(
        "Damped(lr=0.1, beta1=0.9, beta2=0.999, eps=1e-08, amsgrad=False, "
        "form='epsilon', damping=0.25"
    )
    w, expected = np.ones(3), np.ones(3)
    optimizer.update(w, np.full(3, 4.0))
    Adam(lr=0.1).update(expected, np.ones(3))
    bits.assert_same_bits(w, expected)
    with pytest.raises(ValueError, match="Damped: beta1 must be"):
        Damped(beta1=2.0)


def test_a_new_default_in_a_subclass_needs_no_annotation():
    class Faster(Adam):
        lr = 0.25
        beta1 = 0.5
        threads = 1
        overrides = {"b": {"lr": 0.5}}  # noqa: RUF012  (the user's, who writes it so)

    class Falling(Faster):
        lr = lambda t: 1 / t  # noqa: E731  (the same)

    optimizer = Faster()
    assert (optimizer.lr, optimizer.beta1, optimizer.beta2, optimizer.threads) == (
        *(0.25, 0.5, 0.999),
        1,
    )
    assert optimizer.overrides is not Faster().overrides
    assert Faster(0.125, overrides={}).lr == 0.125
    w, expected = {"a": np.ones(3), "b": np.ones(3)}, {"a": np.ones(3), "b": np.ones(3)}
    g = {"a": np.full(3, 4.0), "b": np.full(3, 4.0)}
    optimizer.update(w, g)
    Adam(lr=0.25, beta1=0.5, overrides={"b": {"lr": 0.5}}).update(expected, g)
    for key, x in expected.items():
        bits.assert_same_bits(w[key], x, key)
    assert Falling().lr(4) == 0.25
    with pytest.raises(ValueError, match="Faster: beta1 must be"):
        Faster(beta1=2.0)
    with pytest.raises(ValueError, match="Refused: lr must be"):
        type("Refused", (Adam,), {"lr": -1.0})()


@pytest.mark.parametrize("name", ["lr", "amsgrad", "engine", "overrides"])
def test_nothing_that_a_step_reads_can_be_deleted(name):
    optimizer, w = Adam(), np.zeros(2)
    optimizer.update(w, np.ones(2))
    for one in (optimizer, chain(Adam())):
        before = getattr(one, name)
        with pytest.raises(AttributeError, match=f": {name} cannot be deleted, for steps read"):
            delattr(one, name)
        assert getattr(one, name) == before
    optimizer._own = 1  # noqa: SLF001  (an attribute of the user's)
    del optimizer._own  # noqa: SLF001  (the same)
    assert not hasattr(optimizer, "_own")

"""Arithmetic on hyperparameters alone: Python's floats, rounded once, the same on every engine."""

import math
import re

import engine_runs
import numpy as np
import pytest

from instep import Optimizer
from instep.graph import FusionError

#: name -> (f(xp, h), the float64 that it means at lr=0.3, beta=0.9, t=5)
EXPRESSIONS = {
    "sqrt": (lambda xp, h: xp.sqrt(1 - h.beta**2), math.sqrt(1 - 0.9**2)),
    "sqrt of a negative": (lambda xp, h: xp.sqrt(-h.lr), math.nan),
    "abs": (lambda xp, h: abs(h.lr - 1), 0.7),
    "xp.abs": (lambda xp, h: xp.abs(h.lr - 1), 0.7),
    "negative": (lambda xp, h: xp.negative(h.lr), -0.3),
    "positive": (lambda xp, h: xp.positive(h.lr), 0.3),
    "floor": (lambda xp, h: xp.floor(-h.lr), -1.0),
    "ceil": (lambda xp, h: xp.ceil(-h.lr), -0.0),
    "trunc": (lambda xp, h: xp.trunc(h.lr * 10), 3.0),
    "xp.round": (lambda xp, h: xp.round(-h.lr), -0.0),
    "sign": (lambda xp, h: xp.sign(-h.lr), -1.0),
    "square": (lambda xp, h: xp.square(h.lr), 0.3 * 0.3),
    "maximum": (lambda xp, h: xp.maximum(h.lr, 1.0), 1.0),
    "minimum": (lambda xp, h: xp.minimum(h.lr, h.beta), 0.3),
    "maximum of zeros": (lambda xp, h: xp.maximum(0.0 * h.lr, -0.0), -0.0),
    "clip": (lambda xp, h: xp.clip(h.lr, 0.0, 0.1), 0.1),
    "clip by name": (lambda xp, h: xp.clip(h.lr, max=h.lr / 7), 0.3 / 7),
    "copysign": (lambda xp, h: xp.copysign(h.lr, -h.beta), -0.3),
    "copysign of NaN": (lambda xp, h: xp.copysign(-h.lr, -h.lr * float("nan")), 0.3),
    "where": (lambda xp, h: xp.where(h.t > 3, h.lr, h.beta), 0.3),
    "where of logic": (
        lambda xp, h: xp.where(xp.logical_and(h.t > 3, h.lr > 1), h.lr, 2.0),
        2.0,
    ),
    "where of &": (lambda xp, h: xp.where((h.t > 3) & (h.lr < 1), h.lr, 2.0), 0.3),
    "logical_not": (lambda xp, h: xp.where(xp.logical_not(h.t > 3), h.lr, 2.0), 2.0),
    "isfinite": (lambda xp, h: xp.where(xp.isfinite(h.lr), h.lr, 2.0), 0.3),
    "isnan": (lambda xp, h: xp.where(xp.isnan(h.lr * float("nan")), h.lr, 2.0), 0.3),
    "isinf": (lambda xp, h: xp.where(xp.isinf(h.lr), h.lr, 2.0), 2.0),
    "xp.add": (lambda xp, h: xp.add(h.lr, 0.1), 0.3 + 0.1),
    "xp.divide": (lambda xp, h: xp.divide(1, h.lr), 1 / 0.3),
    "numbers alone": (lambda xp, h: xp.sqrt(2.0) * h.lr, math.sqrt(2.0) * 0.3),
    "%": (lambda xp, h: h.t % 2 * h.lr, 0.3),
    "reflected %": (lambda xp, h: 7 % h.t * h.lr, 2 * 0.3),
    "% of floats": (lambda xp, h: -h.lr % h.beta, -0.3 % 0.9),
    "//": (lambda xp, h: h.t // 2 + h.lr, 2.3),
    "reflected //": (lambda xp, h: 1 // h.lr, 3.0),
    "divmod": (lambda xp, h: sum(divmod(h.t, 3)) * h.lr, 3 * 0.3),
    "reflected divmod": (lambda xp, h: divmod(1, h.lr)[1], 1 % 0.3),
    "**": (lambda xp, h: h.t**2 * h.lr, 25 * 0.3),
    "reflected **": (lambda xp, h: 0.5**h.t, 0.5**5),
    "power of -0.0": (lambda xp, h: (-0.0) ** h.t, -0.0),
    "round": (lambda xp, h: round(h.lr * 10), 3.0),
    "round to digits": (lambda xp, h: round(h.lr / 7, 2), 0.04),
    "math.floor": (lambda xp, h: math.floor(h.lr * 10 + h.t), 8.0),
    "math.ceil": (lambda xp, h: math.ceil(h.lr), 1.0),
    "math.trunc": (lambda xp, h: math.trunc(-h.lr), 0.0),
    "infinity": (lambda xp, h: h.lr * float("inf"), math.inf),
    "minus infinity": (lambda xp, h: xp.maximum(float("-inf"), h.lr), 0.3),
    "NaN": (lambda xp, h: h.lr + float("nan"), math.nan),
    "booleans as numbers": (lambda xp, h: (h.t > 3) * h.lr + (h.t > 9), 0.3),
    "a boolean literal": (lambda xp, h: h.lr * True, 0.3),
    "t": (lambda xp, h: h.t, 5.0),
    "beyond 2**53": (lambda xp, h: (h.t + 2**53 + 2) * 1, 9007199254741000.0),
    "+": (lambda xp, h: +h.lr, 0.3),
}


def rule_of(expression, **others):
    """Return the class whose rule stores `expression(xp, h)` as it is, and in each dtype."""

    class Told(Optimizer):
        lr: float = 0.3
        beta: float = 0.9
        slots = ("wide", "narrow")

        @staticmethod
        def rule(xp, w, g, s, h):
            value = expression(xp, h)
            zeros = xp.zeros_like(w)
            # Differences that vanish in float32 alone.
            rounded = xp.astype(xp.astype(zeros, xp.float32) + value, xp.float32)
            exact = xp.astype(zeros, xp.float64) + value
            return zeros + value, {"wide": exact - rounded, "narrow": rounded}

    return Told


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_host_expression_is_a_float64_that_is_rounded_once(name, dtype, engine):
    engine_runs.require(engine)
    expression, meaning = EXPRESSIONS[name]
    optimizer, w = rule_of(expression)(engine=engine), np.ones(3, dtype)
    for _ in range(5):
        optimizer.update(w, np.ones_like(w))
    with np.errstate(all="ignore"):
        rounded = np.float32(meaning)
        difference = np.float64(meaning) - rounded
    slots = engine_runs.slots_of(optimizer)[""]
    for got, expected in [
        (w, np.dtype(dtype).type(meaning) + np.dtype(dtype).type(0)),
        (slots["narrow"], np.dtype(dtype).type(rounded + np.float32(0))),
        (slots["wide"], np.dtype(dtype).type(difference)),
    ]:
        assert np.array_equal(got, np.full(3, expected), equal_nan=True), (got, expected)


@engine_runs.every_engine
def test_zeros_of_host_expressions_keep_their_sign(engine):
    engine_runs.require(engine)

    class Signed(Optimizer):
        lr: float = 0.3

        @staticmethod
        def rule(xp, w, g, s, h):
            return xp.where(g > 0, xp.ceil(-h.lr), xp.maximum(0.0 * h.lr, -0.0)), {}

    w = np.ones(2)
    Signed(engine=engine).update(w, np.array([1.0, -1.0]))
    assert np.signbit(w).all()


@engine_runs.every_engine
def test_a_condition_on_hyperparameters_may_choose_between_arrays(engine):
    engine_runs.require(engine)

    class Alternating(Optimizer):
        lr: float = 0.5

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - xp.where((h.t % 2 == 0) | (h.lr > 1), g, h.lr * g), {}

    optimizer, w = Alternating(engine=engine), np.zeros(2, "float32")
    optimizer.update(w, np.ones(2, "float32"))
    assert w.tolist() == [-0.5, -0.5]
    optimizer.update(w, np.ones(2, "float32"))
    assert w.tolist() == [-1.5, -1.5]


@engine_runs.every_engine
def test_hyperparameters_may_be_called_what_host_expressions_call(engine):
    engine_runs.require(engine)

    names = ("abs", "sqrt", "float", "xp", "math", "inf", "evaluate", "explained", "errors", "lr")
    values = (0.5, 4.0, 2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0)
    numbers = dict(zip(names, values, strict=True))

    class Odd(Optimizer):
        vars().update(numbers)
        __annotations__ = dict.fromkeys(numbers, float)

        @staticmethod
        def rule(xp, w, g, s, h):
            total = abs(-h.abs) + xp.sqrt(h.sqrt) + h.float + xp.floor(h.xp) + h.math
            total = total + h.inf + xp.minimum(h.lr, float("inf"))
            return g * 0.0 + (total + h.evaluate + h.explained + h.errors + h.t // 1), {}

    w = np.ones(2)
    Odd(engine=engine).update(w, np.ones(2))
    assert w.tolist() == [0.5 + 2 + 2 + 3 + 5 + 7 + 11 + 13 + 17 + 19 + 1] * 2


# What has no value, or no meaning ---------------------------------------------------------------


def update(expression, engine, **settings):
    optimizer, w = rule_of(expression)(engine=engine, **settings), np.ones(2, "float32")
    try:
        optimizer.update(w, np.ones_like(w))
    finally:
        assert w.tolist() == [1.0, 1.0] or optimizer.t == 1
    return w


WITHOUT_A_VALUE = {
    "division by zero": (lambda xp, h: 1 / (h.lr - h.lr), "division"),
    "large power": (lambda xp, h: (h.t + 9) ** (h.t * 999), "int too large"),
    "large integer": (lambda xp, h: h.t * 10**400, "int too large"),
    "larger integer": (lambda xp, h: 10**9999 - h.t, "int too large"),
    "modulo zero": (lambda xp, h: h.lr % (h.t - 1), "zero|modulo"),
    "round of infinity": (
        lambda xp, h: round(h.lr * float("inf")),
        "cannot convert float infinity",
    ),
    "bits of a float": (lambda xp, h: h.lr & 1, "unsupported operand"),
}


@engine_runs.every_engine
@pytest.mark.parametrize("name", WITHOUT_A_VALUE)
def test_arithmetic_on_hyperparameters_without_a_value_is_named(name, engine):
    engine_runs.require(engine)
    expression, problem = WITHOUT_A_VALUE[name]
    with pytest.raises((ValueError, FusionError)) as caught:
        update(expression, engine)
    assert re.search(rf"Told\.rule.* has no value: .*({problem}).*; change", str(caught.value))


def test_the_error_says_with_which_numbers():
    with pytest.raises(ValueError, match=r"\(1 / \(lr - beta\)\) with lr=0.5, beta=0.5 has no"):
        update(lambda xp, h: 1 / (h.lr - h.beta), "blocked", lr=0.5, beta=0.5)


@pytest.mark.parametrize("engine", ["auto", "native", "blocked", "array_api"])
@pytest.mark.parametrize(
    "name", ["sum", "tree_sum", "norm", "tree_norm", "zeros_like", "ones_like", "full_like"]
)
@pytest.mark.parametrize("number", ["hyperparameter", "expression", "literal"])
def test_a_number_where_only_an_array_has_a_meaning_is_refused_everywhere(name, number, engine):
    if engine != "auto":
        engine_runs.require(engine)

    def expression(xp, h):
        value = (1.0,) if name == "full_like" else ()
        numbers = {"hyperparameter": h.lr, "expression": h.lr * 2 + 1, "literal": 2.0}
        return getattr(xp, name)(numbers[number], *value)

    with pytest.raises(
        TypeError, match=rf"Told\.rule: xp\.{name} is given a number.*give it an array"
    ):
        update(expression, engine)


@engine_runs.every_engine
def test_the_sum_of_one_number_of_a_tensor_is_that_number(engine):
    engine_runs.require(engine)

    class Twice(Optimizer):
        slots = ("norm", "count", "truth")

        @staticmethod
        def rule(xp, w, g, s, h):
            norm = xp.norm(g)
            slots = {
                "norm": xp.sum(norm) + 0.0 * w,
                "count": xp.sum(xp.ones_like(w)) + 0.0 * w,
                "truth": xp.sum(norm > 1.0) + 0.0 * w,
            }
            return w - g / xp.sum(norm), slots

    optimizer, w = Twice(engine=engine), np.zeros(2, "float32")
    optimizer.update(w, np.array([3.0, 4.0], "float32"))
    assert w.tolist() == [-np.float32(3) / np.float32(5), -np.float32(4) / np.float32(5)]
    slots = engine_runs.slots_of(optimizer)[""]
    assert [slots[name][0] for name in Twice.slots] == [5.0, 2.0, 1.0]


def test_what_is_one_number_for_each_tensor_is_summed_over_the_tree_by_the_array_library():
    class Norms(Optimizer):
        @staticmethod
        def rule(xp, w, g, s, h):
            return w - xp.tree_sum(xp.norm(g)) * g, {}

    params = {"a": np.zeros(2), "b": np.zeros(1)}
    grads = {"a": np.array([3.0, 4.0]), "b": np.array([2.0])}
    with pytest.raises(FusionError, match="one number for each tensor"):
        Norms(engine="blocked").update(params, grads)
    Norms().update(params, grads)
    assert [x.tolist() for x in params.values()] == [[-21.0, -28.0], [-14.0]]


@engine_runs.every_engine
def test_a_demand_on_one_number_of_a_tensor_is_a_demand_on_its_elements(engine):
    engine_runs.require(engine)

    class Short(Optimizer):
        guarded = True

        @staticmethod
        def rule(xp, w, g, s, h):
            xp.require(xp.norm(g) < 3.0)
            return w - g, {}

    optimizer, w = Short(engine=engine), {"a": np.zeros(2), "none": np.zeros(0)}
    optimizer.update(w, {"a": np.array([3.0, 4.0]), "none": np.zeros(0)})
    assert (w["a"].tolist(), optimizer.t) == ([0.0, 0.0], 0)
    optimizer.update(w, {"a": np.array([1.0, 2.0]), "none": np.zeros(0)})
    assert (w["a"].tolist(), optimizer.t) == ([-1.0, -2.0], 1)

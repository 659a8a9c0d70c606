"""Mistakes in rules are refused on every engine, with the rule, the line, and the remedy."""

import math
import random
import re
import time

import engine_runs
import numpy as np
import pytest

from instep import Optimizer, chain
from instep.graph.errors import RuleError
from instep.rule import Form
from instep.transforms import clip_by_global_norm

every_choice = pytest.mark.parametrize("engine", ["auto", "native", "blocked", "array_api"])

#: What is said of a rule that is not the same in every call, before and after the line.
CHANGES = r"does not do the same in every call: the second time, "
PURE = r"it is called once for many steps, so give it what changes: random numbers of xp"


def require(engine):
    """Skip the test where an engine cannot run that is asked for."""
    if engine != "auto":
        engine_runs.require(engine)


def with_rule(function, **members):
    """Return the class with this rule."""
    declared = {"lr": 0.5, "__annotations__": {"lr": float}, "rule": staticmethod(function)}
    return type("Odd", (Optimizer,), declared | members)


# What changes from call to call -------------------------------------------------------------------

generator = np.random.default_rng(0)
steps, gradients, rates = [0], [], []


def by_random(xp, w, g, s, h):
    return w - h.lr * (g + random.random()), {}


def by_random_of_numpy(xp, w, g, s, h):
    return w - h.lr * (g + np.random.normal()), {}  # noqa: NPY002  (a mistake)


def by_generator(xp, w, g, s, h):
    return w - h.lr * generator.normal() * g, {}


def by_number_of_numpy(xp, w, g, s, h):
    return w - np.float32(generator.normal()) * g, {}


def by_slot(xp, w, g, s, h):
    return w - g, {"m": generator.normal()}


def by_time(xp, w, g, s, h):
    return w - h.lr * time.perf_counter_ns() * g, {}


def by_counter(xp, w, g, s, h):
    steps[0] += 1
    return w - h.lr / steps[0] * g, {}


def by_list(xp, w, g, s, h):
    gradients.append(g)
    return w - h.lr * sum(gradients), {}


def by_pop(xp, w, g, s, h):
    return w - rates.pop() * g, {}


def by_branch(xp, w, g, s, h):
    steps[0] += 1
    return (w - g if steps[0] % 2 else w + g), {}


def by_choice(xp, w, g, s, h):
    steps[0] += 1
    return [w - g, w + g][steps[0] % 2], {}


def by_more_sums(xp, w, g, s, h):
    gradients.append(g)
    return w - g / sum(xp.norm(g) for _ in gradients), {}


def beside_what_is_not_fused(xp, w, g, s, h):
    return w - xp.exp(g) * generator.normal(), {}


def by_sum_that_is_dropped(xp, w, g, s, h):
    steps[0] += 1
    return [w - xp.norm(g) * g, w][steps[0] % 2], {}


#: rule -> what it does the second time
CHANGING = {
    by_random: r"it computes with 0\.\d+",
    by_random_of_numpy: r"it computes with -?\d\.\d+",
    by_generator: r"it computes \(lr \* \(?-?\d\.\d+\)?\)",
    by_number_of_numpy: r"it computes with -?\d\.\d+",
    by_slot: r"it computes with -?\d\.\d+",
    by_time: r"it computes \(lr \* \d+\)",
    by_counter: r"it computes \(lr / \d+\)",
    by_list: r"it comes to another add",
    by_pop: r"it raises IndexError: pop from empty list",
    by_branch: r"it comes to another (add|subtract)",
    by_choice: r"it returns another of its values",
    by_more_sums: r"it comes to another (add|reduced)",
    beside_what_is_not_fused: r"it computes with -?\d\.\d+",
    by_sum_that_is_dropped: r"it (comes to another \w+|returns another of its values)",
}


def line_of(function):
    """Return the number of the last line of a function, or the first where no line is known."""
    last = max(line for *_, line in function.__code__.co_lines() if line is not None)
    has_line = function not in (by_slot, by_choice, by_sum_that_is_dropped)
    return last if has_line else function.__code__.co_firstlineno


@every_choice
@pytest.mark.parametrize("function", CHANGING, ids=lambda function: function.__name__)
def test_what_changes_from_call_to_call_is_refused(function, engine):
    require(engine)
    gradients.clear()
    rates[:] = [0.5]
    optimizer, w = with_rule(function, slots=("m",))(engine=engine), np.ones(3)
    where = rf" \(test_mistakes_in_rules\.py, line {line_of(function)}\); "
    with pytest.raises(RuleError, match=rf"^Odd\.rule {CHANGES}{CHANGING[function]}{where}{PURE}"):
        optimizer.update(w, np.ones(3))
    assert (w.tolist(), optimizer.t) == ([1.0] * 3, 0)


@pytest.mark.parametrize("engine", ["auto", "array_api"])
def test_explain_refuses_it_too(engine):
    with pytest.raises(RuleError, match=rf"^Odd\.rule {CHANGES}"):
        with_rule(by_random)(engine=engine).explain(np.ones(3))


@engine_runs.every_engine
def test_a_rule_of_a_chain_is_named_by_the_chain(engine):
    engine_runs.require(engine)
    optimizer = chain(clip_by_global_norm(1.0), with_rule(by_random)(), engine=engine)
    with pytest.raises(RuleError, match=rf"{CHANGES}it computes with .*test_mistakes_in_rules\.py"):
        optimizer.update(np.ones(3), np.ones(3))


@engine_runs.every_engine
def test_a_rule_may_make_functions_and_what_is_not_a_number_in_each_call(engine):
    engine_runs.require(engine)

    def rule(xp, w, g, s, h):
        kept = xp.apply(lambda xp, x: -x, xp.where(xp.isnan(g), float("nan"), g))
        return w + kept * xp.norm(g) + xp.where(g > 0, -0.0, 0.0), {}

    form = Form(slots=(), between=("kept",))
    w = np.zeros(4)
    with_rule(rule, form_for=lambda self, shape: form)(engine=engine).update(w, np.ones(4))
    assert w.tolist() == [-2.0] * 4


# Decisions on arrays, and functions of other modules ----------------------------------------------


def by_if(xp, w, g, s, h):
    return (w - g if g > 0 else w + g), {}


def by_and(xp, w, g, s, h):
    return w - xp.where(g > 0 and w > 0, g, 0.0), {}


def by_not(xp, w, g, s, h):
    return w - xp.where(not g > 0, g, 0.0), {}


def by_chained_comparison(xp, w, g, s, h):
    return w - xp.where(0 < g < 1, g, 0.0), {}


def by_min(xp, w, g, s, h):
    return w - min(g, 1.0), {}


def by_assert(xp, w, g, s, h):
    assert g > 0
    return w - g, {}


def by_if_on_what_is_not_fused(xp, w, g, s, h):
    step = xp.tanh(g)
    return (w - step if step > 0 else w), {}


def by_math(xp, w, g, s, h):
    return w - math.sqrt(g), {}


def by_float(xp, w, g, s, h):
    return w - h.lr * float(g), {}


def by_int(xp, w, g, s, h):
    return w - h.lr * int(g), {}


def by_round(xp, w, g, s, h):
    return w - round(g), {}


def by_floor(xp, w, g, s, h):
    return w - math.floor(g), {}


def by_sqrt_of_numpy(xp, w, g, s, h):
    return w - np.sqrt(abs(g)), {}


def by_maximum_of_numpy(xp, w, g, s, h):
    return w - np.maximum(g, 0.0), {}


def by_where_of_numpy(xp, w, g, s, h):
    return w - np.where(g > 0, g, 0.0), {}


def by_norm_of_numpy(xp, w, g, s, h):
    return w - g / np.linalg.norm(g), {}


def by_numpy_of_hyperparameter(xp, w, g, s, h):
    return w - np.sqrt(h.lr) * g, {}


BRANCHES = r"branches on the value of an array, which has one for each element"
CHOOSE = r"choose by xp\.where, xp\.minimum or xp\.maximum, and join conditions by & \| ~"
CONVERTS = r"makes one number of an array, which has one for each element"
CALL = r"call the functions of xp, as in xp\.sqrt, in place of float\(\) and of those of math"
FOREIGN = r", which means something else for each array library"

#: rule -> what it does, and the remedy
WRONG = {
    by_if: (BRANCHES, CHOOSE),
    by_and: (BRANCHES, CHOOSE),
    by_not: (BRANCHES, CHOOSE),
    by_chained_comparison: (BRANCHES, CHOOSE),
    by_min: (BRANCHES, CHOOSE),
    by_assert: (BRANCHES, CHOOSE),
    by_if_on_what_is_not_fused: (BRANCHES, CHOOSE),
    by_math: (CONVERTS, CALL),
    by_float: (CONVERTS, CALL),
    by_int: (CONVERTS, CALL),
    by_round: (CONVERTS, CALL),
    by_floor: (CONVERTS, CALL),
    by_sqrt_of_numpy: (rf"calls np\.sqrt{FOREIGN}", r"call xp\.sqrt"),
    by_maximum_of_numpy: (rf"calls np\.maximum{FOREIGN}", r"call xp\.maximum"),
    by_where_of_numpy: (rf"calls np\.where{FOREIGN}", r"call xp\.where"),
    by_norm_of_numpy: (rf"calls np\.linalg\.norm{FOREIGN}", r"call xp\.norm"),
    by_numpy_of_hyperparameter: (rf"calls np\.sqrt{FOREIGN}", r"call xp\.sqrt"),
}


@every_choice
@pytest.mark.parametrize("shape", [(3,), (1,), ()], ids=str)
@pytest.mark.parametrize("function", WRONG, ids=lambda function: function.__name__)
def test_what_has_no_meaning_for_arrays_is_refused_for_one_element_too(function, shape, engine):
    require(engine)
    what, remedy = WRONG[function]
    last = max(line for *_, line in function.__code__.co_lines() if line is not None)
    line = last - (function is by_assert)
    optimizer, w = with_rule(function)(engine=engine), np.full(shape, 2.0)
    with pytest.raises(RuleError) as caught:
        optimizer.update({"w": w}, {"w": np.full(shape, 0.5)})
    where = rf" \(test_mistakes_in_rules\.py, line {line}\); "
    assert re.fullmatch(rf"Odd\.rule {what}{where}{remedy}", str(caught.value))
    assert ((w == 2.0).all(), optimizer.t) == (True, 0)


def by_number_of_a_sum(xp, w, g, s, h):
    return (w - math.sqrt(xp.sum(g * g)) if xp.norm(g) > 1 else w), {}


@pytest.mark.parametrize("engine", ["auto", "array_api"])
def test_numbers_that_sums_leave_may_decide_where_the_rule_runs_on_the_array_library(engine):
    w = np.zeros(4)
    with_rule(by_number_of_a_sum)(engine=engine).update(w, np.ones(4))
    assert w.tolist() == [-2.0] * 4


@pytest.mark.parametrize("engine", ["auto", "array_api"])
def test_numpy_may_be_called_for_what_the_namespace_does_not_have(engine):
    w = np.zeros(4)
    with_rule(lambda xp, w, g, s, h: (w - np.sinc(g), {}))(engine=engine).update(w, np.zeros(4))
    assert w.tolist() == [-1.0] * 4


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (lambda xp, w, g, s, h: (w - g, None), r"got None in the place of the dict; .*, write {}$"),
        (lambda xp, w, g, s, h: (w, g), "got an array in the place of the dict; .*, write {}$"),
        (lambda xp, w, g, s, h: w - g, r"got one value; where there are no slots, write {} after"),
        (lambda xp, w, g, s, h: (w, g, g), "got a tuple of 3; put the slots into a dict by their"),
        (lambda xp, w, g, s, h: [w, {}], "got a list$"),
        (lambda xp, w, g, s, h: None, "got None; end it with return$"),
    ],
)
@engine_runs.every_engine
def test_what_is_wrong_with_what_a_rule_returns_is_said(rule, told, engine):
    engine_runs.require(engine)
    returning = type("Returning", (Optimizer,), {"rule": staticmethod(rule)})
    message = rf"^Returning\.rule must return a pair \(new parameter, dict of new slots\), {told}"
    with pytest.raises(TypeError, match=message):
        returning(engine=engine).update(np.zeros(2), np.ones(2))

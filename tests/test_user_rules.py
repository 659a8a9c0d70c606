"""Rules that a user writes are fused like the kit's own; those that cannot be, run all the same."""

import math
import re

import bits
import cases
import engine_runs
import numpy as np
import pytest
from cases import ClippedAMSGrad, UserSignum

from instep import Optimizer
from instep.graph import FusionError
from instep.hyperparameters import NonNegative
from instep.rule import Form


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


# Rules that no stand-in for an array can run ------------------------------------------------------


def by_numpy(xp, w, g, s, h):
    return w - h.lr * np.cos(g + 1), {}


def by_numpy_of_number(xp, w, g, s, h):
    return w - np.exp2(h.lr - 1.5) * abs(g), {}


def by_python_function_of_numpy(xp, w, g, s, h):
    return w - h.lr * np.mean(abs(g), keepdims=True), {}


def by_array_of_numpy(xp, w, g, s, h):
    return w - h.lr * np.ones(1) * abs(g), {}


def by_module_math(xp, w, g, s, h):
    return w - math.sqrt(h.lr * h.lr) * abs(g), {}


def by_matrix_product(xp, w, g, s, h):
    return w - h.lr * xp.sqrt(g @ g), {}


def by_floor_division(xp, w, g, s, h):
    return w - h.lr * (abs(g) // 1), {}


def by_iteration(xp, w, g, s, h):
    return w - h.lr * abs(sum(x for x in g)), {}


def by_branch(xp, w, g, s, h):
    return (w - h.lr if h.t % 2 == 1 else w), {}


#: rule -> words of the error where fusion is asked for
STAND_INS = {
    by_numpy: r"it calls np\.cos, .*call the functions of xp, as in xp\.cos",
    by_numpy_of_number: r"it calls np\.exp2, .*as in xp\.exp2",
    by_python_function_of_numpy: r"it calls np\.mean, .*as in xp\.mean",
    by_array_of_numpy: r"a ndarray stands among its operands",
    by_module_math: r"it needs the value of the hyperparameter expression \(lr \* lr\)",
    by_matrix_product: r"it raises TypeError: unsupported operand type\(s\) for @",
    by_floor_division: r"it raises TypeError: unsupported operand type\(s\) for //",
    by_iteration: r"it needs the elements of an array one by one",
    by_branch: r"it needs the value of the hyperparameter expression \(\(t % 2\) == 1\)",
}


def with_rule(function, **members):
    """Return the class with this rule."""
    members = {
        "lr": 0.5,
        "__annotations__": {"lr": float},
        "rule": staticmethod(function),
    } | members
    return type("Odd", (Optimizer,), members)


@pytest.mark.parametrize("function", STAND_INS, ids=lambda function: function.__name__)
def test_a_rule_that_cannot_be_traced_runs_on_the_array_library_as_promised(function):
    w = np.zeros(1)
    optimizer = with_rule(function)()
    optimizer.update(w, np.array([-1.0]))
    assert w.tolist() == [-0.5]
    assert re.search(STAND_INS[function], str(optimizer.explain(w)))


@pytest.mark.parametrize("engine", ["native", "blocked"])
@pytest.mark.parametrize("function", STAND_INS, ids=lambda function: function.__name__)
def test_where_fusion_was_asked_for_rule_line_and_remedy_are_named(function, engine):
    engine_runs.require(engine)
    w = np.zeros(1)
    with pytest.raises(FusionError, match=STAND_INS[function]) as caught:
        with_rule(function)(engine=engine).update(w, np.ones(1))
    text, line = str(caught.value), function.__code__.co_firstlineno + 1
    assert text.startswith("Odd.rule cannot be fused: ")
    assert f"(test_user_rules.py, line {line})" in text
    assert text.endswith('or run the rule as it is with engine="array_api"')
    assert w.tolist() == [0.0]


def test_an_error_of_the_rule_itself_is_raised_where_it_runs():
    def rule(xp, w, g, s, h):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        with_rule(rule)().update(np.zeros(1), np.ones(1))


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_of_numpy_have_their_dtype_as_they_have_in_numpy(dtype, engine):
    engine_runs.require(engine)

    def rule(xp, w, g, s, h):
        return w - np.float64(0.1) * (h.lr * np.float64(1 / 3)) * g + np.float32(0.1) * w, {}

    results = []
    for name in (engine, "array_api"):
        w = np.linspace(-2, 2, 101, dtype=dtype)
        with_rule(rule)(engine=name).update(w, np.full(101, 0.1, dtype))
        results.append(w)
    bits.assert_same_bits(*results)


# What `scalars` and the functions of `xp.apply` return --------------------------------------------


@engine_runs.every_engine
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({}, r"returned no number for 'mean', which is one of its scalar_slots; return"),
        ({"mean": True}, r"returned no number for 'mean', which is one of its scalar_slots"),
        ({"mean": None}, r"returned None for 'mean': .*; return numbers"),
        ({"mean": "0.1"}, r"returned '0.1' for 'mean': it is text; return numbers"),
        ({"mean": 10**400}, r"returned an int of 1329 bits for 'mean': int too large .*; return"),
        ({"mean": 1j}, r"returned 1j for 'mean': .*complex.*; return numbers"),
        ({"mean": 1.0, "if": 2.0}, r"returned a value for 'if'; give it a name that can stand"),
        ({"mean": 1.0, 3: 2.0}, r"returned a value for 3; give it a name that can stand"),
        (None, r"must return a dict of numbers, got NoneType"),
    ],
    ids=["missing", "boolean", "None", "text", "large", "complex", "keyword", "number", "no dict"],
)
def test_what_scalars_may_not_return_is_named(returned, message, engine):
    engine_runs.require(engine)
    members = {"scalars": staticmethod(lambda h: returned), "scalar_slots": {"mean": 0.0}}
    optimizer = with_rule(lambda xp, w, g, s, h: (w - h.mean * g, {}), **members)(engine=engine)
    w = np.zeros(1)
    with pytest.raises(TypeError, match=rf"Odd\.scalars {message}"):
        optimizer.update(w, np.ones(1))
    assert (w.item(), optimizer.t) == (0.0, 0)


@engine_runs.every_engine
def test_booleans_of_numpy_are_flags_too(engine):
    engine_runs.require(engine)
    members = {"scalars": staticmethod(lambda h: {"warm": np.bool_(h.t > 1), "f": np.float32(2)})}
    optimizer = with_rule(lambda xp, w, g, s, h: (w - h.f * g if h.warm else w, {}), **members)(
        engine=engine
    )
    w = np.zeros(1)
    for expected in (0.0, -2.0):
        optimizer.update(w, np.ones(1))
        assert w.item() == expected


@engine_runs.every_engine
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda xp, x: None, "must return an array, got a NoneType"),
        (lambda xp, x: (x, x), "must return an array, got a tuple"),
        (lambda xp, x: 1.0, "must return an array, got a float"),
    ],
    ids=["nothing", "two", "number"],
)
def test_what_a_function_of_whole_arrays_may_not_return_is_named(function, message, engine):
    engine_runs.require(engine)
    members = {"form_for": lambda self, shape: Form(slots=(), between=("draft",))}
    rule = with_rule(lambda xp, w, g, s, h: (w - xp.apply(function, g), {}), **members)
    w = np.zeros(1)
    with pytest.raises(
        TypeError, match=rf"Odd\.rule: <lambda>, .*xp\.apply, {message}; return what"
    ):
        rule(engine=engine).update(w, np.ones(1))
    assert w.item() == 0.0


@engine_runs.every_engine
@pytest.mark.parametrize(
    ("returned", "got"),
    [
        (lambda x: None, "a NoneType"),
        (lambda x: x, "1"),
        (lambda x: (x, None), "a NoneType"),
        (lambda x: (x, x, x), "3"),
    ],
    ids=["nothing", "one", "one and nothing", "three"],
)
def test_so_is_another_number_of_arrays_than_slots_ask_for(returned, got, engine):
    engine_runs.require(engine)

    def rule(xp, w, g, s, h):
        new, mean = xp.apply(lambda xp, x, mean: returned(x), g, s.mean)
        return w - new, {"mean": mean}

    form = Form(slots=(), whole={"mean": (1,)}, between=("draft",))
    optimizer = with_rule(rule, form_for=lambda self, shape: form, slots=("mean",))(engine=engine)
    w = np.zeros(2)
    with pytest.raises(
        TypeError, match=rf"must return a tuple of 2 arrays, got {got}; .* each slot"
    ):
        optimizer.update(w, np.ones(2))
    assert w.tolist() == [0.0, 0.0]


@engine_runs.every_engine
def test_a_function_of_whole_arrays_is_given_numbers_of_python(engine):
    engine_runs.require(engine)
    given = []

    def kept(xp, x, **numbers):
        given.append(numbers)
        return x

    def rule(xp, w, g, s, h):
        numbers = {"t": h.t, "root": xp.sqrt(h.lr), "flag": True, "name": "n", "far": float("inf")}
        return w - xp.apply(kept, xp.norm(g), none=None, **numbers), {}

    form = Form(slots=(), between=("draft",))
    w = np.zeros(2)
    with_rule(rule, form_for=lambda self, shape: form)(engine=engine).update(w, np.ones(2))
    (numbers,) = given
    expected = {
        "t": 1,
        "root": math.sqrt(0.5),
        "flag": True,
        "name": "n",
        "far": math.inf,
        "none": None,
    }
    assert numbers == expected
    assert {key: type(x) for key, x in numbers.items()} == {k: type(x) for k, x in expected.items()}
    assert w.tolist() == [-math.sqrt(2.0)] * 2

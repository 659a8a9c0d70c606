"""Every rule against the textbook loop of the paper, within a bound that is derived."""

import inspect

import bits
import cases
import engine_runs
import numpy as np
import pytest
import textbook
from error_analysis import Rounded

from instep import optimizers

STEPS = 50
SIZE = 500

# `Rounded` bounds the error of the textbook's own sequence of operations. A rule groups the same
# few operations in another way (a constant divides on the host what the textbook divides by
# element), which replaces one rounding by at most two.
REGROUPED = 2


def problem(dtype, seed=0):
    rng = np.random.default_rng(seed)
    w = bits.ordinary(rng, SIZE, dtype)
    return w, [bits.ordinary(rng, SIZE, dtype) for _ in range(STEPS)]


@pytest.mark.parametrize("schedule", [None, cases.changing(0.05)], ids=["constant", "changing"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@cases.every_case
def test_a_rule_follows_its_textbook(case, dtype, schedule):
    keywords = {} if schedule is None else {"lr": schedule}
    start, gradients = problem(dtype)
    gradients = gradients[: case.steps]
    optimizer = case.make(**keywords)
    w, path = start.copy(), []
    for gradient in gradients:
        cases.step(optimizer, w, gradient)
        path.append(w.astype(np.longdouble))
    expected = case.follow(
        Rounded(start, dtype), [Rounded(g, dtype) for g in gradients], **keywords
    )
    for step, (got, want) in enumerate(zip(path, expected, strict=True), 1):
        error = abs(got - want.value)
        assert (error <= REGROUPED * want.error).all(), f"step {step}"
    # The bound says something: it is small beside the way that most elements have gone.
    way = abs(expected[-1].value - start)
    assert np.median(expected[-1].error) < case.slack * np.finfo(dtype).eps * np.median(way)


@cases.every_case
def test_float16_is_float32_arithmetic_rounded_once_at_the_store(case):
    start, gradients = problem("float16")
    narrow, wide = case.make(lr=0.05), case.make(lr=0.05)
    w = start.copy()
    for gradient in gradients:
        exact = w.astype("float32")
        cases.step(wide, {"w": exact}, {"w": gradient.astype("float32")})
        cases.step(narrow, {"w": w}, {"w": gradient})
        bits.assert_same_bits(w, exact.astype("float16"))
    for name, slot in engine_runs.slots_of(narrow).get("w", {}).items():
        bits.assert_same_bits(slot, engine_runs.slots_of(wide)["w"][name], name)


@pytest.mark.parametrize("case", [c for c in cases.CASES if not c.keywords], ids=str)
def test_defaults_are_those_of_the_specification(case):
    specified = {
        name: parameter.default
        for name, parameter in inspect.signature(case.textbook).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    optimizer = case.make()
    assert {name: getattr(optimizer, name) for name in specified} == specified
    declared = inspect.signature(case.optimizer).parameters.values()
    positional = [p.name for p in declared if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == list(specified), "arguments, in this order"
    assert {"engine", "threads"} <= {p.name for p in declared if p.kind is p.KEYWORD_ONLY}


def test_every_public_optimizer_has_a_case():
    assert {getattr(optimizers, name) for name in optimizers.__all__} <= {
        case.optimizer for case in cases.CASES
    }


@pytest.mark.parametrize("dtype", bits.DTYPES)
@cases.every_case
def test_a_learning_rate_of_zero_changes_nothing(case, dtype):
    if case.moves_at_rate_zero:
        pytest.skip(f"{case} has another or a smallest step")
    start, gradients = problem(dtype)
    w = start.copy()
    optimizer = case.make(lr=0.0)
    for gradient in gradients[:3]:
        cases.step(optimizer, w, gradient)
    bits.assert_same_bits(w, start)


@cases.every_case
def test_a_rule_descends_on_a_parabola(case):
    w = np.array([-7.5, -5.0])
    scale = np.array([1 / 15, 2.0])
    optimizer = case.make(**case.descent)
    heights = [0.5 * w @ (scale * w)]
    for _ in range(200):
        optimizer.update(w, scale * w, value=heights[-1])
        heights.append(0.5 * w @ (scale * w))
    assert heights[20] < 0.99 * heights[0]
    assert heights[200] < 0.6 * heights[0]


def rosenbrock(x, y):
    """Return the gradient of (1 - x)**2 + 100 (y - x**2)**2."""
    return np.array([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)])


@pytest.mark.parametrize(
    ("name", "lr"),
    [
        *(("SGD", 1e-3), ("Momentum", 5e-4), ("Nesterov", 5e-4)),
        *(("AdaGrad", 0.5), ("RMSProp", 1e-3), ("Adam", 0.05), ("AdamW", 0.05)),
    ],
)
def test_a_rule_comes_close_to_the_minimum_of_rosenbrocks_function(name, lr):
    keywords = {"weight_decay": 0.0} if name == "AdamW" else {}
    w = np.array([1.5, 1.5])
    optimizer = getattr(optimizers, name)(lr=lr, **keywords)
    for _ in range(4000):
        optimizer.update(w, rosenbrock(*w))
    assert np.hypot(*(w - 1.0)) < 0.5 * np.hypot(0.5, 0.5)


@engine_runs.every_engine
@pytest.mark.parametrize(
    ("optimizer", "loop", "keywords"),
    [
        (optimizers.Yogi, textbook.yogi, {"lr": 0.5}),
        (optimizers.RMSProp, textbook.rmsprop, {"lr": 0.5, "centered": True}),
        (optimizers.Adafactor, textbook.adafactor, {"lr": 0.5}),
    ],
)
@pytest.mark.parametrize("shape", [(12,), (3, 4)], ids=str)
def test_a_rule_goes_on_where_float32_holds_no_square_of_a_gradient(
    optimizer, loop, keywords, shape, engine
):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    scales = [1e20, 2.0, 1e-3, 1e-22] * 3  # of elements, or of the columns of a matrix
    gradients = [
        (rng.standard_normal(12) * scales).reshape(shape).astype("float32") for _ in range(4)
    ]
    w = np.zeros(shape, "float32")
    *_, expected = loop(w.astype("float64"), [g.astype("float64") for g in gradients], **keywords)
    stepping = optimizer(engine=engine, **keywords)
    for g in gradients:
        stepping.update(w, g)
    np.testing.assert_allclose(w, expected, rtol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_centered_rmsprop_sees_how_gradients_vary_far_from_zero(shift):
    rng = np.random.default_rng(0)
    gradients = [(rng.standard_normal(200) + shift).astype("float32") for _ in range(100)]
    w = np.zeros(200, "float32")
    optimizer = optimizers.RMSProp(lr=1.0, centered=True)
    *_, expected = textbook.rmsprop(
        w.astype("float64"), [g.astype("float64") for g in gradients], lr=1.0, centered=True
    )
    for g in gradients:
        optimizer.update(w, g)
    np.testing.assert_allclose(w, expected, rtol=1e-5, atol=1e-4)

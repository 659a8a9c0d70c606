"""Conjugate gradients go the way of the textbook, and as far as others in as many steps."""

import bits
import engine_runs
import numpy as np
import pytest
from objectives import least_squares, quadratic, rosenbrock, start

from instep import Backtracking, ConjugateGradient, Status, StrongWolfe, minimize
from instep.minimization import conjugate_gradient
from instep.minimization.line_search import Trial

BETAS = ["PR+", "DY", "HZ"]
every_beta = pytest.mark.parametrize("beta", BETAS)

SCALES = np.geomspace(1, 30, 8)


def bowl(x):
    """Steeper than a parabola: its directions are no textbook's for quadratic functions."""
    return float((SCALES * np.cosh(x)).sum()), SCALES * np.sinh(x)


def newton(x, d):
    """Return the step to the minimum on a line of the parabola with the slopes of `bowl`."""
    return -(SCALES * np.sinh(x)) @ d / (SCALES * np.cosh(x) * d @ d)


def textbook(beta, x, steps):
    """Return the values on the way, with each formula as in its paper, on NumPy's own products."""
    x = x.copy()
    value, g = bowl(x)
    d, values = -g, [value]
    for _ in range(steps):
        length = newton(x, d)
        x += length * d
        value, new = bowl(x)
        y = new - g
        if beta == "PR+":
            factor = max(new @ y / (g @ g), 0)
        elif beta == "DY":
            factor = new @ new / (d @ y)
            if abs(new @ g) >= 0.2 * (new @ new) and abs(new @ d) <= 0.5 * abs(g @ d):
                factor = 0
        else:
            along = (y - 2 * d * (y @ y) / (d @ y)) @ new / (d @ y)
            factor = max(along, -1 / (np.linalg.norm(d) * min(0.01, np.linalg.norm(g))))
        d, g = -new + factor * d, new
        values.append(value)
    return values


@every_beta
def test_the_way_is_that_of_the_textbook(beta):
    x = np.linspace(-2, 1.5, 8)
    expected = textbook(beta, x, 15)
    result = minimize(bowl, x, ConjugateGradient(beta, newton), steps=15)
    assert [one.value for one in result.history] == pytest.approx(expected, rel=1e-12)
    assert result.nfev == 16


def test_the_bound_of_hager_and_zhang_is_met():
    """A gradient that turns around after a long step asks for a factor below the bound."""
    now = {"gy": -50.0, "yy": 1.0, "dy": 1.0, "gd": 0.0, "dd": 4.0, "gg": 1.0}
    assert conjugate_gradient.BETAS["HZ"](now, 9.0) == -1 / (2 * 0.01)
    assert conjugate_gradient.BETAS["HZ"](now, 1e-6) == -50.0
    assert conjugate_gradient.BETAS["HZ"]({**now, "dy": -1.0}, 9.0) == 0
    assert conjugate_gradient.BETAS["DY"]({**now, "dy": 0.0}, 9.0) == 0
    assert conjugate_gradient.BETAS["PR+"](now, 9.0) == 0


@every_beta
def test_a_quadratic_takes_as_many_steps_as_it_has_dimensions(beta):
    objective, x = quadratic(SCALES), np.linspace(-2, 3, 8)

    def exact(x, d):
        return -(SCALES * (x - 1)) @ d / (SCALES * d @ d)

    method = ConjugateGradient(beta, exact)
    result = minimize(objective, x, method, tolerance=1e-8)
    assert result.status is Status.CONVERGED
    assert result.nit <= 8
    np.testing.assert_allclose(x, 1, rtol=1e-8)


@every_beta
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rosenbrock_is_solved(beta, dtype):
    x = start(10, dtype)
    result = minimize(rosenbrock, x, ConjugateGradient(beta), tolerance=1e-4, steps=400)
    assert result.status is Status.CONVERGED
    assert result.x is x
    np.testing.assert_allclose(x, 1, atol=2e-4)


@pytest.mark.parametrize("beta", ["DY", "HZ"])
def test_halving_will_do(beta):
    x = start(10)
    method = ConjugateGradient(beta, Backtracking(factor=0.5))
    assert minimize(rosenbrock, x, method, tolerance=1e-4, steps=2000).success


@every_beta
@pytest.mark.parametrize("kind", ["modulus", "pairs"])
def test_complex_parameters_have_a_real_inner_product(beta, kind):
    objective, solution = least_squares()
    z = np.zeros(10, complex)
    result = minimize(objective, z, ConjugateGradient(beta, complex=kind), tolerance=1e-8)
    assert result.success
    np.testing.assert_allclose(z, solution, atol=1e-8)


def test_both_meanings_of_complex_numbers_are_one_way():
    objective, _ = least_squares()
    ways = []
    for kind in ("modulus", "pairs"):
        z = np.zeros(10, complex)
        ways.append(minimize(objective, z, ConjugateGradient(complex=kind), steps=5).history)
    for one, other in zip(*ways, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-12)


@every_beta
@engine_runs.every_numpy_engine
def test_all_engines_go_the_same_way(engine, threads, beta):
    engine_runs.require(engine)
    found = []
    for settings in ({"engine": engine, "threads": threads}, {"engine": "array_api"}):
        x = start(2000, "float32")
        found.append((minimize(rosenbrock, x, ConjugateGradient(beta, **settings), steps=30), x))
    (one, x), (other, y) = found
    bits.assert_same_bits(x, y, "x")
    assert [tuple(p)[:4] for p in one.history] == [tuple(p)[:4] for p in other.history]


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_a_function_of_ones_own_is_given_the_point_and_the_direction(engine, dtype):
    engine_runs.require(engine)
    asked = []

    def objective(p):
        value = sum(float((np.abs(w - 1) ** 2).sum()) for w in p.values() if w is not p["c"])
        grads = {key: 2 * (w - 1) for key, w in p.items()}
        return value / 1, {**grads, "c": None}

    def step(p, d):
        asked.append(({k: w.copy() for k, w in p.items()}, d))
        d["a"] = d["a"] * 1  # it is a copy: what is done to it does not matter
        return 0.25

    params = {"a": np.zeros(3, dtype), "b": np.full(2, 3, dtype), "c": np.zeros(1, dtype)}
    begin = {k: w.copy() for k, w in params.items()}
    result = minimize(objective, params, ConjugateGradient("PR+", step, engine=engine), steps=2)
    assert result.nfev == 3
    first, direction = asked[0]
    for key in ("a", "b"):
        bits.assert_same_bits(first[key], begin[key], key)
        np.testing.assert_array_equal(direction[key], -2 * (begin[key] - 1))
        assert direction[key].dtype == dtype
    assert direction["c"] is None
    np.testing.assert_array_equal(asked[1][0]["a"], np.full(3, 0.5, dtype))


@pytest.mark.parametrize(
    ("step", "status"),
    [(0.0, Status.PRECISION), (-1.0, Status.PRECISION), (1e3, Status.PRECISION)],
)
def test_a_step_of_ones_own_that_leads_up_is_not_taken(step, status):
    x = np.full(3, 2.0)
    result = minimize(
        quadratic(np.ones(3)), x, ConjugateGradient(line_search=lambda x, d: step), steps=5
    )
    assert result.status is status
    assert result.nit == 0
    assert (x == 2).all()


@pytest.mark.parametrize("step", [np.nan, np.inf, None, "far"])
def test_a_step_of_ones_own_is_a_number(step):
    x = np.full(3, 2.0)
    with pytest.raises(ValueError, match="line_search must return how far to go"):
        minimize(quadratic(np.ones(3)), x, ConjugateGradient(line_search=lambda x, d: step))
    assert (x == 2).all()


def test_a_search_of_ones_own_is_a_class():
    class Fixed:
        def search(self, start, step):
            assert isinstance(start, Trial)
            trial = yield 0.5
            return None if trial.value < start.value else "no"

    x = np.full(3, 2.0)
    result = minimize(quadratic(np.ones(3)), x, ConjugateGradient(line_search=Fixed()), steps=3)
    assert result.nit == 3
    assert result.nfev == 4


def test_values_that_drown_in_rounding_do_not_stop_it():
    """A large constant hides how the value falls, and slopes do not mind."""
    x = start(10)

    def high(x):
        value, g = rosenbrock(x)
        return value + 1e8, g

    result = minimize(high, x, ConjugateGradient("HZ"), tolerance=1e-6, steps=2000)
    assert result.status is Status.CONVERGED
    np.testing.assert_allclose(x, 1, atol=1e-5)


@every_beta
def test_a_step_takes_two_passes(beta):
    params = {"a": np.zeros(10, "float32"), "b": np.zeros((3, 4), "float32")}
    found = ConjugateGradient(beta).explain(params).passes
    assert list(found) == ["advance", "products"]
    for one in found.values():
        assert [bucket.passes for bucket in one.buckets] == [1]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"beta": "FR"}, ValueError, "beta must be one of 'PR\\+', 'DY', 'HZ', got 'FR'"),
        ({"line_search": 1.0}, TypeError, "line_search must be StrongWolfe"),
        ({"line_search": StrongWolfe}, TypeError, "line_search must be StrongWolfe"),
        ({"first_length": 0}, ValueError, "first_length must be > 0"),
        ({"engine": "no"}, ValueError, "ConjugateGradient: engine must be"),
    ],
)
def test_settings_are_checked(arguments, error, text):
    with pytest.raises(error, match=text):
        ConjugateGradient(**arguments)


def test_a_gradient_that_is_missing_at_one_point_is_refused():
    calls = []

    def objective(p):
        calls.append(1)
        value, grads = 0.0, {}
        for key, w in p.items():
            value += float(w @ w)
            grads[key] = 2 * w
        if len(calls) == 3:
            grads["b"] = None
        return value, grads

    params = {"a": np.ones(3), "b": np.full(2, 4.0)}
    with pytest.raises(ValueError, match=r"None as the gradient of 'b' at one point") as caught:
        minimize(objective, params, ConjugateGradient())
    assert caught.value.__notes__ == ["minimize: the parameters are those after 0 steps"]

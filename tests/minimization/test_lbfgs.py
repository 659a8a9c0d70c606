"""L-BFGS goes the way of the textbook, free and within bounds."""

import numpy as np
import pytest
from objectives import (
    HOCK_SCHITTKOWSKI,
    direction_of_pairs,
    least_squares,
    quadratic,
    rosenbrock,
    start,
)

from instep import (
    FISTA,
    LBFGS,
    Adam,
    Backtracking,
    ConjugateGradient,
    Status,
    StrongWolfe,
    minimize,
)


def textbook(value_and_grad, x, steps, history):
    """Return the values on the way of L-BFGS on NumPy's own products, lengths as those of SciPy."""
    value, g = value_and_grad(x)
    pairs, values = [], [value]
    for _ in range(steps):
        d = direction_of_pairs([s for s, _ in pairs], [y for _, y in pairs], g)
        length = 1.0 if pairs else 1 / np.linalg.norm(g)
        # Where the first trial fulfils the conditions, that is the step: the tests see to it.
        new_value, new_g = value_and_grad(x + length * d)
        assert new_value <= value + 1e-3 * length * (g @ d)
        assert abs(new_g @ d) <= 0.9 * abs(g @ d)
        pairs = [*pairs, (length * d, new_g - g)][-history:]
        x, value, g = x + length * d, new_value, new_g
        values.append(value)
    return values


@pytest.mark.parametrize("history", [1, 3, 10])
def test_the_way_is_that_of_the_textbook(history):
    objective = quadratic(np.linspace(1, 4, 8))
    x = np.full(8, 1.4)
    expected = textbook(objective, x, 6, history)
    result = minimize(objective, x, LBFGS(history), steps=6)
    assert [one.value for one in result.history] == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert result.nfev == 7


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rosenbrock_is_solved(dtype):
    x = start(10, dtype)
    result = minimize(rosenbrock, x, tolerance=1e-5)
    assert result.status is Status.CONVERGED
    assert result.x is x
    np.testing.assert_allclose(x, 1, atol=1e-5)


def test_complex_parameters_have_a_real_inner_product():
    objective, solution = least_squares()
    for method in (LBFGS(), LBFGS(complex="pairs")):
        z = np.zeros(10, complex)
        result = minimize(objective, z, method, tolerance=1e-8)
        assert result.success
        np.testing.assert_allclose(z, solution, atol=1e-8)


def test_a_shorter_search_is_as_good():
    x = start()
    assert minimize(rosenbrock, x, LBFGS(line_search=Backtracking()), tolerance=1e-8).success
    x = start()
    searching = StrongWolfe(decrease=1e-4, curvature=0.1)
    assert minimize(rosenbrock, x, LBFGS(line_search=searching), tolerance=1e-8).success


# Bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOCK_SCHITTKOWSKI)
def test_bounded_problems_are_solved(name):
    objective, first, lower, upper, lowest = HOCK_SCHITTKOWSKI[name]
    lower, upper = np.array(lower, float), np.array(upper, float)
    seen = []

    def watched(x):
        seen.append(bool(((lower <= x) & (x <= upper)).all()))
        return objective(x)

    x = np.array(first, float)
    result = minimize(watched, x, LBFGS(lower=lower, upper=upper), tolerance=1e-9)
    assert result.success
    assert result.fun == pytest.approx(lowest, rel=1e-7, abs=1e-9)
    assert all(seen)  # also the start, which lies outside in the 45th


@pytest.mark.parametrize(("name", "most"), [("2", 25), ("3", 6)])
def test_a_parameter_that_comes_near_to_its_bound_meets_it(name, most):
    objective, first, lower, upper, lowest = HOCK_SCHITTKOWSKI[name]
    values = []

    def watched(x):
        value, gradient = objective(x)
        values.append(value)
        return value, gradient

    method = LBFGS(lower=np.array(lower), upper=np.array(upper))
    minimize(watched, np.array(first, float), method, tolerance=1e-9)
    near = lowest + 1e-6 * (values[0] - lowest)
    assert next(n for n, value in enumerate(values, 1) if value <= near) <= most


def test_the_gradient_is_followed_to_a_bound_while_others_take_the_direction():
    # The first leads to its bound at once, and the second has its minimum where the first is there.
    curvatures = np.array([[1.0, 0.9], [0.9, 1.0]])

    def objective(x):
        return 0.5 * float(x @ curvatures @ x) + 3 * float(x[0]), curvatures @ x + [3.0, 0.0]

    x = np.array([0.3, 4.0])
    result = minimize(objective, x, LBFGS(lower=np.array([0.0, -5.0])), tolerance=1e-12)
    assert result.success
    np.testing.assert_allclose(x, [0.0, 0.0], atol=1e-12)
    assert result.nfev < 12


def test_bounds_that_hold_nothing_change_little():
    x, y = start(), start()
    free = minimize(rosenbrock, x, tolerance=1e-8)
    within = minimize(rosenbrock, y, LBFGS(lower=-100.0, upper=100.0), tolerance=1e-8)
    assert within.success
    assert within.nfev < 1.5 * free.nfev


def test_bounds_are_numbers_arrays_or_those_of_some_leaves():
    def objective(p):
        return sum(0.5 * float((x * x).sum()) for x in p.values()), dict(p)

    def shifted(p):
        value, g = objective({k: x - 3 for k, x in p.items()})
        return value, g

    p = {"a": np.zeros(2), "b": np.zeros(2)}
    minimize(shifted, p, LBFGS(upper={"a": 1.0, "b": np.array([2.0, 9.0])}))
    np.testing.assert_allclose(p["a"], 1)
    np.testing.assert_allclose(p["b"], [2, 3], atol=1e-6)


def test_a_start_outside_is_put_inside_before_the_objective_is_asked():
    x = np.array([-5.0, 5.0])
    seen = []

    def objective(x):
        seen.append(x.copy())
        return float(((x - 0.5) ** 2).sum()), 2 * (x - 0.5)

    minimize(objective, x, LBFGS(lower=0.0, upper=1.0), steps=3)
    np.testing.assert_array_equal(seen[0], [0, 1])


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"lower": 1.0, "upper": 0.0}, "lower must not be above upper"),
        ({"lower": float("nan")}, "lower must be a number"),
        ({"lower": np.zeros(3)}, "shape"),
        ({"lower": {"w": 0.0}}, "no parameter"),
    ],
)
def test_bounds_that_make_no_set_are_refused_before_anything_changes(bounds, message):
    x = np.array([-1.0, 2.0])
    with pytest.raises((TypeError, ValueError), match=message):
        minimize(quadratic(np.ones(2)), x, LBFGS(**bounds))
    np.testing.assert_array_equal(x, [-1, 2])


def test_bounds_of_complex_numbers_are_refused():
    z = np.zeros(10, complex)
    with pytest.raises((TypeError, ValueError), match="complex"):
        minimize(least_squares()[0], z, LBFGS(lower=0.0))


@pytest.mark.parametrize("history", [0, -1, 2.5, True])
def test_history_is_a_number_of_pairs(history):
    with pytest.raises(ValueError, match="history must be an integer >= 1"):
        LBFGS(history)


def test_it_has_no_update():
    with pytest.raises(TypeError, match=r"instep\.minimize"):
        LBFGS().update(np.ones(1), np.ones(1))


def test_a_step_reads_all_vectors_twice_and_writes_three():
    found = LBFGS(10).explain(np.ones(5, "float32")).passes
    assert {name: one.buckets[0].passes for name, one in found.items()} == {
        "advance": 1,
        "products": 1,
    }
    (advance,), (products,) = (one.buckets[0].graphs for one in found.values())
    assert (len(advance.loaded), len(advance.stored)) == (22, 3)
    assert (len(products.loaded), len(products.stored)) == (22, 0)


# What users have met ----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-20, 1e13, 1e20])
def test_units_do_not_matter(scale):
    curvatures = np.logspace(0, 3, 20)

    def objective(x):
        g = scale * curvatures * (x - 1)
        return 0.5 * float(((x - 1) * g).sum()), g

    x = np.zeros(20)
    result = minimize(objective, x, steps=300, tolerance=1e-4 * scale)
    assert result.status is Status.CONVERGED
    np.testing.assert_allclose(x, 1, atol=1e-4)


@pytest.mark.parametrize("bounds", [{}, {"lower": 0.0}])
def test_a_first_step_that_is_rounded_away_is_made_longer(bounds):
    aim = (5e4 + 1e3 * np.random.default_rng(0).random(10_000)).astype("float32")
    x = np.full_like(aim, 5e4)
    mean = np.float32(1e-6)

    def objective(x):
        d = x - aim
        return 0.5e-6 * float((d.astype(float) ** 2).sum()), mean * d

    result = minimize(objective, x, LBFGS(first_length=1e-3, **bounds), steps=20)
    assert result.nit > 0
    np.testing.assert_allclose(x, aim, rtol=1e-5)


def test_an_objective_without_a_minimum_goes_down_and_down():
    x = np.zeros(3)
    result = minimize(lambda x: (float(x.sum()), np.ones(3)), x, steps=5)
    assert (result.status, result.nit) == (Status.STEPS, 5)
    assert result.fun < -1e6


def test_a_run_within_bounds_is_resumed_within_bounds(tmp_path):
    objective, file = quadratic(np.linspace(1, 4, 4)), tmp_path / "run"
    minimize(objective, np.zeros(4), LBFGS(lower=-9.0), steps=2).save(file)
    with pytest.raises(ValueError, match="bounds=True, and this is one with False"):
        minimize(objective, np.zeros(4), resume=file)


@pytest.mark.parametrize(
    "method", [LBFGS(), LBFGS(lower=0.0), FISTA(), ConjugateGradient(), Adam()]
)
def test_a_tree_in_which_nothing_moves_is_refused(method):
    for params in ({}, {"w": np.ones(2)}):
        grads = dict.fromkeys(params)
        with pytest.raises(ValueError, match="nothing to minimize over"):
            minimize(lambda _, g=grads: (0.0, g), params, method)


def test_numbers_of_numpy_are_numbers():
    result = minimize(rosenbrock, start(), tolerance=np.float32(1e-3), steps=np.int64(200))
    assert result.success


def test_history_has_an_end():
    with pytest.raises(ValueError, match="at most 100"):
        LBFGS(101)
    with pytest.raises(ValueError, match="at most 20"):
        LBFGS(21, lower=0.0)
    x = start()
    assert minimize(rosenbrock, x, LBFGS(100), tolerance=1e-6, steps=100).success


def test_a_search_of_ones_own_chooses_its_first_step():
    asked = []

    class Shorter:
        def search(self, start, step):
            asked.append(step / 4)
            trial = yield step / 4
            return None if trial.value < start.value else "it is no lower"

    x = start()
    first, g = rosenbrock(x)
    result = minimize(rosenbrock, x, LBFGS(line_search=Shorter()), steps=1)
    np.testing.assert_allclose(x, start() - asked[0] * g)
    assert result.fun < first

"""What the benchmark of minimization stands on, on small problems. No test looks at a time."""

import iterations
import numpy as np
import problems
import pytest
from examples import load

from instep import check_gradient


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        pytest.param(problems.rosenbrock, (6,), id="rosenbrock"),
        pytest.param(problems.tomography, (), id="tomography"),
        pytest.param(problems.digits, (), id="digits"),
    ],
)
def test_gradients_are_right(make, arguments):
    problem = make(*arguments)
    x = np.random.default_rng(1).random(len(problem.start))
    assert check_gradient(problem.value_and_grad, x, directions=2)


@pytest.mark.parametrize("number", problems.hock_schittkowski())
def test_gradients_of_hock_and_schittkowski_are_right(number):
    problem = problems.hock_schittkowski()[number]
    # The starts do not do: the gradient of the 25th is almost zero there, others are on bounds.
    low = np.where(np.isfinite(problem.lower), problem.lower, problem.start - 1)
    high = np.where(np.isfinite(problem.upper), problem.upper, problem.start + 1)
    assert check_gradient(problem.value_and_grad, 0.6 * low + 0.4 * high)


def test_the_tomography_is_that_of_the_documentation():
    misfit, problem = load("tomography").problem(), problems.tomography()
    image = np.random.default_rng(0).random((48, 48))
    assert problem.value_and_grad(image.ravel())[0] == float(misfit(image)[0])


def test_evaluations_are_counted_up_to_the_first_that_is_near():
    assert problems.arrival([101.0, 2.0, 1.0 + 1e-4, 1.0], 1.0) == 3
    assert problems.arrival([101.0, 2.0], 1.0) is None
    values = problems.values_of_kit(problems.rosenbrock(2))
    assert problems.arrival(values, 0.0) < 60
    assert values[0] == pytest.approx(24.2)


def test_counting_ends_after_some_evaluations(monkeypatch):
    monkeypatch.setattr(problems, "EVALUATIONS", 7)
    assert 7 <= len(problems.values_of_kit(problems.rosenbrock(10))) < 12


def test_iterations_are_measured_without_the_objective(monkeypatch):
    now = iter(np.arange(1e6))  # each look at the clock is a second later
    monkeypatch.setattr("iterations.time.perf_counter", lambda: float(next(now)))
    clock = iterations.Clock(iterations.Bowl(np.ones(2)))
    clock.objective(np.ones(2))  # takes a second, and the look at the clock after it one more
    clock.tick()
    assert clock.laps == [2.0]
    clock.tick(iterations=2)
    assert clock.laps[1:] == [0.5, 0.5]


def test_iterations_of_the_kit_are_counted_when_the_history_is_full():
    found = iterations.measure(3000, 1, 1, ["instep LBFGS"])["instep LBFGS"]
    assert 1 <= found["evaluations"] < 2
    assert len(iterations.of_kit(3000, 1).counted()) == iterations.COUNTED
    assert iterations.WARM > iterations.HISTORY

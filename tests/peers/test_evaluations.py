"""L-BFGS of the kit needs no more evaluations than those of SciPy, but for a tenth."""

import iterations
import minimization
import problems
import pytest

pytestmark = pytest.mark.peers

pytest.importorskip("scipy")

#: Problems, and evaluations after which values are as good as the lowest.
SMOOTH = {
    "tomography, nowhere negative": 1500,
    "Rosenbrock, 2": 100,
    "Rosenbrock, 100": 1000,
    "Rosenbrock, 100, from zeros": 1000,
    "Rosenbrock, 10,000, from random numbers in [0, 1)": 2000,
    "logistic regression of digits, 7,840": 300,
}


@pytest.fixture(scope="module")
def smooth():
    found = minimization.smooth()
    assert sorted(found) == sorted(SMOOTH)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOOTH)
def test_it_comes_near_to_the_lowest_value_in_as_many_evaluations(name, smooth, monkeypatch):
    monkeypatch.setattr(problems, "EVALUATIONS", SMOOTH[name])
    problem = smooth[name]
    kit, scipy = problems.values_of_kit(problem), problems.values_of_scipy(problem)
    lowest = min(kit + scipy) if problem.lowest is None else problem.lowest
    assert problems.arrival(kit, lowest) <= 1.1 * problems.arrival(scipy, lowest)


#: The 25th SciPy does not solve. In the 38th the bounds hold nothing, and its first step is longer.
COMPARED = sorted(set(problems.hock_schittkowski()) - {"25", "38"})


@pytest.mark.parametrize("number", COMPARED)
def test_bounded_problems_take_few_evaluations_more(number):
    problem = problems.hock_schittkowski()[number]
    kit, scipy = problems.values_of_kit(problem), problems.values_of_scipy(problem)
    own, its = (problems.arrival(values, problem.lowest) for values in (kit, scipy))
    assert own <= 1.2 * its


@pytest.mark.parametrize("number", problems.hock_schittkowski())
def test_where_scipy_solves_a_bounded_problem_it_is_solved_too(number):
    problem = problems.hock_schittkowski()[number]
    kit, scipy = problems.values_of_kit(problem), problems.values_of_scipy(problem)
    assert problems.arrival(kit, problem.lowest, 1e-9) is not None
    assert min(kit) <= min(scipy) + 1e-9 * max(abs(min(scipy)), 1)


def test_all_contenders_take_iterations_that_can_be_timed():
    pytest.importorskip("torch")
    found = iterations.measure(2000, 1, 1, [*iterations.CONTENDERS])
    assert list(found) == [*iterations.CONTENDERS]
    assert found["torch LBFGS, no line search"]["evaluations"] == 1
    assert found.pop("NumPy, as many bytes")["evaluations"] == 0
    assert all(1 <= its["evaluations"] < 2 for its in found.values())

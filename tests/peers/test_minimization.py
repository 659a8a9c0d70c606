"""Line searches and conjugate gradients against those of SciPy."""

import numpy as np
import pytest
from objectives import rosenbrock, start

from instep import ConjugateGradient, StrongWolfe, minimize
from instep.minimization.line_search import Trial

pytestmark = pytest.mark.peers

optimize = pytest.importorskip("scipy.optimize")

# Functions on a line, with their derivatives: those of Moré and Thuente (1994), section 5, and some
# that are asked of later.

RHO, SMALL = 7.0, 0.01


def _first(a, beta=2.0):
    return -a / (a * a + beta), (a * a - beta) / (a * a + beta) ** 2


def _second(a, beta=0.004):
    b = a + beta
    return b**5 - 2 * b**4, 5 * b**4 - 8 * b**3


def _third(a, beta=0.01, count=39):
    if a <= 1 - beta:
        value, slope = 1 - a, -1.0
    elif a >= 1 + beta:
        value, slope = a - 1, 1.0
    else:
        value, slope = (a - 1) ** 2 / (2 * beta) + beta / 2, (a - 1) / beta
    wave = count * np.pi / 2
    return (
        value + 2 * (1 - beta) / (count * np.pi) * np.sin(wave * a),
        slope + (1 - beta) * np.cos(wave * a),
    )


def _fourth(first, second):
    def gamma(b):
        return np.sqrt(1 + b * b) - b

    def function(a):
        p, q = np.sqrt((1 - a) ** 2 + second**2), np.sqrt(a * a + first**2)
        value = gamma(first) * p + gamma(second) * q
        return value, gamma(first) * (a - 1) / p + gamma(second) * a / q

    return function


FUNCTIONS = {
    "1": _first,
    "2": _second,
    "3": _third,
    "4": _fourth(0.001, 0.001),
    "5": _fourth(0.01, 0.001),
    "6": _fourth(0.001, 0.01),
    "parabola": lambda a: ((a - 3) ** 2, 2 * (a - 3)),
    "exponential": lambda a: (np.exp(a / 90) - a / 30, np.exp(a / 90) / 90 - 1 / 30),
    "quartic": lambda a: ((a - 1) ** 4 - a, 4 * (a - 1) ** 3 - 1),
    "logarithmic": lambda a: (a - 3 * np.log(a + 1), 1 - 3 / (a + 1)),
    "wave": lambda a: (np.sin(3 * a) * 0.5 - a, 1.5 * np.cos(3 * a) - 1 if a else -1.0),
    "without end": lambda a: (-a - 0.1 * np.sin(a), -1 - 0.1 * np.cos(a)),
}

CONSTANTS = [(1e-3, 0.9), (1e-4, 0.1), (0.1, 0.2), (1e-4, 0.4), (1e-3, 1e-2)]


def ours(function, step, decrease, curvature, width):
    value, slope = function(0.0)
    search = StrongWolfe(decrease, curvature, width).search(Trial(0.0, value, slope), step)
    asked, at = [], next(search)
    while True:
        asked.append(at)
        try:
            at = search.send(Trial(at, *map(float, function(at))))
        except StopIteration as stop:
            return asked, stop.value


def theirs(function, step, decrease, curvature, width):
    from scipy.optimize._dcsrch import DCSRCH  # SciPy has no public name for it

    asked = []

    def phi(at):
        asked.append(float(at))
        return float(function(at)[0])

    search = DCSRCH(phi, lambda at: float(function(at)[1]), decrease, curvature, width, 0, 1e308)
    value, slope = function(0.0)
    found = search(step, phi0=value, derphi0=slope, maxiter=40)
    return asked, found


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("constants", CONSTANTS)
@pytest.mark.parametrize("step", [1e-3, 0.1, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("width", [0.1, 1e-10])
def test_a_search_tries_what_that_of_minpack_does(name, constants, step, width):
    function = FUNCTIONS[name]
    assert function(0.0)[1] < 0
    asked, why = ours(function, step, *constants, width)
    expected, found = theirs(function, step, *constants, width)
    count = min(len(asked), len(expected))
    assert asked[:count] == pytest.approx(expected[:count], rel=1e-9)
    has_converged = found[3][:4] == b"CONV"
    if has_converged:
        assert why is None
        assert asked == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [2, 100])
def test_steps_are_about_as_many_as_those_of_scipy(size):
    x = start(size)
    theirs = optimize.minimize(
        rosenbrock,
        x.copy(),
        jac=True,
        method="CG",
        options={"gtol": 1e-6, "norm": 2, "c1": 1e-4, "c2": 0.1, "maxiter": 10000},
    )
    result = minimize(rosenbrock, x, ConjugateGradient("PR+"), tolerance=1e-6, steps=10000)
    assert result.success
    assert theirs.success
    assert result.nfev <= 1.15 * theirs.nfev
    assert result.nit <= 1.15 * theirs.nit
    np.testing.assert_allclose(x, theirs.x, atol=1e-5)


def test_a_quadratic_takes_as_many_steps_as_with_scipy():
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((20, 20)))
    matrix, b = (basis * np.geomspace(1, 30, 20)) @ basis.T, rng.standard_normal(20)

    def objective(x):
        return float(0.5 * x @ matrix @ x - b @ x), matrix @ x - b

    options = {"gtol": 1e-6, "norm": 2, "c1": 1e-4, "c2": 0.1}
    theirs = optimize.minimize(objective, np.zeros(20), jac=True, method="CG", options=options)
    for beta in ("PR+", "DY", "HZ"):
        x = np.zeros(20)
        result = minimize(objective, x, ConjugateGradient(beta), tolerance=1e-6)
        assert result.success
        assert result.nfev <= 1.15 * theirs.nfev
        assert result.fun == pytest.approx(theirs.fun, rel=1e-12)

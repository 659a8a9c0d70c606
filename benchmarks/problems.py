"""Problems to minimize, and how many evaluations methods take to come near to the lowest value."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instep import LBFGS, minimize
from instep.commands.compare.digits import SMALL, read_idx

ROOT = Path(__file__).parent.parent

#: Near is this share of the way from the value at the start to the lowest one.
NEAR = 1e-6

#: Pairs that both methods keep.
HISTORY = 10

#: No way is longer.
EVALUATIONS = 10_000


def module(path: str) -> Any:
    """Return a file of the repository as a module."""
    file = ROOT / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@dataclass(frozen=True)
class Problem:
    """An objective with its gradient, a start, bounds, and the lowest value where it is known."""

    value_and_grad: Callable[[np.ndarray], tuple[float, np.ndarray]]
    start: np.ndarray
    lower: Any = None
    upper: Any = None
    lowest: float | None = None


def rosenbrock(size: int, *, from_zeros: bool = False) -> Problem:
    """Return Rosenbrock's function, each number with the next, from his start or from zeros."""
    objectives = module("tests/objectives.py")
    start = np.zeros(size) if from_zeros else objectives.start(size)
    return Problem(objectives.rosenbrock, start, lowest=0.0)


def tomography() -> Problem:
    """Return the tomography of the documentation, from zeros."""
    misfit = module("docs/examples/tomography.py").problem()
    shape = misfit.projector.shape

    def value_and_grad(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = misfit(x.reshape(shape))
        return float(value), gradient.ravel()

    return Problem(value_and_grad, np.zeros(np.prod(shape)), lower=0.0)


def digits(rate: float = 1e-3) -> Problem:
    """Return the logistic regression of 5,000 digits, with weight decay, from zeros."""
    pixels = read_idx(SMALL / "images-idx3-ubyte.gz", 3)
    labels = read_idx(SMALL / "labels-idx1-ubyte.gz", 1).astype(int)
    images, rows = pixels.reshape(len(pixels), -1) / 255, np.arange(len(labels))

    def value_and_grad(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(784, 10)
        scores = images @ w
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.exp(scores)
        sums = shares.sum(axis=1, keepdims=True)
        loss = np.log(sums[:, 0]) - scores[rows, labels]
        shares /= sums
        shares[rows, labels] -= 1
        gradient = images.T @ shares / len(labels) + rate * w
        return float(loss.mean() + 0.5 * rate * (w * w).sum()), gradient.ravel()

    return Problem(value_and_grad, np.zeros(7840))


def hock_schittkowski() -> dict[str, Problem]:
    """Return bounded problems of Hock and Schittkowski (1981), by their numbers."""
    found = module("tests/objectives.py").HOCK_SCHITTKOWSKI
    return {
        number: Problem(objective, *(np.array(x, float) for x in arrays), lowest=lowest)
        for number, (objective, *arrays, lowest) in found.items()
    }


def values_of_kit(problem: Problem, tolerance: float = 0.0) -> list[float]:
    """Return all values that L-BFGS of the kit sees."""
    values: list[float] = []
    method = LBFGS(HISTORY, lower=problem.lower, upper=problem.upper)
    minimize(
        _watched(problem, values),
        problem.start.copy(),
        method,
        steps=EVALUATIONS,
        tolerance=tolerance,
        callback=lambda _: _end(len(values) >= EVALUATIONS),
    )
    return values


def values_of_scipy(problem: Problem, tolerance: float = 0.0) -> list[float]:
    """Return all values that SciPy's L-BFGS-B sees."""
    from scipy import optimize

    values: list[float] = []
    optimize.minimize(
        _watched(problem, values),
        problem.start.copy(),
        jac=True,
        method="L-BFGS-B",
        bounds=_bounds(problem),
        options={
            "maxcor": HISTORY,
            "maxiter": EVALUATIONS,
            "maxfun": EVALUATIONS,
            "gtol": tolerance,
            "ftol": 0.0,
        },
    )
    return values


def _watched(problem: Problem, values: list[float]) -> Any:
    def value_and_grad(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.value_and_grad(x)
        values.append(float(value))
        return value, gradient

    return value_and_grad


def _end(is_over: bool) -> None:
    if is_over:
        raise StopIteration


def _bounds(problem: Problem) -> Any:
    from scipy.optimize import Bounds

    if problem.lower is None and problem.upper is None:
        return None
    limits = (
        (-np.inf if problem.lower is None else problem.lower),
        (np.inf if problem.upper is None else problem.upper),
    )
    return Bounds(*(np.broadcast_to(limit, problem.start.shape) for limit in limits))


def arrival(values: list[float], lowest: float, near: float = NEAR) -> int | None:
    """Return the number of the first evaluation that is near to the lowest value, or None."""
    target = lowest + near * (values[0] - lowest)
    return next((n for n, value in enumerate(values, 1) if value <= target), None)

"""Descents of methods of minimization, to be compared to the bit between engines.

Objectives are computed by NumPy on the host, wherever parameters lie: libraries differ in their own
sums.
"""

from dataclasses import dataclass
from typing import Any

import examples
import numpy as np
from objectives import rosenbrock

from instep import FISTA, LBFGS, ConjugateGradient, minimize
from instep.transforms import project, project_modulus

STEPS = 50


def complex_rosenbrock(z):
    """Return Rosenbrock's function of complex numbers, and twice its derivative by conjugates."""
    a, b = z[:-1], z[1:]
    d = b - a * a
    g = np.zeros_like(z)
    g[:-1] += -400 * a.conj() * d - 2 * (1 - a)
    g[1:] += 200 * d
    return float((100 * abs(d) ** 2 + abs(1 - a) ** 2).sum()), g


def start(size, dtype):
    """Return where the descents begin on Rosenbrock's functions."""
    x = np.where(np.arange(size) % 2 == 0, -1.2, 1.0)
    return (x * np.exp(0.1j) if np.dtype(dtype).kind == "c" else x).astype(dtype)


@dataclass(frozen=True)
class Descent:
    """An objective, where it begins, and a method with its settings."""

    objective: Any
    start: np.ndarray
    method: type
    settings: dict[str, Any]

    def run(self, xp=np, **settings):
        """Return the numbers of each step, and the points on the way, as NumPy's."""
        points, x = [], xp.asarray(self.start.copy())

        def value_and_grad(x):
            value, gradient = self.objective(on_host(x))
            return value, xp.asarray(gradient)

        method = self.method(**self.settings, **settings)
        keep = lambda now: points.append(on_host(now.x).copy())  # noqa: E731
        result = minimize(value_and_grad, x, method, steps=STEPS, callback=keep)
        return [record[:4] for record in result.history], points


def on_host(x):
    """Return an array as NumPy's."""
    return x.get() if hasattr(x, "get") else np.asarray(x)


def _tomography(dtype):
    """Return the objective of the example, on an image of 16 by 16, and its start."""
    misfit = examples.load("tomography").problem(size=16, angles=12)

    def value_and_grad(x):
        value, gradient = misfit(x.astype("float64"))
        return float(value), gradient.astype(dtype)

    return value_and_grad, np.zeros((16, 16), dtype)


def _descents():
    """Return the descents by name."""
    found = {}
    for dtype in ("float32", "float64"):
        x = start(300, dtype)
        found[f"rosenbrock, {dtype}, LBFGS"] = Descent(rosenbrock, x, LBFGS, {"history": 4})
        found[f"rosenbrock, {dtype}, FISTA"] = Descent(rosenbrock, x, FISTA, {"lr": 0.01})
        for beta in ("PR+", "DY", "HZ"):
            name = f"rosenbrock, {dtype}, ConjugateGradient {beta}"
            found[name] = Descent(rosenbrock, x, ConjugateGradient, {"beta": beta})
        bounded = {"history": 3, "lower": 0.0, "upper": 1.2}
        objective, image = _tomography(dtype)
        found[f"tomography, {dtype}, LBFGS"] = Descent(objective, image, LBFGS, bounded)
        nonnegative = {"lr": 1.0, "prox": project(lower=0.0)}
        found[f"tomography, {dtype}, FISTA"] = Descent(objective, image, FISTA, nonnegative)
    for dtype in ("complex64", "complex128"):
        z = start(150, dtype)
        for meaning in ("modulus", "pairs"):
            given = {"history": 3, "complex": meaning}
            name = f"rosenbrock, {dtype}, {meaning}"
            found[f"{name}, LBFGS"] = Descent(complex_rosenbrock, z, LBFGS, given)
            found[f"{name}, ConjugateGradient"] = Descent(
                complex_rosenbrock, z, ConjugateGradient, {"beta": "HZ", "complex": meaning}
            )
        within = {"lr": 0.01, "prox": project_modulus(upper=1.1)}
        found[f"rosenbrock, {dtype}, modulus, FISTA"] = Descent(
            complex_rosenbrock, z, FISTA, within
        )
    return found


DESCENTS = _descents()


def assert_same(got, expected):
    """Raise unless two runs are the same to the bit."""
    (numbers, points), (expected_numbers, expected_points) = got, expected
    assert len(numbers) > 10  # it has gone somewhere
    assert numbers == expected_numbers
    for point, its in zip(points, expected_points, strict=True):
        assert point.dtype == its.dtype
        assert point.tobytes() == its.tobytes()

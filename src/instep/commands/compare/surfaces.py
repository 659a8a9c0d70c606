"""The two test surfaces, with their gradients, on Python floats.

Gradients are taken on the host, whatever library holds the parameters: a path then depends on the
optimizer alone, and is the same to the bit on every array library and every engine. That of the
quadratic uses only operations that IEEE 754 rounds exactly, so it does not depend on the
machine either.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Surface:
    """A function of two variables with its minimum at the origin, and where to look at it.

    Parameters
    ----------
    name : str
        Its name in the results.
    formula : str
        The formula, in TeX.
    value, gradient : callable
        ``f(x, y)`` and ``(df/dx, df/dy)``, finite for all finite arguments that do not overflow
        a square.
    minimum : float
        The value at the origin.
    start : tuple of float
        Where the paths begin.
    x_range, y_range : tuple of float
        The window of the figures.
    levels : tuple of float
        Values of the contour lines.
    """

    name: str
    formula: str
    value: Callable[[float, float], float]
    gradient: Callable[[float, float], Point]
    minimum: float
    start: Point
    x_range: Point
    y_range: Point
    levels: tuple[float, ...]


def quadratic(x: float, y: float) -> float:
    """Return ``x**2 / 30 + y**2``: a valley thirty times as steep across as along."""
    return x * x / 30.0 + y * y


def quadratic_gradient(x: float, y: float) -> Point:
    """Return ``(x / 15, 2 y)``."""
    return x / 15.0, 2.0 * y


def half_sech(x: float) -> float:
    """Return ``1 / (exp(x) + exp(-x))``, which is ``sech(x) / 2``.

    With ``q = exp(-abs(x))`` it is ``q / (1 + q*q)``: nothing overflows, however large `x` is.
    """
    q = math.exp(-abs(x))
    return q / (1.0 + q * q)


def half_sech_slope(x: float) -> float:
    """Return the derivative of ``-1 / (exp(x) + exp(-x))``, which is ``sech(x) * tanh(x) / 2``."""
    return half_sech(x) * math.tanh(x)


def wells(x: float, y: float) -> float:
    """Return ``-(1 / (exp(x) + exp(-x)) + 1 / (exp(y) + exp(-y)))``: a pit on a wide plateau."""
    return -(half_sech(x) + half_sech(y))


def wells_gradient(x: float, y: float) -> Point:
    """Return the gradient of `wells`; the two coordinates are independent."""
    return half_sech_slope(x), half_sech_slope(y)


QUADRATIC = Surface(
    name="quadratic",
    formula=r"f(x, y) = \frac{1}{30}\,x^2 + y^2",
    value=quadratic,
    gradient=quadratic_gradient,
    minimum=0.0,
    start=(-7.5, -5.0),
    x_range=(-10.0, 10.0),
    y_range=(-7.0, 7.0),
    levels=(0.2, 1.0, 2.5, 5.0, 8.5, 13.0, 19.0, 26.0, 34.0, 43.0),
)

# The start lies where the surface is nearly flat along x (a slope of 0.018) and steep enough
# along y (0.13): a rule whose step is proportional to the gradient crawls along one and walks
# along the other; one that normalises it walks along both.
SECH = Surface(
    name="sech",
    formula=r"f(x, y) = -\left(\frac{1}{e^x + e^{-x}} + \frac{1}{e^y + e^{-y}}\right)",
    value=wells,
    gradient=wells_gradient,
    minimum=-1.0,
    start=(-4.0, -2.0),
    x_range=(-5.0, 5.0),
    y_range=(-3.5, 3.5),
    levels=tuple(-0.95 + 0.1 * k for k in range(10)),
)

SURFACES = (QUADRATIC, SECH)

"""The surfaces: their values and gradients."""

import math

import pytest

from instep.commands.compare.surfaces import QUADRATIC, SECH, SURFACES

POINTS = [(-7.5, -5.0), (-4.0, -2.0), (0.3, -0.7), (1e-9, 2.0), (6.0, -6.0)]


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
@pytest.mark.parametrize(("x", "y"), POINTS)
def test_gradient_is_the_limit_of_differences(surface, x, y):
    # A central difference is off by h**2/6 times the third derivative (at most 1 here), and by
    # the rounding of two values: 1.1e-16 * 26 / h at most.
    h = 1e-5
    along_x = (surface.value(x + h, y) - surface.value(x - h, y)) / (2 * h)
    along_y = (surface.value(x, y + h) - surface.value(x, y - h)) / (2 * h)
    assert surface.gradient(x, y) == pytest.approx((along_x, along_y), rel=0, abs=5e-10)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_minimum_is_at_the_origin(surface):
    assert surface.value(0.0, 0.0) == surface.minimum
    assert surface.gradient(0.0, 0.0) == (0.0, 0.0)
    assert all(surface.value(x, y) > surface.minimum for x, y in POINTS)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_start_and_minimum_are_inside_the_window(surface):
    for x, y in (surface.start, (0.0, 0.0)):
        assert surface.x_range[0] < x < surface.x_range[1]
        assert surface.y_range[0] < y < surface.y_range[1]


@pytest.mark.parametrize(("x", "y"), POINTS)
def test_sech_surface_is_the_formula_with_exponentials(x, y):
    expected = -(1 / (math.exp(x) + math.exp(-x)) + 1 / (math.exp(y) + math.exp(-y)))
    assert SECH.value(x, y) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("far", [700.0, 800.0, 1e308, math.inf])
def test_sech_surface_is_flat_far_away_and_never_overflows(far):
    assert SECH.value(far, -far) == pytest.approx(0.0, abs=1e-300)
    assert SECH.gradient(far, -far) == pytest.approx((0.0, 0.0), abs=1e-300)


def test_quadratic_gradient_is_exactly_rounded():
    assert QUADRATIC.gradient(-7.5, -5.0) == (-0.5, -10.0)
    assert QUADRATIC.gradient(0.1, 0.1) == (0.1 / 15, 0.2)


def test_quadratic_that_ran_away_is_infinite_and_no_error():
    assert QUADRATIC.value(1e200, 1e200) == math.inf

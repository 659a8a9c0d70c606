"""The coefficients of a direction give what the two loops give on the vectors themselves."""

import numpy as np
import pytest
from objectives import direction_of_pairs

from instep.minimization.two_loop import News, Pairs


def news(steps, changes, gradient):
    s, y = steps[-1], changes[-1]
    return News(
        [p @ gradient for p in steps],
        [p @ gradient for p in changes],
        gradient @ gradient,
        s @ y,
        s @ s,
        y @ y,
    )


@pytest.mark.parametrize("history", [1, 2, 5])
def test_directions_are_those_of_the_loops_direction_of_pairs(history):
    rng = np.random.default_rng(history)
    size, hessian = 12, np.diag(np.linspace(1, 30, 12))
    point = rng.standard_normal(size)
    gradient = hessian @ point
    pairs = Pairs.none(history, gradient @ gradient)
    steps, changes = [np.zeros(size)] * history, [np.zeros(size)] * history
    for count in range(2 * history + 2):
        found = pairs.direction()
        vectors = (*steps, *changes, gradient)
        direction = sum(c * v for c, v in zip(found.times(1.0), vectors, strict=True))
        known = min(count, history)
        expected = direction_of_pairs(
            steps[history - known :], changes[history - known :], gradient
        )
        np.testing.assert_allclose(direction, expected, rtol=1e-9, atol=1e-12)
        assert found.slope == pytest.approx(expected @ gradient, rel=1e-9)
        step = 0.3 * expected + 0.01 * rng.standard_normal(size)
        change = hessian @ step
        gradient = gradient + change
        steps, changes = [*steps[1:], step], [*changes[1:], change]
        pairs = pairs.with_news(news(steps, changes, gradient))
        assert pairs.used == list(range(history - min(count + 1, history), history))


def test_a_pair_without_curvature_does_not_count():
    rng = np.random.default_rng(0)
    gradient, s, y = rng.standard_normal((3, 4))
    pairs = Pairs.none(2, gradient @ gradient)
    zero = np.zeros(4)
    pairs = pairs.with_news(news([zero, s], [zero, -np.sign(s @ y) * y], gradient))
    assert pairs.used == []
    assert pairs.direction().times(1.0) == [0, 0, 0, 0, -1]


def test_forgotten_pairs_leave_the_steepest_descent():
    gradient = np.array([3.0, 4.0])
    pairs = Pairs.none(1, 25.0)
    pairs = pairs.with_news(news([np.array([1.0, 0.0])], [np.array([2.0, 0.0])], gradient))
    assert pairs.used == [0]
    found = pairs.without_pairs().direction()
    assert (*found.times(2.0), found.slope) == (0, 0, -2, -25)

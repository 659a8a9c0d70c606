"""FISTA goes the way of the paper."""

import bits
import numpy as np
import pytest
from objectives import least_squares, quadratic

from instep import FISTA, SGD, Status, chain, minimize
from instep.arrays import to_numpy
from instep.transforms import project, skip_nonfinite, support


def textbook(value_and_grad, x, prox, rate, steps, *, restart):
    """Return the points on the way at a rate that is never too large."""
    y, t, points = x.copy(), 1.0, [x.copy()]
    for _ in range(steps):
        new = prox(y - rate * value_and_grad(y)[1])
        following = (1 + np.sqrt(1 + 4 * t * t)) / 2
        beta, t_new = (t - 1) / following, following
        if restart and (y - new) @ (new - x) > 0:
            beta, t_new = 0.0, 1.0
        y, x, t = new + beta * (new - x), new, t_new
        points.append(x.copy())
    return points


@pytest.mark.parametrize("restart", [False, True])
def test_the_way_is_that_of_the_paper(restart):
    objective = quadratic(np.geomspace(1e-2, 1, 6))
    first = np.linspace(-2, 3, 6)
    points = []
    minimize(
        objective,
        first.copy(),
        FISTA(1.0, project(upper=1.5), restart=restart),
        steps=60,
        callback=lambda found: points.append(found.x.copy()),
    )
    expected = textbook(objective, first, lambda x: np.minimum(x, 1.5), 1.0, 60, restart=restart)
    np.testing.assert_allclose(points, expected[1:], rtol=1e-12, atol=1e-13)


def test_a_rate_that_is_too_large_becomes_smaller():
    x = np.array([3.0, -4.0])
    result = minimize(quadratic(np.array([1.0, 100.0])), x, FISTA(1e3), tolerance=1e-8)
    assert result.success
    np.testing.assert_allclose(x, 1, atol=1e-8)


def test_complex_numbers():
    objective, solution = least_squares()
    z = np.zeros(10, complex)
    assert minimize(objective, z, FISTA(0.01), tolerance=1e-8).success
    np.testing.assert_allclose(z, solution, atol=1e-8)


def test_a_pair_of_functions_is_asked_for_a_gradient_once_a_step():
    both, asked = quadratic(np.array([1.0, 10.0])), []
    value = lambda x: both(x)[0]  # noqa: E731
    grad = lambda x: asked.append(1) or both(x)[1]  # noqa: E731
    result = minimize((value, grad), np.array([3.0, -4.0]), FISTA(0.1), steps=20)
    assert len(asked) == 20  # that of the start is the first
    assert result.nfev >= 40


def test_with_the_bounds_of_a_projection_it_ends_where_no_step_is_left():
    x = np.zeros(2)
    result = minimize(quadratic(np.ones(2)), x, FISTA(1.0, project(upper=0.25)), tolerance=1e-9)
    assert result.status is Status.CONVERGED
    np.testing.assert_array_equal(x, 0.25)


@pytest.mark.parametrize("prox", [skip_nonfinite(), SGD(), "project", [project(), None]])
def test_a_prox_is_a_transform_of_parameters(prox):
    with pytest.raises(TypeError, match="prox must be a transform of parameters"):
        FISTA(prox=prox)


@pytest.mark.parametrize("lr", [0, -1.0, float("inf"), float("nan"), "1", None])
def test_a_rate_is_a_number_above_zero(lr):
    with pytest.raises(ValueError, match="lr must be a number > 0"):
        FISTA(lr)


def test_it_is_faster_than_the_same_steps_without_momentum():
    objective = quadratic(np.geomspace(1e-3, 1, 20))
    x, y = np.zeros(20), np.zeros(20)
    ours = minimize(objective, x, FISTA(1.0), steps=200)
    plain = minimize(objective, y, chain(SGD(lr=1.0), project(upper=9.0)), steps=200)
    assert ours.fun < 0.01 * plain.fun


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("prox", [(), support(np.array([1.0, 1, 0, 1]))], ids=["free", "support"])
def test_an_interrupt_at_any_evaluation_goes_on_to_the_bit(tmp_path, xp, dtype, prox):
    if prox and xp is not np:
        pytest.skip("the mask is NumPy's")
    path, scales = tmp_path / "run.npz", np.geomspace(0.5, 8, 4)

    def objective(w):
        x = np.asarray(to_numpy(w)) - 1
        value = float((scales * np.abs(x) ** 4).sum())
        return value, xp.asarray((4 * scales * np.abs(x) ** 2 * x).astype(dtype))

    def start():
        return xp.asarray(np.linspace(-1, 2, 4).astype(dtype))

    whole = minimize(objective, start(), FISTA(1.0, prox), steps=8)
    for number in range(2, whole.nfev, 3):
        count = []

        def interrupted(w, number=number, count=count):
            count.append(1)
            if len(count) == number:
                raise KeyboardInterrupt
            return objective(w)

        ended = minimize(interrupted, start(), FISTA(1.0, prox), steps=8)
        assert ended.status is Status.INTERRUPTED
        ended.save(path)
        result = minimize(objective, start(), FISTA(1.0, prox), steps=8, resume=path)
        for one, other in zip(result.history, whole.history, strict=True):
            assert repr(one[:3]) == repr(other[:3]), number
        bits.assert_same_bits(to_numpy(result.x), to_numpy(whole.x), f"x, at {number}")

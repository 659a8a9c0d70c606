"""Objectives to minimize, with their gradients; and the direction of L-BFGS as it is published."""

import numpy as np


def rosenbrock(x):
    a, b = x[:-1], x[1:]
    d = b - a * a
    g = np.zeros_like(x)
    g[:-1] += -400 * a * d - 2 * (1 - a)
    g[1:] += 200 * d
    return float((100 * d * d + (1 - a) ** 2).sum()), g


def start(size=10, dtype="float64"):
    return np.tile(np.array([-1.2, 1.0], dtype), size // 2)


def quadratic(scales):
    def value_and_grad(x):
        g = scales * (x - 1)
        return 0.5 * float((g * (x - 1)).sum()), g

    return value_and_grad


def least_squares(rows=30, columns=10, seed=0):
    """Return a complex linear problem, and its solution."""
    rng = np.random.default_rng(seed)
    shape = rows, columns
    a = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    b = rng.standard_normal(rows) + 1j * rng.standard_normal(rows)

    def value_and_grad(z):
        r = a @ z - b
        return 0.5 * float(np.vdot(r, r).real), a.conj().T @ r

    return value_and_grad, np.linalg.lstsq(a, b, rcond=None)[0]


def direction_of_pairs(steps, changes, gradient):
    """Return the direction of Nocedal and Wright, algorithm 7.4."""
    q, rates = gradient.copy(), []
    for s, y in zip(steps[::-1], changes[::-1], strict=True):
        rates.append((s @ q) / (s @ y))
        q -= rates[-1] * y
    if steps:
        q *= (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y, rate in zip(steps, changes, rates[::-1], strict=True):
        q += (rate - (y @ q) / (s @ y)) * s
    return -q


# The bounded problems of Hock and Schittkowski, "Test examples for nonlinear programming codes"
# (1981): objective and gradient, start, lower and upper bounds, the lowest value.


def _hs1(x):
    a, b = x
    d = b - a * a
    return 100 * d * d + (1 - a) ** 2, np.array([-400 * a * d - 2 * (1 - a), 200 * d])


def _hs3(x):
    d = x[1] - x[0]
    return x[1] + 1e-5 * d * d, np.array([-2e-5 * d, 1 + 2e-5 * d])


def _hs4(x):
    return (x[0] + 1) ** 3 / 3 + x[1], np.array([(x[0] + 1) ** 2, 1.0])


def _hs5(x):
    a, b = x
    c = np.cos(a + b)
    value = np.sin(a + b) + (a - b) ** 2 - 1.5 * a + 2.5 * b + 1
    return value, np.array([c + 2 * (a - b) - 1.5, c - 2 * (a - b) + 2.5])


def _hs25(x):
    a, b, c = x
    i = np.arange(1, 100)
    d = 25 + (-50 * np.log(0.01 * i)) ** (2 / 3) - b
    power = d**c
    e = np.exp(-power / a)
    r = e - 0.01 * i
    g = 2 * r * e * np.array([power / a**2, c * d ** (c - 1) / a, -power * np.log(d) / a])
    return (r * r).sum(), g.sum(axis=1)


def _hs38(x):
    a, b, c, d = x
    value = 100 * (b - a * a) ** 2 + (1 - a) ** 2 + 90 * (d - c * c) ** 2 + (1 - c) ** 2
    value += 10.1 * ((b - 1) ** 2 + (d - 1) ** 2) + 19.8 * (b - 1) * (d - 1)
    gradient = [
        -400 * a * (b - a * a) - 2 * (1 - a),
        200 * (b - a * a) + 20.2 * (b - 1) + 19.8 * (d - 1),
        -360 * c * (d - c * c) - 2 * (1 - c),
        180 * (d - c * c) + 20.2 * (d - 1) + 19.8 * (b - 1),
    ]
    return value, np.array(gradient)


def _hs45(x):
    others = np.array([np.prod(np.delete(x, i)) for i in range(5)])
    return 2 - np.prod(x) / 120, -others / 120


def _hs110(x):
    product = np.prod(x) ** 0.2
    low, high = np.log(x - 2), np.log(10 - x)
    gradient = 2 * low / (x - 2) - 2 * high / (10 - x) - 0.2 * product / x
    return (low**2 + high**2).sum() - product, gradient


_INF = float("inf")

HOCK_SCHITTKOWSKI = {
    "1": (_hs1, [-2, 1], [-_INF, -1.5], [_INF, _INF], 0.0),
    "2": (_hs1, [1.5, 2], [-_INF, 1.5], [_INF, _INF], 0.0504261879),
    "3": (_hs3, [10, 1], [-_INF, 0], [_INF, _INF], 0.0),
    "4": (_hs4, [1.125, 0.125], [1, 0], [_INF, _INF], 8 / 3),
    "5": (_hs5, [0, 0], [-1.5, -3], [4, 3], -np.sqrt(3) / 2 - np.pi / 3),
    "25": (_hs25, [100, 12.5, 3], [0.1, 0, 0], [100, 25.6, 5], 0.0),
    "38": (_hs38, [-3, -1, -3, -1], [-10] * 4, [10] * 4, 0.0),
    "45": (_hs45, [2] * 5, [0] * 5, [1, 2, 3, 4, 5], 1.0),
    "110": (_hs110, [9] * 10, [2.001] * 10, [9.999] * 10, -45.77846971),
}

"""Slots on a device that are given each other's arrays."""

from itertools import pairwise

import bits
import numpy as np

from instep import LBFGS, Optimizer, minimize
from instep.engines.cuda.counters import counters
from instep.interrupts import at_once
from instep.stateful import turning


class Ring(Optimizer):
    slots = exact_slots = ("a", "b", "c")
    positive_slots = ()

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - 0.5 * (g + 0.5 * s.a + 0.25 * s.b + s.c), {"c": w}


def tree(to):
    rng = np.random.default_rng(0)
    return {
        "line": to(rng.standard_normal(300)),
        "columns": to(rng.standard_normal((30, 40)))[:, ::2],
        "more": to(rng.standard_normal(70).astype("float32")),
    }


def test_a_turn_is_that_of_the_host(cupy):
    ours, theirs = tree(cupy.asarray), tree(np.asarray)
    both = Ring(engine="cuda"), Ring(engine="array_api")
    for number in range(8):
        grads = {k: np.cos(number + x) for k, x in theirs.items()}
        both[0].update(ours, {k: cupy.asarray(g) for k, g in grads.items()})
        both[1].update(theirs, grads)
        for one in both:
            at_once(turning(one, {"a": "b", "b": "c", "c": "a"}))
    for key, x in theirs.items():
        bits.assert_same_bits(ours[key].get(), x)


def test_lbfgs_takes_two_launches_an_iteration_and_the_path_of_the_host(cupy):
    def objective(x):
        host = np.asarray(getattr(x, "get", x.copy)())
        d = host[1:] - host[:-1] ** 2
        g = np.zeros_like(host)
        g[:-1] = -400 * host[:-1] * d - 2 * (1 - host[:-1])
        g[1:] += 200 * d
        value = float((100 * d * d + (1 - host[:-1]) ** 2).sum())
        return value, cupy.asarray(g) if hasattr(x, "get") else g

    launches, values = [], []
    start = np.tile([-1.2, 1.0], 10)
    ours = minimize(
        objective,
        cupy.asarray(start),
        LBFGS(3),
        steps=12,
        callback=lambda found: launches.append((counters.launches, found.nfev)),
    )
    theirs = minimize(objective, start, LBFGS(3), steps=12)
    values = [one.value for one in ours.history]
    assert values == [one.value for one in theirs.history]
    bits.assert_same_bits(ours.x.get(), theirs.x)
    for (before, asked), (after, more) in pairwise(launches):
        assert after - before == 2 * (more - asked)

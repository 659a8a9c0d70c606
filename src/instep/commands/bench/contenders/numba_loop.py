"""Loops written out and compiled with Numba: what a user without the kit writes by hand."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from instep.commands.bench.cases import Case, trees
from instep.commands.bench.clocks import Step
from instep.commands.bench.contenders import Contender

SLOTS = {"SGD": 0, "Momentum": 1, "AdaGrad": 1, "RMSProp": 1, "Adam": 2, "AdamW": 2}


class Numba(Contender):
    """A call a tensor of a parallel loop."""

    name = "numba"
    package = "numba"

    def lacks(self, case: Case) -> str | None:
        if case.optimizer not in SLOTS:
            return f"no loop of {case.optimizer} is written out"
        if case.dtype not in ("float32", "float64"):
            return f"Numba has no {case.dtype} on a CPU"
        return None

    def prepare(self, case: Case) -> Step:
        numba = importlib.import_module("numba")
        if case.threads <= numba.config.NUMBA_NUM_THREADS:
            numba.set_num_threads(case.threads)
        compiled = numba.njit(parallel=case.threads > 1, error_model="numpy", nogil=True)(
            _loops(numba.prange)[case.optimizer]
        )
        params, grads = trees(case)
        tensors = [
            (w.reshape(-1), grads[key].reshape(-1), *(np.zeros(w.size, w.dtype) for _ in range(n)))
            for n in [SLOTS[case.optimizer]]
            for key, w in params.items()
        ]
        number: Any = np.dtype(case.dtype).type
        t = 0

        def step() -> None:
            nonlocal t
            t += 1
            rate, root = 1e-3 / (1 - 0.9**t), math.sqrt(1 - 0.999**t)
            # Rounded before, so that the loop does not compute in float64.
            numbers = [number(x) for x in (rate, root, 0.9, 0.1, 0.999, 0.001, 1e-8)]
            for arrays in tensors:
                compiled(*arrays, *numbers)

        return step


def _loops(prange: Any) -> dict[str, Callable[..., None]]:  # noqa: C901 - a loop a rule
    """Return the loops; all take the same numbers, whether they need them or not."""

    def sgd(w, g, rate, root, b1, c1, b2, c2, eps):  # type: ignore[no-untyped-def]
        for i in prange(w.size):
            w[i] -= c2 * g[i]

    def momentum(w, g, v, rate, root, b1, c1, b2, c2, eps):  # type: ignore[no-untyped-def]
        for i in prange(w.size):
            v[i] = b1 * v[i] - c2 * g[i]
            w[i] += v[i]

    def adagrad(w, g, h, rate, root, b1, c1, b2, c2, eps):  # type: ignore[no-untyped-def]
        for i in prange(w.size):
            h[i] += g[i] * g[i]
            w[i] -= c2 * g[i] / (math.sqrt(h[i]) + eps)

    def rmsprop(w, g, h, rate, root, b1, c1, b2, c2, eps):  # type: ignore[no-untyped-def]
        for i in prange(w.size):
            h[i] = b2 * h[i] + c2 * g[i] * g[i]
            w[i] -= c2 * g[i] / (math.sqrt(h[i]) + eps)

    def adam(w, g, m, v, rate, root, b1, c1, b2, c2, eps):  # type: ignore[no-untyped-def]
        for i in prange(w.size):
            m[i] = b1 * m[i] + c1 * g[i]
            v[i] = b2 * v[i] + c2 * g[i] * g[i]
            w[i] -= rate * m[i] / (math.sqrt(v[i]) / root + eps)

    def adamw(w, g, m, v, rate, root, b1, c1, b2, c2, eps):  # type: ignore[no-untyped-def]
        for i in prange(w.size):
            m[i] = b1 * m[i] + c1 * g[i]
            v[i] = b2 * v[i] + c2 * g[i] * g[i]
            w[i] = b2 * w[i] - rate * m[i] / (math.sqrt(v[i]) / root + eps)

    return {
        "SGD": sgd,
        "Momentum": momentum,
        "AdaGrad": adagrad,
        "RMSProp": rmsprop,
        "Adam": adam,
        "AdamW": adamw,
    }

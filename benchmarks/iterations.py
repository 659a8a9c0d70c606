"""How long iterations of L-BFGS take on an objective that costs little, whose time is taken off."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from instep import LBFGS, minimize

#: Pairs that all keep.
HISTORY = 10

#: Iterations before the clock runs, in which the history fills up, and after.
WARM, COUNTED = HISTORY + 4, 10


class Bowl:
    """Half of the sum of `scales * x**2`: one multiplication and one product of vectors.

    Attributes
    ----------
    seconds, evaluations
        What its evaluations have taken, and their number.
    """

    def __init__(self, scales: Any) -> None:
        self.scales, self.seconds, self.evaluations = scales, 0.0, 0

    def __call__(self, x: Any) -> tuple[Any, Any]:
        start = time.perf_counter()
        gradient = self.scales * x
        value = 0.5 * gradient.dot(x)
        self.seconds += time.perf_counter() - start
        self.evaluations += 1
        return value, gradient


def bowl(elements: int, dtype: str) -> tuple[Bowl, np.ndarray]:
    """Return an objective whose curvatures are from 1 to 10,000, in any order, and a start."""
    rng = np.random.default_rng(0)
    scales = 10.0 ** rng.uniform(0, 4, elements)
    return Bowl(scales.astype(dtype)), rng.standard_normal(elements).astype(dtype)


class Clock:
    """What iterations have taken without the objective: one entry each time that it ticks."""

    def __init__(self, objective: Bowl) -> None:
        self.objective, self.laps = objective, list[float]()
        self._last = self._now()

    def _now(self) -> float:
        return time.perf_counter() - self.objective.seconds

    def tick(self, *_: Any, iterations: int = 1) -> None:
        """End a lap of so many iterations."""
        now = self._now()
        self.laps += [(now - self._last) / iterations] * iterations
        self._last = self._now()

    def counted(self) -> list[float]:
        """Return the seconds of those iterations that count."""
        return self.laps[WARM : WARM + COUNTED]


def of_kit(elements: int, threads: int) -> Clock:
    """Run L-BFGS of the kit."""
    objective, x = bowl(elements, "float32")
    clock = Clock(objective)
    method = LBFGS(HISTORY, threads=threads)
    minimize(objective, x, method, steps=WARM + COUNTED, callback=clock.tick, progress=False)
    return clock


def of_torch(elements: int, threads: int, line_search: str | None) -> Clock:
    """Run that of PyTorch: all iterations that count in one call."""
    import torch

    torch.set_num_threads(threads)
    own, start = bowl(elements, "float32")
    objective = Bowl(torch.from_numpy(own.scales))
    x = torch.from_numpy(start).requires_grad_()
    never = {"tolerance_grad": 0.0, "tolerance_change": 0.0, "max_eval": 10**9}
    optimizer = torch.optim.LBFGS(
        [x], history_size=HISTORY, line_search_fn=line_search, max_iter=WARM, **never
    )

    def closure() -> Any:
        value, x.grad = objective(x.detach())
        return value

    clock = Clock(objective)
    for count in (WARM, COUNTED):
        optimizer.param_groups[0]["max_iter"] = count
        before = optimizer.state[x]["n_iter"] if optimizer.state else 0
        optimizer.step(closure)
        done = optimizer.state[x]["n_iter"] - before
        if done != count:
            raise RuntimeError(f"PyTorch has ended after {done} of {count} iterations")
        clock.tick(iterations=count)
    return clock


def of_scipy(elements: int, threads: int) -> Clock:
    """Run L-BFGS-B of SciPy, whose vectors are of float64."""
    from scipy import optimize

    objective, x = bowl(elements, "float64")
    clock = Clock(objective)
    options = {"maxcor": HISTORY, "maxiter": WARM + COUNTED, "ftol": 0.0, "gtol": 0.0}
    optimize.minimize(
        objective, x, jac=True, method="L-BFGS-B", callback=clock.tick, options=options
    )
    return clock


def of_memory(elements: int, threads: int) -> Clock:
    """Read and write as many arrays as an iteration of the kit does, and compute nearly nothing."""
    objective, x = bowl(elements, "float32")
    explained = LBFGS(HISTORY, threads=threads).explain(x)
    graphs = [graph for one in explained.passes.values() for graph in one.buckets[0].graphs]
    read = [x.copy() for _ in range(max(len(graph.loaded) for graph in graphs))]
    clock = Clock(objective)
    for _ in range(WARM + COUNTED):
        for graph in graphs:
            for array in read[: len(graph.loaded)]:
                np.dot(array, array)
            for array in read[: len(graph.stored)]:
                array.fill(1.0)
        clock.tick()
    return clock


CONTENDERS: dict[str, Callable[..., Clock]] = {
    "instep LBFGS": of_kit,
    "torch LBFGS, no line search": lambda n, threads: of_torch(n, threads, None),
    "torch LBFGS, strong_wolfe": lambda n, threads: of_torch(n, threads, "strong_wolfe"),
    "SciPy L-BFGS-B": of_scipy,
    "NumPy, as many bytes": of_memory,
}


def measure(elements: int, threads: int, rounds: int, names: list[str]) -> dict[str, Any]:
    """Let contenders take turns; return medians of seconds, and what evaluations took.

    To be asked of a `Worker`, which has so many CPUs.
    """
    laps: dict[str, list[float]] = {name: [] for name in names}
    free: dict[str, list[float]] = {name: [] for name in names}
    evaluations: dict[str, int] = {}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            clock = CONTENDERS[name](elements, threads)
            found = clock.counted()
            if len(found) < COUNTED:
                raise RuntimeError(f"{name} has ended after {len(clock.laps)} iterations")
            laps[name] += found
            free[name].append(clock.objective.seconds / max(1, clock.objective.evaluations))
            evaluations[name] = clock.objective.evaluations
    return {
        name: {
            "seconds": statistics.median(laps[name]),
            "objective": statistics.median(free[name]),
            "evaluations": evaluations[name] / (WARM + COUNTED),
        }
        for name in names
    }

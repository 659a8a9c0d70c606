"""Draws the figure of schedules.md: what schedules look like, and what Chebyshev's do.

python docs/draw_schedules.py
"""

from typing import Any

import numpy as np
from themes import save

from instep import SGD, Nesterov
from instep.commands.compare.style import canvas, columns
from instep.schedules import (
    REX,
    After,
    Chebyshev,
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    InverseTime,
    Join,
    Linear,
    NesterovMomentum,
    OneCycle,
    Polynomial,
    ReduceOnPlateau,
    StepDecay,
    WarmUp,
    WarmUpStableDecay,
)

N = 60

SHAPES = {
    "From start to end": {
        "Linear": Linear(1.0, 0.0, N),
        "Polynomial, power 2": Polynomial(1.0, 0.0, N, power=2),
        "Cosine": Cosine(1.0, N),
        "Cosine, power 2": Cosine(1.0, N, power=2),
        "REX": REX(1.0, N),
    },
    "Ever smaller": {
        "Exponential": Exponential(1.0, factor=0.95),
        "StepDecay": StepDecay(1.0, factor=0.5, every=15),
        "InverseTime": InverseTime(1.0, rate=0.1),
        "InverseTime, power 1/2": InverseTime(1.0, rate=1.0, power=0.5),
    },
    "Up first": {
        "WarmUp, then Cosine": WarmUp(10, then=Cosine(1.0, N - 10)),
        "WarmUpStableDecay": WarmUpStableDecay(1.0, warm_up=10, stable=30, decay=20),
        "OneCycle": OneCycle(1.0, N),
        "OneCycle, 3 phases": OneCycle(1.0, N, phases=3),
    },
    "Again and again": {
        "CosineRestarts, growth 2": CosineRestarts(1.0, steps=9, growth=2),
        "Cyclic": Cyclic(0.1, 1.0, up=10),
        "Cyclic, factor 0.5": Cyclic(0.1, 1.0, up=10, factor=0.5),
        "Cyclic, 0.96 with each step": Cyclic(0.1, 1.0, up=10, factor=0.96, each="step"),
    },
    "Put together": {
        "Constant": Constant(0.9),
        "Join of two": Join([Constant(1.2), Linear(1.2, 0.3, N - 20)], [20]),
        "After 30 steps, of Linear": After(30, of=Linear(1.0, 0.0, N)),
        "sum: Exponential + 0.2": Exponential(0.6, factor=0.9) + 0.2,
        "product: Linear x Cyclic": Linear(1.0, 0.2, N) * Cyclic(0.1, 0.6, up=5),
    },
}

#: A loss that falls until it does not, twice.
LOSSES = np.repeat([0.45, 0.0], N // 2) + 0.9 * np.exp(-(np.arange(N) % (N // 2)) / 4)

#: The stationary heat in a rod, a quadratic problem whose eigenvalues are known, and what solves it.
POINTS, STEPS = 49, 128
HEAT = np.random.default_rng(0).uniform(-1.0, 1.0, POINTS)
SMALLEST = 4 * np.sin(np.pi / (2 * POINTS + 2)) ** 2
LARGEST = 4 * np.cos(np.pi / (2 * POINTS + 2)) ** 2
CHEBYSHEV = Chebyshev(SMALLEST, LARGEST, STEPS)
ROUNDS = 2
RISING = Join(sorted(map(CHEBYSHEV, range(1, STEPS + 1))) * ROUNDS, range(1, ROUNDS * STEPS))

CONTENDERS = {
    "Chebyshev": lambda: SGD(CHEBYSHEV),
    "the same rates, rising": lambda: SGD(RISING),
    "Nesterov, NesterovMomentum": lambda: Nesterov(1 / LARGEST, momentum=NesterovMomentum()),
    "the best constant rate": lambda: SGD(2 / (SMALLEST + LARGEST)),
}


def errors(optimizer) -> list[float]:
    """Return the error before each step, relative to the solution."""
    hessian = 2 * np.eye(POINTS) - np.eye(POINTS, k=1) - np.eye(POINTS, k=-1)
    w, solution = np.zeros(POINTS), np.linalg.solve(hessian, HEAT)
    found = []
    for _ in range(ROUNDS * STEPS):
        found.append(np.linalg.norm(w - solution) / np.linalg.norm(solution))
        w = optimizer.update(w, hessian @ w - HEAT)
    return found


def reduced() -> list[float]:
    """Return the rates of `ReduceOnPlateau`, which is told the losses one by one."""
    schedule, rates = ReduceOnPlateau(1.0, factor=0.5, patience=4, threshold=0.02), []
    for step, loss in enumerate(LOSSES, 1):
        rates.append(schedule(step))
        schedule.report(float(loss))
    return rates


def draw() -> Any:
    """Draw panels of shapes, rates that follow losses, and the rates of Chebyshev with theirs."""
    side_by_side = columns(4)
    rows = 8 // side_by_side
    with canvas(3.5 * side_by_side, 3.1 * rows) as figure:
        panels = figure.subplots(rows, side_by_side).flat
        for axes, (title, shapes) in zip(panels, SHAPES.items(), strict=False):
            axes.set_title(title)
            for name, schedule in shapes.items():
                drawn = range(1, N + 2)
                axes.plot(drawn, [schedule(step) for step in drawn], linewidth=1.2, label=name)
            axes.set_ylim(-0.05, 1.5)
            axes.legend(fontsize=7, loc="upper right")
        axes = figure.axes[5]
        axes.set_title("By the value")
        axes.plot(LOSSES, ":", linewidth=1.2, label="a loss")
        axes.plot(reduced(), linewidth=1.2, label="ReduceOnPlateau")
        axes.set_ylim(-0.05, 1.5)
        axes.legend(fontsize=7, loc="upper right")
        axes = figure.axes[6]
        axes.set_title(f"Chebyshev, {STEPS} steps")
        steps = range(1, STEPS + 1)
        axes.semilogy(steps, [CHEBYSHEV(step) for step in steps], ".", markersize=3)
        axes.set_ylabel("rate")
        axes = figure.axes[7]
        axes.set_title(f"Errors, eigenvalues 1 to {LARGEST / SMALLEST:.0f}")
        for name, make in CONTENDERS.items():
            axes.semilogy(errors(make()), linewidth=1.0, label=name)
        axes.set_ylim(1e-9, 1e5)
        axes.legend(fontsize=7, loc="lower left")
        for axes in figure.axes:
            axes.set_xlabel("step", fontsize=8)
            axes.tick_params(labelsize=8)
    return figure


if __name__ == "__main__":
    save("schedules", draw, width=1400, colours=64)

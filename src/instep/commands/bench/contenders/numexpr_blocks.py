"""numexpr: an expression at a time, in blocks that fit in the cache."""

import importlib
import math
from typing import Any

import numpy as np

from instep.commands.bench.cases import Case, trees
from instep.commands.bench.clocks import Step
from instep.commands.bench.contenders import Contender

#: Optimizer -> slots, and its assignments in order.
EXPRESSIONS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "SGD": ("", (("w", "w - c2 * g"),)),
    "Momentum": ("v", (("v", "b1 * v - c2 * g"), ("w", "w + v"))),
    "AdaGrad": ("h", (("h", "h + g * g"), ("w", "w - c2 * g / (sqrt(h) + eps)"))),
    "RMSProp": ("h", (("h", "b2 * h + c2 * g * g"), ("w", "w - c2 * g / (sqrt(h) + eps)"))),
    "Adam": (
        "mv",
        (
            ("m", "b1 * m + c1 * g"),
            ("v", "b2 * v + c2 * g * g"),
            ("w", "w - rate * m / (sqrt(v) / root + eps)"),
        ),
    ),
    "AdamW": (
        "mv",
        (
            ("m", "b1 * m + c1 * g"),
            ("v", "b2 * v + c2 * g * g"),
            ("w", "b2 * w - rate * m / (sqrt(v) / root + eps)"),
        ),
    ),
}


class Numexpr(Contender):
    """Expressions evaluated into the arrays that they update."""

    name = "numexpr"
    package = "numexpr"

    def lacks(self, case: Case) -> str | None:
        if case.optimizer not in EXPRESSIONS:
            return f"no expressions of {case.optimizer} are written out"
        if case.dtype not in ("float32", "float64"):
            return f"numexpr has no {case.dtype}"
        return None

    def prepare(self, case: Case) -> Step:
        numexpr = importlib.import_module("numexpr")
        numexpr.set_num_threads(case.threads)
        slots, assignments = EXPRESSIONS[case.optimizer]
        params, grads = trees(case)
        tensors = [
            {"w": w, "g": grads[key], **{slot: np.zeros_like(w) for slot in slots}}
            for key, w in params.items()
        ]
        number: Any = np.dtype(case.dtype).type
        constants = {"b1": 0.9, "c1": 0.1, "b2": 0.999, "c2": 0.001, "eps": 1e-8}
        # A float64 among them would make numexpr compute in float64.
        rounded = {name: number(value) for name, value in constants.items()}
        t = 0

        def step() -> None:
            nonlocal t
            t += 1
            rate, root = 1e-3 / (1 - 0.9**t), math.sqrt(1 - 0.999**t)
            numbers = {**rounded, "rate": number(rate), "root": number(root)}
            for arrays in tensors:
                for target, expression in assignments:
                    numexpr.evaluate(expression, {**numbers, **arrays}, {}, out=arrays[target])

        return step

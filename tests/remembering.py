"""Rules that remember numbers, and the same as loops."""

from types import MappingProxyType

import numpy as np

from instep import Optimizer, Transform


class Remembering(Optimizer):
    """Divides by a running mean of each norm, and by the largest norm of the tree so far."""

    lr: float = 0.1
    beta: float = 0.75
    least: float = 0.5

    slots = ("m",)
    tensor_numbers = MappingProxyType({"v": 0.0})
    tree_numbers = MappingProxyType({"largest": "least"})

    @staticmethod
    def rule(xp, w, g, s, h):
        norm = xp.norm(g)
        v = xp.where(h.t == 1, norm * norm, h.beta * s.v + (1 - h.beta) * (norm * norm))
        largest = xp.maximum(s.largest, xp.tree_norm(g))
        m = h.beta * s.m + g / xp.sqrt(v)
        return w - h.lr / largest * m, {"m": m, "v": v, "largest": largest}


class Loop:
    """The same in NumPy, for float64."""

    def __init__(self, params, lr=0.1, beta=0.75, least=0.5):
        self.params = {key: w.copy() for key, w in params.items()}
        self.m = {key: np.zeros_like(w) for key, w in params.items()}
        self.v, self.largest = {}, least
        self.lr, self.beta = lr, beta

    def update(self, grads):
        grads = {key: g for key, g in grads.items() if g is not None}
        whole = np.sqrt(sum(np.sum(g * g) for g in grads.values()))
        self.largest = max(self.largest, whole)
        for key, g in grads.items():
            square = np.sum(g * g)
            old = self.v.get(key, square)
            self.v[key] = self.beta * old + (1 - self.beta) * square
            self.m[key] = self.beta * self.m[key] + g / np.sqrt(self.v[key])
            self.params[key] -= self.lr / self.largest * self.m[key]


class Counting(Transform):
    """Counts calls, those that are turned away too, and others that are not."""

    stage = "gradient"
    guarded = True

    tree_numbers = MappingProxyType({"taken": 0.0, "called": 0.0, "before": -1.0})
    lasting_numbers = ("called", "before")

    @staticmethod
    def rule(xp, w, g, s, h):
        xp.require(xp.isfinite(g))
        return g, {"taken": s.taken + 1, "called": s.called + 1, "before": s.taken}

    @staticmethod
    def expected(calls, *, are_finite):
        """Yield what an optimizer has of it after each of these calls."""
        taken = 0
        for call in range(calls):
            before, taken = taken, taken + are_finite(call)
            numbers = {"called": call + 1.0, "before": float(before)}
            if taken:  # what does not last is not there before a step
                numbers["taken"] = float(taken)
            yield {f"Counting_{name}": x for name, x in numbers.items()}

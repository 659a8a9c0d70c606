"""The plain listings: a class an optimizer, a line an equation, as deep learning is taught.

They run on NumPy and CuPy alike. The arithmetic of each line makes a new array.
"""

import functools
import importlib
from typing import Any

from instep.commands.bench.cases import CHAIN, Case, place
from instep.commands.bench.clocks import Step
from instep.commands.bench.contenders import Contender

Tree = dict[str, Any]


class Listing(Contender):
    """The listing of an optimizer, on NumPy or CuPy."""

    name = "listing"
    package = "numpy"
    copies = 7

    def lacks(self, case: Case) -> str | None:
        if case.optimizer not in LISTINGS:
            return f"no listing of {case.optimizer}"
        if case.dtype not in ("float32", "float64"):
            return f"the listing keeps the state of {case.dtype} parameters in {case.dtype}"
        return None

    def prepare(self, case: Case) -> Step:
        params, grads = place(case)
        listing = LISTINGS[case.optimizer](importlib.import_module(case.backend), params)
        return functools.partial(listing.update, params, grads)


class SGD:
    """Gradient descent."""

    def __init__(self, xp: Any, params: Tree, lr: float = 0.01) -> None:
        self.lr = lr

    def update(self, params: Tree, grads: Tree) -> None:
        """Take a step."""
        for key in params:
            params[key] -= self.lr * grads[key]


class Momentum:
    """Gradient descent with momentum."""

    def __init__(self, xp: Any, params: Tree, lr: float = 0.01, momentum: float = 0.9) -> None:
        self.lr, self.momentum = lr, momentum
        self.v = {key: xp.zeros_like(w) for key, w in params.items()}

    def update(self, params: Tree, grads: Tree) -> None:
        """Take a step."""
        for key in params:
            self.v[key] = self.momentum * self.v[key] - self.lr * grads[key]
            params[key] += self.v[key]


class AdaGrad:
    """AdaGrad."""

    def __init__(self, xp: Any, params: Tree, lr: float = 0.01) -> None:
        self.xp, self.lr = xp, lr
        self.h = {key: xp.zeros_like(w) for key, w in params.items()}

    def update(self, params: Tree, grads: Tree) -> None:
        """Take a step."""
        for key in params:
            self.h[key] += grads[key] * grads[key]
            params[key] -= self.lr * grads[key] / (self.xp.sqrt(self.h[key]) + 1e-7)


class RMSProp:
    """RMSProp."""

    def __init__(self, xp: Any, params: Tree, lr: float = 0.01, rho: float = 0.9) -> None:
        self.xp, self.lr, self.rho = xp, lr, rho
        self.h = {key: xp.zeros_like(w) for key, w in params.items()}

    def update(self, params: Tree, grads: Tree) -> None:
        """Take a step."""
        for key in params:
            self.h[key] *= self.rho
            self.h[key] += (1 - self.rho) * grads[key] * grads[key]
            params[key] -= self.lr * grads[key] / (self.xp.sqrt(self.h[key]) + 1e-7)


class Adam:
    """Adam, with the corrections of both means in the learning rate."""

    def __init__(
        self, xp: Any, params: Tree, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999
    ) -> None:
        self.xp, self.lr, self.beta1, self.beta2, self.t = xp, lr, beta1, beta2, 0
        self.m = {key: xp.zeros_like(w) for key, w in params.items()}
        self.v = {key: xp.zeros_like(w) for key, w in params.items()}

    def update(self, params: Tree, grads: Tree) -> None:
        """Take a step."""
        self.t += 1
        # A Python float: what numpy.sqrt gives would make every array after it float64, and the
        # listing half as fast.
        rate = self.lr * (1 - self.beta2**self.t) ** 0.5 / (1 - self.beta1**self.t)
        for key in params:
            self.m[key] = self.beta1 * self.m[key] + (1 - self.beta1) * grads[key]
            self.v[key] = self.beta2 * self.v[key] + (1 - self.beta2) * grads[key] * grads[key]
            params[key] -= rate * self.m[key] / (self.xp.sqrt(self.v[key]) + 1e-8)


class AdamW(Adam):
    """Adam with decoupled weight decay."""

    def update(self, params: Tree, grads: Tree) -> None:
        for key in params:
            params[key] -= 0.01 * self.lr * params[key]
        super().update(params, grads)


class Clipped(AdamW):
    """AdamW on gradients clipped by their global norm, and an average of the parameters."""

    def __init__(self, xp: Any, params: Tree) -> None:
        super().__init__(xp, params)
        self.average = {key: w.copy() for key, w in params.items()}

    def update(self, params: Tree, grads: Tree) -> None:
        norm = sum((g * g).sum() for g in grads.values()) ** 0.5
        factor = self.xp.minimum(1.0, 1.0 / norm).astype(norm.dtype)
        super().update(params, {key: factor * g for key, g in grads.items()})
        for key, w in params.items():
            self.average[key] = 0.999 * self.average[key] + (1 - 0.999) * w


LISTINGS: dict[str, Any] = {
    "SGD": SGD,
    "Momentum": Momentum,
    "AdaGrad": AdaGrad,
    "RMSProp": RMSProp,
    "Adam": Adam,
    "AdamW": AdamW,
    CHAIN: Clipped,
}

"""The formulas that loops, expressions and kernels are made of, as one writes those by hand.

The plain listing is written by hand all the same: it shows what textbooks print.
"""

import importlib
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, ClassVar

import numpy as np

from instep.commands.bench.cases import Case, place
from instep.commands.bench.clocks import Step
from instep.commands.bench.contenders import Contender

_ADAM = {"m": "b1 * m + c1 * g", "v": "b2 * v + c2 * g * g"}
_ADAM_STEP = "rate * m / (sqrt(v) / root + eps)"
_SCALED_STEP = "c2 * g / (sqrt(h) + eps)"

#: Optimizer -> what is assigned, in order: the slots, and then the parameter w. Names of one
#: letter are arrays, g being the gradient.
FORMULAS = {
    "SGD": {"w": "w - c2 * g"},
    "Momentum": {"v": "b1 * v - c2 * g", "w": "w + v"},
    "AdaGrad": {"h": "h + g * g", "w": f"w - {_SCALED_STEP}"},
    "RMSProp": {"h": "b2 * h + c2 * g * g", "w": f"w - {_SCALED_STEP}"},
    "Adam": {**_ADAM, "w": f"w - {_ADAM_STEP}"},
    "AdamW": {**_ADAM, "w": f"b2 * w - {_ADAM_STEP}"},
}

#: What all updates are handed after their arrays, whether they need it or not.
NUMBERS = ("rate", "root", "b1", "c1", "b2", "c2", "eps")


def slots(optimizer: str) -> tuple[str, ...]:
    """Return the names of the slots of an optimizer."""
    return tuple(name for name in FORMULAS[optimizer] if name != "w")


def assignments(optimizer: str, suffix: str = "") -> list[str]:
    """Return the assignments of an update; `suffix` follows what is assigned to."""
    return [f"{target}{suffix} = {formula}" for target, formula in FORMULAS[optimizer].items()]


def numbers(dtype: str) -> Iterator[tuple[Any, ...]]:
    """Yield the numbers of one step after the other, rounded: nothing is to compute in float64."""
    rounded: Any = np.dtype(dtype).type
    constants = [rounded(x) for x in (0.9, 0.1, 0.999, 0.001, 1e-8)]
    for t in count(1):
        rate, root = 1e-3 / (1 - 0.9**t), math.sqrt(1 - 0.999**t)
        yield rounded(rate), rounded(root), *constants


def arrays(case: Case) -> list[tuple[Any, ...]]:
    """Return w, g and the slots of each tensor, flat."""
    xp = importlib.import_module(case.backend)
    params, grads = place(case)
    return [
        (w.reshape(-1), grads[key].reshape(-1), *(xp.zeros(w.size, w.dtype) for _ in names))
        for names in [slots(case.optimizer)]
        for key, w in params.items()
    ]


def function(optimizer: str, body: Sequence[str], **names: Any) -> Callable[..., None]:
    """Return a function of w, g, the slots and the numbers; the lines of its body use `names`."""
    name = optimizer.lower()
    arguments = ", ".join(["w", "g", *slots(optimizer), *NUMBERS])
    exec("\n    ".join([f"def {name}({arguments}):", *body]), names)
    made: Callable[..., None] = names[name]
    return made


class WrittenOut(Contender):
    """Takes the step of one tensor after the other, as its formula says.

    Attributes
    ----------
    without_formula, without_dtype
        What to say of an optimizer that has no formula, and of a dtype that it cannot run.
    """

    without_formula: ClassVar[str]
    without_dtype: ClassVar[str]

    def lacks(self, case: Case) -> str | None:
        if case.optimizer not in FORMULAS:
            return self.without_formula.format(case.optimizer)
        if case.dtype not in ("float32", "float64"):
            return self.without_dtype.format(case.dtype)
        return None


class Compiled(WrittenOut):
    """A function that is compiled, and called for each tensor."""

    @abstractmethod
    def compiled(self, case: Case) -> Callable[..., object]:
        """Return what updates one tensor in place, given w, g, the slots and the numbers."""

    def prepare(self, case: Case) -> Step:
        update, steps, tensors = self.compiled(case), numbers(case.dtype), arrays(case)

        def step() -> None:
            values = next(steps)
            for tensor in tensors:
                update(*tensor, *values)

        return step

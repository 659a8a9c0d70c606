"""Schedules: functions from the step number, counted from 1, to the value of a hyperparameter.

Any function will do; these are the customary ones, with a repr, equality and pickling. They are
frozen: `dataclasses.replace` makes another one. Where one schedule stands inside another, its own
steps count from 1 as well.

Schedulers of other libraries count from 0: ``schedule(t)`` here is ``schedule(t - 1)`` in optax,
and the rate of PyTorch's optimizers after ``t - 1`` calls of ``scheduler.step()``. So the value at
step 1 is the start in all three, and one that changes "over `steps` steps" has arrived at its end
at step ``steps + 1``.

>>> from instep import schedules
>>> rate = schedules.WarmUp(4, then=schedules.Cosine(0.1, steps=10))
>>> [round(rate(step), 4) for step in (1, 3, 5, 10, 15, 100)]
[0.0, 0.05, 0.1, 0.05, 0.0, 0.0]
"""

from typing import TYPE_CHECKING, Any

from instep import calls
from instep.elsewhere import absent
from instep.schedules.base import Product, Schedule, Sum
from instep.schedules.composition import After, Join, WarmUp
from instep.schedules.convex import Chebyshev, NesterovMomentum
from instep.schedules.cycles import CosineRestarts, Cyclic, OneCycle, WarmUpStableDecay
from instep.schedules.decay import (
    REX,
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    Linear,
    Polynomial,
    StepDecay,
)
from instep.schedules.plateau import ReduceOnPlateau
from instep.signatures import write_signatures

__all__ = [
    "REX",
    "After",
    "Chebyshev",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Cyclic",
    "Exponential",
    "InverseTime",
    "Join",
    "Linear",
    "NesterovMomentum",
    "OneCycle",
    "Polynomial",
    "Product",
    "ReduceOnPlateau",
    "Schedule",
    "StepDecay",
    "Sum",
    "WarmUp",
    "WarmUpStableDecay",
]

write_signatures(globals()[name] for name in __all__)
calls.tell_constructors(
    (globals()[name] for name in __all__), calls.OF_SCHEDULES, calls.REMEDIES_OF_SCHEDULES
)


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # type checkers would take every name for one that there is

    def __getattr__(name: str) -> Any:
        raise absent(__name__, name, {"instep.schedules.": __all__})

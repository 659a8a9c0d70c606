"""Gradient-based optimizers for plain arrays: the same bits on NumPy and CuPy.

>>> import numpy as np
>>> from instep import Adam
>>> params = {"w": np.ones(3)}
>>> optimizer = Adam(lr=0.5)
>>> params = optimizer.update(params, {"w": np.array([1.0, -1.0, 0.0])})
>>> params["w"].round(6)
array([0.5, 1.5, 1. ])
"""

from typing import TYPE_CHECKING, Any

from instep import minimization, optimizers, schedules, transforms
from instep.composition import chain
from instep.elsewhere import absent
from instep.minimization import *  # noqa: F403 - its list says what
from instep.optimizer import Optimizer
from instep.optimizers import *  # noqa: F403 - the table of optimizers says which
from instep.partitions import partition
from instep.transform import Transform

__version__ = "0.1.0"

__all__ = ["Optimizer", "Transform", "__version__", "chain", "partition"]
__all__ += ["schedules", "transforms"]
__all__ += minimization.__all__
__all__ += optimizers.__all__


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # type checkers would take every name for one that there is

    def __getattr__(name: str) -> Any:
        beside = {"instep.": __all__}
        beside |= {f"instep.{part.__name__[7:]}.": part.__all__ for part in (transforms, schedules)}
        raise absent(__name__, name, beside)

"""Gradient-based optimizers for plain arrays: the same bits on NumPy and CuPy.

>>> import numpy as np
>>> from instep import Adam
>>> params = {"w": np.ones(3)}
>>> optimizer = Adam(lr=0.5)
>>> params = optimizer.update(params, {"w": np.array([1.0, -1.0, 0.0])})
>>> params["w"].round(6)
array([0.5, 1.5, 1. ])
"""

from instep import schedules
from instep.chain import chain
from instep.optimizer import Optimizer
from instep.optimizers import (
    LAMB,
    LARS,
    SGD,
    AdaBelief,
    AdaDelta,
    Adafactor,
    AdaGrad,
    Adam,
    AdaMax,
    AdamW,
    Adan,
    AMSGrad,
    Lion,
    Momentum,
    Muon,
    NAdam,
    Nesterov,
    RAdam,
    RMSProp,
    Rprop,
    ScheduleFreeAdamW,
    Signum,
    Yogi,
)
from instep.transform import Transform

__version__ = "0.1.0"

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "AMSGrad",
    "AdaBelief",
    "AdaDelta",
    "AdaGrad",
    "AdaMax",
    "Adafactor",
    "Adam",
    "AdamW",
    "Adan",
    "Lion",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "Optimizer",
    "RAdam",
    "RMSProp",
    "Rprop",
    "ScheduleFreeAdamW",
    "Signum",
    "Transform",
    "Yogi",
    "__version__",
    "chain",
    "schedules",
]

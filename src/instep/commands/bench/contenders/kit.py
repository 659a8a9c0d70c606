"""The kit itself."""

import functools
import importlib.util

import numpy as np

from instep.commands.bench.cases import Case, optimizer, place, storage
from instep.commands.bench.clocks import Step
from instep.commands.bench.contenders import KIT, Contender
from instep.commands.bench.traffic import passes
from instep.engines import available


class Kit(Contender):
    """An optimizer of the kit, on the engine that it chooses."""

    name = KIT
    package = "instep"

    def lacks(self, case: Case) -> str | None:
        if not hasattr(np, case.dtype):
            if case.backend != "numpy":
                return f"{case.dtype} is measured with NumPy arrays"
            if importlib.util.find_spec("ml_dtypes") is None:
                return f"{case.dtype} arrays need ml_dtypes"
        return available()["cuda"] if case.backend == "cupy" else None

    def memory(self, case: Case) -> int:
        arrays = passes(case)[-1].arrays  # all of the rule, whichever pass touches them
        return case.elements * sum(storage(array.dtype).itemsize for array in arrays)

    def prepare(self, case: Case) -> Step:
        params, grads = place(case)
        return functools.partial(optimizer(case).update, params, grads, value=1.0)

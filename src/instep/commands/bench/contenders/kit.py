"""The kit itself."""

import functools
import importlib.util

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
        if case.dtype == "bfloat16":
            if case.backend != "numpy":
                return "bfloat16 is measured with NumPy arrays"
            if importlib.util.find_spec("ml_dtypes") is None:
                return "bfloat16 arrays need ml_dtypes"
        return available()["cuda"] if case.backend == "cupy" else None

    def memory(self, case: Case) -> int:
        arrays = passes(case)[-1].arrays  # all of the rule, whichever pass touches them
        return case.elements * sum(storage(array.dtype).itemsize for array in arrays)

    def prepare(self, case: Case) -> Step:
        params, grads = place(case)
        return functools.partial(optimizer(case).update, params, grads)

"""The kit itself."""

import functools
import importlib
import importlib.util
from typing import Any

from instep.commands.bench.cases import CHAIN, Case, storage, trees
from instep.commands.bench.clocks import Step
from instep.commands.bench.contenders import KIT, Contender
from instep.commands.bench.traffic import passes


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
        if case.backend == "cupy":
            from instep.engines import available

            return available()["cuda"]
        return None

    def memory(self, case: Case) -> int:
        arrays = passes(case)[-1].arrays  # all of the rule, whichever pass touches them
        return case.elements * sum(storage(array.dtype).itemsize for array in arrays)

    def prepare(self, case: Case) -> Step:
        params, grads = place(case)
        return functools.partial(optimizer(case).update, params, grads)


def optimizer(case: Case) -> Any:
    """Return a new optimizer for a case."""
    from instep import AdamW, chain, optimizers
    from instep.transforms import average, clip_by_global_norm

    threads = case.threads if case.backend == "numpy" else None
    if case.optimizer == CHAIN:
        return chain(clip_by_global_norm(1.0), AdamW(), average(0.999), threads=threads)
    return getattr(optimizers, case.optimizer)(threads=threads)


def place(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return parameters and gradients in arrays of the backend."""
    params, grads = trees(case)
    if case.backend == "numpy":
        return params, grads
    xp = importlib.import_module(case.backend)
    on_device = (
        {key: xp.asarray(array) for key, array in tree.items()} for tree in (params, grads)
    )
    params, grads = on_device
    return params, grads

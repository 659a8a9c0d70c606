"""Loops compiled with Numba: what a user without the kit writes by hand."""

import importlib
import math
import re
from collections.abc import Callable
from typing import Any

from instep.commands.bench.cases import Case
from instep.commands.bench.contenders.formulas import Compiled, assignments, function


class Numba(Compiled):
    """A call a tensor of a parallel loop."""

    name = "numba"
    package = "numba"
    without_formula = "no loop of {} is written out"
    without_dtype = "Numba has no {} on a CPU"

    def compiled(self, case: Case) -> Callable[..., object]:
        numba = importlib.import_module("numba")
        if case.threads <= numba.config.NUMBA_NUM_THREADS:
            numba.set_num_threads(case.threads)
        compiler = numba.njit(parallel=case.threads > 1, error_model="numpy", nogil=True)
        made: Callable[..., object] = compiler(loop(case.optimizer, numba.prange))
        return made


def loop(optimizer: str, prange: Any) -> Callable[..., None]:
    """Return an update as a loop over the elements."""
    of_element = [re.sub(r"\b[a-z]\b", r"\g<0>[i]", line) for line in assignments(optimizer)]
    body = ["for i in prange(w.size):", *(f"    {line}" for line in of_element)]
    return function(optimizer, body, prange=prange, sqrt=math.sqrt)

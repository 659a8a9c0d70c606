"""numexpr: an expression at a time, in blocks that fit in the cache."""

import importlib

from instep.commands.bench.cases import Case
from instep.commands.bench.clocks import Step
from instep.commands.bench.contenders.formulas import (
    FORMULAS,
    NUMBERS,
    WrittenOut,
    arrays,
    numbers,
    slots,
)


class Numexpr(WrittenOut):
    """Expressions evaluated into the arrays that they update."""

    name = "numexpr"
    package = "numexpr"
    without_formula = "no expressions of {} are written out"
    without_dtype = "numexpr has no {}"

    def prepare(self, case: Case) -> Step:
        numexpr = importlib.import_module("numexpr")
        numexpr.set_num_threads(case.threads)
        evaluate, formulas = numexpr.evaluate, tuple(FORMULAS[case.optimizer].items())
        names = ("w", "g", *slots(case.optimizer))
        tensors = [dict(zip(names, tensor, strict=True)) for tensor in arrays(case)]
        steps = numbers(case.dtype)

        def step() -> None:
            values = dict(zip(NUMBERS, next(steps), strict=True))
            for tensor in tensors:
                known = {**values, **tensor}
                for target, formula in formulas:
                    evaluate(formula, known, {}, out=tensor[target])

        return step

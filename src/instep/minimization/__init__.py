"""Minimization of functions whose gradients are known: the loop, and what searches along lines."""

from instep import calls
from instep.minimization.conjugate_gradient import ConjugateGradient
from instep.minimization.derivatives import GradientCheck, LeafCheck, check_gradient
from instep.minimization.fista import FISTA
from instep.minimization.lbfgs import LBFGS
from instep.minimization.line_search import Backtracking, StrongWolfe
from instep.minimization.minimize import minimize
from instep.minimization.result import Record, Result, Status
from instep.signatures import readable, write_signatures

__all__ = [
    "FISTA",
    "LBFGS",
    "Backtracking",
    "ConjugateGradient",
    "GradientCheck",
    "LeafCheck",
    "Record",
    "Result",
    "Status",
    "StrongWolfe",
    "check_gradient",
    "minimize",
]

write_signatures(globals()[name] for name in __all__)
calls.tell_constructors(
    (FISTA, LBFGS, ConjugateGradient, Backtracking, StrongWolfe),
    calls.OF_METHODS,
    calls.REMEDIES_OF_METHODS,
)
minimize = calls.telling(
    readable(minimize), "minimize", calls.OF_MINIMIZE, calls.REMEDIES_OF_MINIMIZE
)

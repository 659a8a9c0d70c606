"""Minimization of functions whose gradients are known: the loop, and what searches along lines."""

from instep.minimization.lbfgs import LBFGS
from instep.minimization.line_search import Backtracking, StrongWolfe
from instep.minimization.minimize import minimize
from instep.minimization.result import Record, Result, Status

__all__ = ["LBFGS", "Backtracking", "Record", "Result", "Status", "StrongWolfe", "minimize"]

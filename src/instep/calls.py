"""Calls with arguments of other libraries: errors that say what to write here.

Rules have their own tables, in `elsewhere`; these are for schedules, for `minimize` and for its
methods.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: An argument of schedules, and what it is called elsewhere. The first that one has is meant.
OF_SCHEDULES = {
    "peak": "max_lr peak_value max_value lr learning_rate base_lr lr_max",
    "start": "initial_value init_value initial_learning_rate base_lr lr learning_rate lr0 initial "
    "initial_lr value warmup_initial_lr warmup_start_value start_factor",
    "end": "end_value eta_min final final_value end_learning_rate min_lr alpha lr_min end_factor",
    "smallest": "min_lr",
    "warm_up": "warmup_steps num_warmup_steps warmup warmup_iters",
    "every": "step_size transition_steps decay_steps steps period n",
    "steps": "t_max total_iters total_steps decay_steps transition_steps n t_0 t_i num_steps "
    "first_decay_steps warmup_steps num_warmup_steps warmup epochs iters max_iter period",
    "rate": "decay gamma decay_rate k",
    "factor": "gamma decay_rate decay rate",
    "growth": "t_mult m_mul",
    "rising": "pct_start",
    "start_divisor": "div_factor",
    "end_divisor": "final_div_factor",
    "curve": "anneal_strategy decay_type",
    "up": "step_size_up",
    "down": "step_size_down",
    "boundaries": "milestones boundaries_and_scales",
    "schedules": "schedulers",
    "then": "schedule scheduler after",
    "of": "schedule scheduler",
    "power": "exponent",
    "stable": "num_stable_steps",
    "decay": "num_decay_steps decay_steps",
}
REMEDIES_OF_SCHEDULES = {
    "mode": 'best="smallest" is the mode "min", and best="largest" the mode "max"',
    "optimizer": "a schedule is given to an optimizer, as its lr",
    "last_epoch": "leave it out: optimizers count their steps; After(n, of=schedule) begins later",
    "verbose": "leave it out: optimizer.readings has the rate of the last step",
}

#: Attributes of schedulers, and what to do instead.
ATTRIBUTES_OF_SCHEDULES = {
    "step": "optimizers ask it at every step; report(value) tells ReduceOnPlateau a value",
    **dict.fromkeys(
        ("get_lr", "get_last_lr"),
        "schedule(step) is its value at a step, and optimizer.readings has that of the last one",
    ),
    **dict.fromkeys(
        ("state_dict", "load_state_dict"), "optimizer.save and load keep it with the optimizer"
    ),
    "last_epoch": "optimizer.t is the number of steps",
    "base_lrs": "its arguments are its attributes",
    "optimizer": "it knows of none",
}

#: The same of the methods of `minimize`.
OF_METHODS = {
    "history": "m history_size maxcor memory memory_size max_history",
    "line_search": "line_search_fn linesearch",
    "first_length": "initial_step",
    "lr": "step stepsize step_size learning_rate tau",
    "beta": "formula variant",
    "prox": "g penalty regularizer proximal",
    "restart": "acceleration momentum",
    "decrease": "c1 ftol",
    "curvature": "c2 gtol",
}
_STEPS = "give it to minimize, as steps"
_TOLERANCE = "give it to minimize, as tolerance, the norm of the gradient at which it ends"
REMEDIES_OF_METHODS = {
    **dict.fromkeys(
        ("lr", "learning_rate", "step_size", "stepsize"),
        "a line search finds the length of each step, and first_length is that of the first",
    ),
    "bounds": "give lower and upper to LBFGS: numbers, arrays, or dicts by patterns of paths",
    "lower": "LBFGS has bounds; for FISTA, project(lower=0.0) is a prox",
    "upper": "LBFGS has bounds; for FISTA, project(upper=1.0) is a prox",
    **dict.fromkeys(("steps", "maxiter", "max_iter", "max_iterations"), _STEPS),
    **dict.fromkeys(("tol", "gtol", "tolerance", "tolerance_grad", "pgtol"), _TOLERANCE),
    **dict.fromkeys(("ftol", "tolerance_change"), "give minimize value_tolerance, a relative one"),
    "params": "give the parameters to minimize(value_and_grad, params, method)",
}

#: What results have under other names elsewhere.
ATTRIBUTES_OF_RESULTS = {
    **dict.fromkeys(("value", "loss", "objective", "f", "fval"), "it is called fun here"),
    **dict.fromkeys(("params", "parameters", "xopt", "solution"), "it is called x here"),
    **dict.fromkeys(("grad", "grads", "gradient", "gradients"), "it is called jac here"),
    **dict.fromkeys(("steps", "n_iter", "niter", "iterations"), "it is called nit here"),
    **dict.fromkeys(("converged", "is_converged"), "it is called success here"),
    "hess_inv": "no method here keeps one",
    "allvecs": "a callback sees the parameters of each step",
}

#: The same of `minimize` itself.
OF_MINIMIZE = {
    "value_and_grad": "fun f func objective closure loss_fn",
    "params": "x0 x w parameters init_params",
    "method": "optimizer solver",
    "steps": "maxiter max_iter max_iterations maxfun n num_steps",
    "tolerance": "tol gtol tolerance_grad pgtol xtol",
    "value_tolerance": "ftol tolerance_change rtol",
    "seconds": "timeout max_time time_limit",
    "progress": "disp verbose",
}
REMEDIES_OF_MINIMIZE = {
    **dict.fromkeys(
        ("jac", "grad", "gradient", "fprime"),
        "let the function return value and gradients, as with SciPy's jac=True, or give a pair of "
        "functions: minimize((value, grad), params)",
    ),
    "bounds": "give them to the method: LBFGS(lower=0.0, upper=1.0)",
    "args": "let the function have them: lambda params: f(params, *args)",
    "options": "they are arguments here: steps=..., tolerance=..., value_tolerance=...",
    "lr": "give it to the method: minimize(value_and_grad, params, Adam(lr=0.01))",
    **dict.fromkeys(("hess", "hessp"), "no method here reads a Hessian; leave it out"),
    "constraints": "LBFGS has bounds; FISTA and chains have projections, as prox",
}


def telling(
    function: _Function,
    title: str,
    called: Mapping[str, str],
    remedies: Mapping[str, str],
) -> _Function:
    """Return a function that says what to write for arguments that it has not."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @wraps(function)
    def told(*given: Any, **named: Any) -> Any:
        for name in named:
            if name not in known:
                remedy = _remedy(name, known, called, remedies) or f"it has {', '.join(known)}"
                raise TypeError(f"{title} has no argument {name!r}; {remedy}")
        return function(*given, **named)

    return told  # type: ignore[return-value] # it is called as the function is


def tell_constructors(
    things: Iterable[Any], called: Mapping[str, str], remedies: Mapping[str, str]
) -> None:
    """Let the constructors of the classes among things that have their own do so."""
    for one in things:
        if isinstance(one, type) and "__init__" in vars(one):
            construct = telling(vars(one)["__init__"], one.__name__, called, remedies)
            type.__setattr__(one, "__init__", construct)


def _remedy(
    name: str, known: list[str], called: Mapping[str, str], remedies: Mapping[str, str]
) -> str:
    lower = name.lower()
    for here in known:
        if lower in called.get(here, "").split() or lower == here.replace("_", ""):
            return f"it is called {here} here"
    if lower in remedies:
        return remedies[lower]
    near = difflib.get_close_matches(lower, known, 1, 0.75)
    return f"did you mean {near[0]}?" if near else ""

"""The loop: evaluate, step, note, until there is a reason to end."""

import math
import operator
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from instep.hyperparameters import described, real
from instep.interrupts import finish
from instep.minimization import saved
from instep.minimization.contents import Contents
from instep.minimization.descent import Descent, Ending, Method
from instep.minimization.first_order import FirstOrder
from instep.minimization.lbfgs import LBFGS
from instep.minimization.objective import Objective, ValueAndGrad
from instep.minimization.progress import Progress
from instep.minimization.result import Record, Result, Status
from instep.minimization.trees import below, named, put
from instep.optimizer import Optimizer


def minimize(
    value_and_grad: ValueAndGrad,
    params: Any,
    method: Optimizer | Method | None = None,
    *,
    steps: int = 500,
    tolerance: float = 0.0,
    value_tolerance: float = 0.0,
    seconds: float = math.inf,
    callback: Callable[[Result], object] | None = None,
    progress: bool | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> Result:
    """Minimize a function of parameters, given its value and its gradients.

    Parameters
    ----------
    value_and_grad
        A function of the tree of parameters that returns the value of the objective, a real number
        or an array of no dimensions, and a tree of gradients, as `Optimizer.update` takes them; or
        a pair of functions, one for each.
    params
        A tree of arrays, as `Optimizer.update` takes it. They are changed in place: the function is
        always asked at these.
    method
        `LBFGS`, another method of this kind, or any optimizer or chain. By default ``LBFGS()``.
    steps
        Number of steps at most, those of the run that is resumed included.
    tolerance
        Norm of the gradient at which it ends: Euclidean, of all arrays together; with bounds, of
        what leads inside.
    value_tolerance
        Relative change of the value, from one step to the next, at which it ends. With a rule whose
        values go up and down, this may be sooner than one would like.
    seconds
        Time after which no further step is taken, in seconds, those of the run that is resumed
        included.
    callback
        Called with a result after each step, ``callback(intermediate)``. What it returns is not
        looked at; it raises StopIteration to end.
    progress
        Whether to show a bar on the terminal, which needs the package rich. None: where there is a
        terminal and rich.
    resume
        A file that `Result.save` has written. The run goes on from there, as if it had not ended:
        to the bit, if the objective is the same function. `params` is a tree like that of the run,
        whatever its values, and `method` is of the same kind. What the file has of hyperparameters
        wins, as in `Optimizer.load`: rates, bounds, the numbers of a line search and of `prox`. An
        optimizer is given others in the callback, which is called where the run goes on, too.

    Returns
    -------
    A `Result`: parameters, value, gradients, why it has ended, and its history.

    Raises
    ------
    TypeError, ValueError
        If something of another kind is given, or comes from the function.

    Notes
    -----
    On Ctrl-C it returns what it has found, at the last point that was taken. Whatever else is
    raised, by the function or the callback, comes out of it with a note, and the parameters are at
    that point, too. NaN and infinity end it there.

    For an optimizer, one step is a call of its `update`, with the value. It needs memory for one
    copy of the parameters. Where it ends after a step whose point was not evaluated, or is no good,
    the parameters are those before the step, and the optimizer has taken it: a run that is resumed
    goes on with that point.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import minimize
    >>> def value_and_grad(p):
    ...     x, y = p["x"], p["y"]
    ...     value = (1 - x) ** 2 + 100 * (y - x**2) ** 2
    ...     gy = 200 * (y - x**2)
    ...     return value.sum(), {"x": -2 * (1 - x) - 2 * x * gy, "y": gy}
    >>> params = {"x": np.array([-1.2]), "y": np.array([1.0])}
    >>> result = minimize(value_and_grad, params, tolerance=1e-8)
    >>> params["x"].round(6), result.status
    (array([1.]), <Status.CONVERGED: 'converged'>)
    """
    _check(steps=steps, tolerance=tolerance, value_tolerance=value_tolerance, seconds=seconds)
    if callback is not None and not callable(callback):
        raise TypeError(f"minimize: callback must be a function, got {described(callback)}")
    run = _Run(value_and_grad, params, LBFGS() if method is None else method)
    with Progress(steps, progress) as bar:

        def look() -> None:
            result = run.result()
            bar.show(result)
            if callback is not None and len(run.history) > 1:
                run.tell(callback, result)
            run.check(steps, tolerance, value_tolerance, seconds)

        run.until_it_ends(resume, look)
    return run.result()


class _Run:
    """A run of `minimize`."""

    def __init__(self, function: ValueAndGrad, params: Any, method: Any) -> None:
        self._objective, self._method = Objective(function), method
        if isinstance(method, Optimizer):
            self._descent: Descent = FirstOrder(self._objective, params, method)
        elif isinstance(method, Method):
            self._descent = method.descent(self._objective, params)
        else:
            made = method.__name__ if isinstance(method, type) else None
            remedy = f"write {made}(...)" if made else "give LBFGS(), or an optimizer"
            raise TypeError(
                f"minimize: {method!r} is neither a method of minimization nor an optimizer; "
                f"{remedy}"
            )
        self.history: list[Record] = []
        self._taken_before = 0  # steps of the run in the file
        self._status, self._message = Status.RUNNING, "there are more steps to come"
        self._start = time.perf_counter()

    def begin(self, resume: str | os.PathLike[str] | None) -> None:
        """Evaluate the start, or go on from a file."""
        if resume is None:
            self._descent.begin()
            self._note()
            return
        header, found = saved.read(resume, self._method)
        with saved.damages(resume):
            history = [Record(*entry) for entry in header["history"]]
            seconds = history[-1].seconds
            self._method = saved.method_of(self._method, header, found)
            if isinstance(self._method, Method):
                self._descent = self._method.descent(self._objective, self._descent.params)
            self._restore(header["descent"], found)
        self._objective.count = header["nfev"]
        self._start -= seconds
        self.history, self._taken_before = history, len(history) - 1

    def _restore(self, header: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Take what was saved; where that fails, the parameters are as they were."""
        params = self._descent.params
        before = named("", params)
        try:
            self._descent.restore(header, found)
        except BaseException:
            finish(partial(put, params, below(before, "")))
            raise

    def step(self) -> None:
        """Take a step."""
        self._descent.step()
        self._note()

    def _note(self) -> None:
        now, seconds = self._descent, time.perf_counter() - self._start
        self.history.append(
            Record(now.value, now.gradient_norm, now.length, self._objective.count, seconds)
        )

    def check(self, steps: int, tolerance: float, value_tolerance: float, seconds: float) -> None:
        """Raise Ending if there is a reason to end."""
        last = self.history[-1]
        if last.gradient_norm <= tolerance:
            raise Ending(
                Status.CONVERGED,
                f"the norm of the gradient, {last.gradient_norm:.3g}, is at most {tolerance:g}",
            )
        if len(self.history) > 1 and value_tolerance > 0:
            change = abs(last.value - self.history[-2].value)
            if change <= value_tolerance * max(abs(last.value), abs(self.history[-2].value)):
                raise Ending(Status.STALLED, f"the value has changed by no more than {change:.3g}")
        taken = len(self.history) - 1
        if taken >= steps:
            if taken == self._taken_before > 0:
                raise Ending(
                    Status.STEPS,
                    f"the run in the file has taken {taken} steps already, and steps={steps} "
                    f"counts these; give a larger number to go on",
                )
            raise Ending(Status.STEPS, f"{steps} steps were taken")
        if last.seconds >= seconds:
            raise Ending(Status.TIME, f"{last.seconds:.3g} seconds are over")

    def tell(self, callback: Callable[[Result], object], result: Result) -> None:
        """Call the callback, which may ask to end."""
        try:
            callback(result)
        except StopIteration as stop:
            what = f": {stop.value}" if stop.value is not None else ""
            raise Ending(Status.STOPPED, f"the callback has ended it{what}") from None

    def until_it_ends(
        self, resume: str | os.PathLike[str] | None, look: Callable[[], None]
    ) -> None:
        """Take steps, and `look` at each point, until there is a reason to end.

        The parameters are at the present point then, whatever the reason.
        """
        try:
            self.begin(resume)
            while True:
                look()
                self.step()
        except Ending as ending:
            self.back()
            self._status, self._message = ending.status, ending.message
        except KeyboardInterrupt:
            self.back()
            if not self.history:
                raise
            self._status, self._message = Status.INTERRUPTED, "it was interrupted"
        except BaseException as error:
            self.back()
            if self.history:
                taken = len(self.history) - 1
                error.add_note(f"minimize: the parameters are those after {taken} steps")
            raise

    def back(self) -> None:
        """Go back to the present point, which may not be in the history yet."""
        finish(self._descent.back)
        now = self._descent
        if self.history and (now.value, now.gradient_norm, now.length) != self.history[-1][:3]:
            self._note()

    def result(self) -> Result:
        """Return what is found so far."""
        now = self._descent
        return Result(
            x=now.params,
            fun=now.value,
            jac=now.grads,
            nit=max(len(self.history) - 1, 0),
            nfev=self._objective.count,
            status=self._status,
            message=self._message,
            _records=self.history,
            _count=len(self.history),
            _contents=self._contents,
        )

    def _contents(self) -> Contents:
        """Return what a file of the run has."""
        header, found = self._descent.saved()
        whole = {"descent": header, "history": [*self.history], "nfev": self._objective.count}
        return saved.contents(self._method, whole, found)


def _check(**numbers: Any) -> None:
    """Raise unless all numbers are none below zero."""
    for name, number in numbers.items():
        try:
            is_one = (operator.index(number) if name == "steps" else real(number)) >= 0
        except (TypeError, OverflowError):
            is_one = False
        is_one = is_one and not isinstance(number, bool)
        if not is_one:
            what = "an integer" if name == "steps" else "a number"
            raise ValueError(f"minimize: {name} must be {what} >= 0, got {described(number)}")

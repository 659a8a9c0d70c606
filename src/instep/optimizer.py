"""The base class of all optimizers: the step. Nothing about engines."""

import inspect
import sys
from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar

from instep import arrays
from instep.answering import Answering
from instep.choices import Complex, Engine, Overrides, Rounding, Selectors, StateDtype
from instep.declarations import FOR_USERS, RESERVED
from instep.elsewhere import ATTRIBUTES, absent_attributes
from instep.plan.remembered import alike
from instep.settings import SETTINGS
from instep.state import State
from instep.tree import Tree

if TYPE_CHECKING:
    from instep.explain import Explanation


class _Typed:
    """What type checkers are told of every optimizer. No base class of theirs has its fields."""

    if TYPE_CHECKING:
        #: Of all but few optimizers; for another, reading or setting it is an error.
        lr: Any


class Optimizer(_Typed, Answering):
    """An update rule with its hyperparameters and its state.

    A subclass declares its hyperparameters as annotated fields with defaults, names its state
    arrays in `slots`, and gives the mathematics as one pure function::

        class Signum(Optimizer):
            lr: float = 0.001
            beta: float = 0.9

            slots = ("m",)

            @staticmethod
            def rule(xp, w, g, s, h):
                m = h.beta * s.m + (1 - h.beta) * g
                return w - h.lr * xp.sign(m), {"m": m}

    `xp` is an array namespace, `w` a parameter, `g` its gradient, `s` the slots, `h` the
    hyperparameters at this step, with ``h.t`` the step number, from 1. The function returns the
    new parameter and a dict of new slots. It must compute each element from the same element of
    every array; `xp.sum` reduces over a tensor, `xp.tree_sum` over all tensors of the tree.
    Fields of type bool or str are options: the rule may branch on them. All others are numbers; in
    the place of one, an instance may have a schedule, or an array of the shape of the parameter.

    Parameters
    ----------
    engine
        What runs the step: ``"native"`` (compiled loop, NumPy arrays, and PyTorch's and JAX's on
        a CPU), ``"blocked"`` (the same arrays with NumPy only), ``"cuda"`` (CuPy), ``"array_api"``
        (any array library), or ``"auto"``, the fastest of them for the arrays at hand.
    threads
        Number of threads of the CPU engines. None: as many as the process may run on, bounded
        by the environment variable ``INSTEP_NUM_THREADS``. It never changes a result.
    overrides
        Hyperparameters of parts of the tree: path patterns, as in the module `fnmatch`, and what is
        other there. ``{"*/bias": {"weight_decay": 0.0}}`` speaks of every leaf whose path ends in
        ``/bias``. A function of path and array, such as ``lambda path, w: w.ndim == 1``, may stand
        for a pattern. Where several match, the later wins. All are still updated together.
    frozen
        What chooses, in the same ways, leaves that are left alone, whatever their gradients.
    complex
        What complex parameters are: with ``"modulus"`` each is one number, whose gradient has a
        magnitude and a phase; with ``"pairs"`` real and imaginary parts are numbers of their own,
        as in PyTorch. Their gradient is the direction of steepest ascent in both parts.
    rounding
        How parameters of 16 bits, and state in 16 or 8, are rounded when they are stored:
        ``"nearest"``, or ``"stochastic"``, up or down by chance, so that small steps are not lost.
        By default parameters to the nearest, and state by chance.
    master
        Whether parameters of 16 bits are kept whole, as float32, in the state: the rule runs on
        them, and the parameter is what they are rounded to. Of bfloat16 that takes 2 bytes, for it
        is the upper half itself.
    state_dtype
        What state arrays are kept in: ``"float32"``, ``"bfloat16"``, as words of 16 bits, or
        ``"float8"``, words of 8 bits and a scale for every 256 elements. By default what the
        arithmetic has: float32, or float64 for parameters of 64 bits. Copies and means of
        parameters, and state of other shapes, are kept in that always.
    min_float8_size
        Elements from which tensors have state in 8 bits; that of smaller ones is kept as by
        default.
    seed
        An integer. What a rule draws, and rounding by chance, follow from it, path and step.

    Attributes
    ----------
    t : int
        Number of steps taken.
    """

    _settings = SETTINGS

    #: Whether no other optimizer takes over its settings.
    _is_outermost: ClassVar[bool] = False

    engine: Engine = field(default="auto", kw_only=True)
    threads: int | None = field(default=None, kw_only=True)
    overrides: Overrides = field(default_factory=dict, kw_only=True)
    frozen: Selectors = field(default=(), kw_only=True)
    complex: Complex = field(default="modulus", kw_only=True)
    rounding: Rounding = field(default=None, kw_only=True)
    master: bool = field(default=False, kw_only=True)
    state_dtype: StateDtype = field(default=None, kw_only=True)
    min_float8_size: int = field(default=4096, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    if TYPE_CHECKING:  # a constructor of one's own may call it with hyperparameters

        def __init__(self, **values: Any) -> None: ...

    def update(self, params: Tree, grads: Any, *, value: Any = None) -> Tree:
        """Take one step: change `params` in place along `grads`.

        Parameters
        ----------
        params
            A tree of arrays: a dict (nested or not), list or tuple of them, or one array. Any
            other mapping or sequence, and ``dict.values()``, is walked as these are. float16,
            bfloat16, float32, float64, complex64 or complex128, of any shape and layout. A float
            or complex number of Python or NumPy is an array of no dimensions that cannot be
            written.
        grads
            A tree of the same structure, shapes and devices. Its arrays may be of any of these
            dtypes: they are converted once, as they are loaded, to the dtype of the arithmetic.
            None in the place of an array leaves its parameter alone. Gradients are never modified.
        value
            The value of the objective, for rules and schedules that need it: a real number, or an
            array of no dimensions, of any library. One on a device, for rules, is not waited for.

        Returns
        -------
        The tree `params`. Numbers, and arrays that cannot be written by design (JAX), are replaced
        in it; where its containers cannot be written either, a new one of their type is returned.

        Raises
        ------
        TypeError, ValueError
            If the trees do not match, or hold something that cannot be updated. Everything is
            checked before anything is changed: parameters, state and step number are as before.
        RuntimeError
            If it is called in the midst of a step of this optimizer, by a schedule or the handler
            of a signal.

        Notes
        -----
        State belongs to the path of an array in its tree: an optimizer that steps two trees of the
        same paths and shapes in turn has one state for both. Give each its own optimizer, or all of
        them together, as in ``update([one.params, other.params], [one.grads, other.grads])``.

        What the handler of a signal raises - KeyboardInterrupt, a TimeoutError, SystemExit - comes
        out of `update` before the step or after it, never between: `t` tells which. Several threads
        may step one optimizer: each waits for the step of another.
        """
        # A compiler would look into the rule, and fuse what is to be rounded.
        if "torch._dynamo" in sys.modules and arrays.is_compiled():
            stepped: Tree = arrays.left_by_compilers(self.update)(params, grads, value=value)
            return stepped
        plan = self._state.plan
        if plan is not None and plan.whole is not None and plan.whole(self, params, grads):
            return params
        with self._exclusive("update"):
            state = self._state
            expected = None if state.plan is None else state.plan.next()
            if expected is not None and expected.repeat(self, state, params, grads, value):
                return params
            return self._step(state, params, grads, value, expected)

    def _step(self, state: State, params: Tree, grads: Any, value: Any, expected: Any) -> Tree:
        """Take a step that is not a mere repetition of one of the plan that was expected."""
        if sys.is_finalizing():  # what a step needs may be gone, half of it
            raise RuntimeError(
                f"{self.name}.update: Python is shutting down, and no step can be taken any more; "
                f"take the last one before, for example in a function for atexit.register"
            )
        self._check_ready("update")
        plan, known = None, alike(state, params, grads)
        for other in known:
            if other is not expected and other.repeat(self, state, params, grads, value):
                return params
        try:
            for plan in known:
                if plan.accepts(self, state, params, grads):
                    break
            else:
                from instep.plan.step import Plan

                self._settle()
                plan = Plan(self, state, params, grads, value)
            plan.objective.take(value)
            stepped: Tree = plan.step(self, state, params)
            return stepped
        finally:
            if plan is not None:
                plan.release()

    def _check_setting(self, name: str, value: Any) -> None:
        if name == "overrides" and value:
            from instep.plan.selection import check_overrides

            check_overrides(self._owner, value, is_outermost=self._is_outermost)

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__doc__" in vars(cls):
            cls.__doc__ = _with_settings(cls.__doc__)

    def __dir__(self) -> list[str]:
        hidden = ATTRIBUTES.keys() | RESERVED - FOR_USERS
        return [
            name
            for name in super().__dir__()
            if name not in hidden or (name in ATTRIBUTES and hasattr(self, name))
        ]

    def explain(self, params: Any, grads: Any = None) -> "Explanation":
        """Say how a step on `params` runs: engines, passes, bytes an element, and the code.

        With `grads`, they are checked as by `update`, and it is said how those lie that are no line
        in memory together with their parameters. Nothing is changed. The result prints as text and
        has the same facts as attributes.
        """
        from instep.explain import explain

        self._settle()
        return explain(self, self._state, params, grads)


def _with_settings(doc: str | None) -> str | None:
    """Say in the documentation of an optimizer where its settings are described.

    They stand below its hyperparameters, the last entry of the section `Parameters`.
    """
    head, section, rest = inspect.cleandoc(doc or "").partition("Parameters\n----------\n")
    if not section:
        return doc
    entries, gap, others = rest.partition("\n\n")
    settings = f"{', '.join(Optimizer.__annotations__)}\n    As for `Optimizer`."
    return f"{head}{section}{entries}\n{settings}{gap}{others}"


for _name, _stand_in in absent_attributes():
    setattr(Optimizer, _name, _stand_in)

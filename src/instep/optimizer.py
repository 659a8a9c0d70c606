"""The base class of all optimizers: the step, and its answer. Nothing about engines."""

import operator
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsIndex

from instep import arrays
from instep.graph.kept import STATE_DTYPES
from instep.interrupts import Block, Call, block, require_frames, together
from instep.plan.remembered import alike
from instep.state import Overrides, Selector, State
from instep.stateful import Stateful

if TYPE_CHECKING:
    from instep.explain import Explanation


def _validate_engine(owner: str, value: Any) -> str:
    from instep.engines import NAMES

    if value != "auto" and value not in NAMES:
        choices = ", ".join(repr(choice) for choice in ("auto", *NAMES))
        raise ValueError(f"{owner}: engine must be one of {choices}, got {value!r}")
    return str(value)


def _validate_complex(owner: str, value: Any) -> str:
    if value not in ("modulus", "pairs"):
        raise ValueError(f"{owner}: complex must be 'modulus' or 'pairs', got {value!r}")
    return str(value)


def _validate_threads(owner: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"{owner}: threads must be None or an integer >= 1, got {value!r}")


def _validate_rounding(owner: str, value: Any) -> str | None:
    if value not in (None, "nearest", "stochastic"):
        raise ValueError(
            f"{owner}: rounding must be None, 'nearest' or 'stochastic', got {value!r}"
        )
    return None if value is None else str(value)


def _validate_state_dtype(owner: str, value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value in STATE_DTYPES):
        return value
    choices = ", ".join(map(repr, STATE_DTYPES))
    raise ValueError(f"{owner}: state_dtype must be None or one of {choices}, got {value!r}")


def _validate_min_float8_size(owner: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or value.__index__() < 0:
        raise ValueError(
            f"{owner}: min_float8_size must be a number of elements, an integer >= 0, got {value!r}"
        )
    return operator.index(value)


def _validate_master(owner: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: master must be True or False, got {value!r}")
    return value


def _validate_seed(owner: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{owner}: seed must be an integer, got {value!r}")
    return operator.index(value)


def _validate_overrides(owner: str, value: Any) -> Overrides:
    if not isinstance(value, Mapping) or not all(
        is_selector(one) and isinstance(entry, Mapping) for one, entry in value.items()
    ):
        raise TypeError(
            f"{owner}: overrides must be a dict of path patterns to dicts of hyperparameters, "
            f'such as {{"*/bias": {{"weight_decay": 0.0}}}}, or of functions of path and array, '
            f"got {value!r}"
        )
    return value


def _validate_frozen(owner: str, value: Any) -> tuple[Selector, ...]:
    selectors = tuple(value) if isinstance(value, Iterable) else (value,)
    if is_selector(value) or not all(map(is_selector, selectors)):
        raise TypeError(
            f'{owner}: frozen must be a sequence of path patterns, such as ("encoder/*",), or of '
            f"functions of path and array, or () for none, got {value!r}"
        )
    return selectors


def is_selector(value: Any) -> bool:
    """Return whether a value can choose leaves."""
    return isinstance(value, str) or (callable(value) and not isinstance(value, type))


#: The settings of an optimizer, each with the function that validates it.
_SETTINGS: Mapping[str, Any] = {
    "complex": _validate_complex,
    "engine": _validate_engine,
    "threads": _validate_threads,
    "rounding": _validate_rounding,
    "master": _validate_master,
    "state_dtype": _validate_state_dtype,
    "min_float8_size": _validate_min_float8_size,
    "seed": _validate_seed,
    "overrides": _validate_overrides,
    "frozen": _validate_frozen,
}


class Optimizer(Stateful):
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

    _settings = _SETTINGS

    engine: str = field(default="auto", kw_only=True)
    threads: int | None = field(default=None, kw_only=True)
    overrides: Overrides = field(default_factory=dict, kw_only=True)
    frozen: Sequence[Selector] = field(default=(), kw_only=True)
    complex: str = field(default="modulus", kw_only=True)
    rounding: str | None = field(default=None, kw_only=True)
    master: bool = field(default=False, kw_only=True)
    state_dtype: str | None = field(default=None, kw_only=True)
    min_float8_size: int = field(default=4096, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def update(self, params: Any, grads: Any, *, value: Any = None) -> Any:
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
        What the handler of a signal raises - KeyboardInterrupt, a TimeoutError, SystemExit - comes
        out of `update` before the step or after it, never between: `t` tells which. Several threads
        may step one optimizer: each waits for the step of another.
        """
        # A compiler would look into the rule, and fuse what is to be rounded.
        if "torch._dynamo" in sys.modules and arrays.is_compiled():
            return arrays.left_by_compilers(self.update)(params, grads, value=value)
        with self._exclusive("update"):
            state = self._state
            expected = None if state.plan is None else state.plan.next()
            if expected is not None and expected.repeat(self, state, params, grads, value):
                return params
            return self._step(state, params, grads, value, expected)

    def _step(self, state: State, params: Any, grads: Any, value: Any, expected: Any) -> Any:
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
            return plan.step(self, state, params)
        finally:
            if plan is not None:
                plan.release()

    def answer(self, params: Any, *, which: int | None = None) -> Any:
        """Return what to use in the place of `params`, as a tree of new arrays.

        That is a mean of the path of the parameters where a rule keeps one, `average` in a chain or
        `ScheduleFreeAdamW`, and the parameters themselves where none does, or where no step has
        touched them.

        Parameters
        ----------
        params
            The tree of parameters. They are not changed.
        which
            Number of the rule with an answer among those of a chain, from 0, where there are
            several.

        Raises
        ------
        TypeError, ValueError
            If there is no such answer, or if `params` has other shapes.
        """
        from instep.averages import answer

        if "torch._dynamo" in sys.modules and arrays.is_compiled():
            return arrays.left_by_compilers(self.answer)(params, which=which)
        with self._exclusive("answer"):
            self._check_ready("answer")
            self._settle()
            return answer(self, self._state, params, which)

    #: Names that other libraries give to the same.
    averaged = eval_params = answer

    def answer_in_place(self, params: Any, *, which: int | None = None) -> Block[Any]:
        """Put the answer in the place of `params` for a ``with`` block, then put them back.

        ::

            with optimizer.answer_in_place(params) as params:
                validate(params)

        In the block `update`, `state_dict` and copies of the optimizer are errors. It needs memory
        for one copy of the parameters, which come back as they were, bit for bit.

        Parameters
        ----------
        params, which
            As for `answer`.

        Returns
        -------
        A context manager, which gives the tree, as `update` returns it. Where arrays cannot be
        written by design (JAX), the answer is in the containers of the tree, and the parameters are
        put back there.

        Raises
        ------
        TypeError, ValueError
            As `answer` does, and if parameters cannot be written.
        RuntimeError
            If the answer is in their place already.
        """
        return block(self._answering(params, which))

    def _answering(self, params: Any, which: int | None) -> Generator[Any, Any, None]:
        from instep.averages import Exchange

        put_back: Call = int  # nothing, so far
        try:
            try:
                with self._exclusive("answer_in_place"):
                    self._check_ready("answer_in_place")
                    self._settle()
                    exchange = Exchange(self, self._state, params, which)
                    ready = partial(self.__dict__.update, {"_is_answering": False})
                    put_back = together([*exchange.put_back(), ready])
                    self._is_answering = True
                    if self._state.plan is not None:
                        self._state.plan.look_again()
                require_frames()
                yield exchange.put()
            finally:
                put_back()
        finally:
            put_back()  # where an exception came before that
        while True:
            yield 0

    def explain(self, params: Any, grads: Any = None) -> "Explanation":
        """Say how a step on `params` runs: engines, passes, bytes an element, and the code.

        With `grads`, they are checked as by `update`, and it is said how those lie that are no line
        in memory together with their parameters. Nothing is changed. The result prints as text and
        has the same facts as attributes.
        """
        from instep.explain import explain

        self._settle()
        return explain(self, self._state, params, grads)

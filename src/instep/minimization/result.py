"""What a minimization has found."""

import enum
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from instep import calls
from instep.minimization.contents import Contents


class Status(enum.StrEnum):
    """Why a minimization has ended."""

    RUNNING = "running"
    CONVERGED = "converged"  # the gradient is as small as was asked for
    STALLED = "stalled"  # the value changes no more than was asked for
    PRECISION = "precision"  # no step lowers a value by more than it is rounded
    STEPS = "steps"  # as many as were allowed were taken
    TIME = "time"
    STOPPED = "stopped"  # by the callback
    INTERRUPTED = "interrupted"  # by Ctrl-C
    NOT_FINITE = "not finite"  # the objective, or its gradient
    NO_DESCENT = "no descent"  # the value rises where the gradient says that it falls


#: Those that are a success: what was asked for was reached.
SUCCESSES = frozenset({Status.CONVERGED, Status.STALLED, Status.PRECISION})


class Record(NamedTuple):
    """A point on the way.

    Attributes
    ----------
    value
        Of the objective.
    gradient_norm
        Euclidean norm of the gradient, of all leaves together; with bounds, of what leads inside.
    step
        Euclidean length of the step that led here.
    evaluations
        How often the objective was evaluated up to here.
    seconds
        Since the minimization began, those of earlier runs included.
    """

    value: float
    gradient_norm: float
    step: float
    evaluations: int
    seconds: float


class Result(Mapping[str, Any]):
    """What `minimize` returns, read like SciPy's OptimizeResult: as attributes, or by name.

    Attributes
    ----------
    x
        The parameters: the tree that was given, whose arrays were changed in place.
    fun : float
        The value of the objective there.
    jac
        The gradients there; None where the objective has since been asked elsewhere.
    nit : int
        Number of steps that were taken.
    nfev : int
        Number of evaluations of the objective.
    success : bool
        Whether it has converged.
    status : Status
        Why it has ended, one of `Status`.
    message : str
        The same as a sentence.
    history : tuple of Record
        Value, norm of the gradient, length of the step, evaluations and seconds, of the start and
        after each step. It is made when it is asked for first.

    Notes
    -----
    A pickle, or a deep copy, holds what `save` would write at that moment, and no part of the
    objective.
    """

    _NAMES = ("x", "fun", "jac", "nit", "nfev", "success", "status", "message", "history")

    x: Any
    fun: float
    jac: Any
    nit: int
    nfev: int
    status: Status
    message: str
    _records: Sequence[Record]  # those of the run, which goes on
    _count: int  # of them, up to here
    _contents: Callable[[], Contents]

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __getstate__(self) -> dict[str, Any]:
        history = self.history
        own = {"_records": history, "history": history, "_contents": self._contents()}
        return {**self.__dict__, **own}

    @cached_property
    def history(self) -> tuple[Record, ...]:
        """The start, and the point after each step."""
        return tuple(self._records[: self._count])

    @property
    def _last(self) -> Record | None:
        """The point that it is about, whose history nobody may want."""
        return self._records[self._count - 1] if self._count else None

    @property
    def success(self) -> bool:
        """Whether what was asked for was reached."""
        return self.status in SUCCESSES

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write into a file what ``minimize(..., resume=path)`` goes on from.

        Parameters, state of the method and history. Call it before anything changes the parameters;
        in a callback, too. The suffix of the name chooses the format, as for `Optimizer.save`:
        ``.npz``, which it is without one too, or ``.safetensors``.
        """
        self._contents().write(path)

    def plot(self, ax: Any = None, *, label: str = "", least: float | None = None) -> Any:
        """Draw how far the value is above the least, and the norm of the gradient.

        Both against the number of evaluations, on a logarithmic axis.

        Parameters
        ----------
        ax
            Matplotlib axes to draw into, which may have other results; by default those of a new
            figure.
        label
            What the curves are called, where there are several results.
        least
            The least value that is known; by default that of this result.

        Returns
        -------
        The axes.

        Raises
        ------
        ModuleNotFoundError
            If matplotlib is not installed: ``pip install 'instep[plot]'``.
        """
        ax = _new_axes() if ax is None else ax
        evaluations = [point.evaluations for point in self.history]
        least = min(point.value for point in self.history) if least is None else least
        # What is not above the least has no place on a logarithmic axis.
        above = [max(point.value - least, 0.0) or math.nan for point in self.history]
        norms = [point.gradient_norm or math.nan for point in self.history]
        start = f"{label}: " if label else ""
        (drawn,) = ax.plot(evaluations, above, label=f"{start}value above the least")
        look = {"color": drawn.get_color(), "linestyle": "--", "linewidth": 1}
        ax.plot(evaluations, norms, label=f"{start}norm of the gradient", **look)
        ax.set_yscale("log")
        ax.set_xlabel("evaluations of the objective")
        ax.legend(fontsize="small")
        return ax

    if not TYPE_CHECKING:  # type checkers would take every name for one that there is

        def __getattr__(self, name: str) -> Any:
            if hasattr(type(self), name):  # a property lacks something else: it says what
                return object.__getattribute__(self, name)
            remedy = calls.ATTRIBUTES_OF_RESULTS.get(name, f"it has {', '.join(self._NAMES)}")
            raise AttributeError(f"a result has no {name!r}; {remedy}", name=name, obj=None)

    def __getitem__(self, name: str) -> Any:
        if name not in self._NAMES:
            raise KeyError(f"a result has no {name!r}; it has {', '.join(self._NAMES)}")
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._NAMES)

    def __len__(self) -> int:
        return len(self._NAMES)

    def __repr__(self) -> str:
        last = self._last
        norm = "" if last is None else f", gradient_norm={last.gradient_norm:.3g}"
        return (
            f"Result({self.status}: {self.message!r}, fun={self.fun:.6g}{norm}, nit={self.nit}, "
            f"nfev={self.nfev})"
        )


def _new_axes() -> Any:
    try:
        from matplotlib import pyplot as plt
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Result.plot needs matplotlib; install it with pip install 'instep[plot]'"
        ) from error
    return plt.figure(layout="constrained").subplots()

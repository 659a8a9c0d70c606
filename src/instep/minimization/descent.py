"""A method of minimization in the midst of a run, and what all methods have in common."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from instep import tree
from instep.choices import Complex, Engine, Selectors
from instep.minimization.line_search import as_described
from instep.minimization.objective import Evaluation, Objective
from instep.minimization.result import Status
from instep.minimization.trees import on_host
from instep.optimizer import Optimizer
from instep.settings import SETTINGS

if TYPE_CHECKING:
    from instep.explain import Explanation

#: What a run is continued from: what JSON knows, and arrays by name.
Saved = tuple[dict[str, Any], dict[str, Any]]

#: Where there is nothing to go back to, and what is to be done.
AT_START = "at the start; begin where it is"

#: The settings of an optimizer that passes over its trees have, too.
SETTINGS_OF_PASSES = ("engine", "threads", "complex", "frozen")


class Ending(Exception):  # noqa: N818  (it is no error)
    """A method cannot go on.

    Attributes
    ----------
    status, message
        Why, and the same as a sentence.
    """

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class SavedMethod:
    """What a file has of a method.

    Attributes
    ----------
    made_with
        How it was made, but for what its rules hold.
    header, arrays
        What these hold; the first is None in files that do not have it.
    """

    made_with: Mapping[str, Any]
    header: Mapping[str, Any] | None
    arrays: Mapping[str, Any]


@dataclass(frozen=True)
class Explanations:
    """What `Method.explain` found.

    Attributes
    ----------
    method
        Name of the method.
    passes
        How each of its passes over the trees runs, by name, in the order of a step.
    """

    method: str
    passes: Mapping[str, "Explanation"]

    def __str__(self) -> str:
        lines = [f"{self.method}: in each step, where its first trial is taken"]
        for name, found in self.passes.items():
            lines += [
                f"{name}:",
                *(f"  {line}" for b in found.buckets for line in str(b).split("\n")),
            ]
        return "\n".join(lines)


class Descent(ABC):
    """A method in the midst of a run, and the present point: the last that was taken.

    Attributes
    ----------
    params
        The tree of parameters. After `begin`, `step` and `back` they are at the present point.
    value, gradient_norm
        The objective at the present point, and the norm of its gradient.
    grads
        The gradients there, as the objective has returned them; None where they are not at hand.
    length
        Euclidean length of the last step.
    """

    def __init__(self, objective: Objective, params: Any) -> None:
        self._objective = objective
        self.params: Any = params
        self.value: float = math.nan
        self.gradient_norm: float = math.nan
        self.grads: Any = None
        self.length: float = 0.0

    @abstractmethod
    def begin(self) -> None:
        """Evaluate the objective where the parameters are.

        Raises
        ------
        Ending
            If it is not finite there.
        """

    def _first_evaluation(self) -> Evaluation:
        """Return the objective where the parameters are; the value is known, whatever follows.

        Raises
        ------
        Ending
            If it is not finite there.
        """
        evaluation = self._objective.at(self.params)
        self.value = evaluation.value
        check_finite(evaluation, AT_START)
        return evaluation

    @abstractmethod
    def step(self) -> None:
        """Go to the next point.

        Raises
        ------
        Ending
            If there is none. The parameters may be anywhere then.
        """

    @abstractmethod
    def back(self) -> None:
        """Put the parameters back to the present point, wherever an exception came."""

    @abstractmethod
    def saved(self) -> Saved:
        """Return what a run is continued from: what JSON knows, and arrays by name."""

    @abstractmethod
    def restore(self, header: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Take what was saved, in the place of `begin`."""


def nothing_moves() -> ValueError:
    """Return the error for a tree in which no parameter takes part."""
    return ValueError(
        "minimize: there is nothing to minimize over: params has no arrays, or each of them is "
        "frozen or has None for a gradient"
    )


def check_finite(evaluation: Evaluation, where: str) -> None:
    """Raise Ending unless the value is finite."""
    if not math.isfinite(evaluation.value):
        raise Ending(Status.NOT_FINITE, f"the objective is {evaluation.value} {where}")


def not_finite(grads: Any, where: str) -> Ending:
    """Return why a method cannot go on from gradients, and which of them is not finite."""
    for path, leaf in tree.flatten(grads):
        if leaf is not None and not np.isfinite(on_host(leaf)).all():
            of = tree.format_path("params", path)
            return Ending(Status.NOT_FINITE, f"the gradient of {of} is not finite {where}")
    return Ending(Status.NOT_FINITE, f"the norm of the gradient is not finite {where}")


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """What `minimize` takes beside optimizers: it evaluates the objective in the midst of steps.

    Parameters
    ----------
    engine, threads, complex, frozen
        As for `Optimizer`.
    """

    #: Names of what of `made_with` is taken from the file of a run; the others must be the same.
    adopted: ClassVar[tuple[str, ...]] = ()

    engine: Engine = "auto"
    threads: int | None = None
    complex: Complex = "modulus"
    frozen: Selectors = ()

    def __post_init__(self) -> None:
        for name in SETTINGS_OF_PASSES:
            object.__setattr__(self, name, SETTINGS[name](self.name, getattr(self, name)))

    @property
    def name(self) -> str:
        """Name of the method, in messages."""
        return type(self).__name__

    @property
    def made_with(self) -> dict[str, Any]:
        """How it was made, but for what its rules hold: what JSON knows."""
        return {}

    @abstractmethod
    def holder(self) -> Optimizer:
        """Return a rule that holds the hyperparameters, and the frozen leaves."""

    def saved(self) -> Saved:
        """Return what its rules hold: what JSON knows, and arrays by name."""
        from instep.checkpoint import packed

        return packed(self.holder().state_dict())

    def as_saved(self, found: SavedMethod) -> Self:
        """Return the method of a file: what that has wins, as in `Optimizer.load`."""
        from instep.checkpoint import unpacked

        own = {name: found.made_with[name] for name in self.adopted if name in found.made_with}
        if "line_search" in own:
            own["line_search"] = as_described(vars(self)["line_search"], own["line_search"])
        if found.header is not None:
            holder = self.holder()
            holder.load_state_dict(unpacked(found.header, found.arrays))
            own |= {"frozen": holder.frozen, **self.held_by(holder)}
        return replace(self, **own)

    @abstractmethod
    def held_by(self, holder: Optimizer) -> dict[str, Any]:
        """Return the arguments of the method that a rule holds."""

    @property
    def settings(self) -> dict[str, Any]:
        """What its passes over trees are made with."""
        return {name: getattr(self, name) for name in SETTINGS_OF_PASSES}

    @abstractmethod
    def descent(self, objective: Objective, params: Any) -> Descent:
        """Return a run of the method, from these parameters on."""

    @abstractmethod
    def passes(self) -> Mapping[str, Optimizer]:
        """Return what a step runs over the trees, by name, where its first trial is taken."""

    def explain(self, params: Any, grads: Any = None) -> Explanations:
        """Say how a step on `params` runs, but for the objective: as `Optimizer.explain` does."""
        return Explanations(
            self.name, {name: one.explain(params, grads) for name, one in self.passes().items()}
        )

    def update(self, params: Any, grads: Any, **_: Any) -> Any:
        """Raise TypeError: no step is taken without the objective."""
        raise TypeError(
            f"{self.name} has no update, for it evaluates the objective in the midst of a step; "
            f"call instep.minimize(value_and_grad, params, {self.name}())"
        )

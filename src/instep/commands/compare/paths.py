"""The path of an optimizer over a surface."""

from dataclasses import dataclass
from typing import Any

from instep.commands.choice import hyperparameters
from instep.commands.compare.backends import Backend
from instep.commands.compare.surfaces import Point, Surface

#: Schedule -> how figures and tables call it.
HEADINGS = {"constant": "learning rate 1", "decay": "learning rate decaying from 1 to 0.5"}


@dataclass(frozen=True)
class Decay:
    """A learning rate that goes down evenly, from `first` at step 1 to `last` at step `steps`."""

    first: float
    last: float
    steps: int

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        done = min(step - 1, self.steps - 1) / max(self.steps - 1, 1)
        return self.first * (1.0 - done) + self.last * done


@dataclass(frozen=True)
class Path:
    """Where an optimizer went: the start, and the point after each step.

    `schedule` is ``"constant"`` or ``"decay"``; `hyperparameters` are the optimizer's own, as
    they were at the first step.
    """

    surface: Surface
    schedule: str
    optimizer: str
    hyperparameters: dict[str, Any]
    points: tuple[Point, ...]

    @property
    def values(self) -> tuple[float, ...]:
        """The value of the surface at each point."""
        return tuple(self.surface.value(x, y) for x, y in self.points)

    @property
    def heights(self) -> tuple[float, ...]:
        """How far above the minimum each point is."""
        return tuple(value - self.surface.minimum for value in self.values)


def follow(optimizer: Any, surface: Surface, schedule: str, steps: int, backend: Backend) -> Path:
    """Let a new optimizer take `steps` steps from the start of `surface`.

    The parameter is one float64 array of shape (2,) of the backend's library. A rule that holds
    its parameters away from its answer (it has `eval_params`) is asked for the answer.
    """
    own = hyperparameters(optimizer)
    answer = getattr(optimizer, "eval_params", None)
    params = {"point": backend.array(surface.start)}
    here = surface.start
    points = [here]
    for _ in range(steps):
        grads = {"point": backend.array(surface.gradient(*here))}
        params = optimizer.update(params, grads, value=surface.value(*here) - surface.minimum)
        here = as_point(backend, params)
        points.append(here if answer is None else as_point(backend, answer(params)))
    return Path(surface, schedule, type(optimizer).__name__, own, tuple(points))


def as_point(backend: Backend, params: Any) -> Point:
    """Return the two coordinates as Python floats."""
    x, y = backend.numpy(params["point"]).tolist()
    return x, y

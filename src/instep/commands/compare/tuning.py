"""Learning rates on MNIST: the usual ones, those that were asked for, and the best of a grid."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instep.commands import choice
from instep.commands.compare import training
from instep.commands.errors import CommandError

#: The source text's, and 0.001 for RMSProp. At its default, 0.01, the first steps throw the loss of
#: this network from 2.4 to 15-20, for RMSProp does not correct the bias of its mean square, which
#: starts at 0. Other optimizers have their defaults.
RATES = {"SGD": 0.1, "Momentum": 0.01, "AdaGrad": 0.01, "RMSProp": 0.001, "Adam": 0.01}

#: What the grid multiplies a rate by. Further down than up: Adam's 0.01 is thirty times too much.
FACTORS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Trial:
    """A training run of the grid: its rate, and the held-out loss in the end."""

    optimizer: str
    lr: float
    held_out_loss: float


def rates(asked: Sequence[tuple[str, float]], names: Sequence[str]) -> dict[str, float]:
    """Return the learning rate of each optimizer: asked for, of `RATES`, or its default.

    Raises
    ------
    CommandError
        A rate is for an optimizer that is unknown or not compared.
    """
    found = {name: RATES.get(name, default(name)) for name in names}
    for name, rate in asked:
        (known,) = choice.select((name,), (), option="--lr")
        if known not in names:
            raise CommandError(
                f"--lr {known}={rate:g}: {known} is not compared on MNIST; "
                f"add it: --optimizers {','.join((*names, known))}"
            )
        found[known] = rate
    return found


def default(name: str) -> float:
    """Return the learning rate that an optimizer has by itself."""
    rate: float = choice.registry()[name]().lr
    return rate


def grid(rate: float) -> list[float]:
    """Return the rates that are tried around one, in three digits."""
    return [float(f"{factor * rate:.3g}") for factor in FACTORS]


def tune(
    name: str, rate: float, train: Callable[[str, float], training.Training]
) -> tuple[training.Training, list[Trial]]:
    """Train with each rate of the grid; return the run of the lowest held-out loss, and all trials.

    A run that diverges loses to any other.
    """
    runs = [(tried, train(name, tried)) for tried in grid(rate)]
    trials = [Trial(name, tried, run.held_out_loss[-1]) for tried, run in runs]
    losses = [trial.held_out_loss for trial in trials]
    best = min(range(len(runs)), key=lambda k: losses[k] if math.isfinite(losses[k]) else math.inf)
    return runs[best][1], trials


def record(trial: Trial) -> dict[str, Any]:
    """Return a trial as plain data."""
    loss = trial.held_out_loss if math.isfinite(trial.held_out_loss) else None
    return {"optimizer": trial.optimizer, "lr": trial.lr, "held_out_loss": loss}


def by_optimizer(trials: Sequence[Trial]) -> Mapping[str, list[Trial]]:
    """Return the trials of each optimizer."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        found.setdefault(trial.optimizer, []).append(trial)
    return found

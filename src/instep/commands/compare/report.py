"""The numbers of a comparison: as tables on the terminal, and as JSON."""

import json
import math
from collections.abc import Sequence
from typing import Any

from instep.commands.compare.paths import Path
from instep.commands.compare.training import Training
from instep.commands.compare.tuning import FACTORS, Trial, by_optimizer
from instep.commands.tables import Table

#: Schedule -> the learning rate, in few letters.
RATES = {"constant": "lr 1", "decay": "lr 1 to 0.5"}

#: What to know of the table of training, where rates were tried.
TUNED = (
    "The held-out digits have chosen the learning rates: held-out losses and accuracies are no "
    "unbiased estimates of those on new digits, but look better than they are."
)


def path_record(path: Path) -> dict[str, Any]:
    """Return a path as plain data; points also as `float.hex`, which is exact."""
    return {
        "surface": path.surface.name,
        "schedule": path.schedule,
        "optimizer": path.optimizer,
        "hyperparameters": plain(path.hyperparameters),
        "points": [[finite(x), finite(y)] for x, y in path.points],
        "points_hex": [[x.hex(), y.hex()] for x, y in path.points],
        "values": [finite(value) for value in path.values],
    }


def training_record(run: Training) -> dict[str, Any]:
    """Return a training run as plain data."""
    return {
        "optimizer": run.optimizer,
        "hyperparameters": plain(run.hyperparameters),
        "steps_per_epoch": run.steps_per_epoch,
        "losses": [finite(loss) for loss in run.losses],
        "train_accuracy": list(run.train_accuracy),
        "train_loss": [finite(loss) for loss in run.train_loss],
        "held_out_accuracy": list(run.held_out_accuracy),
        "held_out_loss": [finite(loss) for loss in run.held_out_loss],
    }


def finite(value: float) -> float | None:
    """Return a number, or None for what JSON cannot write: infinities and NaN."""
    return value if math.isfinite(value) else None


def plain(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """Return hyperparameters as JSON can write them; a schedule as its repr."""
    return {
        name: value if value is None or isinstance(value, bool | int | float | str) else repr(value)
        for name, value in hyperparameters.items()
    }


def as_json(results: dict[str, Any]) -> str:
    """Return results as text; the same results are the same text."""
    return json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def path_table(paths: Sequence[Path]) -> Table:
    """Return a table of where each path ended, a column for each surface and schedule."""
    columns = list(dict.fromkeys((path.surface.name, path.schedule) for path in paths))
    ends = {(path.optimizer, path.surface.name, path.schedule): path for path in paths}
    return Table(
        f"Height above the minimum after {len(paths[0].points) - 1} steps",
        ("optimizer", *(f"{surface}\n{RATES[schedule]}" for surface, schedule in columns)),
        tuple(
            (
                optimizer,
                *(f"{ends[optimizer, *column].heights[-1]:.3g}" for column in columns),
            )
            for optimizer in dict.fromkeys(path.optimizer for path in paths)
        ),
    )


def training_table(
    runs: Sequence[Training], seconds: Sequence[float], *, tuned: bool = False
) -> Table:
    """Return a table of loss and accuracy at the end of training; `tuned`: with the best rates."""
    rows = []
    for run, duration in zip(runs, seconds, strict=True):
        rate = run.hyperparameters.get("lr")
        rows.append(
            (
                run.optimizer,
                "" if rate is None else f"{rate:g}",
                f"{run.train_loss[-1]:.4f}",
                f"{run.held_out_loss[-1]:.4f}",
                f"{100 * run.train_accuracy[-1]:.2f} %",
                f"{100 * run.held_out_accuracy[-1]:.2f} %",
                f"{duration:.1f}",
            )
        )
    return Table(
        f"MNIST after {len(runs[0].losses)} steps",
        (
            *("optimizer", "lr", "training\nloss", "held-out\nloss"),
            *("training\naccuracy", "held-out\naccuracy", "seconds"),
        ),
        tuple(rows),
        note=TUNED if tuned else "",
    )


def tuning_table(trials: Sequence[Trial]) -> Table:
    """Return a table of the held-out loss at each rate of the grid, the lowest with a star."""
    rows = []
    for name, tried in by_optimizer(trials).items():
        losses = [trial.held_out_loss for trial in tried]
        lowest = min(filter(math.isfinite, losses), default=None)
        cells = (f"{loss:.4f}{'*' if loss == lowest else ' '}" for loss in losses)
        rows.append((name, f"{tried[FACTORS.index(1.0)].lr:g}", *cells))
    return Table(
        "Held-out loss at multiples of the learning rate; * is trained with",
        ("optimizer", "lr", *(f"{factor:g} lr " for factor in FACTORS)),
        tuple(rows),
    )

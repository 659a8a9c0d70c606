"""The numbers of a comparison: as a table on the terminal, and as JSON."""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from instep.commands.compare.paths import Path
from instep.commands.compare.training import Training
from instep.commands.errors import extra

#: Schedule -> the learning rate, in few letters.
RATES = {"constant": "lr 1", "decay": "lr 1 to 0.5"}


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
        "held_out_accuracy": list(run.held_out_accuracy),
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


def write_json(results: dict[str, Any], file: pathlib.Path) -> None:
    """Write results; the same results are the same bytes."""
    text = json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def tables(paths: Sequence[Path], runs: Sequence[Training], seconds: Sequence[float]) -> list[Any]:
    """Return the tables of the terminal: one of the paths, one of the training runs."""
    shown = []
    if paths:
        shown.append(path_table(paths))
    if runs:
        shown.append(training_table(runs, seconds))
    return shown


def path_table(paths: Sequence[Path]) -> Any:
    """Return a table of where each path ended, a column for each surface and schedule."""
    columns = list(dict.fromkeys((path.surface.name, path.schedule) for path in paths))
    ends = {(path.optimizer, path.surface.name, path.schedule): path for path in paths}
    table = new_table(f"Height above the minimum after {len(paths[0].points) - 1} steps")
    table.add_column("optimizer")
    for surface, schedule in columns:
        table.add_column(f"{surface}\n{RATES[schedule]}", justify="right")
    for optimizer in dict.fromkeys(path.optimizer for path in paths):
        table.add_row(
            optimizer, *(f"{ends[optimizer, *column].heights[-1]:.3g}" for column in columns)
        )
    return table


def training_table(runs: Sequence[Training], seconds: Sequence[float]) -> Any:
    """Return a table of loss and accuracy at the end of training."""
    table = new_table(f"MNIST after {len(runs[0].losses)} steps")
    table.add_column("optimizer")
    for heading in ("lr", "loss", "training", "held out", "seconds"):
        table.add_column(heading, justify="right")
    for run, duration in zip(runs, seconds, strict=True):
        last = run.losses[-run.steps_per_epoch :]
        rate = run.hyperparameters.get("lr")
        table.add_row(
            run.optimizer,
            "" if rate is None else f"{rate:g}",
            f"{sum(last) / len(last):.4f}",
            f"{100 * run.train_accuracy[-1]:.2f} %",
            f"{100 * run.held_out_accuracy[-1]:.2f} %",
            f"{duration:.1f}",
        )
    return table


def new_table(title: str) -> Any:
    """Return an empty table in the one style."""
    box = extra("rich.box").SIMPLE_HEAD
    return extra("rich.table").Table(title=title, title_justify="left", box=box)

"""The figures of training: loss and accuracy, under the theme in force."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from instep.commands.compare.figures import faint, joined, trim
from instep.commands.compare.style import canvas, columns, is_many, label_ends, strokes, theme
from instep.commands.compare.training import Training

#: What each step keeps of the running mean of losses, which so is one of about ten.
DECAY = 0.9


def smoothed(losses: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the running mean of losses, corrected for its start at zero."""
    mean, result = 0.0, []
    for step, value in enumerate(losses, start=1):
        mean = DECAY * mean + (1 - DECAY) * value
        result.append(mean / (1 - DECAY**step))
    return np.array(result)


def label(run: Training) -> str:
    """Return the name of the optimizer with its learning rate."""
    rate = run.hyperparameters.get("lr")
    return run.optimizer if rate is None else f"{run.optimizer}, {rate:g}"


def loss(runs: Sequence[Training], counts: tuple[int, int]) -> Any:
    """Draw the batch loss against the step: its running mean, and faint as it is.

    `counts` are the numbers of digits that are trained on and held out. Where the optimizers are
    many, each has a panel of its own, in which the others are faint.
    """
    means = {label(run): smoothed(run.losses) for run in runs}
    lines = strokes(run.optimizer for run in runs)
    lowest = min((value for mean in means.values() for value in mean if value > 0), default=1e-6)
    limits = max(lowest / 2, 1e-6), 4
    steps = max(len(run.losses) for run in runs)
    title = f"Cross entropy while training on {counts[0]:,} MNIST digits; beside names, the rate"
    note = f"running mean of the batch losses, about {1 / (1 - DECAY):.0f} of them"
    if is_many(lines):
        return many(means, title, note, limits, logarithmic=True)
    with canvas(4.5 * columns(2), 4.9) as figure:
        axes = figure.subplots()
        for run in runs:
            style = {**lines[run.optimizer], "marker": ""}
            thin = {"linewidth": 0.5, "linestyle": "-", "alpha": 0.2, "color": style["color"]}
            axes.semilogy(range(1, len(run.losses) + 1), run.losses, **thin)
            axes.semilogy(range(1, steps + 1), means[label(run)], linewidth=1.6, **style)
        if columns(2) == 1:
            title, note = (textwrap.fill(text, 40) for text in (title, note))
        axes.set(xlabel=f"step\nthick: {note}; thin: each", ylabel="cross entropy of the batch")
        axes.set(xlim=(0, steps), ylim=limits, title=title)
        axes.grid(visible=True)
        label_ends(axes, ends(runs, lines, {run: mean[-1] for run, mean in means.items()}), size=9)
    return figure


def ends(
    runs: Sequence[Training], lines: Mapping[str, Mapping[str, Any]], last: Mapping[str, float]
) -> dict[str, tuple[float, str]]:
    """Return the labels of lines, with where they end and their colours; none where at NaN."""
    return {
        label(run): (last[label(run)], lines[run.optimizer]["color"])
        for run in runs
        if math.isfinite(last[label(run)])
    }


def many(
    curves: Mapping[str, npt.NDArray[np.float64]],
    title: str,
    note: str,
    limits: tuple[float, float],
    *,
    logarithmic: bool,
) -> Any:
    """Draw each curve in a panel of its own, with all others faint behind."""
    side_by_side = columns(6, least=2)
    rows = math.ceil(len(curves) / side_by_side)
    with canvas(2.4 * side_by_side, 1.75 * rows + 0.9) as figure:
        grid = figure.subplots(rows, side_by_side, sharex=True, sharey=True, squeeze=False)
        for axes, (name, curve) in zip(grid.flat, curves.items(), strict=False):
            axes.plot(*joined(list(curves.values()), first=1), **faint())
            line = {"color": theme().ink, "linestyle": "-", "linewidth": 1.4}
            axes.plot(range(1, len(curve) + 1), curve, **line)
            axes.set(ylim=limits, yscale="log" if logarithmic else "linear")
            axes.set_title(name, fontsize=8.5)
            axes.grid(visible=True)
        trim(grid, len(curves), "step" if logarithmic else "epoch", "")
        if side_by_side == 2:
            title, note = (textwrap.fill(text, 40) for text in (title, note))
        figure.suptitle(title)
        figure.supxlabel(note, fontsize=9.5)
    return figure


def accuracy(runs: Sequence[Training], counts: tuple[int, int]) -> Any:
    """Draw training and held-out accuracy after each epoch; where optimizers are many, held-out."""
    curves = (
        ("train_accuracy", f"{counts[0]:,} digits that are trained on"),
        ("held_out_accuracy", f"{counts[1]:,} held-out digits"),
    )
    lowest = min(min(getattr(run, name)[1:]) for run in runs for name, _ in curves)
    limits = 10.0 * math.floor(10 * lowest) - 1, 101.0
    lines = strokes(run.optimizer for run in runs)
    if is_many(lines):
        found = {label(run): 100 * np.array(run.held_out_accuracy[1:]) for run in runs}
        title = f"Accuracy on {counts[1]:,} held-out MNIST digits; beside names, the rate"
        return many(found, title, "percent after each epoch", limits, logarithmic=False)
    side_by_side = columns(2)
    rows = 2 // side_by_side
    with canvas(5.2 * side_by_side, 4.0 * rows + 0.4) as figure:
        panels = figure.subplots(rows, side_by_side, sharey=True, squeeze=False)
        for axes, (name, heading) in zip(panels.flat, curves, strict=True):
            found = {label(run): 100 * np.array(getattr(run, name)[1:]) for run in runs}
            for run in runs:
                curve = found[label(run)]
                axes.plot(
                    range(1, len(curve) + 1), curve, linewidth=1.4, markersize=3.6,
                    **lines[run.optimizer],
                )  # fmt: skip
            axes.set_title(heading)
            axes.set(xlabel="epoch", ylim=limits)
            last_epoch = max(len(runs[0].train_accuracy), 3) - 1
            margin = 0.012 * (last_epoch - 1)  # which cuts no marker
            axes.set_xlim(1 - margin, last_epoch + margin)
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            axes.grid(visible=True)
            last = {name: float(curve[-1]) for name, curve in found.items()}
            label_ends(axes, ends(runs, lines, last))
        for axes in panels[:, 0]:
            axes.set_ylabel("accuracy (%)")
        figure.suptitle("MNIST; beside names, the learning rate")
    return figure

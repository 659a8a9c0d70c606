"""The figures. Each function returns a Matplotlib figure and keeps no global state."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from instep.commands.compare.paths import HEADINGS, Path
from instep.commands.compare.surfaces import Surface
from instep.commands.compare.training import Training
from instep.commands.errors import extra

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9.5,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.frameon": False,
    "mathtext.fontset": "cm",
    "savefig.dpi": 150,
}

# The palette of Okabe and Ito, which the common kinds of colour blindness leave apart. The four
# of the source text have the hue that they have there: black, red, green, blue.
COLOURS = {
    "SGD": "#000000",
    "Momentum": "#d55e00",
    "AdaGrad": "#009e73",
    "Adam": "#0072b2",
    "RMSProp": "#cc79a7",
    "Nesterov": "#e69f00",
    "AdamW": "#56b4e9",
}
#: From the lowest point of a surface to the highest.
SHADE = ("#b9d0e6", "#dbe7f2", "#f1f6fa", "#ffffff")
DASHES = ("--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "os^Dv<>P"


def look(name: str) -> dict[str, Any]:
    """Return colour, dashes and marker of an optimizer: the same in every figure.

    Those beyond the seven of `COLOURS` share its colours and are told apart by dashes and marker.
    """
    if name in COLOURS:
        place = list(COLOURS).index(name)
        return {"color": COLOURS[name], "linestyle": "-", "marker": MARKERS[place]}
    from instep.optimizers import __all__ as registry

    others = sorted(set(registry) - set(COLOURS)) or [name]
    row, column = divmod(others.index(name) if name in others else 0, len(COLOURS))
    return {
        "color": list(COLOURS.values())[column],
        "linestyle": DASHES[row % len(DASHES)],
        "marker": MARKERS[(row + column + 1) % len(MARKERS)],
    }


@contextmanager
def canvas(width: float, height: float) -> Iterator[Any]:
    """Give a figure of that many inches, with the style in force while it is drawn."""
    matplotlib = extra("matplotlib")
    figure = extra("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
    with matplotlib.rc_context(STYLE):
        yield figure


def heights(
    surface: Surface, points: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a grid over the window of a surface and the values on it."""
    x, y = np.meshgrid(np.linspace(*surface.x_range, points), np.linspace(*surface.y_range, points))
    return x, y, np.vectorize(surface.value)(x, y)


def surfaces(shown: Sequence[Surface]) -> Any:
    """Draw each surface in space, and its contours with the direction of steepest descent."""
    with canvas(9.6, 4.0 * len(shown)) as figure:
        for row, surface in enumerate(shown):
            draw_in_space(figure.add_subplot(len(shown), 2, 2 * row + 1, projection="3d"), surface)
            axes = figure.add_subplot(len(shown), 2, 2 * row + 2)
            draw_contours(axes, surface)
            draw_descent(axes, surface)
            axes.set(xlabel="$x$", ylabel="$y$")
            axes.set_title("contours and negative gradient", fontweight="normal")
    return figure


def draw_in_space(axes: Any, surface: Surface) -> None:
    """Draw a surface in three dimensions."""
    x, y, z = heights(surface, 81)
    axes.plot_surface(x, y, z, cmap="viridis", rcount=80, ccount=80, linewidth=0, antialiased=False)
    axes.set(xlabel="$x$", ylabel="$y$", zlabel="$f$")
    axes.set_title(f"${surface.formula}$", fontsize=12, fontweight="normal", y=0.97)
    axes.view_init(elev=32, azim=-58)
    axes.set_box_aspect((1.25, 1.0, 0.75), zoom=1.0)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1.0, 1.0, 1.0, 0.0))
        axis.set_major_locator(extra("matplotlib.ticker").MaxNLocator(5))


def draw_contours(axes: Any, surface: Surface) -> None:
    """Draw the contour lines of a surface over a pale shade, and its minimum."""
    x, y, z = heights(surface, 121)
    colours = extra("matplotlib.colors").LinearSegmentedColormap.from_list("shade", SHADE)
    window = (*surface.x_range, *surface.y_range)
    axes.imshow(
        z, extent=window, origin="lower", aspect="auto", cmap=colours, interpolation="bilinear",
        zorder=0,
    )  # fmt: skip
    axes.contour(
        x, y, z, levels=surface.levels, colors="#8fa3b5", linewidths=0.7, linestyles="solid",
        zorder=1,
    )  # fmt: skip
    axes.plot(
        0, 0, marker="*", color="#f0c808", markeredgecolor="#333333", markeredgewidth=0.6,
        markersize=12, linestyle="none", zorder=6, label="minimum",
    )  # fmt: skip
    axes.set(xlim=surface.x_range, ylim=surface.y_range)
    axes.xaxis.get_major_locator().set_params(nbins=6, steps=[1, 2, 5, 10])


def draw_descent(axes: Any, surface: Surface) -> None:
    """Draw arrows along the negative gradient, their length proportional to it."""
    x, y = np.meshgrid(
        np.linspace(*surface.x_range, 17)[1:-1], np.linspace(*surface.y_range, 15)[1:-1]
    )
    u, v = np.vectorize(surface.gradient)(x, y)
    axes.quiver(x, y, -u, -v, color="#333333", width=0.0032, zorder=3)


def paths(shown: Sequence[Path]) -> Any:
    """Draw one contour plot for each path; they share surface and schedule."""
    surface, heading = shown[0].surface, HEADINGS[shown[0].schedule]
    columns = 2 if len(shown) <= 4 else 3 if len(shown) <= 9 else 5
    columns = min(columns, len(shown))
    rows = math.ceil(len(shown) / columns)
    with canvas(4.6 * columns, 3.35 * rows + 0.75) as figure:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, path in zip(grid.flat, shown, strict=False):
            draw_contours(axes, surface)
            draw_path(axes, path)
        for axes in grid.flat[len(shown) :]:
            axes.set_visible(False)
        for place, axes in enumerate(grid.flat[: len(shown)]):
            axes.label_outer()
            if place + columns >= len(shown):
                axes.set_xlabel("$x$")
                axes.tick_params(labelbottom=True)
            if place % columns == 0:
                axes.set_ylabel("$y$")
        figure.suptitle(f"${surface.formula}$,   {heading}", fontsize=12)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        handles = [copy.copy(handle) for handle in handles]
        handles[labels.index("end")].set_markeredgecolor("#333333")
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def draw_path(axes: Any, path: Path) -> None:
    """Draw a path: a dot for each step, a square for the start, a ring for the end."""
    points = np.array(path.points)
    style = look(path.optimizer)
    colour = style["color"]
    axes.plot(
        *points.T, color=colour, linewidth=1.3, marker="o", markersize=3.6,
        markeredgecolor="white", markeredgewidth=0.4, zorder=4,
    )  # fmt: skip
    for place, marker, size, label in ((0, "s", 7, "start"), (-1, "o", 8.5, "end")):
        axes.plot(
            *points[place], marker=marker, markersize=size, markerfacecolor="white",
            markeredgecolor="#333333" if place == 0 else colour, markeredgewidth=1.6,
            linestyle="none", zorder=7, label=label,
        )  # fmt: skip
    (left, right), (low, high) = path.surface.x_range, path.surface.y_range
    inside = (
        (left <= points[:, 0]) & (points[:, 0] <= right)
        & (low <= points[:, 1]) & (points[:, 1] <= high)
    )  # fmt: skip
    axes.set_title(path.optimizer, color=colour, loc="left")
    note = f"$f$ = {short(path.values[-1])} after {len(points) - 1} steps"
    if not inside.all():
        note += ", leaves the window"
    axes.set_title(note, loc="right", fontsize=8.5, fontweight="normal", color="#444444")


def short(value: float) -> str:
    """Return a number in three digits."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


#: The lower edge of the figure of heights, at the least.
FLOOR = 1e-6


def heights_by_step(walked: Sequence[Path]) -> Any:
    """Draw how far above the minimum each path is: a row for each surface, a column a schedule."""
    rows = list(dict.fromkeys(path.surface for path in walked))
    columns = list(dict.fromkeys(path.schedule for path in walked))
    with canvas(9.6, 3.2 * len(rows) + 0.5) as figure:
        grid = figure.subplots(len(rows), len(columns), sharex=True, sharey="row", squeeze=False)
        for surface, panels in zip(rows, grid, strict=True):
            for schedule, axes in zip(columns, panels, strict=True):
                shown = [p for p in walked if p.surface is surface and p.schedule == schedule]
                draw_heights(axes, shown)
                axes.set_title(f"{surface.name}, {HEADINGS[schedule]}", fontweight="normal")
            above = np.array([p.heights for p in walked if p.surface is surface])
            # Neither a path that runs away nor one that arrives flattens the others.
            top = min(np.nanmax(above), 100 * above[0, 0])
            bottom = max(np.nanmin(above), FLOOR)
            panels[0].set_ylim(bottom / 1.6, top * 1.6)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7))
    return figure


def draw_heights(axes: Any, shown: Sequence[Path]) -> None:
    """Draw the heights of some paths against the step."""
    for path in shown:
        # A logarithmic axis has no place for 0: such a point goes far below the edge.
        axes.semilogy(
            np.maximum(path.heights, FLOOR**2), label=path.optimizer, linewidth=1.5,
            markersize=3.8, markevery=2, **look(path.optimizer),
        )  # fmt: skip
    axes.set(xlabel="step", ylabel="$f$ above its minimum")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=True)
    axes.label_outer()


def loss(runs: Sequence[Training], counts: tuple[int, int]) -> Any:
    """Draw the batch loss against the step: smoothed, and faint as it is if the runs are few."""
    with canvas(8.8, max(4.6, 0.23 * len(runs))) as figure:
        axes = figure.subplots()
        for run in runs:
            style = {**look(run.optimizer), "marker": ""}
            if len(runs) <= len(COLOURS):
                axes.semilogy(run.losses, linewidth=0.5, alpha=0.16, color=style["color"])
            axes.semilogy(smoothed(run.losses), linewidth=1.8, label=label(run), **style)
        axes.set(xlabel="step", ylabel="cross entropy of the batch, running mean")
        axes.set_xlim(0, max(len(run.losses) for run in runs))
        lowest = [value for run in runs for value in smoothed(run.losses) if value > 0]
        axes.set_ylim(max(min(lowest) / 2, 1e-6), 4)
        axes.set_title(f"Training loss on {counts[0]:,} MNIST digits")
        axes.grid(visible=True)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def smoothed(losses: Sequence[float], decay: float = 0.9) -> npt.NDArray[np.float64]:
    """Return the running mean of losses, corrected for its start at zero."""
    mean, result = 0.0, []
    for step, value in enumerate(losses, start=1):
        mean = decay * mean + (1 - decay) * value
        result.append(mean / (1 - decay**step))
    return np.array(result)


def label(run: Training) -> str:
    """Return the name of the optimizer with its learning rate."""
    rate = run.hyperparameters.get("lr")
    return run.optimizer if rate is None else f"{run.optimizer} (lr {rate:g})"


def accuracy(runs: Sequence[Training], counts: tuple[int, int]) -> Any:
    """Draw training and held-out accuracy after each epoch."""
    curves = (
        ("train_accuracy", f"{counts[0]:,} training digits"),
        ("held_out_accuracy", f"{counts[1]:,} held-out digits"),
    )
    lowest = min(min(getattr(run, name)[1:]) for run in runs for name, _ in curves)
    with canvas(10.4, max(4.2, 0.23 * len(runs))) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (name, heading) in zip(panels, curves, strict=True):
            for run in runs:
                curve = 100 * np.array(getattr(run, name)[1:])
                axes.plot(
                    range(1, len(curve) + 1), curve, linewidth=1.4, markersize=4,
                    label=label(run), **look(run.optimizer),
                )  # fmt: skip
            axes.set_title(heading)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            axes.grid(visible=True)
        panels[0].set(ylabel="accuracy (%)", ylim=(10 * math.floor(10 * lowest) - 1, 101))
        figure.suptitle("Accuracy on MNIST")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center")
    return figure

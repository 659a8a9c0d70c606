"""The figures of the surfaces and of the paths over them.

Each function returns a Matplotlib figure, under the theme in force.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from instep.commands.compare.paths import HEADINGS, Path
from instep.commands.compare.style import canvas, columns, is_many, label_ends, strokes, theme
from instep.commands.compare.surfaces import Surface
from instep.commands.errors import extra


@cache
def heights(
    surface: Surface, points: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a grid over the window of a surface and the values on it."""
    x, y = np.meshgrid(np.linspace(*surface.x_range, points), np.linspace(*surface.y_range, points))
    return x, y, np.vectorize(surface.value)(x, y)


def surfaces(shown: Sequence[Surface]) -> Any:
    """Draw each surface in space, and its contours with the direction of steepest descent."""
    side_by_side = columns(2)
    rows = 2 * len(shown) // side_by_side
    with canvas(4.8 * side_by_side, 4.0 * rows) as figure:
        # What is drawn in space leaves the sides of its place empty.
        widths = [0.9, 1.0][:side_by_side]
        places = iter(figure.add_gridspec(rows, side_by_side, width_ratios=widths))
        for surface in shown:
            axes = figure.add_subplot(next(places), projection="3d")
            draw_in_space(axes, surface, zoom=0.97 if side_by_side == 1 else 1.1)
            axes = figure.add_subplot(next(places))
            draw_contours(axes, surface)
            draw_descent(axes, surface)
            axes.set(xlabel="$x$", ylabel="$y$")
            axes.set_title(f"{surface.name}: contours, negative gradient")
    return figure


def draw_in_space(axes: Any, surface: Surface, zoom: float) -> None:
    """Draw a surface in three dimensions."""
    x, y, z = heights(surface, 81)
    axes.plot_surface(x, y, z, cmap="viridis", rcount=80, ccount=80, linewidth=0, antialiased=False)
    axes.set(xlabel="$x$", ylabel="$y$")  # the title says what goes up
    axes.set_title(f"{surface.name}: ${surface.formula}$", y=1.03)
    axes.view_init(elev=32, azim=-58)
    axes.set_box_aspect((1.25, 1.0, 0.75), zoom=zoom)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1.0, 1.0, 1.0, 0.0))
        axis.line.set_color(theme().faint)
        axis._axinfo["grid"]["color"] = theme().rule  # noqa: SLF001 - nothing else sets it
        axis.set_major_locator(extra("matplotlib.ticker").MaxNLocator(5))


def draw_contours(axes: Any, surface: Surface) -> None:
    """Draw the contour lines of a surface over a pale shade, and its minimum."""
    x, y, z = heights(surface, 121)
    colours = extra("matplotlib.colors").LinearSegmentedColormap.from_list("shade", theme().shade)
    window = (*surface.x_range, *surface.y_range)
    axes.imshow(
        z, extent=window, origin="lower", aspect="auto", cmap=colours, interpolation="bilinear",
        zorder=0,
    )  # fmt: skip
    axes.contour(
        x, y, z, levels=surface.levels, colors=theme().contour, linewidths=0.7, linestyles="solid",
        zorder=1,
    )  # fmt: skip
    axes.plot(
        0, 0, marker="*", color="#f0c808", markeredgecolor="#333333", markeredgewidth=0.6,
        markersize=10, linestyle="none", zorder=8, label="minimum",
    )  # fmt: skip
    axes.set(xlim=surface.x_range, ylim=surface.y_range)
    axes.xaxis.get_major_locator().set_params(nbins=6, steps=[1, 2, 5, 10])


def draw_descent(axes: Any, surface: Surface) -> None:
    """Draw arrows along the negative gradient, their length proportional to it."""
    x, y = np.meshgrid(
        np.linspace(*surface.x_range, 17)[1:-1], np.linspace(*surface.y_range, 15)[1:-1]
    )
    u, v = np.vectorize(surface.gradient)(x, y)
    axes.quiver(x, y, -u, -v, color=theme().ink, width=0.0032, zorder=3)


def paths(shown: Sequence[Path]) -> Any:
    """Draw one contour plot for each path; they share surface and schedule."""
    surface, heading = shown[0].surface, HEADINGS[shown[0].schedule]
    lines = strokes(path.optimizer for path in shown)
    few = len(shown) <= 9
    side_by_side = columns(2 if len(shown) <= 4 else 3) if few else columns(6, least=2)
    side_by_side = min(side_by_side, len(shown))
    rows = math.ceil(len(shown) / side_by_side)
    width, height = (4.6, 3.35) if few else (3.2, 2.4) if side_by_side == 6 else (2.4, 1.8)
    with canvas(width * side_by_side, height * rows + 0.75) as figure:
        grid = figure.subplots(rows, side_by_side, sharex=True, sharey=True, squeeze=False)
        for axes, path in zip(grid.flat, shown, strict=False):
            draw_contours(axes, surface)
            draw_path(axes, path, lines[path.optimizer]["color"])
            if not few:  # there is no room for a sentence
                size = 8.0 if side_by_side > 2 else 7.0
                colour, note = lines[path.optimizer]["color"], f"$f$ = {short(path.values[-1])}"
                axes.set_title(path.optimizer, color=colour, loc="left", fontsize=size)
                axes.set_title(note, color=theme().faint, loc="right", fontsize=size - 0.5,
                               fontweight="normal")  # fmt: skip
        trim(grid, len(shown), "$x$", "$y$")
        steps = len(shown[0].points) - 1
        between = " " if side_by_side > 1 else "\n"
        figure.suptitle(f"{surface.name}, ${surface.formula}$:{between}{steps} steps, {heading}")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def trim(grid: Any, count: int, x: str, y: str) -> None:
    """Hide the panels of a grid beyond `count`; label the outer axes of the others."""
    side_by_side = grid.shape[1]
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < count)
        axes.label_outer()
        if place + side_by_side >= count:
            axes.set_xlabel(x)
            axes.tick_params(labelbottom=True)
        if place % side_by_side == 0:
            axes.set_ylabel(y)


def draw_path(axes: Any, path: Path, colour: str | None = None) -> None:
    """Draw a path: a dot for each step, a square for the start, a ring for the end.

    The ring is open, so that it hides no minimum.
    """
    points = np.array(path.points)
    colour = colour or strokes([path.optimizer])[path.optimizer]["color"]
    axes.plot(
        *points.T, color=colour, linestyle="-", linewidth=1.3, marker="o", markersize=3.6,
        markeredgecolor=theme().ground, markeredgewidth=0.4, zorder=4,
    )  # fmt: skip
    for place, marker, size, label in ((0, "s", 7, "start"), (-1, "o", 13, "end")):
        axes.plot(
            *points[place], marker=marker, markersize=size,
            markerfacecolor=theme().ground if place == 0 else "none",
            markeredgecolor=theme().ink, markeredgewidth=1.4, linestyle="none", zorder=7,
            label=label,
        )  # fmt: skip
    (left, right), (low, high) = path.surface.x_range, path.surface.y_range
    inside = (
        (left <= points[:, 0]) & (points[:, 0] <= right)
        & (low <= points[:, 1]) & (points[:, 1] <= high)
    )  # fmt: skip
    axes.set_title(path.optimizer, color=colour, loc="left")
    note = f"{path.surface.name}, ends at $f$ = {short(path.values[-1])}"
    if not inside.all():
        note += ", leaves the window"
    axes.set_title(note, loc="right", fontsize=8.5, fontweight="normal", color=theme().faint)


def short(value: float) -> str:
    """Return a number in three digits."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


#: The lower edge of the figure of heights, at the least.
FLOOR = 1e-6


def heights_by_step(walked: Sequence[Path]) -> Any:
    """Draw how far above the minimum each path is: a row for each surface, a column a schedule.

    Where the optimizers are many, each has a panel of its own for each surface, in which the others
    are faint, and the schedules are two lines.
    """
    names = list(dict.fromkeys(path.optimizer for path in walked))
    if is_many(names):
        return many_heights(walked, names)
    panels: dict[tuple[Surface, str], list[Path]] = {}
    for path in walked:
        panels.setdefault((path.surface, path.schedule), []).append(path)
    side_by_side = columns(len({schedule for _, schedule in panels}))
    rows = len(panels) // side_by_side
    lines = strokes(names)
    with canvas(4.8 * side_by_side, 3.2 * rows + 0.3) as figure:
        grid = figure.subplots(rows, side_by_side, sharex=True, squeeze=False)
        for axes, ((surface, schedule), shown) in zip(grid.flat, panels.items(), strict=True):
            for path in shown:
                draw_heights(axes, path, markersize=3.8, markevery=2, **lines[path.optimizer])
            axes.set_title(f"{surface.name}, {HEADINGS[schedule]}")
            axes.set(xlabel="step", ylabel="$f$ above its minimum")
            steps = len(shown[0].points) - 1
            axes.set_xlim(-0.012 * steps, 1.012 * steps)  # which cuts no marker
            axes.set_ylim(*window([path for path in walked if path.surface is surface]))
            axes.label_outer()
            ends = {p.optimizer: (drawn(p)[-1], lines[p.optimizer]["color"]) for p in shown}
            label_ends(axes, ends)
    return figure


def many_heights(walked: Sequence[Path], names: Sequence[str]) -> Any:
    """Draw the heights of many optimizers: a panel for each, with all others faint behind."""
    surfaces = list(dict.fromkeys(path.surface for path in walked))
    side_by_side = columns(6, least=2)
    rows = math.ceil(len(names) / side_by_side)  # of each surface: a row has one axis of heights
    with canvas(2.4 * side_by_side, 1.75 * rows * len(surfaces) + 0.6) as figure:
        grid = figure.subplots(rows * len(surfaces), side_by_side, sharex=True, squeeze=False)
        for part, surface in zip(np.split(grid, len(surfaces)), surfaces, strict=True):
            alike = [path for path in walked if path.surface is surface]
            for axes, name in zip(part.flat, names, strict=False):
                axes.plot(*joined([drawn(path) for path in alike]), **faint())
                for path in alike:
                    if path.optimizer == name:
                        dashes = "-" if path.schedule == "constant" else (0, (3, 1.2))
                        draw_heights(axes, path, color=theme().ink, linestyle=dashes, zorder=3)
                axes.set_title(name, fontsize=8.0, loc="left")
                axes.set_title(surface.name, fontsize=7.0, loc="right", fontweight="normal",
                               color=theme().faint)  # fmt: skip
                axes.set_ylim(*window(alike))
                axes.set_xlim(0, len(alike[0].points) - 1)
            trim(part, len(names), "step", "$f$ above min.")
        between = "; " if side_by_side > 2 else "\n"
        figure.supxlabel(
            between.join([*(f"{dashes}: {HEADINGS[schedule]}"
                            for dashes, schedule in (("solid", "constant"), ("dashed", "decay"))),
                          f"axes of heights end at {FLOOR:g}, and lines go on below"]),
            fontsize=9.5,
        )  # fmt: skip
    return figure


def joined(
    curves: Sequence[npt.NDArray[np.float64]], first: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return curves as one line with gaps: Matplotlib draws one of thousands of points quickly."""
    steps = [np.append(np.arange(first, first + len(curve)), np.nan) for curve in curves]
    return np.concatenate(steps), np.concatenate([np.append(curve, np.nan) for curve in curves])


def faint() -> dict[str, Any]:
    """Return how lines look that are there to be compared with."""
    return {"color": theme().rule, "linestyle": "-", "linewidth": 0.5, "zorder": 1}


def window(shown: Sequence[Path]) -> tuple[float, float]:
    """Return the limits of heights: no path that runs away or arrives flattens the others."""
    above = np.array([path.heights for path in shown])
    top = min(np.nanmax(above), 100 * above[0, 0])
    return max(np.nanmin(above), FLOOR) / 1.6, top * 1.6


def drawn(path: Path) -> npt.NDArray[np.float64]:
    """Return heights as a logarithmic axis has a place for them: 0 goes far below the edge."""
    return np.maximum(path.heights, FLOOR**2)


def draw_heights(axes: Any, path: Path, **line: Any) -> None:
    """Draw the heights of a path against the step."""
    axes.semilogy(drawn(path), **{"linewidth": 1.5, **line})
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=True)

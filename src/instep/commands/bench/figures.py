"""Results as figures: against the memory limit, against size, against the number of tensors."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from instep.commands.bench.contenders import KIT, LIMITS
from instep.commands.bench.measuring import Result
from instep.commands.bench.tables import duration, percent, setting
from instep.commands.compare.style import canvas, columns, theme
from instep.commands.errors import CommandError

#: Contender -> the optimizer whose place it has in the palette of `instep compare`, which is
#: checked for grey print and colour blindness.
PLACES = {
    KIT: "Adam",
    "torch fused": "Momentum",
    "torch foreach": "Nesterov",
    "torch loop": "SGD",
    "optax": "AdaGrad",
    "numba": "AdamW",
    "cupy.fuse": "AdaGrad",
    "kernel a tensor": "AdamW",
    "numexpr": "RMSProp",
    "listing": None,
}
#: The colour of those that have none: a grey, on any ground.
GREY = "#8c8c8c"

#: Endings of files that figures can be written to.
FORMATS = (".png", ".svg", ".pdf")

MARKERS = dict(zip(PLACES, "osD^vP<>XX", strict=True))


def draw(sections: Mapping[str, Sequence[Result]], file: pathlib.Path) -> None:
    """Draw all sections that have results into one file.

    Raises
    ------
    CommandError
        matplotlib is not installed, or the file cannot be written.
    """
    check()
    figure = picture(sections)
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise CommandError(f"--plot {file} cannot be written ({error})") from error


def picture(sections: Mapping[str, Sequence[Result]]) -> Any:
    """Return a figure of all sections that have results: a column for each setting.

    It is drawn under the theme in force. Where columns have no place, all is one.
    """
    kinds = [name for name in PANELS if sections.get(name)]
    settings = list(dict.fromkeys(setting(r) for name in kinds for r in sections[name]))
    side_by_side = columns(len(settings))
    legend = 0.0 if side_by_side == len(settings) else 0.8  # it is below, where it is not beside
    heights = [
        _height(name, sections[name]) + legend
        for name in kinds
        for _ in range(len(settings) // side_by_side)
    ]
    with canvas((7.2 if legend == 0 else 4.8) * side_by_side, sum(heights) + 0.3) as figure:
        grid = figure.subplots(len(heights), side_by_side, squeeze=False, height_ratios=heights)
        places = [(name, column) for name in kinds for column in settings]
        for (name, column), axes in zip(places, grid.flat, strict=True):
            shown = [r for r in sections[name] if setting(r) == column]
            if shown:
                PANELS[name](axes, shown)
                between = ", " if legend == 0 else ",\n"
                axes.set_title(f"{axes.get_title()}{between}{column}")
                _legend(axes, below=legend > 0)
            else:
                axes.set_visible(False)
    return figure


def check() -> None:
    """Raise CommandError where matplotlib is missing."""
    try:
        with canvas(1, 1):
            return
    except CommandError as error:
        raise CommandError(
            "--plot needs matplotlib; install it with: pip install 'instep[plot]'"
        ) from error


def colour(name: str) -> str:
    """Return the colour of a contender under the theme in force."""
    place = PLACES[name]
    return GREY if place is None else theme().optimizers[place]


def _height(name: str, results: Sequence[Result]) -> float:
    """Return the inches that a panel needs."""
    if name != "limit":
        return 4.0
    bars = max(len(result.ran) + 1 for result in results)
    groups = len({result.case.optimizer for result in results})
    return 1.0 + groups * (0.13 * bars + 0.16)


def against_limit(axes: Any, results: Sequence[Result]) -> None:
    """Draw a bar for each contender and optimizer: traffic as a share of the memory limit."""
    names = _names(results)
    place, ticks = 0.0, []
    for result in results:
        top = place
        for name in names:
            if name not in result.seconds or not result.limit:
                continue
            share = result.share_of(name) or 0.0
            axes.barh(place, share, height=0.86, color=colour(name), align="edge")
            if name == KIT:
                axes.text(
                    share - 0.01, place + 0.45, percent(share), color=theme().ground,
                    ha="right", va="center", fontsize=8, fontweight="bold",
                )  # fmt: skip
            place += 1
        ticks.append(((top + place) / 2, result.case.optimizer))
        place += 1.2
    axes.set_yticks([y for y, _ in ticks], [name for _, name in ticks])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.axvline(1.0, color=theme().ink, linewidth=1.2, linestyle="--", label="memory limit")
    axes.set_xlim(0, max(1.05, axes.get_xlim()[1]))
    axes.xaxis.set_major_formatter(lambda value, _: percent(value))
    axes.grid(visible=True, axis="x")
    axes.set_axisbelow(True)
    for name in names:
        axes.barh(0, 0, color=colour(name), label=name)
    axes.set_xlabel("bytes a second, as a share of the memory limit")
    axes.set_title(f"A step on {results[0].case.label} elements")


def against_size(axes: Any, results: Sequence[Result]) -> None:
    """Draw the time of a step of each contender against the number of elements."""
    _lines(axes, results, [result.case.elements for result in results])
    limits = [(r.case.elements, r.case.elements * r.bytes_per_element / r.limit)
              for r in results if r.limit]  # fmt: skip
    if limits:
        # Where the caches serve a part there is no one limit: the line is straight from there.
        size, seconds = max(limits)
        sizes = [result.case.elements for result in results]
        axes.plot(
            sizes, [n * seconds / size for n in sizes],
            color=theme().ink, linewidth=1.0, linestyle="--", label="memory limit", zorder=1,
        )  # fmt: skip
    axes.set_xlabel("elements of one tensor")
    axes.set_title(f"{results[0].case.optimizer} on one tensor")


def against_tensors(axes: Any, results: Sequence[Result]) -> None:
    """Draw the time of a step of each contender against the number of tensors."""
    _lines(axes, results, [len(result.case.shapes) for result in results])
    size = results[0].case.elements // len(results[0].case.shapes)
    axes.set_xlabel("tensors")
    axes.set_title(f"{results[0].case.optimizer} on tensors of {size:,} elements")


def _lines(axes: Any, results: Sequence[Result], positions: Sequence[int]) -> None:
    # Where memory was short, none may have run.
    lowest = min((r.median(name) for r in results for name in _steps(r)), default=1.0)
    for name in _names(results):
        points = [
            (x, result.median(name))
            for x, result in zip(positions, results, strict=True)
            if name in result.seconds
        ]
        kit = name == KIT
        axes.plot(
            *zip(*points, strict=True), color=colour(name), marker=MARKERS[name], label=name,
            linewidth=2.4 if kit else 1.2, markersize=5.5 if kit else 4, zorder=4 if kit else 2,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", ylabel="time of a step")
    axes.set_ylim(lowest / 2)
    axes.yaxis.set_major_formatter(lambda value, _: _tick(value))
    axes.xaxis.set_major_formatter(lambda value, _: _count(value))
    axes.grid(visible=True)


def _legend(axes: Any, *, below: bool) -> None:
    if not axes.get_legend_handles_labels()[0]:  # none, where no contender found memory
        return
    if below:
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.5 / _inches(axes)), ncols=3)
    else:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


def _inches(axes: Any) -> float:
    """Return about how high axes are."""
    return float(axes.get_position().height * axes.figure.get_figheight())


def _tick(seconds: float) -> str:
    """Return a power of ten of seconds in a unit that fits."""
    return duration(seconds * (1 + 1e-9)).replace(".00", "").replace(".0", "")


def _count(number: float) -> str:
    """Return a power of ten in few letters."""
    return f"{number:,.0f}" if number < 1e6 else f"{number / 1e6:,.0f} M"


def _steps(result: Result) -> list[str]:
    return [name for name in result.seconds if name not in LIMITS]


def _names(results: Sequence[Result]) -> list[str]:
    """Return the contenders that ran, the kit first."""
    ran = {name for result in results for name in _steps(result)}
    return [name for name in PLACES if name in ran]


#: Section of results -> what draws it.
PANELS = {"limit": against_limit, "size": against_size, "tensors": against_tensors}

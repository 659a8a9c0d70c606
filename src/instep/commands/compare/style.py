"""How figures look: on a light or a dark ground, in colours and in grey, wide or narrow.

An optimizer has its colour, dashes and marker in every figure. The colours differ in lightness by 6
of 100 at least, so that grey print keeps them apart, and by 24 in CIELAB for those who see no red
or no green, 20 for no blue; `tests/commands/compare/test_style.py` has the numbers.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from instep.commands.errors import extra


@dataclass(frozen=True)
class Theme:
    """The colours of figures.

    `ground` is behind all, `ink` is text, `faint` what is less important, `rule` the grid. `shade`
    are the colours of a surface from its lowest point to the highest.
    """

    name: str
    ground: str
    ink: str
    faint: str
    rule: str
    contour: str
    shade: tuple[str, ...]
    optimizers: Mapping[str, str]


# Hues are those that the source text has: black, red, green, blue. Found by a search for the
# largest smallest difference under simulated colour blindness.
LIGHT = Theme(
    name="light",
    ground="#ffffff",
    ink="#222222",
    faint="#5c5c5c",
    rule="#dddddd",
    contour="#8fa3b5",
    shade=("#b9d0e6", "#dbe7f2", "#f1f6fa", "#ffffff"),
    optimizers={
        "SGD": "#000000",
        "Momentum": "#dc5822",
        "AdaGrad": "#26644a",
        "Adam": "#2b66dd",
        "RMSProp": "#4c1374",
        "Nesterov": "#673600",
        "AdamW": "#2aa0bc",
    },
)
DARK = Theme(
    name="dark",
    ground="#131416",
    ink="#e4e4e4",
    faint="#a6a6a6",
    rule="#35373b",
    contour="#50667c",
    shade=("#2b4058", "#202c3a", "#191e25", "#131416"),
    optimizers={
        "SGD": "#f0f0f0",
        "Momentum": "#cb3033",
        "AdaGrad": "#33f798",
        "Adam": "#a4b4fd",
        "RMSProp": "#b44eec",
        "Nesterov": "#f68821",
        "AdamW": "#4c9ca4",
    },
)
THEMES = {theme.name: theme for theme in (LIGHT, DARK)}

#: Dashes and marker of the same optimizers.
STROKES: dict[str, tuple[Any, str]] = {
    "SGD": ("-", "o"),
    "Momentum": ((0, (6, 1.6)), "s"),
    "AdaGrad": ((0, (6, 1.6, 1.2, 1.6)), "^"),
    "Adam": ((0, (3, 1.2)), "D"),
    "RMSProp": ((0, (1.2, 1.2)), "v"),
    "Nesterov": ((0, (9, 1.6, 3, 1.6)), "<"),
    "AdamW": ((0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)), ">"),
}

#: What stands before the name of a line that ends below the axis.
BELOW = "\N{DOWNWARDS ARROW}"

_current: ContextVar[Theme] = ContextVar("theme", default=LIGHT)
_columns: ContextVar[int | None] = ContextVar("columns", default=None)


def theme() -> Theme:
    """Return the theme in force."""
    return _current.get()


@contextmanager
def themed(chosen: Theme) -> Iterator[None]:
    """Put a theme in force for the figures that are drawn inside a `with`."""
    token = _current.set(chosen)
    try:
        yield
    finally:
        _current.reset(token)


def columns(count: int, *, least: int = 1) -> int:
    """Return how many of `count` columns of panels have a place: `least` of small ones always."""
    most = _columns.get()
    return count if most is None else min(count, max(most, least))


@contextmanager
def narrowed(most: int = 1) -> Iterator[None]:
    """Let figures have that many columns at most inside a `with`: a phone is to show them."""
    token = _columns.set(most)
    try:
        yield
    finally:
        _columns.reset(token)


def strokes(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return colour, dashes and marker of the lines of optimizers, for Matplotlib.

    Those beyond the seven of the palette have the places in it that are free; where none is, all of
    them have the colour of text, and are told apart by panels of their own (`is_many`).
    """
    names = list(dict.fromkeys(names))
    colours = theme().optimizers
    free = iter([name for name in STROKES if name not in names])
    found = {}
    for name in names:
        place = name if name in STROKES else next(free, None)
        if place is None or is_many(names):
            colour = colours.get(name, theme().ink)
            found[name] = {"color": colour, "linestyle": "-", "marker": "o"}
        else:
            dashes, marker = STROKES[place]
            found[name] = {"color": colours[place], "linestyle": dashes, "marker": marker}
    return found


def is_many(names: Iterable[str]) -> bool:
    """Return whether lines are too many for one panel."""
    return len(set(names)) > len(STROKES)


@contextmanager
def canvas(width: float, height: float) -> Iterator[Any]:
    """Give a figure of that many inches, with the style in force while it is drawn."""
    matplotlib = extra("matplotlib")
    figure = extra("matplotlib.figure").Figure(
        figsize=(width, height), layout="constrained", facecolor=theme().ground
    )
    with matplotlib.rc_context(settings()):
        yield figure


def settings() -> dict[str, Any]:
    """Return the settings of Matplotlib under the theme in force."""
    ground, ink, faint = theme().ground, theme().ink, theme().faint
    return {
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "text.color": ink,
        "axes.facecolor": ground,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlecolor": ink,
        "figure.titlesize": 11.5,
        "figure.titleweight": "bold",
        "axes.labelcolor": ink,
        "axes.labelsize": 9.5,
        "axes.edgecolor": faint,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "axes.prop_cycle": cycle(),
        "grid.color": theme().rule,
        "grid.linewidth": 0.6,
        "xtick.color": ink,
        "ytick.color": ink,
        "legend.frameon": False,
        "legend.labelcolor": ink,
        "mathtext.fontset": "cm",
        "savefig.facecolor": ground,
        "savefig.dpi": 150,
    }


def cycle() -> Any:
    """Return the colours and dashes of lines that are no optimizers', in turn."""
    cycler = extra("matplotlib").cycler
    found = cycler(color=[theme().optimizers[name] for name in STROKES])
    return found + cycler(linestyle=[dashes for dashes, _ in STROKES.values()])


def label_ends(axes: Any, ends: Mapping[str, tuple[float, str]], *, size: float = 8.0) -> None:
    """Write the names of lines beside their ends, apart from each other; limits must be set.

    A line that ends below the axis has an arrow down before its name, and a note says what that is.

    Parameters
    ----------
    axes
        The axes of the lines.
    ends
        Text of each label, with the height of the end of its line and its colour.
    size
        Size of the text in points.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    right, low = axes.get_xlim()[1], axes.get_ylim()[0]
    heights = axes.get_position().height * axes.figure.get_figheight() * 72
    room = 1.3 * size / heights
    below = {text for text, (height, _) in ends.items() if height < low}
    places = {
        text: room / 2 if text in below else min(max(to_axes.transform((right, height))[1], 0), 1)
        for text, (height, _) in ends.items()
    }
    for text, place in zip(ends, apart(list(places.values()), room), strict=True):
        colour = ends[text][1]
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6,
                  "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}  # fmt: skip
        axes.annotate(
            f"{BELOW} {text}" if text in below else text,
            xy=(1.0, places[text]), xytext=(1.03, place),
            xycoords="axes fraction", textcoords="axes fraction", va="center", fontsize=size,
            color=colour, annotation_clip=False, arrowprops=None if text in below else leader,
        )  # fmt: skip
    if below:
        note = f"{BELOW} ends below"
        axes.text(0.02, 0.03, note, transform=axes.transAxes, fontsize=size, color=theme().faint)


def apart(places: list[float], room: float) -> list[float]:
    """Return places in the same order that are `room` apart, near to those that were given."""
    order = sorted(range(len(places)), key=places.__getitem__)
    # Blocks of neighbours that touch: their mean place, and who is in them.
    blocks: list[tuple[float, list[int]]] = []
    for member in order:
        middle, members = places[member], [member]
        while blocks:
            below, others = blocks[-1]
            if below + room * (len(others) + len(members)) / 2 <= middle:
                break
            blocks.pop()
            count = len(others) + len(members)
            middle = (below * len(others) + middle * len(members)) / count
            members = [*others, *members]
        blocks.append((middle, members))
    found = list(places)
    for middle, members in blocks:
        for k, member in enumerate(members):
            found[member] = middle + room * (k - (len(members) - 1) / 2)
    return found

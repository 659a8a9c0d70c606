"""Figures of the documentation: each on a light and on a dark ground, wide and narrow."""

import io
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from PIL import Image

from instep.commands.compare.folder import in_few_colours
from instep.commands.compare.style import LIGHT, THEMES, narrowed, themed

FIGURES = Path(__file__).parent / "figures"

#: Pixels of what a phone shows, which has two or three of them for each of a page.
NARROW = 640


def save(
    name: str,
    draw: Callable[[], Any],
    *,
    folder: Path = FIGURES,
    width: int = 1000,
    colours: int = 128,
    phone: bool = True,
) -> None:
    """Write NAME.png, NAME_dark.png, and both for phones: NAME_narrow.png, NAME_narrow_dark.png.

    Parameters
    ----------
    name
        Name of the figure.
    draw
        What returns it as a figure of Matplotlib, in the colours of the theme in force and in the
        columns that have a place.
    folder
        Where to write.
    width
        Of the wide files, in pixels.
    colours
        How many there are at most: the repository is to stay small.
    phone
        Whether the figure has another shape for phones.
    """
    for theme in THEMES.values():
        suffix = "" if theme is LIGHT else f"_{theme.name}"
        for shape in ("", "_narrow") if phone else ("",):
            with themed(theme), narrowed() if shape else nullcontext():
                figure = draw()
                drawn = reduced(figure, NARROW if shape else width, colours)
            drawn.save(folder / f"{name}{shape}{suffix}.png", optimize=True)


def reduced(figure: Any, width: int, colours: int) -> Image.Image:
    """Return a figure as an image of that many pixels, on the ground of the theme in force."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    with Image.open(content) as drawn:
        height = round(drawn.height * width / drawn.width)
        small = drawn.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    return in_few_colours(small, colours)

"""Figures of the documentation: each on a light and on a dark ground, in few colours."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from instep.commands.compare.style import LIGHT, THEMES, themed

FIGURES = Path(__file__).parent / "figures"


def save(name: str, draw: Callable[[], Any], *, width: int = 1000, colours: int = 128) -> None:
    """Write NAME.png and NAME_dark.png, which differ in the colours alone.

    Parameters
    ----------
    name
        Name of the figure.
    draw
        What returns it as a figure of Matplotlib, in the colours of the theme in force.
    width
        Of the files, in pixels.
    colours
        How many there are at most: the repository is to stay small.
    """
    for theme in THEMES.values():
        with themed(theme):
            figure = draw()
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=150)
        with Image.open(content) as drawn:
            height = round(drawn.height * width / drawn.width)
            small = drawn.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        # An octree keeps the colours of thin lines, which a median cut gives up for the ground.
        few = small.quantize(colours, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        # The corner is ground, which is to be the ground of the page and not a mean of its like.
        corner = 3 * few.getpixel((0, 0))
        palette = few.getpalette()
        palette[corner : corner + 3] = bytes.fromhex(theme.ground[1:])
        few.putpalette(palette)
        suffix = "" if theme is LIGHT else f"_{theme.name}"
        few.save(FIGURES / f"{name}{suffix}.png", optimize=True)

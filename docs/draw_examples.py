"""Draws the figures of minimizing.md: what the examples draw, in few greys.

python docs/draw_examples.py    needs SciPy, which an example compares with where it is installed
"""

import contextlib
import importlib
import io
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.spines import Spine
from matplotlib.text import Text
from scipy import optimize  # noqa: F401 - a figure without its line would be another
from themes import save

from instep.commands.compare.style import theme

sys.path.insert(0, str(Path(__file__).parent / "examples"))


def drawn_by(name: str) -> Figure:
    """Return the figure that an example draws, in the greys of the theme in force."""
    figures = []

    def kept(figure: Figure, _: Any) -> None:
        figures.append(figure)

    with mock.patch.object(Figure, "savefig", kept), contextlib.redirect_stdout(io.StringIO()):
        if importlib.import_module(name).main(["--output", os.devnull]):
            raise SystemExit(1)
    (figure,) = figures
    figure.set_facecolor(theme().ground)
    for part in figure.findobj(match=lambda part: hasattr(part, "patch")):
        part.patch.set_facecolor(theme().ground)
    for part in figure.findobj(match=lambda part: isinstance(part, Line2D | Text)):
        part.set_color(repainted(part.get_color()))
    for spine in figure.findobj(match=Spine):
        spine.set_edgecolor(repainted(spine.get_edgecolor()))
    return figure


def repainted(colour: Any) -> tuple[float, ...]:
    """Return a grey between black and white as one between ink and ground."""
    share = to_rgb(colour)[0]
    ends = zip(to_rgb(theme().ink), to_rgb(theme().ground), strict=True)
    return tuple((1 - share) * ink + share * ground for ink, ground in ends)


for example in ("phase_retrieval", "tomography"):
    save(example, lambda example=example: drawn_by(example), width=1056, colours=32)

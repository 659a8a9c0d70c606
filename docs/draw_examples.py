"""Draws the figures of minimizing.md: what the examples draw, in few greys.

python docs/draw_examples.py    needs SciPy, which an example compares with where it is installed
"""

import contextlib
import importlib
import io
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from matplotlib.figure import Figure
from scipy import optimize  # noqa: F401 - a figure without its line would be another
from themes import save

from instep.commands.compare.style import DARK, theme

for folder in ("examples", "extensions"):
    sys.path.insert(0, str(Path(__file__).parent / folder))
from run_examples import darken  # noqa: E402 - it is found there


def drawn_by(name: str) -> Figure:
    """Return the figure that an example draws, for the theme in force."""
    figures = []

    def kept(figure: Figure, _: Any) -> None:
        figures.append(figure)

    with mock.patch.object(Figure, "savefig", kept), contextlib.redirect_stdout(io.StringIO()):
        if importlib.import_module(name).main(["--output", os.devnull]):
            raise SystemExit(1)
    (figure,) = figures
    if theme() is DARK:
        darken(figure)
    return figure


for example in ("phase_retrieval", "tomography"):
    save(example, partial(drawn_by, example), width=1056, colours=32, phone=False)

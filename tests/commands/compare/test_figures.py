"""Figures: what is written in them can be read, wide and on a phone."""

from contextlib import nullcontext

import numpy as np
import pytest

from instep.commands.compare import figures, style
from instep.commands.compare.paths import Path
from instep.commands.compare.surfaces import QUADRATIC, SECH

pytest.importorskip("matplotlib", reason="matplotlib is in the extra 'compare'")

MANY = (*style.STROKES, "BarzilaiBorwein", "ScheduleFreeSGD", "ScheduleFreeAdamW")
SHAPES = pytest.mark.parametrize("shape", [nullcontext, style.narrowed], ids=["wide", "narrow"])


def path(surface, name, ending=0.123, schedule="constant", steps=20):
    """Return a path that comes down along x from its start, and ends `ending` from the minimum."""
    along = np.geomspace(-surface.start[0], ending, steps + 1)
    return Path(surface, schedule, name, {}, tuple((-x, 0.0) for x in along.tolist()))


def boxes(axes):
    """Return the places of the three titles of axes, those that have a text."""
    from matplotlib.text import Text

    renderer = axes.figure.canvas.get_renderer()
    titles = [child for child in axes.get_children() if isinstance(child, Text)]
    return [title.get_window_extent(renderer) for title in titles if title.get_text().strip()]


def laid_out(figure):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    return figure


@SHAPES
@pytest.mark.parametrize("count", [4, 10])
def test_titles_of_a_panel_do_not_meet(shape, count):
    walked = [path(QUADRATIC, name) for name in MANY[-count:]]
    with shape():
        drawn = [figures.paths(walked)]
        if count > len(style.STROKES):
            drawn.append(figures.heights_by_step(walked))
    for figure in map(laid_out, drawn):
        for axes in filter(lambda axes: axes.get_visible(), figure.axes):
            left, right = sorted(boxes(axes), key=lambda box: box.x0)
            assert left.x1 + 2 <= right.x0


@SHAPES
def test_line_that_ends_below_the_axis_is_marked(shape):
    with shape():
        figure = figures.heights_by_step([path(SECH, "Adam"), path(SECH, "AdaGrad", 1e-7)])
    (axes,) = figure.axes
    texts = {text.get_text() for text in axes.texts}
    assert {"Adam", f"{style.BELOW} AdaGrad", f"{style.BELOW} ends below"} == texts


def test_axis_says_nothing_of_lines_below_where_there_are_none():
    figure = figures.heights_by_step([path(SECH, "Adam"), path(SECH, "SGD", 0.5)])
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == {"Adam", "SGD"}


def test_markers_of_the_first_and_last_step_are_whole():
    figure = laid_out(figures.heights_by_step([path(SECH, "Adam"), path(SECH, "SGD", 0.5)]))
    (axes,) = figure.axes
    radius = 3.8 / 2 * figure.dpi / 72
    (left, right), frame = axes.transData.transform([(0, 1), (20, 1)])[:, 0], axes.bbox
    assert frame.x0 + radius <= left
    assert right <= frame.x1 - radius


def test_surfaces_have_rows_of_their_own_among_many_heights():
    walked = [path(surface, name) for surface in (QUADRATIC, SECH) for name in MANY]
    figure = figures.heights_by_step(walked)
    rows = {}
    for axes in figure.axes:
        if axes.get_visible():
            rows.setdefault(axes.get_subplotspec().rowspan.start, set()).add(axes.get_ylim())
    assert [len(limits) for limits in rows.values()] == [1, 1, 1, 1]

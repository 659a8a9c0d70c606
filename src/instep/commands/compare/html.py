"""The page: figures, tables and the path explorer in one file that needs no other."""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from instep.commands import choice
from instep.commands.compare.paths import HEADINGS
from instep.commands.compare.style import DARK, LIGHT, Theme
from instep.commands.compare.surfaces import SURFACES
from instep.commands.tables import Table

PARTS = Path(__file__).parent / "page"

#: Optimizers of the explorer; each has a colour of its own.
EXPLORED = tuple(LIGHT.optimizers)

#: How figures are drawn: for screens that are wide, and for those of phones.
SHAPES = ("wide", "narrow")

#: Name of a figure -> what it shows.
CAPTIONS = {
    "surfaces": "The two surfaces in space, and their contours with the negative gradient, which "
    "points straight downhill. The star is the minimum.",
    "path_heights": "Height above the minimum after each step, on both surfaces. The axis has "
    "powers of ten: a straight line falls by the same factor in every step.",
    "mnist_loss": "Cross entropy of the batches while training on MNIST digits.",
    "mnist_accuracy": "Accuracy on the digits that are trained on and on held-out ones, after each "
    "epoch.",
}
CAPTIONS |= {
    f"paths_{surface.name}_{schedule}": f"Paths on {surface.name}, {heading}: a dot is a step, the "
    "square the start, the ring the end, the star the minimum."
    for surface in SURFACES
    for schedule, heading in HEADINGS.items()
}


def page(
    facts: Mapping[str, str],
    tables: Sequence[Table],
    figures: Mapping[str, Mapping[tuple[str, str], bytes]],
) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    facts
        What was asked for and with which versions, by heading.
    tables
        The tables of the terminal.
    figures
        PNG files by name, each by the name of its theme and its shape.
    """
    lines = [f"<p class=faint>{escape(name)}: {escape(text)}</p>" for name, text in facts.items()]
    shown = [table_section(table) for table in tables]
    shown += [figure_section(name, files) for name, files in figures.items()]
    return f"""<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<title>Optimizers compared</title>
<style>
{variables(LIGHT)}
@media (prefers-color-scheme: dark) {{ {variables(DARK)} }}
{part("style.css")}</style>
<h1>Optimizers compared</h1>
{chr(10).join(lines)}
<h2>Explore paths</h2>
{explorer()}
<h2>Numbers</h2>
{chr(10).join(shown[: len(tables)])}
<h2>Figures</h2>
{chr(10).join(shown[len(tables) :])}
<script>
const EXPLORER = {json.dumps(explored())};
{part("explorer.js")}</script>
</html>
"""


def part(name: str) -> str:
    """Return a file that the page is made of."""
    return (PARTS / name).read_text(encoding="utf-8")


def variables(theme: Theme) -> str:
    """Return the colours of a theme as variables of CSS."""
    colours = {name: getattr(theme, name) for name in ("ground", "ink", "faint", "rule")}
    colours |= theme.optimizers
    found = " ".join(
        f"--{name}: {value};" for name, value in (colours | {**theme.optimizers}).items()
    )
    return f":root {{ {found} }}"


def explored() -> dict[str, Any]:
    """Return what the explorer takes from here: surfaces, defaults of optimizers, colours."""
    registry = choice.registry()
    return {
        "surfaces": {
            surface.name: {
                "x": surface.x_range,
                "y": surface.y_range,
                "levels": surface.levels,
                "start": surface.start,
                "minimum": surface.minimum,
            }
            for surface in SURFACES
        },
        "optimizers": {name: choice.hyperparameters(registry[name]()) for name in EXPLORED},
        "shade": {theme.name: [rgb(colour) for colour in theme.shade] for theme in (LIGHT, DARK)},
        "contour": {theme.name: rgb(theme.contour) for theme in (LIGHT, DARK)},
    }


def rgb(colour: str) -> tuple[int, ...]:
    """Return red, green and blue of a colour in hexadecimal digits."""
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def explorer() -> str:
    """Return the map of the explorer and its settings."""
    surfaces = "".join(f"<option>{escape(surface.name)}" for surface in SURFACES)
    optimizers = "".join(f"<option{' selected' * (n == 'Adam')}>{n}" for n in EXPLORED)

    def slider(name: str, text: str, limits: str) -> str:
        return (
            f"<label for={name}>{text}</label><input id={name} type=range {limits}>"
            f"<output id={name}-value for={name}></output>"
        )

    return f"""<div id=explorer>
<canvas id=map tabindex=0 role=application aria-describedby=told
aria-label="Map of the surface; arrow keys move the start, with Shift by larger steps"></canvas>
<div class=settings>
<label for=surface>Surface</label><select id=surface>{surfaces}</select>
<label for=optimizer>Optimizer</label><select id=optimizer>{optimizers}</select>
{slider("lr", "Learning rate", "min=0.01 max=2 step=0.01")}
{slider("momentum", "Momentum", "min=0 max=0.99 step=0.01")}
{slider("steps", "Steps", "min=1 max=200")}
<span>Start</span><span class=pair><label for=x>x</label><input id=x type=number step=0.1>
<label for=y>y</label><input id=y type=number step=0.1></span>
<button id=reset type=button>As in the figures</button>
</div>
<output id=told aria-live=polite></output>
</div>
<p class=faint>A tap on the map moves the start, and so do the arrow keys. The square is the start,
the ring the end, the star the minimum. Momentum is beta1 of Adam and AdamW; all other
hyperparameters are the defaults of instep.</p>"""


def table_section(table: Table) -> str:
    """Return a table that scrolls by itself where it is wider than the page."""
    head = "".join(f"<th scope=col>{escape(heading)}</th>" for heading in table.headings)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n"
        for row in table.rows
    )
    title = escape(table.title)
    return (
        f'<h3>{title}</h3>\n<div class=scrolls tabindex=0 role=region aria-label="{title}">'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
        + (f"\n<p class=faint>{escape(table.note)}</p>" if table.note else "")
    )


def figure_section(name: str, files: Mapping[tuple[str, str], bytes]) -> str:
    """Return a figure with its caption: in the theme that the reader prefers, as wide as fits."""
    dark, narrow = "(prefers-color-scheme: dark)", "(max-width: 40rem)"
    media = {
        ("dark", "narrow"): f"{dark} and {narrow}",
        ("light", "narrow"): narrow,
        ("dark", "wide"): dark,
    }
    sources = "".join(
        f'<source media="{condition}" srcset="{embedded(files[form])}">'
        for form, condition in media.items()
    )
    text = escape(CAPTIONS[name])
    return (
        f"<figure><picture>{sources}"
        f'<img src="{embedded(files["light", "wide"])}" alt="{text}"></picture>'
        f"<figcaption>{text}</figcaption></figure>"
    )


def embedded(file: bytes) -> str:
    """Return a PNG file as an address that holds all of it."""
    return f"data:image/png;base64,{base64.b64encode(file).decode()}"

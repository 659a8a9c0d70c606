"""The tables and the figure of fewer-bytes.md, drawn from the numbers that were measured."""

import json
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from instep import Adam
from instep.commands.bench.tables import Table
from instep.commands.compare.style import canvas, columns, theme

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
from themes import save

#: Rows of the tables, and curves of the figure.
PARAMETERS = (
    "bfloat16 parameters",
    "bfloat16 parameters, PyTorch's fused Adam",
    "bfloat16 parameters, by chance",
    "bfloat16 parameters, master",
    "bfloat16 parameters, master, bfloat16 state",
)
STATE = (
    "float32, rate 0.0001 % larger",
    "bfloat16 state",
    "bfloat16 state, to nearest",
    "float8 state",
    "float8 state, to nearest",
    "bitsandbytes' Adam8bit",
)
FORMATS = (
    "m in e4m3, root of v in e4m4",
    "m in e5m2, root of v in e4m4",
    "m in e4m3, root of v in e5m3",
    "m in e4m3, v in e5m3",
    "e4m3, e4m4, roots may become 0",
    "e4m3, e4m4, two random words",
    "e4m3, e4m4, 8 random bits",
)
BASE = "float32"

#: The dtype of parameters, and settings: of which the bytes are counted.
COUNTED: Sequence[tuple[str, dict[str, Any]]] = (
    ("float32", {}),
    ("float32", {"state_dtype": "bfloat16"}),
    ("float32", {"state_dtype": "float8"}),
    ("bfloat16", {}),
    ("bfloat16", {"state_dtype": "bfloat16"}),
    ("bfloat16", {"state_dtype": "float8"}),
    ("bfloat16", {"master": True}),
    ("bfloat16", {"master": True, "state_dtype": "bfloat16"}),
    ("bfloat16", {"master": True, "state_dtype": "float8"}),
)


class Runs:
    """The runs of a problem: numbers by variant, in the order of seeds."""

    def __init__(self, file: Path):
        self.found = json.loads(file.read_text(encoding="utf-8"))

    def of(self, variant: str, key: str) -> np.ndarray:
        """Return the numbers of a variant, seed by seed."""
        runs = [run for run in self.found if run["variant"] == variant]
        return np.array([run[key] for run in sorted(runs, key=lambda run: run["seed"])])

    def scatter(self) -> float:
        """Return the standard deviation of the final loss over the seeds of float32."""
        return float(self.of(BASE, "final").std(ddof=1))

    def above(self, variant: str, key: str = "final") -> np.ndarray:
        """Return by how much a variant is above float32 of the same seed."""
        ours = self.of(variant, key)
        return ours - self.of(BASE, key)[: len(ours)]


def draw(folder: Path, titles: dict[str, str], window: int) -> None:
    """Write tables and figure from the results that are there."""
    problems = {name: Runs(folder / f"{name}.json") for name in titles}
    toys = json.loads((folder / "toys.json").read_text(encoding="utf-8"))
    tables = {
        "bytes": counted(),
        "parameters": ends(problems, PARAMETERS, "One weight", toys_of(toys, "ones", "end")),
        "state": ends(problems, STATE, "Fallen gradients", toys_of(toys, "falling", "steps")),
        "formats": ends(
            {"digits": problems["digits"]},
            FORMATS,
            "Fallen gradients",
            toys_of(toys, "falling", "steps"),
        ),
    }
    for name, table in tables.items():
        (folder / f"{name}.inc").write_text(table.markdown() + "\n", encoding="utf-8")
    save("curves", partial(curves, problems, titles, window), folder=folder, width=1100)


def toys_of(toys: list[dict[str, Any]], toy: str, key: str) -> dict[str, float]:
    """Return what a toy gave, by variant."""
    return {each["variant"]: each[key] for each in toys if each["toy"] == toy}


def ends(
    problems: dict[str, Runs], variants: Sequence[str], heading: str, toy: dict[str, float]
) -> Table:
    """Return a table of final losses above float32: what is out of its scatter is bold."""
    base = [BASE, f"{toy[BASE]:.3f}"]
    base += [
        f"{runs.of(BASE, 'final').mean():.4f} ± {runs.scatter():.4f}" for runs in problems.values()
    ]
    rows = [tuple(base)]
    for variant in variants:
        row = [variant, f"{toy[variant]:.3f}"]
        for runs in problems.values():
            above = runs.above(variant)
            cell = f"{above.mean():+.4f} ± {above.std(ddof=1) / len(above) ** 0.5:.4f}"
            row.append(f"**{cell}**" if abs(above.mean()) > runs.scatter() else cell)
        rows.append(tuple(row))
    counts = {name: len(runs.of(BASE, "final")) for name, runs in problems.items()}
    seeds = (f"{name.capitalize()}, {count} seeds" for name, count in counts.items())
    return Table("", ("", heading, *seeds), tuple(rows))


def counted() -> Table:
    """Return a table of bytes for each element that Adam keeps, and that a step moves."""
    rows = []
    for name, settings in COUNTED:
        dtype = np.dtype(getattr(ml_dtypes, name, name))
        weights = {"w": np.zeros(2**16, dtype)}
        optimizer = Adam(**settings)
        moved = re.search(r"([0-9.]+) bytes an element", str(optimizer.explain(weights)))
        optimizer.update(weights, {"w": np.zeros(2**16, dtype)})
        kept = nbytes(optimizer.state_dict()["states"]) / 2**16
        texts = [f"`{key}={value!r}`".replace("'", '"') for key, value in settings.items()]
        rows.append((name, ", ".join(texts), f"{kept:.2f}", f"{float(moved[1]):.2f}"))
    headings = ("Parameters", "Settings", "State, bytes", "A step moves, bytes")
    return Table("", headings, tuple(rows), left=2)


def nbytes(tree: Any) -> int:
    """Return the bytes of the arrays in nested dicts."""
    if isinstance(tree, dict):
        return sum(map(nbytes, tree.values()))
    return int(getattr(tree, "nbytes", 0))


def curves(problems: dict[str, Runs], titles: dict[str, str], window: int) -> Any:
    """Draw by how much losses are above those of float32, in the mean over seeds."""
    side_by_side = columns(2)
    rows = 2 * len(problems) // side_by_side
    with canvas(5.5 * side_by_side, 3.2 * rows) as figure:
        panels = iter(figure.subplots(rows, side_by_side, squeeze=False).flat)
        for name, runs in problems.items():
            band = runs.of(BASE, "curve").std(axis=0, ddof=1)
            steps = window * (np.arange(len(band)) + 0.5)
            pair = []
            for variants, axes in zip((PARAMETERS, STATE), panels, strict=False):
                pair.append(axes)
                axes.fill_between(
                    steps, -band, band, color=theme().rule, label="scatter of float32"
                )
                colours = theme().optimizers.values()
                for variant, colour in zip(variants, colours, strict=False):
                    above = runs.above(variant, "curve").mean(axis=0)
                    axes.plot(steps, above, color=colour, linewidth=1.1, label=variant)
                axes.set_title(titles[name], loc="left", fontsize=9)
                axes.set(xlabel="step", ylabel="loss above float32")
                if runs is next(iter(problems.values())):
                    axes.legend(fontsize=7, loc="upper right")
            pair[1].sharey(pair[0])
    return figure

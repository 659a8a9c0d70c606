"""Tables: on a terminal as wide as it is, with rich or without, and as Markdown."""

import importlib
import importlib.util
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Text in rows and columns, and a note below.

    The first `left` columns are aligned to the left.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    note: str = ""

    def markdown(self) -> str:
        """Return the table as Markdown, without its title."""
        rules = ["---" if i < self.left else "---:" for i in range(len(self.headings))]
        headings = [heading.replace("\n", " ") for heading in self.headings]
        return "\n".join(f"| {' | '.join(row)} |" for row in (headings, rules, *self.rows))

    def text(self) -> str:
        """Return the table as plain text, without its title."""
        split = [heading.split("\n") for heading in self.headings]
        height = max(map(len, split))
        padded = [[""] * (height - len(lines)) + lines for lines in split]
        grid = [*zip(*padded, strict=True), *self.rows]
        widths = self.widths()
        lines = []
        for row in grid:
            cells = [
                cell.ljust(width) if i < self.left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def widths(self) -> list[int]:
        """Return how many characters the widest cell of each column has."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.headings)
        return [
            max(map(len, (*heading.split("\n"), *cells)))
            for heading, cells in zip(self.headings, columns, strict=True)
        ]

    def rich(self) -> Any:
        """Return the table as one of rich, without its title."""
        box = importlib.import_module("rich.box").SIMPLE_HEAD
        # The widest of our tables has eleven columns, which then fit in eighty characters.
        padding = (0, 1, 0, 0) if len(self.headings) < 10 else 0
        table = importlib.import_module("rich.table").Table(
            box=box, padding=padding, show_edge=False
        )
        for i, (heading, width) in enumerate(zip(self.headings, self.widths(), strict=True)):
            justify = "left" if i < self.left else "right"
            table.add_column(
                heading, justify=justify, vertical="bottom", no_wrap=True, min_width=width
            )
        for row in self.rows:
            table.add_row(*row)
        return table

    def of_columns(self, chosen: Sequence[int]) -> "Table":
        """Return the table with those of its columns; the left ones are among them."""
        kept = (*range(self.left), *chosen)
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return Table(self.title, tuple(self.headings[i] for i in kept), rows, self.left)

    def parts(self, fits: Callable[["Table"], bool]) -> Iterator["Table"]:
        """Yield tables that fit, which together have all columns: no number is ever cut."""
        chosen: list[int] = []
        for column in range(self.left, len(self.headings)):
            if chosen and not fits(self.of_columns([*chosen, column])):
                yield self.of_columns(chosen)
                chosen = []
            chosen.append(column)
        yield self.of_columns(chosen)


def show(shown: Sequence[Table]) -> None:
    """Print tables on standard output, with rich if it is installed."""
    if importlib.util.find_spec("rich") is None:
        width = shutil.get_terminal_size().columns
        for table in shown:
            parts = table.parts(lambda part: sum(part.widths()) + 2 * len(part.rows[0]) - 2 < width)
            text = "\n\n".join(part.text() for part in parts)
            sys.stdout.write(f"{table.title}\n\n{text}\n\n")
            if table.note:
                sys.stdout.write(f"{textwrap.fill(table.note, width)}\n\n")
        return
    console = importlib.import_module("rich.console").Console()
    measure = importlib.import_module("rich.measure").Measurement.get
    endless = console.options.update(width=10_000)
    for table in shown:
        # Above the table, not its title: rich breaks titles to the width of the table.
        console.print(table.title, style="bold", highlight=False)
        for part in table.parts(
            lambda part: measure(console, endless, part.rich()).maximum <= console.width
        ):
            console.print(part.rich(), crop=False)
            console.print()
        if table.note:
            console.print(table.note, "", sep="\n", highlight=False, markup=False)

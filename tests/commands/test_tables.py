"""Tables: no number is cut, however narrow the terminal."""

import importlib.util
import re

import pytest

from instep.commands.tables import Table, show

WIDE = Table(
    "Seven columns of numbers and a long title that may be broken",
    ("optimizer", *(f"column\nnumber {k}" for k in range(7))),
    tuple(
        (name, *(f"{row}.{k}23456" for k in range(7)))
        for row, name in enumerate(["SGD", "BarzilaiBorwein"])
    ),
)


@pytest.mark.parametrize("columns", [30, 40, 60, 200])
@pytest.mark.parametrize("rich", [True, False])
def test_every_number_is_printed_whole_on_lines_that_fit(monkeypatch, capsys, columns, rich):
    monkeypatch.setenv("COLUMNS", str(columns))
    if rich:
        pytest.importorskip("rich", reason="rich is in the extra 'compare'")
    else:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "rich" else find(name)
        )
    show([WIDE])
    _, *lines = capsys.readouterr().out.splitlines()
    numbers = re.findall(r"\d\.\d+", "\n".join(lines))
    assert sorted(numbers) == sorted(cell for row in WIDE.rows for cell in row[1:])
    assert all(len(line) <= columns for line in lines)
    parts = sum(line.startswith("SGD") for line in lines)
    assert sum(line.startswith("BarzilaiBorwein") for line in lines) == parts
    assert (parts == 1) == (columns == 200)


@pytest.mark.parametrize("rich", [True, False])
def test_a_note_stands_below_its_table_on_lines_that_fit(monkeypatch, capsys, rich):
    monkeypatch.setenv("COLUMNS", "30")
    if rich:
        pytest.importorskip("rich", reason="rich is in the extra 'compare'")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    note = "What to know of these [numbers] takes more than one line"
    show([Table("A title", ("optimizer", "loss"), (("SGD", "0.25"),), note=note)])
    printed = capsys.readouterr().out
    assert " ".join(printed.partition("0.25")[2].split()) == note
    assert all(len(line) <= 30 for line in printed.splitlines())

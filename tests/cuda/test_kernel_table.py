"""The page of kernels in the documentation says what the kernels are now."""

import importlib.util
import re
from pathlib import Path

import machine_code
import pytest

pytestmark = pytest.mark.skipif(
    machine_code.why_not() is not None, reason=str(machine_code.why_not())
)

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def writer():
    spec = importlib.util.spec_from_file_location("write_kernels", DOCS / "write_kernels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows():
    lines = (DOCS / "kernels.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    return {(name, dtype): rest for name, dtype, *rest in cells[2:]}


def test_every_optimizer_has_its_rows(writer, rows):
    assert set(rows) == {(name, dtype) for name in writer.optimizers() for dtype in writer.DTYPES}


def test_graph_and_machine_code_move_the_same_bytes(rows):
    for name, (_, by_graph, by_code, *_) in rows.items():
        assert by_graph == by_code, name


@pytest.mark.parametrize("name", ["Adam", "LAMB", "SGD"])
def test_rows_are_up_to_date(writer, rows, name):
    """Registers depend on the compiler; they are compared where it is the one of the page."""
    number = machine_code.ALL_ARCHITECTURES.index("sm_90")
    recorded = rows[name, "float32"]
    found = writer.describe(name, "float32", ("sm_90",))
    hint = "run python docs/write_kernels.py"
    assert recorded[:3] == [str(cell) for cell in found[2:5]], hint
    version = re.search(r"NVRTC ([\d.]+\d)", writer.PAGE.read_text())[1]
    if version == machine_code.nvrtc_version():
        assert recorded[3 + number] == str(found[5]), hint

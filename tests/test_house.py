"""The source is a house in which each room can be seen in one go, and no two lead in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import instep

ROOT = Path(instep.__file__).parent
FILES = {
    ".".join(("instep", *path.relative_to(ROOT).with_suffix("").parts)): path
    for path in sorted(ROOT.rglob("*.py"))
}

#: What writes the text of programs may be as long as that text.
EMITTERS = {
    "instep.commands.bench.contenders.streams",
    "instep.engines.cuda.boxes",
    "instep.engines.cuda.kernel",
    "instep.engines.native.check_code",
    "instep.engines.native.handover",
    "instep.engines.native.copies",
    "instep.engines.native.strided_code",
    "instep.engines.native.tensors",
}


def lines(node):
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return node.end_lineno - first + 1


def lines_of_documentation(node):
    """Return how many lines the docstring of a function has: what is public has long ones."""
    return (
        0 if ast.get_docstring(node) is None else node.body[0].end_lineno - node.body[0].lineno + 1
    )


@pytest.mark.parametrize("name", FILES)
def test_classes_and_functions_can_be_seen_in_one_go(name):
    if name in EMITTERS:
        pytest.skip("it writes programs")
    for node in ast.walk(ast.parse(FILES[name].read_text("utf-8"))):
        if isinstance(node, ast.ClassDef):
            assert lines(node) <= 240, node.name
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            told = lines_of_documentation(node)
            assert lines(node) - told <= 60, node.name


def imported(name):
    """Return the files that a file imports, those that only a type checker asks for among them."""
    known = {name.removesuffix(".__init__") for name in FILES}
    for node in ast.walk(ast.parse(FILES[name].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_files_import_each_other_in_a_circle():
    graph = {
        name.removesuffix(".__init__"): set(imported(name)) - {name.removesuffix(".__init__")}
        for name in FILES
    }
    TopologicalSorter(graph).prepare()  # raises CycleError

"""The CUDA C++ that the engine emits: text, made without CuPy and without a GPU."""

import re
import subprocess
import sys
from pathlib import Path

import cases
import numpy as np
import pytest
from emitted import SHOWN, passes, showcase

from instep import LBFGS, Optimizer
from instep.engines.cuda.emit import emit
from instep.engines.cuda.expressions import Names, literal
from instep.engines.cuda.kernel import (
    kernel_name,
    leaf_dtype,
    step_dtype,
    threads_per_block,
    vector_length,
)
from instep.engines.native.emit import emit as emit_llvm
from instep.graph import Array, Graph, Node, Store
from instep.graph.program import Program
from instep.numerics import LANES

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", SHOWN)
def test_emitted_text_is_the_reviewed_one(name, request):
    text = showcase(name)
    path = GOLDEN / f"{name}.cu"
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"there is no {path.name}; write it with pytest --update-golden"
    assert text == path.read_text(), (
        f"{path.name} is not what is emitted now; look at the difference, and take it over with "
        f"pytest --update-golden"
    )


def test_no_golden_file_is_left_over():
    assert {path.stem for path in GOLDEN.glob("*")} == set(SHOWN)


def test_emission_imports_no_cupy():
    code = (
        "import sys; from instep import Adam; from instep.graph.program import Program;"
        "from instep.engines.cuda.emit import emit;"
        "text = emit(Program(Adam()).passes('float32', ())[0]);"
        "assert 'cupy' not in sys.modules; assert 'Adam_float32' in text"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_emission_is_a_pure_function():
    first, second = (Program(cases.Adam(lr=lr)).passes("float32", ())[0] for lr in (0.1, 0.2))
    assert emit(first) == emit(second), "hyperparameters are no part of the text"


def test_a_rule_can_be_recognised():
    text = showcase("Adam_float32")
    assert "const float new_m = m - h.h0 * m + h.h0 * g;" in text
    assert "float h0;  // (1 - beta1)" in text
    assert "const float new_w = w - h.h4 * new_m / (sqrtf(new_v / h.h3) + h.eps);" in text


@cases.every_case
def test_lines_can_be_read_without_scrolling(case):
    for graph in passes(case.make(), "float32"):
        assert max(len(line) for line in emit(graph).splitlines()) <= 110


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (1.0, "float32", "1.0f"),
        (-2.0, "float64", "(-2.0)"),
        (0.0, "float32", "0.0f"),
        (-0.0, "float32", "(-0.0f)"),
        (0.1, "float32", "0x1.99999a0000000p-4f"),
        (0.1, "float64", "0x1.999999999999ap-4"),
        (2.0**-149, "float32", "0x1.0000000000000p-149f"),
        (float("inf"), "float32", "__uint_as_float(0x7f800000u)"),
        (float("-inf"), "float64", "__longlong_as_double(0xfff0000000000000ll)"),
        (1e39, "float32", "__uint_as_float(0x7f800000u)"),
        (True, "bool", "true"),
    ],
)
def test_constants_are_exact(value, dtype, text):
    assert literal(value, dtype) == text


def test_names_that_cpp_or_the_kernel_need_are_changed():
    names = ("int", "size", "row", "count", "new_w", "w_i", "_hidden", "émoi", "V", "step")

    class Reserved(Optimizer):
        lr: float = 0.1
        new: float = 0.1
        slots = names

        @staticmethod
        def rule(xp, w, g, s, h):
            slots = {name: getattr(s, name) + h.new * g for name in names}
            return w - h.lr * g, slots

    (graph,) = Program(Reserved()).passes("float32", ())
    text = emit(graph)
    fields = text[text.index("struct Leaf") : text.index("// A step")].split(";")
    declared = [field.split()[-1].strip("*") for field in fields[:-1]]
    assert len(set(declared)) == len(declared)
    assert "float lr;\n" in text
    assert "float h0;  // new\n" in text


def test_the_argument_fits_in_what_every_cuda_takes():
    assert step_dtype().itemsize <= 4096


def test_the_tables_are_laid_out_as_cpp_does():
    (graph,) = Program(cases.Adam()).passes("float32", ())
    layout = leaf_dtype(graph)
    assert [layout.fields[name][1] for name in layout.names] == [0, 8, 16, 20, 24, 32, 40]
    assert layout.itemsize == 48
    assert step_dtype().alignment == 8
    assert np.dtype("u8").byteorder == "=", "words are little-endian, as on the device"


def test_kernels_are_named_after_their_rules():
    first, second = (graph for graph in passes(SHOWN["LAMB_float32_sums"][0](), "float32"))
    assert kernel_name(first, strided=False) == "LAMB_float32_sums"
    assert kernel_name(second, strided=True) == "LAMB_float32_strided"


@pytest.mark.parametrize("kind", ["slot", "hyperparameter"])
@pytest.mark.parametrize("name", ["t0", "u1", "h0", "sum1", "partial1", "NULL", "T", "candidate"])
def test_names_of_the_user_are_none_that_the_text_makes_up(name, kind):
    """A value that is used twice is called t0, and the first sum over a tensor sum1."""
    slot, number = (name, "lr") if kind == "slot" else ("m", name)

    def rule(xp, w, g, s, h):
        twice = (w - g) * getattr(h, number)
        scale = xp.sum(twice * twice)
        return twice / scale + twice * twice, {slot: getattr(s, slot) - twice * getattr(h, number)}

    members = {"slots": (slot,), "rule": staticmethod(rule), number: 0.5}
    optimizer = type("Named", (Optimizer,), {**members, "__annotations__": {number: float}})()
    for graph in Program(optimizer).passes("float32", ()):
        names, text = Names(graph), emit(graph)
        made_up = re.findall(r"const (?:float|double) (\w+) = ", text)
        users = [*names.arrays.values(), *names.scalars]
        assert len(set(users)) == len(users)
        assert set(made_up) & set(names.arrays.values()) == set()
        assert name not in users or name == "h0"  # the first of those that are counted
    assert "t0" in made_up


def test_a_scalar_in_two_dtypes_is_two_fields():
    class Twice(Optimizer):
        lr: float = 0.1

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - xp.astype(h.lr * xp.astype(g, xp.float64), xp.float32) - h.lr * g, {}

    (graph,) = Program(Twice()).passes("float32", ())
    text = emit(graph)
    assert "double lr;\n    float h1;  // lr\n" in text
    assert "h.lr = __longlong_as_double((long long)word(step, first + 0));" in text
    assert "h.h1 = __uint_as_float((unsigned)word(step, first + 1));" in text


@pytest.mark.parametrize("write", [emit, emit_llvm], ids=["CUDA", "LLVM"])
def test_an_operation_that_an_engine_does_not_know_is_an_error(write):
    nodes = (Node("load", (), "float32", "w"), Node("cbrt", (0,), "float32"))
    w = Array("w", "float32")
    graph = Graph("Odd", "float32", (w, Array("g", "float32")), (), nodes, (Store("w", 1),))
    with pytest.raises(NotImplementedError, match="for cbrt"):
        write(graph)


@pytest.mark.parametrize(("history", "vector", "rows"), [(2, 4, 4), (10, 2, 1), (20, 1, 1)])
def test_a_pass_of_many_sums_has_fewer_lanes_a_thread(history, vector, rows):
    """Sums of lanes are kept in registers, two for each."""
    found = LBFGS(history).explain(np.ones(9, "float32")).passes["products"]
    (graph,) = found.buckets[0].graphs
    assert vector_length(graph) == vector
    assert threads_per_block(graph) == LANES // vector
    assert f"#pragma unroll {rows}  //" in emit(graph, strided=False)

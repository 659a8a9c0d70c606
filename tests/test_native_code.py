"""What LLVM makes of the native engine's text: every operation rounded once, in registers."""

import platform
import re

import engine_runs
import pytest
from emitted import clipped, passes

from instep import Adam
from instep.engines.native.emit import emit

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="reads the mnemonics of x86-64"
)


def instructions(graph):
    """Return the mnemonics of the machine code of a pass, for this CPU."""
    engine_runs.require("native")
    from instep.engines.native.compile import assembly

    lines = (line.split() for line in assembly(emit(graph)).splitlines())
    return [words[0] for words in lines if words and not words[0].startswith((".", "#"))]


def features():
    engine_runs.require("native")
    import llvmlite.binding as llvm

    return {name for name, there in llvm.get_host_cpu_features().items() if there}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("make", [Adam, clipped])
def test_nothing_is_contracted_or_approximated(make, dtype):
    for graph in passes(make(), dtype):
        found = " ".join(instructions(graph))
        assert re.search(r"\bv?f(n)?m(add|sub)", found) is None, "fused multiply-add"
        assert re.search(r"\bv?r(cp|sqrt)", found) is None, "an approximate root or reciprocal"


@pytest.mark.parametrize(("dtype", "letter"), [("float32", "s"), ("float64", "d")])
def test_division_and_root_take_whole_vectors(dtype, letter):
    (graph,) = passes(Adam(), dtype)
    found = instructions(graph)
    for operation in ("div", "sqrt", "mul", "add"):
        assert any(re.fullmatch(f"v?{operation}p{letter}", name) for name in found), operation


def test_16_bits_are_converted_in_registers():
    if "f16c" not in features():
        pytest.skip("this CPU converts float16 in software")
    (graph,) = passes(Adam(), "float16")
    found = instructions(graph)
    assert "vcvtph2ps" in found
    assert "vcvtps2ph" in found
    assert sum(name.startswith("call") for name in found) == 1  # that of the span


def test_a_pass_that_reduces_fetches_ahead():
    reducing, storing = passes(clipped(), "float32")
    assert any(name.startswith("prefetch") for name in instructions(reducing))
    assert not any(name.startswith("prefetch") for name in instructions(storing))

"""What LLVM makes of the native engine's text: every operation rounded once, in registers.

The code is read for named processors, not for the one at hand.
"""

import re

import pytest
from emitted import clipped, passes
from processors import ALL, BASELINE, HASWELL, on_each

from instep import SGD, Adam, Momentum
from instep.engines.native.emit import emit
from instep.engines.native.joining import joined


def found(pattern, instructions):
    """Return the instructions that begin with a pattern."""
    return [text for text in instructions if re.match(pattern, text)]


#: What rounds once where a rule rounds twice; what is not exactly rounded.
CONTRACTED = {"x86": r"v?fn?m(add|sub)", "arm": r"fn?m(add|sub|la|ls)|fcmla"}
APPROXIMATE = {"x86": r"v?r(cp|sqrt)|vexp2", "arm": r"fr(ecp|sqrt)|ursqrte|urecpe"}


@on_each
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("make", [Adam, clipped])
def test_nothing_is_contracted_or_approximated(make, dtype, processor):
    for graph in passes(make(), dtype):
        instructions = processor.instructions(emit(graph, processor.traits()))
        assert not found(CONTRACTED[processor.family], instructions)
        assert not found(APPROXIMATE[processor.family], instructions)


#: Allows LLVM what the native engine never allows.
FAST = """
define <4 x float> @run(<4 x float> %a, <4 x float> %b, <4 x float> %c)
    "reciprocal-estimates"="all" {
  %product = fmul fast <4 x float> %a, %b
  %sum = fadd fast <4 x float> %product, %c
  %root = call fast <4 x float> @llvm.sqrt.v4f32(<4 x float> %sum)
  %quotient = fdiv fast <4 x float> splat (float 1.0), %root
  ret <4 x float> %quotient
}

declare <4 x float> @llvm.sqrt.v4f32(<4 x float>)
"""


@pytest.mark.parametrize("processor", [p for p in ALL if p is not BASELINE], ids=str)
def test_a_contraction_would_be_seen(processor):
    assert found(CONTRACTED[processor.family], processor.instructions(FAST))


@on_each
def test_an_approximation_would_be_seen(processor):
    assert found(APPROXIMATE[processor.family], processor.instructions(FAST))


@on_each
@pytest.mark.parametrize(("dtype", "x86", "arm"), [("float32", "s", "4s"), ("float64", "d", "2d")])
def test_division_and_root_take_whole_vectors(dtype, x86, arm, processor):
    (graph,) = passes(Adam(), dtype)
    instructions = processor.instructions(emit(graph, processor.traits()))
    for operation in ("div", "sqrt", "mul", "add"):
        vectors = {"x86": rf"v?{operation}p{x86} ", "arm": rf"f{operation} v\d+\.{arm}"}
        assert found(vectors[processor.family], instructions), operation


#: From and to float32; processors with AVX512-FP16 have forms of their own.
CONVERSIONS = {
    "x86": ("vcvtph2psx? .*[yz]mm", "vcvtps2phx? .*[yz]mm"),
    "arm": (r"fcvtl2? v\d+\.4s", r"fcvtn2? v\d+\.(4|8)h"),
}
CALLS = {"x86": "call", "arm": "bl "}


@on_each
def test_16_bits_are_converted_in_registers(processor):
    (graph,) = passes(Adam(), "float16")
    instructions = processor.instructions(emit(graph, processor.traits()))
    for conversion in CONVERSIONS[processor.family]:
        # The first processors of x86 have no such instruction: integers are added and shifted.
        assert bool(found(conversion, instructions)) == (processor is not BASELINE)
    assert len(found(CALLS[processor.family], instructions)) == 1  # that of the span


@on_each
def test_a_pass_fetches_ahead(processor):
    prefetch = {"x86": "prefetch", "arm": "prfm"}[processor.family]
    reducing, storing = passes(clipped(), "float32")
    assert found(prefetch, processor.instructions(emit(reducing, processor.traits())))
    fetched = found(prefetch, processor.instructions(emit(storing, processor.traits())))
    assert len(fetched) == len(storing.arrays)


@on_each
def test_a_pass_on_rows_fetches_the_next_one(processor):
    prefetch = {"x86": "prefetch", "arm": "prfm"}[processor.family]
    (graph,) = passes(Adam(), "float32")
    instructions = processor.instructions(emit(graph, processor.traits(), in_rows=True))
    assert len(found(prefetch, instructions)) == 2  # of parameter and gradient


#: Optimizer -> how often its storing pass takes real and imaginary parts out of complex numbers.
PARTS_TAKEN = {SGD: 0, Momentum: 0, Adam: 1}


@pytest.mark.parametrize("make", PARTS_TAKEN)
@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_what_is_done_alike_to_both_parts_is_done_where_they_are(make, dtype):
    (graph,) = passes(make(), dtype)
    operations = [node.operation for node in joined(graph).nodes]
    for part in ("real", "imag"):
        assert operations.count(part) == PARTS_TAKEN[make]
    assert "complex" not in operations


#: What moves values within registers, or from one to another.
MOVES = {"x86": r"v?(shufp|unpck|perm|blend|hadd|pshuf)", "arm": r"(zip|uzp|trn|ext|tbl|ld2|st2)"}


@on_each
@pytest.mark.parametrize(("dtype", "part"), [("complex64", "float32"), ("complex128", "float64")])
def test_momentum_leaves_parts_where_they_are(dtype, part, processor):
    (of_complex,), (of_real,) = (passes(Momentum(), name) for name in (dtype, part))
    moves = [
        found(MOVES[processor.family], processor.instructions(emit(graph, processor.traits())))
        for graph in (of_complex, of_real)
    ]
    assert len(moves[0]) == len(moves[1])


def test_parts_are_taken_half_a_register_at_a_time():
    """No instruction crosses the halves but for the real slot, as it is loaded and stored."""
    (graph,) = passes(Adam(), "complex64")
    instructions = HASWELL.instructions(emit(graph, HASWELL.traits()))
    assert len(found("vperm", instructions)) == len(found("vpermpd", instructions)) == 4

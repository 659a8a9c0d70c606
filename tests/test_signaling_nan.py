"""Comparisons with a signaling NaN are false, however a rule combines them."""

import re

import bits
import engine_runs
import numpy as np
import pytest
from emitted import passes
from processors import ALL

from instep import Optimizer
from instep.engines.native.emit import emit
from instep.engines.native.target import Traits

COMPARISONS = {
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
}
COMBINATIONS = {
    "or": lambda xp, a, b: xp.where(a | b, 1.0, 0.0),
    "and": lambda xp, a, b: xp.where(a & b, 1.0, 0.0),
    "xor": lambda xp, a, b: xp.where(a ^ b, 1.0, 0.0),
    "not both not": lambda xp, a, b: xp.where(~(~a & ~b), 1.0, 0.0),
    "neither": lambda xp, a, b: xp.where(~(a | b), 1.0, 0.0),
    "not both": lambda xp, a, b: xp.where(~(a & b), 1.0, 0.0),
    "one where inside the other": lambda xp, a, b: xp.where(a, 1.0, xp.where(b, 1.0, 0.0)),
    "where in the branch": lambda xp, a, b: xp.where(a, xp.where(b, 1.0, 0.0), 0.0),
}


def combined(compare, combine):
    """Return an optimizer that compares parameter and gradient with a hyperparameter."""

    class Combined(Optimizer):
        lr: float = 1.0

        @staticmethod
        def rule(xp, w, g, s, h):
            return COMBINATIONS[combine](xp, compare(w, h.lr), compare(g, h.lr)), {}

    return Combined


each_combination = pytest.mark.parametrize("combine", COMBINATIONS)
each_comparison = pytest.mark.parametrize("comparison", COMPARISONS)

SIGNALING = {"float32": [0x7F800001, 0xFFA00000], "float64": [0x7FF0000000000001, 0xFFF4 << 48]}


def pairs(dtype):
    """Return parameters and gradients: every pair of some values, often enough for vectors."""
    bits_of = np.dtype(f"u{np.dtype(dtype).itemsize}")
    numbers = np.array([np.nan, -np.inf, -1.0, 0.0, 1.0, 2.0, np.inf], dtype).view(bits_of)
    values = np.concatenate([np.array(SIGNALING[dtype], bits_of), numbers])
    w, g = np.meshgrid(values, values)
    return np.repeat(w, 3).view(dtype), np.repeat(g, 3).view(dtype)


@each_combination
@each_comparison
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_engines_agree_on_signaling_nans(dtype, comparison, combine):
    engine_runs.require("native")
    make = combined(COMPARISONS[comparison], combine)
    found = {}
    for engine in ("native", "blocked"):
        w, g = pairs(dtype)
        with np.errstate(invalid="ignore"):
            make(engine=engine).update(w, g)
        found[engine] = w
    bits.assert_same_bits(found["native"], found["blocked"], f"{comparison}, {combine}")


MAXIMUM = ("fmaxnm", "fminnm")


def wrong_maxima(instructions):
    """Return the maxima and minima, in code of ARM, of values that have not been made quiet.

    The maximum of a value with itself is how ARM makes a NaN quiet.
    """
    quiet, wrong = set(), []
    for text in instructions:
        name, _, operands = text.partition(" ")
        registers = re.findall(r"\b[vqdsh](\d+)\b", operands)
        if name.startswith("st") or not registers:
            continue
        sources = set(registers[1:])
        if name in MAXIMUM and len(sources) == 2 and not sources <= quiet:
            wrong.append(text)
        quiet -= set(registers[:2] if name == "ldp" else registers[:1])
        if name in MAXIMUM:
            quiet.add(registers[0])
    return wrong


@each_combination
@each_comparison
@pytest.mark.parametrize("processor", [p for p in ALL if p.family == "arm"], ids=str)
def test_arm_takes_no_maximum_of_signaling_nans(processor, comparison, combine):
    (graph,) = passes(combined(COMPARISONS[comparison], combine)(), "float32")
    assert not wrong_maxima(processor.instructions(emit(graph, processor.traits())))


@each_comparison
@pytest.mark.parametrize("processor", [p for p in ALL if p.family == "arm"], ids=str)
def test_a_maximum_of_signaling_nans_would_be_seen(processor, comparison):
    (graph,) = passes(combined(COMPARISONS[comparison], "or")(), "float32")
    as_for_x86 = emit(graph, Traits(orders_signaling=True))
    assert wrong_maxima(processor.instructions(as_for_x86))


@each_combination
@each_comparison
@pytest.mark.parametrize("processor", [p for p in ALL if p.family == "x86"], ids=str)
def test_x86_compares_and_takes_no_maximum(processor, comparison, combine):
    (graph,) = passes(combined(COMPARISONS[comparison], combine)(), "float32")
    text = emit(graph, processor.traits())
    assert "canonicalize" not in text
    assert not [
        line for line in processor.instructions(text) if re.match(r"v?(max|min)[ps]s", line)
    ]

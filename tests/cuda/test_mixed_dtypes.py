"""Rules that mix dtypes, on the device; and names of the user's in the text of a kernel."""

import contextlib
from keyword import iskeyword

import bits
import engine_runs
import mixed_rules
import numpy as np
from hypothesis import given, seed, settings

from instep import Optimizer
from instep.graph import FusionError


def on_device(program):
    return program[-1] != "bfloat16"  # which CuPy does not have


def test_a_rule_of_mixed_dtypes_has_the_bits_of_the_specification(cupy):
    @seed(0)  # each rule is a kernel that has to be compiled
    @settings(max_examples=15, database=None, deadline=None)
    @given(mixed_rules.programs.filter(on_device))
    def check(program):
        with contextlib.suppress(FusionError):
            got = mixed_rules.run(program, "cuda", cupy.asarray)
            mixed_rules.assert_same(got, mixed_rules.run(program, "array_api"), "cuda")

    check()


#: Names with a meaning in C++, in the text around the rule, or to the compilers.
MEANINGS = """
    t0 t1 t12 u0 u3 h0 h5 sum0 sum1 sum3 partial1 partial2 slot0 NULL INFINITY NAN INT_MAX TRUE
    assert linux unix V T K NEAR TILE LANES THREADS new_w w_i g_pack size row count step word first
    last candidate allowed leaf leaves h i k at uniform update accumulate canonical_sum int half
    bool double auto register typeof concept requires and or xor not_eq abs round float sqrt sqrtf
    rint float2 isnan threadIdx __half _x x_ émoi min max fold lanes lr_ pack bits warpSize
    char8_t nullptr
"""


def is_free(name):
    """Return whether a hyperparameter can have this name: Python and the base class allow it."""
    taken = iskeyword(name) or hasattr(Optimizer, name) or name.startswith("_")
    return name.isidentifier() and name != "t" and not taken


def test_a_slot_or_hyperparameter_may_have_any_name(cupy):
    """One rule has them all: it is compiled, and does what the specification says."""
    names = tuple(
        name
        for name in MEANINGS.split()
        if not (iskeyword(name) or hasattr(Optimizer, name) or name.startswith("__"))
    )
    numbers = [name for name in names if is_free(name)]

    def rule(xp, w, g, s, h):
        w = w / xp.norm(w) + xp.sum(g) * g
        slots = {name: getattr(s, name) * 0.5 + g for name in names}
        for name in numbers:
            w = w - getattr(h, name) * g + slots[name] * 0.001
        return w, slots

    annotations = dict.fromkeys(numbers, float)
    defaults = {name: 0.01 * (i + 1) for i, name in enumerate(numbers)}
    body = {**defaults, "__annotations__": annotations, "slots": names, "rule": staticmethod(rule)}
    Named = type("Named", (Optimizer,), body)
    results = []
    for engine, convert in (("cuda", cupy.asarray), ("array_api", np.asarray)):
        w = convert(np.linspace(-1, 1, 50, dtype="float32"))
        optimizer = Named(engine=engine)
        optimizer.update(w, w * 0.5)
        results.append((mixed_rules.wide(w), engine_runs.slots_of(optimizer)[""]))
    bits.assert_same_bits(results[0][0], results[1][0])
    for name in names:
        bits.assert_same_bits(results[0][1][name], results[1][1][name], name)

"""Rules that mix dtypes: every engine gives the bits of the specification, or refuses the rule."""

import contextlib

import engine_runs
import mixed_rules
import pytest
from hypothesis import example, given, settings

from instep.graph import FusionError

#: A sum is compared with a hyperparameter: a boolean that is the same for all elements.
COMPARED = ([("sum", "sum", 0, 0), ("with host", "less", 3, 0)], 0, 0, "float16")


@pytest.mark.slow
@settings(max_examples=300)
@given(mixed_rules.programs)
@example(COMPARED)
def test_a_rule_of_mixed_dtypes_has_the_bits_of_the_specification(program):
    expected = mixed_rules.run(program, "array_api")
    for engine, threads in engine_runs.NUMPY_ENGINES:
        if engine_runs.why_not(engine) is not None:
            continue
        with contextlib.suppress(FusionError):
            got = mixed_rules.run(program, engine, threads=threads)
            mixed_rules.assert_same(got, expected, engine)

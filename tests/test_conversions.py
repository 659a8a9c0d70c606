"""Conversions of float16 on processors that have no instruction for it, value by value."""

import ctypes

import engine_runs
import numpy as np
import pytest

from instep.engines.native.cast import cast, vector

KINDS = {"float16": "i16", "float32": "float", "float64": "double"}


def converter(source, target, width, *, converts_half):
    """Return a function that converts an array whose size is a multiple of `width`."""
    engine_runs.require("native")
    from instep.engines.native.compile import compile_function

    body = "\n  ".join(cast("%y", "%x", source, target, width, converts_half=converts_half))
    wide, narrow = KINDS[source], KINDS[target]
    ir = f"""
define void @convert(ptr %from, ptr %to, i64 %count) {{
entry:
  br label %loop

loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %from_at = getelementptr {wide}, ptr %from, i64 %i
  %to_at = getelementptr {narrow}, ptr %to, i64 %i
  %x = load {vector(wide, width)}, ptr %from_at, align 2
  {body}
  store {vector(narrow, width)} %y, ptr %to_at, align 2
  %next = add i64 %i, {width}
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %done

done:
  ret void
}}
"""
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    function = compile_function(ir, "convert", kind)

    def convert(x):
        assert x.size % width == 0
        y = np.zeros(x.size, target)
        function(x.ctypes.data, y.ctypes.data, x.size)
        return y

    return convert


every_width = pytest.mark.parametrize("width", [1, 16])
HALVES = np.arange(1 << 16, dtype=np.uint16)


@every_width
@pytest.mark.parametrize("target", ["float32", "float64"])
def test_every_half_is_widened_exactly(width, target):
    x = HALVES.view(np.float16)
    got = converter("float16", target, width, converts_half=False)(x)
    bits = got.view(f"u{got.itemsize}")
    nan = np.isnan(x)
    with np.errstate(invalid="ignore"):
        expected = x.astype(target)
    np.testing.assert_array_equal(bits[~nan], expected.view(bits.dtype)[~nan])
    # The payload moves along, and the first bit of it says that the NaN is quiet.
    sign, payload = (HALVES[nan] >> 15).astype(bits.dtype), HALVES[nan].astype(bits.dtype) & 0x3FF
    mantissa = {"float32": 23, "float64": 52}[target]
    exponent = ((1 << (8 * got.itemsize - 1 - mantissa)) - 1) << mantissa
    quiet = sign << (8 * got.itemsize - 1) | exponent | (payload | 0x200) << (mantissa - 10)
    np.testing.assert_array_equal(bits[nan], quiet)


def floats():
    """Return float32 around everything at which the rounding to float16 changes, and others."""
    finite = HALVES[:0x7C00].view(np.float16).astype(np.float32)
    halfway = (finite[:-1] + finite[1:]) / 2
    largest = np.float32([65504, 65519.996, 65520, 65536, 3.4028235e38])
    edges = np.concatenate([finite, halfway, largest, np.float32([2**-25, 2**-149, 2**-126])])
    bits = edges.view(np.uint32)
    near = np.concatenate([bits - 1, bits, bits + 1])
    rng = np.random.default_rng(0)
    anything = rng.integers(0, 1 << 32, 1 << 18, dtype=np.uint32)
    subnormal = rng.integers(0x33000000 - 4096, 0x38800000 + 4096, 1 << 18, dtype=np.uint32)
    infinite = np.uint32([0x7F800000, 0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF])
    positive = np.concatenate([near, anything, subnormal, infinite])
    both = np.concatenate([positive, positive ^ np.uint32(1 << 31)])
    return np.resize(both, -(-both.size // 16) * 16).view(np.float32)


@every_width
def test_floats_are_rounded_to_the_nearest_half_and_halfway_to_even(width):
    x = floats()
    got = converter("float32", "float16", width, converts_half=False)(x).view(np.uint16)
    nan = np.isnan(x)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        expected = x.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(got[~nan], expected[~nan])
    bits = x.view(np.uint32)[nan]
    quiet = (bits >> 16 & 0x8000) | 0x7E00 | (bits >> 13 & 0x3FF)
    np.testing.assert_array_equal(got[nan], quiet)


@pytest.mark.parametrize("dtypes", [("float16", "float32"), ("float32", "float16")])
def test_instructions_give_what_integer_arithmetic_gives(dtypes):
    engine_runs.require("native")
    from instep.engines.native.compile import traits

    if not traits().converts_half:
        pytest.skip("this CPU has no instruction that converts float16")
    x = floats() if dtypes[0] == "float32" else HALVES.view(np.float16)
    by_instruction = converter(*dtypes, 16, converts_half=True)(x)
    in_integers = converter(*dtypes, 16, converts_half=False)(x)
    assert by_instruction.tobytes() == in_integers.tobytes()

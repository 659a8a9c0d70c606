"""Copies of boxes by compiled code: NumPy's copies, for elements of every size."""

import ctypes
from functools import cache

import engine_runs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

#: Dtypes by the size of their elements, which are all that a copy sees.
DTYPES = {2: "u2", 4: "u4", 8: "u8", 16: "c16"}


@cache
def compiled():
    from instep.engines.native.compile import compile_function
    from instep.engines.native.copies import emit_copies

    pointer = ctypes.c_void_p
    kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[pointer] * 5)
    text = emit_copies(frozenset(DTYPES))
    return {
        size: compile_function(
            text.replace(f"define internal void @copy{size}(", f"define void @copy{size}("),
            f"copy{size}",
            kind,
        )
        for size in DTYPES
    }


def copied(source, target):
    """Copy an array to another of its shape, along their axes in order."""
    size = source.itemsize
    lengths, *steps = (np.array(of) for of in (source.shape, source.strides, target.strides))
    compiled()[size](
        source.ndim,
        lengths.ctypes.data,
        source.ctypes.data,
        steps[0].ctypes.data,
        target.ctypes.data,
        steps[1].ctypes.data,
    )


@st.composite
def view(draw, shape, dtype):
    """Draw an array of zeros that lies in any order, forwards or backwards, with gaps or without.

    With it, the memory that it is a part of.
    """
    order = draw(st.permutations(range(len(shape))))
    steps = draw(st.lists(st.sampled_from([1, 1, 1, 2, 3, -1, -2]), min_size=len(order)))
    room = np.zeros([shape[axis] * abs(steps[axis]) for axis in order], dtype)
    cut = room[tuple(slice(None, None, steps[axis]) for axis in order)]
    return cut.transpose(np.argsort(order)), room


@given(st.data())
def test_a_copy_is_one_of_numpy(data):
    engine_runs.require("native")
    size = data.draw(st.sampled_from(list(DTYPES)))
    shape = data.draw(st.lists(st.integers(1, 37), min_size=2, max_size=3))
    source, _ = data.draw(view(shape, DTYPES[size]))
    target, room = data.draw(view(shape, DTYPES[size]))
    source[...] = 1 + np.arange(source.size).reshape(shape)
    copied(source, target)
    np.testing.assert_array_equal(target, source)
    assert np.count_nonzero(room) == source.size  # and nothing else is written


@pytest.mark.parametrize("size", DTYPES)
@pytest.mark.parametrize("turned", [False, True], ids=["read across", "written across"])
def test_squares_and_what_is_left_beside_them_are_turned(size, turned):
    engine_runs.require("native")
    for rows in range(1, 20):
        source = 1 + np.arange(rows * 21).reshape(rows, 21).astype(DTYPES[size])
        target = np.zeros((21, rows), DTYPES[size]).T
        if turned:
            source, target = source.copy(order="F"), target.copy(order="C")
        copied(source, target)
        np.testing.assert_array_equal(target, source)

"""How strided arrays are walked: axes joined, in the order of most arrays, and cut into boxes."""

import math

import numpy as np
import pytest
from emitted import passes
from hypothesis import given
from hypothesis import strategies as st

from instep import LAMB, Adam
from instep.engines.walks import Cut, Walk, boxes_of_line, loop_order


def walked(w, g, optimizer=Adam, number=-1):
    """Return the walk of parameter and gradient, where the state lies as the parameter does."""
    graph = passes(optimizer(), "float32")[number]
    slots = [w] * (len(graph.arrays) - 2)
    return Walk.of(graph, w.shape, [x.strides for x in (w, g, *slots)])


def cut(walk):
    return Cut.of(walk, [True] * len(walk.sizes))


def zeros(*shape, **settings):
    return np.zeros(shape, "float32", **settings)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=4), st.data())
def test_boxes_of_a_part_of_a_line_have_its_elements_in_order(shape, data):
    size = math.prod(shape)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    numbers = np.arange(size).reshape(shape)
    found = [
        numbers[tuple(slice(i, i + n) for i, n in zip(index, box, strict=True))].ravel()
        for index, box in boxes_of_line(shape, start, stop)
    ]
    np.testing.assert_array_equal(np.concatenate([[], *found]), np.arange(start, stop))
    assert len(found) <= 2 * len(shape)


def test_the_walk_is_that_of_most_arrays():
    for order in "CF":
        w, g = zeros(60, 50, order=order), zeros(60, 50, order="FC"["CF".index(order)])
        walk = walked(w, g)
        assert walk.steps[0] == tuple(sorted(w.strides, reverse=True))
        assert walk.steps[1] == tuple(sorted(g.strides))


def test_the_rank_of_an_axis_counts_and_not_the_length_of_its_steps():
    w, g = zeros(256, 256, 3, 3), zeros(256, 3, 3, 256).transpose(0, 3, 1, 2)
    walk = walked(w, g)
    assert walk.shape == (256, 256, 9)
    assert walk.steps[0] == (9216, 36, 4)
    assert walk.steps[1] == (9216, 4, 1024)


def test_arrays_that_are_all_reversed_are_walked_from_the_end_as_one_row():
    w = zeros(6, 50)[::-1, ::-1]
    walk = walked(w, w)
    assert walk.shape == (1, 300)
    assert walk.starts == (-1196,) * len(walk.starts)
    assert not any(cut(walk).copied)


def test_a_pass_that_sums_walks_in_c_order():
    w = zeros(60, 50, order="F")[:, ::-1]
    assert walked(w, w, LAMB, 0).shape == (60, 50)
    assert walked(w, w, LAMB, 0).steps[0] == w.strides


def test_rows_without_gaps_are_not_copied():
    for w in (zeros(60, 900)[:, :500], zeros(90, 500)[::3], zeros(60, 8, 500)[:, 1:4, 1:]):
        found = cut(walked(w, w))
        assert not any(found.copied)
        assert found.rows is not None


def test_a_gradient_that_is_one_row_for_all_is_not_copied():
    w, g = zeros(60, 500), np.broadcast_to(zeros(500), (60, 500))
    assert not any(cut(walked(w, g)).copied)


@pytest.mark.parametrize("shape", [(1000, 1000), (16, 100_000), (40_000, 5), (256, 256, 3, 3)])
def test_of_a_transposed_gradient_only_the_gradient_is_copied_in_whole_cache_lines(shape):
    w, g = zeros(*shape), zeros(*shape[::-1]).T
    walk = walked(w, g)
    found = cut(walk)
    assert [i for i, is_copied in enumerate(found.copied) if is_copied] == [1]
    fastest = walk.fastest(1)
    assert found.box[fastest] >= min(walk.shape[fastest], 64)
    assert 4 * math.prod(found.box) <= 256 * 1024


def test_short_runs_are_taken_with_those_that_lie_beside_them():
    w = zeros(256, 256, 3, 3)
    walk = walked(w, w.copy().transpose(1, 0, 2, 3))
    assert walk.shape == (256, 256, 9)
    found = cut(walk)
    assert found.copied[1]
    assert found.box[0] > 1
    assert loop_order(walk, 1, found.box) == [1, 0, 2]

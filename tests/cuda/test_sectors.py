"""How many sectors of memory the boxes of strided tensors take, counted from their addresses.

A warp that reads or writes takes as many sectors of 32 bytes as its 32 lanes touch.
"""

import numpy as np
import pytest
from emitted import passes

from instep import Adam
from instep.engines.base import Member
from instep.engines.cuda.boxes import box_room
from instep.engines.cuda.memory import boxes
from instep.engines.host import zeros_like
from instep.engines.placement import Placement

SECTOR, WARP = 32, 32


def leaf_of(w, g, graph):
    """Return the placement of arrays of which state lies as the parameter does."""
    names = [array.name for array in graph.arrays[2:]]
    slots = {array.name: zeros_like(w, np.dtype(array.dtype)) for array in graph.arrays[2:]}
    return Placement.of(Member(0, 0, w, g, slots, {}), names), [w, g, *slots.values()]


def counted(leaf, arrays, graph, is_turned=True):
    """Return the sectors of each access of each warp, added up, and check that all is reached."""
    many, layout = boxes(graph, leaf, box_room(graph))
    turned, axes = layout[:2]
    starts = layout[2 : 2 + len(arrays)]
    rows = layout[2 + len(arrays) :].reshape(axes, 3 + len(arrays))
    loaded, stored = set(graph.loaded), set(graph.stored)
    sectors, reached = 0, [[] for _ in arrays]
    for number in range(many):
        rest, at, lengths = number, starts.copy(), []
        for parts, length, whole, *steps in rows.tolist():
            rest, index = divmod(rest, parts)
            at += index * length * np.array(steps)
            lengths.append(min(length, whole - index * length))
        columns, lines = lengths[:2]
        i = np.arange(columns * lines)
        for a, spec in enumerate(graph.arrays):
            c, r = i % columns, i // columns
            if is_turned and turned >> a & 1:
                r, c = i % lines, i // lines
            bytes_ = at[a] + r * rows[1, 3 + a] + c * rows[0, 3 + a]
            reached[a].append(bytes_)
            uses = (spec in loaded) + (spec in stored)
            # Threads take elements one after another, so a warp has 32 that follow each other.
            for begin in range(0, len(i), WARP):
                lanes = arrays[a].ctypes.data % SECTOR + bytes_[begin : begin + WARP]
                sectors += uses * len(np.unique(lanes // SECTOR))
    for found, array in zip(reached, arrays, strict=True):
        index = np.indices(array.shape).reshape(array.ndim, -1)
        expected = np.tensordot(array.strides, index, 1)
        np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.sort(expected))
    return sectors


def zeros(*shape, **settings):
    return np.zeros(shape, "float32", **settings)


CASES = {
    "transposed gradient": lambda: (zeros(130, 250), zeros(250, 130).T),
    "of a power of two": lambda: (zeros(256, 256), zeros(256, 256).T),
    "transposed parameter": lambda: (zeros(130, 250, order="F"), zeros(130, 250)),
    "rows of a slice": lambda: (zeros(130, 250)[:, :100], zeros(130, 100)),
    "every other row": lambda: (zeros(130, 250)[::2], zeros(130, 250)[::2]),
    "reversed": lambda: (zeros(130, 250)[::-1, ::-1], zeros(130, 250)),
    "channels last": lambda: (zeros(32, 32, 3, 3), zeros(32, 3, 3, 32).transpose(0, 3, 1, 2)),
    "kernels first": lambda: (zeros(32, 32, 3, 3), zeros(3, 3, 32, 32).transpose(2, 3, 0, 1)),
    "all axes reversed": lambda: (zeros(32, 8, 5, 20), zeros(20, 5, 8, 32).T),
    "slice and transposed": lambda: (zeros(130, 250)[:, 3:203], zeros(200, 130).T),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_boxes_take_at_most_twice_the_sectors_of_lines(make):
    (graph,) = passes(Adam(), "float32")
    w, g = make()
    leaf, arrays = leaf_of(w, g, graph)
    sectors = counted(leaf, arrays, graph)
    line = w.size * graph.bytes_per_element / SECTOR
    assert sectors <= 2 * line


def test_the_count_tells_lanes_that_lie_apart_from_those_side_by_side():
    (graph,) = passes(Adam(), "float32")
    w, g = CASES["transposed gradient"]()
    leaf, arrays = leaf_of(w, g, graph)
    line = w.size * graph.bytes_per_element / SECTOR
    assert counted(leaf, arrays, graph, is_turned=False) > 1.9 * line
    assert counted(leaf, arrays, graph) < 1.4 * line

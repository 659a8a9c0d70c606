"""How many sectors of memory the boxes of strided tensors take, counted from their addresses.

A warp that reads or writes takes as many sectors of 32 bytes as its 32 lanes touch.
"""

import numpy as np
import pytest
from emitted import passes

from instep import LAMB, Adam, chain
from instep.engines.base import Member
from instep.engines.cuda.boxes import STAGE_ROOM, elements_in_flight
from instep.engines.cuda.kernel import THREADS
from instep.engines.cuda.memory import boxes, stages
from instep.engines.host import zeros_like
from instep.engines.placement import Placement
from instep.graph.dtypes import DTYPES
from instep.numerics import LANES, TILE
from instep.transforms import clip_by_global_norm

SECTOR, WARP = 32, 32
BOX = 4096  # elements


def leaf_of(w, g, graph):
    """Return the placement of arrays of which state lies as the parameter does."""
    names = [array.name for array in graph.arrays[2:]]
    slots = {array.name: zeros_like(w, np.dtype(array.dtype)) for array in graph.arrays[2:]}
    return Placement.of(Member(0, 0, w, g, slots, {}, {}), names), [w, g, *slots.values()]


def threads(many, width, high, columns, size):
    """Yield the row and the column of each thread, and whether it has one, access by access."""
    i = np.arange(THREADS)
    r, c = i // width, i % width
    for begin in range(0, size, many * high * width):
        for k in range(many):
            is_there = (r < high) & (c < columns) & (begin + i + k * high * width < size)
            yield r + begin // width + k * high, c, is_there


def turned_threads(many, width, high, columns, size):
    """Yield the same for an array that is turned."""
    tall = many * high
    r, c = np.arange(THREADS) % tall, np.arange(THREADS) // tall
    for begin in range(0, size, tall * width):
        for k in range(many):
            across = c + k * (THREADS // tall)
            yield r + begin // width, across, (across < columns) & (begin + r * width < size)


def counted(leaf, arrays, graph, is_turned=True):
    """Return the sectors of each access of each warp, added up, and check that all is reached."""
    many, layout = boxes(graph, leaf, BOX)
    turned, width, high, is_row, _, axes = layout[:6].tolist()
    starts, cuts = layout[6 : 6 + len(arrays)], layout[6 + len(arrays) :]
    cuts = cuts.reshape(axes, 3 + len(arrays))
    loaded, stored = set(graph.loaded), set(graph.stored)
    sectors, reached = 0, [[] for _ in arrays]
    for number in range(many):
        rest, at, lengths = number, starts.copy(), []
        for parts, length, whole, *steps in cuts.tolist():
            rest, index = divmod(rest, parts)
            at += index * length * np.array(steps)
            lengths.append(min(length, whole - index * length))
        columns, size = lengths[0], lengths[0] if is_row else lengths[1] * width
        for a, spec in enumerate(graph.arrays):
            stand = turned_threads if is_turned and turned >> a & 1 else threads
            uses = (spec in loaded) + (spec in stored)
            for r, c, is_there in stand(elements_in_flight(graph), width, high, columns, size):
                places = at[a] + r * cuts[1, 3 + a] + c * cuts[0, 3 + a]
                reached[a].append(places[is_there])
                sectors += uses * sectors_of(arrays[a], places, is_there)
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


def sectors_of(array, places, is_there=True):
    """Return the sectors of an array that each warp touches, added up."""
    sectors = (array.ctypes.data % SECTOR + places) // SECTOR
    is_there = np.broadcast_to(is_there, places.shape)
    return sum(
        len(np.unique(sectors[begin : begin + WARP][is_there[begin : begin + WARP]]))
        for begin in range(0, len(places), WARP)
    )


def counted_in_stages(leaf, arrays, graph, room=STAGE_ROOM):
    """Return the sectors of the accesses of a pass that sums, and check that all is reached."""
    many = len(arrays)
    layout = stages(graph, leaf, room).tolist()
    stage, line, table, outer = layout[:4]
    rows = np.array(layout[4 + many :]).reshape(outer + 1, 1 + many)
    used = [i for i, spec in enumerate(graph.arrays) if spec in set(graph.loaded)]
    kept = [i for i in used if layout[4 + i]]
    assert sum(stage * arrays[i].itemsize for i in kept) + 8 * len(used) * table <= room
    assert stage % LANES == 0

    def places(array, i):
        at = 0
        for length, *steps in rows.tolist():
            at, i = at + i % length * steps[array], i // length
        return at

    sectors, reached = 0, {i: [] for i in used}
    for start in range(0, leaf.size, TILE):
        count = min(TILE, leaf.size - start)
        for first in range(0, count, stage):
            end = min(count, first + stage)
            length = rows[0, 0]
            assert (start + end - 1) // length - (start + first) // length < table
            if kept:
                begin = (start + first) // line
                lines = (start + end - 1) // line - begin + 1
                j = np.arange(lines * line)
                assert len(j) <= 2 * stage + line
                place = (begin + j % lines) * line + j // lines - start
                turned = start + place[(place >= first) & (place < end)]
            straight = start + np.arange(first, end)
            for i in used:
                found = places(i, turned if i in kept else straight)
                sectors += sectors_of(arrays[i], found)
                reached[i].append(found)
    for i, found in reached.items():
        index = np.indices(arrays[i].shape).reshape(arrays[i].ndim, -1)
        expected = np.tensordot(arrays[i].strides, index, 1)
        np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.sort(expected))
    return sectors


SUMS = {"of one array": lambda: chain(clip_by_global_norm(1.0), Adam()), "of four arrays": LAMB}

WIDE = {
    "wide, transposed": lambda: (zeros(64, 1000), zeros(1000, 64).T),
    "several tiles": lambda: (zeros(700, 100), zeros(100, 700).T),
}


@pytest.mark.parametrize("make", (CASES | WIDE).values(), ids=CASES | WIDE)
@pytest.mark.parametrize("optimizer", SUMS.values(), ids=SUMS)
def test_sums_take_at_most_twice_the_sectors_of_lines(optimizer, make):
    graph = passes(optimizer(), "float32")[0]
    assert graph.sums
    leaf, arrays = leaf_of(*make(), graph)
    line = sum(leaf.size * DTYPES[spec.dtype].itemsize for spec in graph.loaded) / SECTOR
    assert counted_in_stages(leaf, arrays, graph) <= 2 * line


def test_without_room_sums_would_take_more():
    graph = passes(SUMS["of one array"](), "float32")[0]
    leaf, arrays = leaf_of(*CASES["transposed gradient"](), graph)
    line = leaf.size * 4 / SECTOR
    assert counted_in_stages(leaf, arrays, graph, room=4 * LANES // 8) > 7 * line
    assert counted_in_stages(leaf, arrays, graph) < 1.5 * line

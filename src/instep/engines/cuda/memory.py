"""Arrays on the device: how they lie, where state goes, and how tables get there."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.arrays import describe
from instep.engines.cuda.pinned import PinnedBuffers
from instep.engines.placement import Placement, state_strides
from instep.engines.walks import Walk
from instep.graph import Graph
from instep.interrupts import at_once
from instep.numerics import TILE

#: Threads that read and write together.
WARP = 32


def refuse_misaligned(arrays: Sequence[Any]) -> None:
    """Raise if the elements of an array do not begin at multiples of their size."""
    for array in arrays:
        if array.data.ptr % array.itemsize:
            raise ValueError(
                f"{describe(array)} begins at an address that is no multiple of its item size, "
                f"which a GPU cannot read; pass a copy of it"
            )


def boxes(graph: Graph, leaf: Placement, room: int) -> tuple[int, NDArray[np.int64]]:
    """Cut a leaf into boxes for a pass that stores; return their number, and the layout.

    `room` is that of a box in shared memory. Its columns are those of most arrays; its rows are
    along the axis that is the fastest in others.
    """
    walk = Walk.of(graph, leaf.shape, leaf.strides)
    last = len(walk.shape) - 1
    fastest = [walk.fastest(i) if use else last for i, use in enumerate(walk.uses)]
    votes = {axis: walk.uses[i] for i, axis in enumerate(fastest) if axis != last}
    row_axis = max(votes, key=lambda axis: votes[axis], default=last - 1)
    turned = sum(1 << i for i, axis in enumerate(fastest) if axis == row_axis)
    columns = min(walk.shape[last], 32 if turned else room // 33 * 32)
    rows = min(walk.shape[row_axis], room // (columns | 1))
    # With few rows there is room for more columns: whole sectors of 32 bytes.
    columns = min(walk.shape[last], max(columns, (room // rows - 1) // 32 * 32))
    axes = [last, row_axis, *(axis for axis in range(last) if axis != row_axis)]
    lengths = [columns, rows, *[1] * (len(axes) - 2)]
    counts = [-(-walk.shape[axis] // n) for axis, n in zip(axes, lengths, strict=True)]
    words = [turned, len(axes), *walk.starts]
    for axis, length, count in zip(axes, lengths, counts, strict=True):
        words += [count, length, walk.shape[axis], *(steps[axis] for steps in walk.steps)]
    # A leaf without elements has no boxes.
    return min(math.prod(counts), leaf.size), np.array(words, dtype=np.int64)


def stages(graph: Graph, leaf: Placement, room: int) -> NDArray[np.int64]:
    """Return how a pass that sums takes the tiles of a leaf: as much at once as there is room for.

    It takes elements in C order. Arrays that are the fastest along another axis than the last go
    through shared memory, of `room` bytes, where that holds elements which follow each other along
    that axis: lines, of as many elements as there are between two of those.
    """
    walk = Walk.of(graph, leaf.shape, leaf.strides)
    last = len(walk.shape) - 1
    fastest = [walk.fastest(i) if use else last for i, use in enumerate(walk.uses)]
    votes = {axis: fastest.count(axis) for axis in fastest if axis != last}
    along = max(votes, key=lambda axis: votes[axis], default=last)
    turned = [i for i, axis in enumerate(fastest) if axis == along != last]
    line = math.prod(walk.shape[along + 1 :])
    size = sum(walk.sizes[i] for i in turned)
    stage = min(TILE, room // size // WARP * WARP) if turned else TILE
    if not turned or 2 * line > stage:
        turned, line, stage = [], 0, TILE
    offsets, at = [-16] * len(walk.uses), 0  # less than 0, and no less aligned than the others
    for i in turned:
        offsets[i], at = at, at + stage * walk.sizes[i]
    words = [stage, line, len(walk.shape), *offsets]
    for axis in reversed(range(len(walk.shape))):
        words += [walk.shape[axis], *(steps[axis] for steps in walk.steps)]
    return np.array(words, dtype=np.int64)


def refuse_capture(cupy: Any, owner: str) -> None:
    """Raise while the current stream is being captured into a CUDA graph.

    The step number and the hyperparameters travel with a launch, so a graph would replay the
    step that was captured: CuPy has no call that changes the arguments of a captured launch.
    """
    if cupy.cuda.get_current_stream().is_capturing():
        raise RuntimeError(
            f"{owner}.update: the current stream is being captured into a CUDA graph, which would "
            f"repeat this one step, with its step number and learning rate; end the capture "
            f"before the update and call update after each launch of the graph"
        )


def allocate(w: Any, dtypes: Sequence[str]) -> list[Any]:
    """Return arrays of zeros of the shape and walk of `w`, on its device, from CuPy's pool."""
    import cupy

    refuse_capture(cupy, "Optimizer")
    found = []
    with w.device:
        for name in dtypes:
            dtype = np.dtype(name)
            memory = cupy.cuda.alloc(max(1, w.size) * dtype.itemsize)
            memory.memset_async(0, w.size * dtype.itemsize)
            strides = state_strides(w, dtype.itemsize)
            found.append(cupy.ndarray(w.shape, dtype, memory, strides=strides))
    return found


def upload(values: NDArray[Any]) -> Any:
    """Return the bytes of a host array as an array on the current device. It may wait."""
    import cupy

    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    array = cupy.empty(max(1, flat.size), dtype=np.uint8)
    if flat.size:
        array[: flat.size].set(flat)
    return array


class Mailbox:
    """Words on the device that change from step to step, more than travel with a launch.

    They go through pinned host memory, so a copy waits for nothing.
    """

    def __init__(self, words: int) -> None:
        import cupy

        self._cupy = cupy
        self._nbytes = words * 8
        self._memory = cupy.cuda.alloc(max(8, self._nbytes))
        self._sent: NDArray[np.uint64] | None = None
        self._buffers = PinnedBuffers(words, np.uint64)
        self.address = self._memory.ptr

    def send(self, words: NDArray[np.uint64]) -> bool:
        """Copy `words` to the device, in order with the current stream, if they changed."""
        if self._sent is not None and (self._sent == words).all():
            return False
        self._buffers.reclaim()
        buffer = self._buffers.spare()
        buffer.view[:] = words
        stream = self._cupy.cuda.get_current_stream()
        at_once(
            [
                partial(self._memory.copy_from_host_async, buffer.memory.ptr, self._nbytes, stream),
                *self._buffers.sending(stream),
                partial(self.__dict__.update, {"_sent": words.copy()}),
            ]
        )
        return True


def chunk_length(total: int, multiprocessors: int, at_least: int, at_most: int) -> int:
    """Return the elements of a block, a multiple of `at_least`.

    Eight blocks fit a multiprocessor at a time. One chunk for each of these places lets a step
    finish without a second, half empty round; small steps use fewer places, and large ones take
    several rounds, which evens out blocks of different speed.
    """
    wanted = math.ceil(total / (8 * multiprocessors) / at_least) * at_least
    return max(at_least, min(at_most, wanted))

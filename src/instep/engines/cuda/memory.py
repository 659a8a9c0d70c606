"""Arrays on the device: how they lie, where state goes, and how tables get there."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.arrays import describe
from instep.engines.cuda.boxes import elements_in_flight
from instep.engines.cuda.kernel import THREADS
from instep.engines.cuda.pinned import PinnedBuffers
from instep.engines.placement import Placement, state_strides
from instep.engines.walks import Walk
from instep.graph import Graph
from instep.interrupts import Call
from instep.numerics import LANES, TILE

#: Threads that read and write together.
WARP = 32

#: Elements of a row from which it is a box of its own: a thread has 16 of them.
LONG = 4096


def refuse_misaligned(arrays: Sequence[Any]) -> None:
    """Raise if the elements of an array do not begin at multiples of their size."""
    for array in arrays:
        if array.data.ptr % array.itemsize:
            raise ValueError(
                f"{describe(array)} begins at an address that is no multiple of its item size, "
                f"which a GPU cannot read; pass a copy of it"
            )


def boxes(graph: Graph, leaf: Placement, most: int) -> tuple[int, NDArray[np.int64]]:
    """Cut a leaf into boxes for a pass that stores; return their number, and the layout.

    A box has about `most` elements. Its columns are along the last axis of the walk, as most arrays
    are; its rows are along the axis that is the fastest in others. Threads stand in rows and step
    from row to row. A box of one long row is cut into rows of threads.
    """
    walk = Walk.of(graph, leaf.shape, leaf.strides)
    all_steps, starts = list(walk.steps), list(walk.starts)
    if graph.draws:  # the numbers of elements are as an array of theirs
        all_steps.append(tuple(math.prod(walk.shape[i + 1 :]) for i in range(len(walk.shape))))
        starts.append(0)
    last, many = len(walk.shape) - 1, elements_in_flight(graph)
    fastest = [walk.fastest(i) if use else last for i, use in enumerate(walk.uses)]
    votes = {axis: walk.uses[i] for i, axis in enumerate(fastest) if axis != last}
    longest = max(range(last), key=lambda axis: (min(walk.shape[axis], WARP), axis))
    row_axis = max(votes, key=lambda axis: votes[axis], default=longest)
    turned = sum(1 << i for i, axis in enumerate(fastest) if axis == row_axis)
    columns, rows = (max(1, walk.shape[axis]) for axis in (last, row_axis))
    width, high = _stand(columns, rows, many, is_turned=turned > 0)
    is_row = not turned and columns >= (LONG if rows >= many else THREADS)
    axes = [last, row_axis, *(axis for axis in range(last) if axis != row_axis)]
    piece = width * high * many
    most = max(1, most // piece)
    lengths = [most * piece, 1] if is_row else [width, most * high * many]
    lengths += [1] * (len(axes) - 2)
    cuts = []
    for axis, length in zip(axes, lengths, strict=True):
        n = walk.shape[axis]
        cuts.append([-(-n // length), length, n, *(steps[axis] for steps in all_steps)])
    if is_row:
        rows = -(-lengths[0] // width)
        cuts.insert(1, [1, rows, rows, *(width * steps[last] for steps in all_steps)])
    is_dense = is_row and all(
        use == 0 or steps[last] == size
        for use, steps, size in zip(walk.uses, walk.steps, walk.sizes, strict=True)
    )
    words = [turned, width, high, is_row, is_dense, len(cuts), *starts]
    words += [word for cut in cuts for word in cut]
    # A leaf without elements has no boxes.
    count = min(math.prod(parts for parts, *_ in cuts), leaf.size)
    return count, np.array(words, dtype=np.int64)


def _stand(columns: int, rows: int, many: int, *, is_turned: bool) -> tuple[int, int]:
    """Return how many threads stand in a row, and in how many rows, each with `many` elements.

    For what is turned there is a power of two of rows, no more than there are elements, and the
    others stand in as long rows as is left.
    """
    if not is_turned:
        parts = -(-columns // THREADS)
        width = min(columns, -(-columns // parts // WARP) * WARP)
        return width, THREADS // width
    high = 1
    while 2 * high * max(many, min(columns, WARP)) <= THREADS and high * many < rows:
        high *= 2
    return min(columns, THREADS // high), high


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
    line, length = math.prod(walk.shape[along + 1 :]), max(1, walk.shape[last])
    loaded = set(graph.loaded)
    used = sum(array in loaded for array in graph.arrays)

    def rows(stage: int) -> int:
        return min(stage // length + 2, max(1, leaf.size // length))

    def longest(size: int) -> int:
        table = 8 * used
        fits = (n for n in range(TILE, 0, -LANES) if n * size + rows(n) * table <= room)
        return next(fits, 0)

    stage = longest(sum(walk.sizes[i] for i in turned))
    if not turned or 2 * line > stage:
        turned, line, stage = [], 0, longest(0)
    if not stage:
        raise ValueError(
            f"{graph.name}: a sum over {used} arrays that are no lines in memory, with rows of "
            f"{length} elements, has no room on the device; pass contiguous arrays"
        )
    offsets, at = [0] * len(walk.uses), -(-rows(stage) * used // 2) * 16
    for i in turned:
        offsets[i], at = at, at + stage * walk.sizes[i]
    words = [stage, line, rows(stage), last, *offsets]
    for axis in reversed(range(len(walk.shape))):
        words += [walk.shape[axis], *(steps[axis] for steps in walk.steps)]
    return np.array(words, dtype=np.int64)


def places(graph: Graph, leaf: Placement) -> NDArray[np.int64]:
    """Return what tells where the elements of a leaf are by their numbers, in C order."""
    walk = Walk.of(graph, leaf.shape, leaf.strides)
    words = [len(walk.shape)]
    for axis in reversed(range(len(walk.shape))):
        words += [walk.shape[axis], *(steps[axis] for steps in walk.steps)]
    return np.array(words, dtype=np.int64)


#: What CUDA says of its default stream, which waits for others, while one of those is captured.
_CAPTURE_IMPLICIT = 906


def refuse_capture(cupy: Any, owner: str, device: int) -> None:
    """Raise while the current stream of a device is being captured into a CUDA graph.

    The step number and the hyperparameters travel with a launch, so a graph would replay the
    step that was captured: CuPy has no call that changes the arguments of a captured launch. Also
    raise on the default stream while another thread captures one for which it waits: that would
    end the capture there, and asking does not.
    """
    try:
        is_captured = cupy.cuda.get_current_stream(device).is_capturing()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if error.status != _CAPTURE_IMPLICIT:
            raise
        raise RuntimeError(
            f"{owner}.update: another stream is being captured into a CUDA graph, and the default "
            f"stream, on which this update is, waits for it; call update on a stream made with "
            f"cupy.cuda.Stream(non_blocking=True), or after the capture"
        ) from error
    if is_captured:
        raise RuntimeError(
            f"{owner}.update: the current stream is being captured into a CUDA graph, which would "
            f"repeat this one step, with its step number and learning rate; end the capture "
            f"before the update and call update after each launch of the graph"
        )


def allocate(w: Any, dtypes: Sequence[str]) -> list[Any]:
    """Return arrays of zeros of the shape and walk of `w`, on its device, from CuPy's pool."""
    import cupy

    refuse_capture(cupy, "Optimizer", w.device.id)
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

    def sending(self, words: NDArray[np.uint64]) -> list[Call]:
        """Return the calls that copy `words` to the device, in order with the current stream.

        There are none if they have not changed.
        """
        if self._sent is not None and (self._sent == words).all():
            return []
        self._buffers.reclaim()
        buffer = self._buffers.spare()
        buffer.view[:] = words
        stream = self._cupy.cuda.get_current_stream()
        return [
            partial(self._memory.copy_from_host_async, buffer.memory.ptr, self._nbytes, stream),
            *self._buffers.sending(stream),
            partial(self.__dict__.update, {"_sent": words.copy()}),
        ]


def chunk_length(total: int, multiprocessors: int, at_least: int, at_most: int) -> int:
    """Return the elements of a block, a multiple of `at_least`.

    Five blocks of Adam's fit a multiprocessor at a time, and eight of SGD's. One chunk for each of
    eight places lets a small step finish in one round, or in two; large ones take many, which evens
    out blocks of different speed.
    """
    wanted = math.ceil(total / (8 * multiprocessors) / at_least) * at_least
    return max(at_least, min(at_most, wanted))

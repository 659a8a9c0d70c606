"""Gradients and parameters on their way: what MPI is asked for, and nothing else asks it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep import arrays
from instep.distributed.means import added, blocks_of, divided, partial_sums, summed_as
from instep.distributed.planning import Shards
from instep.distributed.routes import (
    Arrival,
    Departure,
    Round,
    as_bytes,
    last_rounds,
    packed,
    write,
)

#: Bytes that are on their way at a time, twice: one bucket goes while the one before is added up.
BUCKET_BYTES = 25 * 2**20

#: A request of MPI, with the buffers that it works on.
Sent = tuple[Any, NDArray[Any], NDArray[Any]]


def room_beside(values: Iterable[Any]) -> Callable[[int, np.dtype[Any]], NDArray[Any]]:
    """Return what makes room for so many elements of a dtype on the host.

    Where arrays are of a device it is pinned, so that the device copies it by itself.
    """
    if not any(arrays.library(x) == "cupy" for x in values if x is not None):
        return np.empty

    from instep.engines.cuda.pinned import host_array

    return host_array


class Means(Arrival):
    """Gradients that come from all processes to the one that has their part, which averages them.

    Arrays of CuPy go through pinned memory of the host.

    Parameters
    ----------
    comm
        A communicator that nothing else uses.
    grads
        Those of each microbatch of this process, by position.
    count
        Number of microbatches of all processes.
    """

    def __init__(self, comm: Any, plan: Shards, grads: Sequence[Sequence[Any]], count: int) -> None:
        self._comm, self._rank = comm, comm.Get_rank()
        super().__init__(plan.inward, last_rounds(plan.inward, self._rank))
        self._plan, self._grads, self._count = plan, grads, count
        self._room = room_beside([g for own in grads for g in own])
        each, size = len(grads), comm.Get_size()
        self._blocks = [blocks_of(rank * each, (rank + 1) * each) for rank in range(size)]
        # One gradient a process is sent as it is.
        self._is_raw = each == 1

    def post(self, one: Round) -> Sent:
        own, size = self._blocks[self._rank], len(self._blocks)
        dtype = one.dtype if self._is_raw else summed_as(one.dtype)
        own_dtype = arrays.numpy_dtype(one.dtype)
        counts = [one.count(rank) * len(own) for rank in range(size)]
        sent = self._room(sum(counts), arrays.numpy_dtype(dtype))
        at = 0
        for rank in range(size):
            if self._is_raw:
                packed(self._grads[0], one.parts[rank], sent[at : at + counts[rank]])
            else:
                terms = [
                    packed(g, one.parts[rank], np.empty(one.count(rank), own_dtype))
                    for g in self._grads
                ]
                np.concatenate(partial_sums(own, terms, dtype), out=sent[at : at + counts[rank]])
            at += counts[rank]
        incoming = [one.count(self._rank) * len(some) for some in self._blocks]
        received = self._room(sum(incoming), arrays.numpy_dtype(dtype))
        request = self._comm.Ialltoallv([*as_bytes(sent, counts)], [*as_bytes(received, incoming)])
        return request, sent, received

    def finish(self, one: Round, sent: Sent) -> None:
        request, _, received = sent
        request.Wait()
        own, at, terms = one.count(self._rank), 0, []
        if own == 0:
            return
        dtype = arrays.numpy_dtype(summed_as(one.dtype))
        for block in (block for some in self._blocks for block in some):
            terms.append((block, received[at : at + own].astype(dtype, copy=False)))
            at += own
        mean, at = divided(added(terms), self._count), 0
        for position, begin, end in one.parts[self._rank]:
            piece = self._plan.pieces[position]
            assert piece is not None
            values, first = mean[at : at + end - begin], begin - piece[0]
            write(self._plan.means[position], first, first + end - begin, values)
            at += end - begin


class Parts(Departure):
    """Parts of arrays that go from the process that has them to all others.

    Parameters
    ----------
    comm
        A communicator that nothing else uses.
    values
        The arrays, by position, which hold the own part and are given those of others.
    """

    def __init__(self, comm: Any, plan: Shards, values: Sequence[Any]) -> None:
        rank, size = comm.Get_rank(), comm.Get_size()
        super().__init__(plan.outward if size > 1 else (), rank)
        self._comm, self._size, self._values = comm, size, values
        self._room = room_beside(values)

    def post(self, one: Round) -> Sent:
        counts = [one.count(rank) for rank in range(self._size)]
        dtype = arrays.numpy_dtype(one.dtype)
        sent = self._room(counts[self._rank], dtype)
        packed(self._values, one.parts[self._rank], sent)
        received = self._room(sum(counts), dtype)
        outgoing = [sent.view(np.uint8), sent.nbytes, "B"]
        return self._comm.Iallgatherv(outgoing, [*as_bytes(received, counts)]), sent, received

    def finish(self, one: Round, sent: Sent) -> None:
        request, _, received = sent
        request.Wait()
        at = 0
        for rank, segments in enumerate(one.parts):
            for position, begin, end in segments:
                if rank != self._rank:
                    write(self._values[position], begin, end, received[at : at + end - begin])
                at += end - begin

"""Gradients and parameters on their way: what MPI is asked for, and nothing else asks it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep import arrays
from instep.arrays import numpy_dtype
from instep.distributed.agreement import Agreement
from instep.distributed.means import Block, added, divided, partial_sums, summed_as
from instep.distributed.planning import Shards
from instep.distributed.routes import Round, as_bytes, in_flight, packed, write


class Transport:
    """Moves elements between the processes of a communicator, in rounds.

    Arrays of CuPy go through memory of the host.
    """

    def __init__(self, agreement: Agreement) -> None:
        self._comm, self._rank, self._size = agreement.comm, agreement.rank, agreement.size

    def reduce(
        self,
        plan: Shards,
        grads: Sequence[Sequence[Any]],
        blocks: Sequence[Sequence[Block]],
        count: int,
    ) -> None:
        """Make the means of the part of this process of so many gradients.

        `grads` are those of each microbatch of this process, by position; `blocks` those of whose
        sums each process sends one.
        """
        self._make_room(plan, grads[0])

        def post(one: Round) -> tuple[Any, NDArray[Any], NDArray[Any]]:
            return self._post_sums(one, grads, blocks)

        def finish(one: Round, sent: tuple[Any, NDArray[Any], NDArray[Any]]) -> None:
            request, _, received = sent
            request.Wait()
            own, at, terms = one.count(self._rank), 0, []
            dtype = numpy_dtype(summed_as(one.dtype))
            for block in (block for some in blocks for block in some):
                terms.append((block, received[at : at + own].astype(dtype)))
                at += own
            if own:
                _store(plan, one, self._rank, divided(added(terms), count))

        in_flight(plan.inward, post, finish)

    def _make_room(self, plan: Shards, grads: Sequence[Any]) -> None:
        """Make arrays for means, which serve every step: like gradients, but for a wider dtype."""
        for position in plan.active:
            piece, g = plan.pieces[position], grads[position]
            known = plan.means.get(position)
            if piece is None or (known is not None and type(known) is type(g)):
                continue
            shape = g.shape if plan.is_whole[position] else (piece[1] - piece[0],)
            dtype = numpy_dtype(summed_as(arrays.dtype_name(g)))
            xp, device = arrays.namespace(g), arrays.namespace_device(g)
            plan.means[position] = xp.empty(shape, dtype=dtype, device=device)

    def _post_sums(
        self, one: Round, grads: Sequence[Sequence[Any]], blocks: Sequence[Sequence[Block]]
    ) -> tuple[Any, NDArray[Any], NDArray[Any]]:
        own = blocks[self._rank]
        counts = [one.count(rank) * len(own) for rank in range(self._size)]
        # One gradient a process is sent as it is.
        is_raw = all(block.length == 1 for some in blocks for block in some)
        dtype = one.dtype if is_raw else summed_as(one.dtype)
        sent = np.empty(sum(counts), dtype=numpy_dtype(dtype))
        at = 0
        for rank in range(self._size):
            terms = [packed(g, one.parts[rank], one.dtype) for g in grads]
            sums = terms if is_raw else partial_sums(own, terms, dtype)
            for x in sums:
                sent[at : at + x.size] = x
                at += x.size
        incoming = [one.count(self._rank) * len(some) for some in blocks]
        received = np.empty(sum(incoming), dtype=numpy_dtype(dtype))
        request = self._comm.Ialltoallv([*as_bytes(sent, counts)], [*as_bytes(received, incoming)])
        return request, sent, received

    def gather(self, plan: Shards, sources: Sequence[Any], targets: Sequence[Any]) -> None:
        """Write the parts of all other processes of some arrays, given the own part."""
        if self._size > 1:
            in_flight(
                plan.outward,
                lambda one: self._post_parts(one, sources),
                lambda one, sent: self._take_parts(one, sent, targets),
            )

    def _post_parts(
        self, one: Round, sources: Sequence[Any]
    ) -> tuple[Any, NDArray[Any], NDArray[Any]]:
        counts = [one.count(rank) for rank in range(self._size)]
        sent = packed(sources, one.parts[self._rank], one.dtype)
        received = np.empty(sum(counts), dtype=numpy_dtype(one.dtype))
        outgoing = [sent.view(np.uint8), sent.nbytes, "B"]
        request = self._comm.Iallgatherv(outgoing, [*as_bytes(received, counts)])
        return request, sent, received

    def _take_parts(
        self, one: Round, sent: tuple[Any, NDArray[Any], NDArray[Any]], targets: Sequence[Any]
    ) -> None:
        request, _, received = sent
        request.Wait()
        at = 0
        for rank, segments in enumerate(one.parts):
            for position, begin, end in segments:
                if rank != self._rank:
                    write(targets[position], begin, end, received[at : at + end - begin])
                at += end - begin


def _store(plan: Shards, one: Round, rank: int, values: NDArray[Any]) -> None:
    at = 0
    for position, begin, end in one.parts[rank]:
        piece = plan.pieces[position]
        assert piece is not None
        first = begin - piece[0]
        write(plan.means[position], first, first + end - begin, values[at : at + end - begin])
        at += end - begin

"""One optimizer on many processes: gradients are averaged, and each steps its part."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instep.distributed.agreement import RankError, check_count, check_together
from instep.distributed.means import mean_of_numbers
from instep.distributed.planning import (
    Shards,
    check_arrays,
    check_cuts,
    extents,
    selected,
    shards,
    why_whole,
)
from instep.distributed.shared import Shared, like
from instep.distributed.sharing import Sharing
from instep.distributed.signatures import check_alike, kind_of, settings_of, signature_of
from instep.distributed.transport import BUCKET_BYTES, Means, Parts
from instep.graph.told import Told
from instep.optimizer import Optimizer
from instep.plan import validation
from instep.plan.leaves import Leaf
from instep.state import State
from instep.tree import Tree

#: Kinds of trees that are remembered.
MOST_PLANS = 32


class Sharded(Shared):
    """An optimizer whose steps the processes of an MPI communicator take together.

    Each process has all parameters, and gradients of its own. A step averages the gradients, in an
    order that does not depend on MPI, and each process updates its part of the parameters, a n-th,
    with the state of that part, which nobody else keeps; then all get the parts of the others
    (stage 1 of ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054). Parameters, equal before the
    first step, are equal after each, and have the bits that one process gives with the same mean:
    tensors are cut at tiles of the canonical sum, so norms are the same for any number of
    processes.

    Parameters
    ----------
    optimizer
        Any optimizer, chain or partition. It belongs to this object from then on; its
        hyperparameters may be changed, on all processes alike.
    comm
        A communicator of mpi4py, such as ``MPI.COMM_WORLD``. It is duplicated, so that messages of
        others do not mix with those of steps.
    microbatches
        None, where each process gives one tree of gradients; or how many it gives, in a list. They
        are numbered through all processes: with the same microbatches in the same order the bits
        do not depend on how many processes have them.
    bucket_bytes
        Bytes that are sent in one round, in all.

    Attributes
    ----------
    optimizer
        The optimizer, whose state is that of the part of this process.
    t : int
        Number of steps taken.

    Notes
    -----
    Tensors of which a rule needs rows or matrices (Muon, Shampoo, SOAP, Adafactor), for whose
    elements random words are drawn, whose rule no engine can fuse, which have hyperparameters that
    are arrays, or which do not lie in C order, are not cut: each belongs to one process.

    Examples
    --------
    ::

        from mpi4py import MPI
        from instep import AdamW, chain
        from instep.distributed import Sharded
        from instep.transforms import average, clip_by_global_norm

        optimizer = chain(clip_by_global_norm(1.0), AdamW(lr=1e-3), average(0.999))
        optimizer = Sharded(optimizer, MPI.COMM_WORLD)
        optimizer.update(params, grads)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        comm: Any,
        *,
        microbatches: int | None = None,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"Sharded: optimizer must be an optimizer, a chain or a partition, got "
                f"{type(optimizer).__name__}"
            )

        def check() -> None:
            if microbatches is not None:
                check_count("Sharded", "microbatches", microbatches)
            check_count("Sharded", "bucket_bytes", bucket_bytes)
            state = optimizer.state_dict()
            if state["t"] or state["states"]:
                raise ValueError(
                    f"Sharded: the optimizer has taken {state['t']} steps, and has the state of "
                    f"whole tensors; give a new one, and load what Sharded has saved"
                )

        settings = {"microbatches": microbatches, "bucket_bytes": bucket_bytes}
        check_together("Sharded", comm, settings, check)
        super().__init__(optimizer, comm, bucket_bytes)
        self.microbatches = microbatches
        self._inward = comm.Dup()
        self._sharing = Sharing(self._agreement)

    def __repr__(self) -> str:
        return f"Sharded({self.optimizer!r}, {self._agreement.size} ranks)"

    def update(self, params: Tree, grads: Any, *, value: Any = None) -> Tree:
        """Take one step, together with all processes: change `params` in place.

        Parameters
        ----------
        params
            A tree of NumPy or CuPy arrays, as for `Optimizer.update`: equal on all processes.
        grads
            The gradients of this process, or a list of them, one a microbatch. Their mean over all
            is what the optimizer gets. None in the place of an array, on all processes, leaves its
            parameter alone.
        value
            The value of the objective on this process, or None. The mean over processes is what
            rules and schedules get.

        Returns
        -------
        The tree `params`.

        Raises
        ------
        RankError
            If some process could not take the step. It is raised on all, with the rank and what
            went wrong there, and nothing has changed anywhere.
        ValueError
            If the trees or settings of processes differ. On all, too.
        """
        self._agreement.begin(f"{self.name}.update")
        self._sharing.arrival = None
        try:
            plan, leaves = self._agreed(params, grads, value)
            self._step(plan, params, leaves, self._mean_value(value))
        except BaseException as error:
            if not (self._agreement.is_certain or self._agreement.knows(error)):
                try:
                    self._agreement.tell(error)
                finally:  # others have posted rounds, too
                    self._sharing.all_here()
            raise
        return params

    def _communicators(self) -> list[Any]:
        return [*super()._communicators(), self._inward]

    # Before anything moves -----------------------------------------------------------------------

    def _agreed(self, params: Any, grads: Any, value: Any) -> tuple[Shards, list[list[Leaf]]]:
        """Return who has what, and the leaves with the gradients of each microbatch."""
        leaves = self._matched(params, grads)
        active = [leaf for leaf in leaves[0] if leaf.gradient is not None]
        kind = [*kind_of(self.optimizer), *signature_of(leaves[0])]
        settings = settings_of(self.optimizer, self.t, value is not None)
        check_alike(self._agreement, [*settings, *kind])
        key = tuple(kind)
        if key not in self._plans:
            if len(self._plans) == MOST_PLANS:
                self._plans.clear()
            self._plans[key] = self._planned(leaves[0], active, value)
        return self._plans[key], leaves

    def _matched(self, params: Any, grads: Any) -> list[list[Leaf]]:
        name, count = self.name, self.microbatches
        if count is not None and (not isinstance(grads, list | tuple) or len(grads) != count):
            got = f"{len(grads)}" if isinstance(grads, list | tuple) else type(grads).__name__
            raise ValueError(
                f"{name}.update: grads must be a list of {count} trees, one for each microbatch, "
                f"got {got}"
            )
        trees = [grads] if count is None else grads
        leaves = [validation.match(name, params, one) for one in trees]
        for number, own in enumerate(leaves):
            active = [leaf for leaf in own if leaf.gradient is not None]
            check_arrays(f"{name}.update", active)
            validation.check(name, params, active)
            if number and signature_of(own) != signature_of(leaves[0]):
                raise ValueError(
                    f"{name}.update: gradients of microbatch {number} are of other dtypes than "
                    f"those of the first, or None in other places; give all alike"
                )
        return leaves

    def _planned(self, leaves: Sequence[Leaf], active: Sequence[Leaf], value: Any) -> Shards:
        selection, active = selected(self.optimizer, leaves)
        told = Told(self.name, value)
        state = self.optimizer._state  # noqa: SLF001  (that of the part of this process)
        reasons = why_whole(self.optimizer, state, active, selection, told)
        check_cuts(f"{self.name}.update", self._cuts, active, reasons)
        # Where a schedule fails on one process, that one does not know what others do.
        reasons = [
            next(filter(None, own), "") for own in zip(*self._agreement.meet(reasons), strict=True)
        ]
        self._cuts.add(extents(active, reasons))
        rank = self._agreement.rank
        plan = shards(active, self._cuts, rank, self._bucket_bytes)
        if self._agreement.size > 1 or self.microbatches not in (None, 1):
            plan.make_room(active)
        self._tell_numbers(state, is_needed=any(plan.pieces.values()))
        return plan

    def _tell_numbers(self, state: State, *, is_needed: bool) -> None:
        """Learn from others what is remembered of the tree, if this process had no leaf so far."""
        found = self._agreement.meet({name: float(x) for name, x in state.numbers.items()})
        for name, x in (entry for own in found for entry in own.items()):
            if is_needed and name not in state.numbers:
                state.numbers[name] = np.array(x, dtype=np.float64)

    # The step ------------------------------------------------------------------------------------

    def _mean_value(self, value: Any) -> Any:
        if value is None or self._agreement.size == 1:
            return value
        return mean_of_numbers(self._agreement.meet(float(value)))

    def _step(
        self, plan: Shards, params: Any, leaves: Sequence[Sequence[Leaf]], value: Any
    ) -> None:
        """Step the part of this process, while the next gradients are on their way."""
        whole = [leaf.held[0] for leaf in leaves[0]]
        sharing, state = self._sharing, self.optimizer._state  # noqa: SLF001  (of its part)
        means = self._begin(plan, leaves)
        own, grads = list(whole), [None] * len(whole)
        for position, piece in plan.pieces.items():
            if piece is not None:
                own[position] = plan.part(position, whole[position])
                grads[position] = means[position]
        sharing.departure = Parts(self._outward, plan, whole)
        sharing.whole, sharing.sections, state.ranks = whole, plan.sections, sharing
        try:
            self.optimizer.update(like(params, own), like(params, grads), value=value)
        except RankError:
            sharing.all_here()
            raise
        finally:
            state.ranks, sharing.whole = None, ()
            if self._agreement.is_certain:
                sharing.all_here()
                sharing.departure.all()

    def _begin(self, plan: Shards, leaves: Sequence[Sequence[Leaf]]) -> Mapping[int, Any]:
        """Let gradients come; return where they, or their means, will be."""
        each = [[leaf.gradient for leaf in own] for own in leaves]
        count = len(each) * self._agreement.size
        if count == 1:
            return {i: plan.part(i, each[0][i]) for i in plan.pieces}
        self._sharing.arrival = arrival = Means(self._inward, plan, each, count)
        arrival.ahead()
        return plan.means

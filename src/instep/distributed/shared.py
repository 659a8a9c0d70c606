"""What processes share beside a step: that all go on, or none, and the files of their state."""

import os
from collections.abc import Callable, Sequence
from typing import Any, Self

from instep import tree
from instep.distributed import stored
from instep.distributed.agreement import Agreement
from instep.distributed.cutting import Cuts
from instep.distributed.planning import Shards, shards
from instep.distributed.signatures import check_alike, signature_of
from instep.distributed.transport import Parts
from instep.optimizer import Optimizer
from instep.plan import validation


class Shared:
    """An optimizer of which each process has a part.

    Parameters
    ----------
    optimizer
        It belongs to this object from then on.
    comm
        A communicator of mpi4py, which is duplicated.
    bucket_bytes
        Bytes that are sent in one round, in all.
    """

    def __init__(self, optimizer: Optimizer, comm: Any, bucket_bytes: int) -> None:
        self.optimizer = optimizer
        self._agreement = Agreement(comm.Dup())
        self._outward, self._bucket_bytes = comm.Dup(), bucket_bytes
        self._cuts = Cuts(self._agreement.size)
        self._plans: dict[tuple[str, ...], Shards] = {}

    @property
    def t(self) -> int:
        """Number of steps taken."""
        return self.optimizer.t

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{type(self).__name__}({self.optimizer.name})"

    def free(self) -> None:
        """Give the communicators back, on all processes: MPI has a few thousand. It is used up."""
        for comm in self._communicators():
            comm.Free()

    def _communicators(self) -> list[Any]:
        """Return those that were duplicated."""
        return [self._agreement.comm, self._outward]

    def answer(self, params: tree.Tree, *, which: int | None = None) -> tree.Tree:
        """Return what to use in the place of `params`, on all processes: see `Optimizer.answer`.

        Parameters
        ----------
        params
            The tree of parameters. They are not changed.
        which
            Number of the rule with an answer, where there are several.

        Returns
        -------
        A tree of new arrays.
        """
        found: tree.Tree = self._together("answer", lambda: self._answer(params, which))
        return found

    def _answer(self, params: Any, which: int | None) -> Any:
        leaves = validation.unchecked(f"{self.name}.answer", params)
        known = [leaf for leaf in leaves if leaf.key in self._cuts.pieces]
        plan = shards(known, self._cuts, self._agreement.rank, self._bucket_bytes)
        whole = [leaf.held[0] for leaf in leaves]
        own = list(whole)
        for i, piece in plan.pieces.items():
            own[i] = whole[i].reshape(-1)[:0] if piece is None else plan.part(i, whole[i])
        found = [x for _, x in tree.flatten(self.optimizer.answer(like(params, own), which=which))]
        for i, piece in plan.pieces.items():
            mine, found[i] = found[i], whole[i].copy()
            if piece is not None:
                plan.part(i, found[i])[...] = mine
        check_alike(self._agreement, signature_of(leaves))
        self._agreement.is_certain = True
        Parts(self._outward, plan, found).all()
        return like(params, found)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state into a folder: one file for each process, and an index.

        Parameters
        ----------
        path
            Its name; it is made where it is missing. All processes must see it. What was saved
            there before stays whole until the new state is complete.

        Raises
        ------
        RankError
            If a file cannot be written by some process. What was there is as it was.
        """
        self._together(
            "save", lambda: stored.save(self._agreement, self.optimizer, self._cuts, path)
        )

    def load(self, path: str | os.PathLike[str], *, strict: bool = True) -> Self:
        """Take over what `save` has written, on as many processes as there were, or others.

        Parameters
        ----------
        path
            The folder.
        strict
            As for `Optimizer.load_state_dict`.

        Raises
        ------
        RankError
            If some process cannot read it, or it does not go together with the optimizer. Nothing
            has changed then.
        """

        def take() -> None:
            cuts = stored.load(self._agreement, self.optimizer, path, strict=strict)
            self._cuts = cuts
            self._plans.clear()

        self._together("load", take)
        return self

    def _together(self, call: str, function: Callable[[], Any]) -> Any:
        self._agreement.begin(f"{self.name}.{call}")
        try:
            return function()
        except BaseException as error:
            if not (self._agreement.is_certain or self._agreement.knows(error)):
                self._agreement.tell(error)
            raise


def like(params: Any, leaves: Sequence[Any]) -> Any:
    """Return a new tree of these leaves."""
    values = iter(leaves)
    return tree.mapped(lambda path, leaf: next(values), params)

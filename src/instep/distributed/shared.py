"""What processes share beside a step: that all go on, or none, and the files of their state."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from instep import tree
from instep.distributed import stored
from instep.distributed.agreement import Agreement
from instep.distributed.cutting import Cuts
from instep.distributed.planning import Shards, shards
from instep.distributed.signatures import check_alike, signature_of
from instep.distributed.transport import Parts
from instep.optimizer import Optimizer
from instep.plan import validation

#: Attributes that can be set here, beside those with a leading underscore.
_OWN = ("optimizer", "microbatches")

_WHOLE = "it works on whole tensors, and each process has a part of their state"

#: What optimizers have and is something else for processes together, and what to write here.
_OTHERWISE = {
    "answer_in_place": "answer(params) returns a tree of new arrays",
    "averaged": "answer(params) returns a tree of new arrays",
    "eval_params": "answer(params) returns a tree of new arrays",
    "state_dict": "save(path) writes the state of all ranks",
    "load_state_dict": "load(path) reads what save(path) has written",
    "flush": _WHOLE,
    "forget": _WHOLE,
    "resize": _WHOLE,
}


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

    if not TYPE_CHECKING:  # type checkers would take every name for one that there is

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or name in _OWN:
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
            raise AttributeError(
                f"{self.name} has no attribute {name!r}; {_where(self.optimizer, name)}"
            )

        def __setattr__(self, name: str, value: Any) -> None:
            if not (name.startswith("_") or name in _OWN):
                is_own = hasattr(type(self), name)
                where = "it is no setting" if is_own else _where(self.optimizer, name)
                raise AttributeError(f"{self.name}: {name} cannot be set here; {where}")
            object.__setattr__(self, name, value)

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


def _where(optimizer: Optimizer, name: str) -> str:
    """Say where that is which an optimizer has, and what holds it has not."""
    if name in _OTHERWISE:
        return _OTHERWISE[name]
    if name in dir(optimizer):
        return f"write sharded.optimizer.{name}, on all ranks"
    try:
        getattr(optimizer, name)  # a chain and a partition have names that are in no list
    except AttributeError as error:
        told = str(error).partition("; ")[2].replace(" optimizer.", " sharded.optimizer.")
        told = told or optimizer._remedy(name)  # noqa: SLF001  (its own)
        where = "hyperparameters and settings are those of sharded.optimizer"
        return told if " sharded." in told else f"{told}; {where}" if told else where
    return f"write sharded.optimizer.{name}, on all ranks"


def like(params: Any, leaves: Sequence[Any]) -> Any:
    """Return a new tree of these leaves."""
    values = iter(leaves)
    return tree.mapped(lambda path, leaf: next(values), params)

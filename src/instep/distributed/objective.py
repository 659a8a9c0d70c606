"""An objective of which each process has a part: value and gradients are means over all."""

from typing import Any

from instep import arrays
from instep.distributed.agreement import Agreement, check_count, check_together
from instep.distributed.cutting import Cuts
from instep.distributed.means import mean_of_numbers
from instep.distributed.planning import Shards, check_arrays, extents, how_it_lies, shards
from instep.distributed.shared import like
from instep.distributed.signatures import check_alike, gradients_of
from instep.distributed.transport import BUCKET_BYTES, Means, Parts
from instep.graph.dtypes import DTYPES
from instep.minimization.objective import Objective
from instep.plan import validation
from instep.plan.leaves import Leaf
from instep.tree import format_path


class MeanObjective:
    """The mean of an objective over the processes of an MPI communicator, for `minimize`.

    Each process has data of its own, and a function of it. Called on all, with the same
    parameters, this returns the same value and the same gradients on all: their means, added in
    pairs in the order of ranks. So the loops of `minimize` take the same way everywhere, with
    `LBFGS` or another method.

    Parameters
    ----------
    value_and_grad
        The objective of this process, as for `minimize`: a function that returns the value and a
        tree of gradients, NumPy or CuPy arrays; or a pair of functions.
    comm
        A communicator of mpi4py, such as ``MPI.COMM_WORLD``. It is duplicated.
    bucket_bytes
        Bytes that are sent in one round, in all.

    Raises
    ------
    RankError
        When it is called, on all processes, if the function raises on one.
    ValueError
        When it is called, on all, if trees of gradients differ.

    Notes
    -----
    Each process keeps the whole state of the method. All must end in the same step: by `steps` and
    tolerances, or by a callback that says the same on all. The limit `seconds` does not.

    Examples
    --------
    ::

        from mpi4py import MPI
        from instep import LBFGS, minimize
        from instep.distributed import MeanObjective

        objective = MeanObjective(value_and_grad, MPI.COMM_WORLD)
        result = minimize(objective, params, LBFGS())
    """

    #: So that nothing else can be set, which would change nothing.
    __slots__ = ("_agreement", "_bucket_bytes", "_inward", "_objective", "_outward", "_plans")

    def __init__(self, value_and_grad: Any, comm: Any, *, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._objective = Objective(value_and_grad, call="MeanObjective")
        check_together(
            "MeanObjective",
            comm,
            {"bucket_bytes": bucket_bytes},
            lambda: check_count("MeanObjective", "bucket_bytes", bucket_bytes),
        )
        self._agreement = Agreement(comm.Dup(), changes_nothing=False)
        self._inward, self._outward, self._bucket_bytes = comm.Dup(), comm.Dup(), bucket_bytes
        self._plans: dict[tuple[str, ...], Shards] = {}

    def __call__(self, params: Any) -> tuple[float, Any]:
        """Return the mean value and the mean gradients at a point, on all processes."""
        agreement = self._agreement
        agreement.begin("MeanObjective")
        try:
            value, grads = self._objective.at(params)
            if agreement.size == 1:
                return value, grads
            leaves = [
                Leaf(leaf.position, leaf.path, leaf.parameter, leaf.parameter)
                for leaf in validation.unchecked("MeanObjective", grads)
            ]
            active = [leaf for leaf in leaves if leaf.parameter is not None]
            _check_dtypes(active)
            plan = self._agreed(leaves, active)
            means = [None if leaf.parameter is None else _room(leaf) for leaf in leaves]
            values = agreement.meet(value)
            agreement.is_certain = True
        except BaseException as error:
            if not (agreement.is_certain or agreement.knows(error)):
                agreement.tell(error)
            raise
        Means(self._inward, plan, [[leaf.parameter for leaf in leaves]], agreement.size).all()
        for position, own in plan.means.items():
            plan.part(position, means[position])[...] = own
        Parts(self._outward, plan, means).all()
        return mean_of_numbers(values), like(grads, means)

    def free(self) -> None:
        """Give the communicators back, on all processes: MPI has a few thousand. It is used up."""
        for comm in (self._agreement.comm, self._inward, self._outward):
            comm.Free()

    def _agreed(self, leaves: list[Leaf], active: list[Leaf]) -> Shards:
        """Return who adds up what; raise on all processes where gradients differ."""
        lines = gradients_of(leaves)
        check_alike(self._agreement, lines)
        key = tuple(lines)
        if key not in self._plans:
            check_arrays("MeanObjective", active)
            cuts = Cuts(self._agreement.size)
            cuts.add(extents(active, [how_it_lies(leaf) for leaf in active]))
            plan = shards(active, cuts, self._agreement.rank, self._bucket_bytes)
            plan.make_room(active)
            self._plans.clear()  # of objectives there is one kind of tree
            self._plans[key] = plan
        return self._plans[key]


def _check_dtypes(leaves: list[Leaf]) -> None:
    """Raise TypeError for gradients of which there is no mean."""
    for leaf in leaves:
        if leaf.dtype not in DTYPES:
            raise TypeError(
                f"MeanObjective: {format_path('grads', leaf.path)} has dtype {leaf.dtype}, of "
                f"which there is no mean; return floats, or complex numbers"
            )


def _room(leaf: Leaf) -> Any:
    """Return a new array for a mean gradient."""
    g = leaf.parameter
    xp = arrays.namespace(g)
    return xp.empty(g.shape, dtype=g.dtype, device=arrays.namespace_device(g))

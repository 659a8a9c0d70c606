"""What a plan asks the other processes: their sums of tiles, and whether they can store, too."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.distributed.agreement import Agreement
from instep.distributed.routes import Arrival, Departure
from instep.engines.sums import Float64Namespace, SumTable
from instep.graph import sum_kind
from instep.numerics import canonical_sum
from instep.plan.leaves import Leaf
from instep.plan.ranks import Ranks, Start, Turn

#: What a process has added up: sums of tiles, by the number of the sum and the leaf's position.
Tiles = Mapping[tuple[int, int], NDArray[np.float64]]


class Sharing(Ranks):
    """The processes of a communicator, which have pieces of leaves in the order of ranks.

    Attributes
    ----------
    whole
        The parameters of a step, of which this process has pieces.
    sections
        Numbers of sections, by the positions of leaves.
    arrival, departure
        The gradients of a step on their way here, if there are others, and parameters on their way
        to others.
    """

    departure: Departure

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self.whole: Sequence[Any] = ()
        self.arrival: Arrival | None = None
        self.sections: Mapping[int, int] = {}
        self._tiles: dict[tuple[int, int], dict[int, NDArray[np.float64]]] = {}

    def show(self, leaves: Sequence[Leaf]) -> None:
        for leaf, w in zip(leaves, self.whole, strict=True):
            leaf.shown = w

    def section(self, position: int) -> int:
        return self.sections.get(position, 0)

    def begin(
        self, sums: SumTable, pending: AbstractSet[int], *, calls: bool, fuses: bool, reduces: bool
    ) -> Start:
        sums.clear()  # another process may have no part in a sum in which it had one
        sums.tiles = {}
        self._tiles = {}
        found = self._agreement.meet((set(pending), calls, fuses, reduces))
        if any(calls or reduces for _, calls, _, reduces in found):
            self.all_here()
        return Start(
            self._of_others([x for x, _, _, _ in found]),
            any(x for _, x, _, _ in found),
            any(x for _, _, x, _ in found),
        )

    def all_here(self) -> None:
        """Wait for all gradients, and come up with what the others have posted."""
        if self.arrival is not None:
            self.arrival.all()

    def arrive(self, positions: Sequence[int]) -> None:
        if self.arrival is not None:
            self.arrival.of(positions)

    def depart(self, positions: Sequence[int]) -> None:
        self.departure.stepped(positions)

    def meet(
        self, sums: SumTable, numbers: AbstractSet[int], left: AbstractSet[int], *, went_on: bool
    ) -> Turn:
        found = self._agreement.meet((set(numbers), set(left), went_on, sums.take_tiles()))
        self._finish(sums, [tiles for _, _, _, tiles in found])
        lefts = [x for _, x, _, _ in found]
        return Turn(
            set().union(*(x for x, _, _, _ in found)),
            set().union(*lefts),
            self._of_others(lefts),
            any(x for _, _, x, _ in found),
        )

    def _of_others(self, sets: Sequence[set[int]]) -> set[int]:
        own = self._agreement.rank
        return set().union(*sets[:own], *sets[own + 1 :])

    def _finish(self, sums: SumTable, of_ranks: Sequence[Tiles]) -> None:
        """Make the sums of leaves of all that is known of their tiles, in the order of ranks.

        A process has one piece of a leaf, and pieces follow each other as ranks do.
        """
        changed = set()
        for rank, tiles in enumerate(of_ranks):
            for key, own in tiles.items():
                self._tiles.setdefault(key, {})[rank] = own
                changed.add(key)
        with np.errstate(all="ignore"):
            for number, position in sorted(changed):
                of_leaf = self._tiles[number, position]
                x = np.concatenate([of_leaf[rank] for rank in sorted(of_leaf)])
                is_sum = sum_kind(number) == "sum"
                total = canonical_sum(Float64Namespace, x) if is_sum else np.max(x, initial=-np.inf)
                sums.put(number, position, float(total))

    def agree(self, is_forbidden: bool) -> bool:
        turned_away = any(self._agreement.meet(is_forbidden))
        self._agreement.is_certain = True
        return turned_away

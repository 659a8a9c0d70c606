"""The passes of a step that reduce, until all sums are known."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from instep.engines import Bucket
from instep.engines.sums import SumTable
from instep.plan.ranks import Ranks, Start, Turn


def reduce(buckets: Sequence[Bucket], sums: SumTable, ranks: Ranks | None = None) -> None:
    """Run passes of all buckets in turn, and add up the tree in between.

    No pass reads a sum over the tree before all buckets have added to it, those of other processes
    among them. A rule that is called comes to one sum after the other, where a pass makes several
    at once: it catches up before other buckets go on.
    """
    called = [bucket for bucket in buckets if bucket.is_called]
    start = _begin(buckets, sums, ranks, len(called))
    catches_up, elsewhere = start.calls and start.fuses, start.elsewhere
    waits = True
    while True:
        before = [bucket.pending() for bucket in buckets]
        numbers: set[int] = set()
        for i, bucket in enumerate(buckets):
            others = [*before[:i], *before[i + 1 :], elsewhere] if waits else []
            numbers |= bucket.reduce(sums, set().union(*others))
        after = [bucket.pending() for bucket in buckets]
        turn = _meet(ranks, sums, numbers, _union(after), went_on=after != before)
        if not (turn.numbers or turn.left):
            return
        complete, elsewhere = turn.numbers - turn.left, turn.elsewhere
        # Where leaves come to the same sums in another order, none can wait for all the others.
        waits = bool(complete) or turn.went_on
        sums.add_up(complete)
        while catches_up:
            missed = _union([bucket.reduce(sums) for bucket in called])
            missed = _meet(ranks, sums, missed, set(), went_on=False).numbers & complete
            if not missed:
                break
            sums.add_up(missed)


def committed(bucket: Bucket, sums: SumTable, ranks: Ranks | None) -> Mapping[int, Any]:
    """Run the last pass of a bucket, whose gradients may still be on their way from others."""
    if ranks is None:
        return bucket.commit(sums)
    ranks.arrive(bucket.positions)
    new = bucket.commit(sums)
    ranks.depart(bucket.positions)
    return new


def _begin(buckets: Sequence[Bucket], sums: SumTable, ranks: Ranks | None, called: int) -> Start:
    fuses = called < len(buckets)
    if ranks is None:
        return Start(frozenset(), called > 0, fuses)
    pending = _union([bucket.pending() for bucket in buckets])
    reduces = any(bucket.reduces for bucket in buckets)
    return ranks.begin(sums, pending, calls=called > 0, fuses=fuses, reduces=reduces)


def _meet(
    ranks: Ranks | None,
    sums: SumTable,
    numbers: set[int],
    left: AbstractSet[int],
    *,
    went_on: bool,
) -> Turn:
    if ranks is None:
        return Turn(numbers, left, frozenset(), went_on)
    return ranks.meet(sums, numbers, left, went_on=went_on)


def _union(sets: Sequence[AbstractSet[int]]) -> set[int]:
    return set().union(*sets)

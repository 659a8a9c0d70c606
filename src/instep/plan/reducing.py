"""The passes of a step that reduce, until all sums are known."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from instep.engines import Bucket
from instep.engines.sums import SumTable


def reduce(buckets: Sequence[Bucket], sums: SumTable) -> None:
    """Run passes of all buckets in turn, and add up the tree in between.

    No pass reads a sum over the tree before all buckets have added to it. A rule that is called
    comes to one sum after the other, where a pass makes several at once: it catches up before other
    buckets go on.
    """
    late = [bucket for bucket in buckets if bucket.is_called]
    late = late if len(late) < len(buckets) else []
    waits = True
    while True:
        before = [bucket.pending() for bucket in buckets]
        numbers: set[int] = set()
        for i, bucket in enumerate(buckets):
            others = before[:i] + before[i + 1 :] if waits else []
            numbers |= bucket.reduce(sums, set().union(*others))
        after = [bucket.pending() for bucket in buckets]
        left = _union(after)
        if not (numbers or left):
            return
        complete = numbers - left
        # Where leaves come to the same sums in another order, none can wait for all the others.
        waits = bool(complete) or after != before
        sums.add_up(complete)
        while missed := _union([bucket.reduce(sums) for bucket in late]) & complete:
            sums.add_up(missed)


def _union(sets: Sequence[AbstractSet[int]]) -> set[int]:
    return set().union(*sets)

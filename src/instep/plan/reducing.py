"""The passes of a step that reduce, until all sums are known."""

from collections.abc import Sequence

from instep.engines import Bucket
from instep.engines.sums import SumTable


def reduce(buckets: Sequence[Bucket], sums: SumTable) -> None:
    """Run passes of all buckets in turn, and add up the tree in between.

    A rule that is called comes to one sum after the other, where a pass makes several at once. It
    catches up before other buckets go on: they are to find sums to which all leaves have added.
    """
    late = [bucket for bucket in buckets if bucket.is_called]
    late = late if len(late) < len(buckets) else []
    while numbers := _next(buckets, sums):
        sums.add_up(numbers)
        while missed := _next(late, sums) & numbers:
            sums.add_up(missed)


def _next(buckets: Sequence[Bucket], sums: SumTable) -> set[int]:
    return set().union(*(bucket.reduce(sums) for bucket in buckets))

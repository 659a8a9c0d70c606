"""Whether guards turn a step away: judged by the host, or by a device while the host goes on.

A rule may require something of all gradients (`xp.require`); the step is taken only if it holds.
Where the sums that tell are on a device, waiting for them would leave it without work. So the
host does not ask: it lets the device skip the writing, and prepares the next step for every
number of steps that may have been taken by then. What the device decided is heard later.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from instep.engines import Bucket
from instep.engines.sums import SumTable, Verdicts
from instep.graph.rows import Group, Row
from instep.interrupts import Call
from instep.state import History

#: Returns the rows of the step that comes so many steps after the last that is known.
RowsAfter = Callable[[int, Sequence[Group]], list[Row]]


class Judging:
    """Judges the steps on some buckets.

    Parameters
    ----------
    groups
        What decides the rows of a step. Their memories are brought up to date when a device
        tells of a step that was taken.
    """

    def __init__(self, buckets: Sequence[Bucket], sums: SumTable, groups: Sequence[Group]) -> None:
        self._buckets, self._sums, self._groups = buckets, sums, groups
        self._undecided: _Undecided | None = None

    @property
    def waits(self) -> bool:
        """Whether there may be steps of which only a device knows whether they were taken."""
        return self._undecided is not None

    def resume(self) -> None:
        """Start from what the groups remember now: all is heard, and others have taken steps."""
        self._undecided = None

    def candidates(self, rows_after: RowsAfter) -> list[list[Row]] | None:
        """Return the rows of the next call, for every number of undecided steps that may be taken.

        None: they cannot be told, or no device can choose among them. Then what is undecided must
        be settled.
        """
        if self._undecided is None:
            return [rows_after(0, self._groups)]
        found = self._undecided.candidates(rows_after)
        decided = len(found or ()) == 1
        return found if found and (decided or self._can_decide(found)) else None

    def _can_decide(self, candidates: list[list[Row]]) -> bool:
        return all(bucket.decides(candidates) for bucket in self._buckets)

    def is_forbidden(self, candidates: list[list[Row]], rows_after: RowsAfter) -> bool:
        """Return whether a guard turns away the call with these candidates.

        Waits for the device that has the sums, unless it can judge the call itself: then the step
        goes on, and `judge` is next. The passes of one call may need the host where those of
        another do not. Then there is one candidate: nothing is undecided, and nothing is lost.
        """
        guards = [number for bucket in self._buckets for number in bucket.guards]
        remote = self._sums.only_remote if guards else None
        if remote is None or not self._can_decide(candidates):
            self._undecided = None
            return any(self._sums.total(number) != 0 for number in guards)
        if self._undecided is None:
            undecided = _Undecided(remote.verdicts, self._groups)
            undecided.candidates(rows_after)
            self._undecided = undecided
        return False

    def judge(self, notes: Iterable[Call]) -> None:
        """Let the device judge the call whose candidates were made last, and at once take notes."""
        if self._undecided is not None and not self._undecided.is_judged:
            self._undecided.judge(notes)

    def hear(self, most: int) -> bool | None:
        """Return whether the oldest call was taken, or None if that is not known yet.

        Waits if more than `most` are undecided. `noting` goes on to the next.
        """
        return None if self._undecided is None else self._undecided.hear(most)

    def noting(self, taken: bool) -> list[Call]:
        """Return the calls, functions in C, that take note of what was heard of the oldest call."""
        return [] if self._undecided is None else self._undecided.noting(taken)


class _Undecided:
    """The calls of `update` that a device has not told of yet."""

    def __init__(self, verdicts: Verdicts, groups: Sequence[Group]) -> None:
        self._verdicts = verdicts
        self._groups = groups
        # What every group remembers, for every number of these calls that may have been taken.
        self._memories = [[dict(group.memory) for group in groups]]
        self._next: list[list[dict[str, float]]] = []

    def candidates(self, rows_after: RowsAfter) -> list[list[Row]] | None:
        """Return the rows of the next call, for every number of these calls that may be taken.

        None: what is remembered depends on which of the calls were taken, not on how many alone
        (a hyperparameter that it is made of was changed in between).
        """
        found, taken = [], []
        for number, memories in enumerate(self._memories):
            groups = [
                replace(group, history=History(scalars=dict(memory)))
                for group, memory in zip(self._groups, memories, strict=True)
            ]
            found.append(rows_after(number, groups))
            taken.append(
                [memory | dict(row.memory) for memory, row in zip(memories, found[-1], strict=True)]
            )
        if self._memories[1:] != taken[:-1]:
            return None
        self._next = [self._memories[0], *taken]
        return found

    @property
    def is_judged(self) -> bool:
        """Whether the call whose candidates were made last was given to the device to judge."""
        return not self._next

    def judge(self, notes: Iterable[Call]) -> None:
        after = {"_memories": self._next, "_next": []}
        self._verdicts.judge([*notes, partial(self.__dict__.update, after)])

    def hear(self, most: int) -> bool | None:
        return self._verdicts.next(most)

    def noting(self, taken: bool) -> list[Call]:
        memories = self._memories[1:] if taken else self._memories[:-1]
        return [
            *self._verdicts.forgetting(taken),
            partial(self.__dict__.update, {"_memories": memories}),
            *(
                partial(group.memory.update, memory)
                for group, memory in zip(self._groups, memories[0], strict=True)
            ),
        ]

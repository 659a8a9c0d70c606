"""Steps that a device decides on while the host goes on: whether a guard turned them away.

A rule may require something of all gradients (`xp.require`); the step is taken only if it holds.
Where the sums that tell are on a device, waiting for them would leave it without work. So the
host does not ask: it lets the device skip the writing, and prepares the next step for every
number of steps that may have been taken by then. What the device decided is heard later.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from instep.interrupts import Call

if TYPE_CHECKING:
    from instep.engines.base import Verdicts
    from instep.graph.program import Row, Source

Memory = dict[str, float]


class Undecided:
    """The calls of `update` that a device has not told of yet.

    Parameters
    ----------
    verdicts
        What the device decides.
    sources
        What decides the rows of a step. Their memories are brought up to date when the device
        tells of a step that was taken.
    """

    def __init__(self, verdicts: "Verdicts", sources: Sequence["Source"]) -> None:
        self._verdicts = verdicts
        self._sources = sources
        # What every source remembers, for every number of these calls that may have been taken.
        self._memories: list[list[Memory]] = [[dict(source.memory) for source in sources]]
        self._next: list[list[Memory]] = []

    def candidates(
        self, rows: Callable[[int, Sequence["Source"]], list["Row"]]
    ) -> list[list["Row"]] | None:
        """Return the rows of the next call, for every number of these calls that may be taken.

        `rows` makes the rows of the step that comes so many steps after the last that is known.
        None: what is remembered depends on which of the calls were taken, not on how many alone
        (a hyperparameter that it is made of was changed in between). Then they must be settled.
        """
        found, taken = [], []
        for number, memories in enumerate(self._memories):
            sources = [
                replace(source, memory=dict(memory))
                for source, memory in zip(self._sources, memories, strict=True)
            ]
            found.append(rows(number, sources))
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
        """Let the device judge the call whose candidates were made last, and at once take notes."""
        after = {"_memories": self._next, "_next": []}
        self._verdicts.judge([*notes, partial(self.__dict__.update, after)])

    def hear(self, most: int) -> bool | None:
        """Return whether the oldest call was taken, or None if that is not known yet.

        Waits if more than `most` are undecided. `noting` goes on to the next.
        """
        return self._verdicts.next(most)

    def noting(self, taken: bool) -> list[Call]:
        """Return the calls, functions in C, that take note of what was heard of the oldest call."""
        memories = self._memories[1:] if taken else self._memories[:-1]
        return [
            *self._verdicts.forgetting(taken),
            partial(self.__dict__.update, {"_memories": memories}),
            *(
                partial(source.memory.update, memory)
                for source, memory in zip(self._sources, memories[0], strict=True)
            ),
        ]

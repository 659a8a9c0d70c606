"""What the leaves of a plan have been through: shared within a group, and seen by other plans."""

from collections.abc import Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from instep.graph.rows import Group, Row
from instep.interrupts import Call
from instep.plan.assignment import Assignment
from instep.plan.leaves import Leaf
from instep.state import History, LeafState, State

_history = attrgetter("history")


class Records:
    """The states of the leaves of a plan, in groups that share a history.

    The groups of another plan may be others. So a plan that comes back looks at what has become of
    its leaves: each has the state that it had, or all is made anew; but it may have taken steps.

    Attributes
    ----------
    states
        By the keys of the leaves.
    numbers
        Those that rules remember of the tree.
    lasting
        Those of them that a step leaves which is turned away, too.
    are_kept
        Whether the optimizer has them: not before a step is taken.
    have_moved
        Whether some are others than those of plans before: their slots had to be made anew.
    """

    def __init__(
        self,
        leaves: Sequence[Leaf],
        states: Mapping[int, LeafState],
        numbers: Mapping[str, Any],
        given: Assignment,
        state: State,
    ) -> None:
        self.states = {leaves[i].key: leaf for i, leaf in states.items()}
        self._values = list(states.values())
        self.numbers = numbers
        lasting = frozenset[str]().union(*(program.lasting for program in given.programs))
        self.lasting = {name: x for name, x in numbers.items() if name in lasting}
        self.are_kept = False
        self.have_moved = any(
            known.get(key, value) is not value
            for known, values in ((state.leaves, self.states), (state.numbers, numbers))
            for key, value in values.items()
        )
        self._groups = [(group, list[LeafState]()) for group in given.groups]
        for i, leaf in states.items():
            self._groups[given.group_of[i]][1].append(leaf)

    def resume(self, state: State) -> bool:
        """Go on from where other plans have left the leaves; False: they are no groups any more.

        What a leaf has been through is the same afterwards, only shared by others. So the plan of
        the last step, too, is to look at its leaves before it takes another.
        """
        if state.plan is not None:
            state.plan.settle(state)
        if [*map(state.leaves.get, self.states)] != self._values:
            return False
        numbers = self.numbers
        if numbers and any(state.numbers.get(name) is not x for name, x in numbers.items()):
            return False
        found = []
        for group, leaves in self._groups:
            first, history = leaves[0].history, group.history
            is_one = True
            if len(leaves) > 1:
                own = [*map(_history, leaves)]
                if own.count(first) != len(own):
                    return False
                is_one = len({*map(id, own)}) == 1
            if first is not history and first.scalars.keys() != history.scalars.keys():
                return False
            if not is_one or (first is not history and first.leaves != len(leaves)):
                first = History(first.taken, dict(first.scalars))
            found.append((group, leaves, first, is_one))
        state.plan = None
        for group, leaves, history, is_one in found:
            if history is not group.history:
                group.history = history
                if not (is_one and leaves[0].history is history):
                    self._share(group, leaves)
            group.missed = history.missed = state.t - history.taken
        return True

    def begin(self) -> None:
        """Share what a new plan has found."""
        for group, leaves in self._groups:
            self._share(group, leaves)

    def taken(self, state: State, rows: Sequence[Row] = ()) -> list[Call]:
        """Return the calls that take note of a step: functions in C, which may be called again.

        With these rows, where it is not known yet what they remember.
        """
        notes: list[Call] = []
        if not self.are_kept:
            notes.append(partial(state.leaves.update, self.states))
            notes.append(partial(state.numbers.update, self.numbers))
            notes.append(partial(self.__dict__.update, are_kept=True))
        groups = [group for group, _ in self._groups]
        notes.extend(
            partial(group.history.__dict__.update, taken=state.t + 1 - group.missed)
            for group in groups
        )
        for group, row in zip(groups, rows, strict=False):
            if row.memory:
                notes.append(partial(group.memory.update, row.memory))
        return notes

    def turned_away(self, state: State) -> list[Call]:
        """Return the calls that take note of one that is turned away.

        Of what is new, numbers that last are kept. Other state may start from what the user changes
        until the first step that is taken.
        """
        new = {} if self.are_kept else self.lasting
        skipped = partial(state.__dict__.update, {"skipped": state.skipped + 1})
        return [partial(state.numbers.update, new), skipped]

    def _share(self, group: Group, leaves: Sequence[LeafState]) -> None:
        group.history.leaves, group.history.missed = len(leaves), group.missed
        for leaf in leaves:
            leaf.history = group.history

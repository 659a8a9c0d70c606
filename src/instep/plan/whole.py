"""When a step is like the last in everything but its number, and gradients: one call takes it."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from instep.engines.whole import ROWS, STEP, Attribute, Like, Numbers, Unkept, Whole, own
from instep.graph.rows import Group
from instep.interrupts import require_frames
from instep.plan.settings import Settings
from instep.plan.trees import Trees
from instep.plan.way import Way
from instep.rule import edition
from instep.state import Owner
from instep.turns import lock_of

if hasattr(os, "register_at_fork"):
    # Python is to start the threads again that a forked process has not.
    os.register_at_fork(after_in_child=edition.ends)

#: So many steps in a row are alike before the next may be whole. The first that is takes 10 ms, for
#: the code is compiled, and each then saves 3 us.
PATIENCE = 16

#: Calls within each other that compiling the code takes, and more.
_FRAMES = 100

#: Takes a step, given an optimizer and both trees, or returns False.
Step = Callable[[Any, Any, Any], bool]


class WholeSteps:
    """The whole steps of a plan, whose settings say the same of all leaves.

    Parameters
    ----------
    settings
        Those that the plan was made for.
    trees
        What reads parameters and gradients.
    """

    def __init__(self, owner: Owner, settings: Settings, trees: Trees) -> None:
        asked = None if settings.is_fixed else settings.are_current
        objects = lock_of(owner), "_state", "t", owner.overrides, asked, trees.params, trees.grads
        self._like = partial(Like, *objects)
        self._way: Way | None = None
        self._whole: Whole | None = None
        self._before: tuple[object, ...] = ()
        self._alike = 0

    @classmethod
    def of(cls, owner: Owner, settings: Settings, trees: Trees) -> "WholeSteps | None":
        """Return those of a plan, if there may be any: overrides may change unheard of."""
        are_settled = type(owner.overrides) is dict and not owner.overrides
        if not (are_settled and trees.are_seen) or lock_of(owner) is None:
            return None
        return cls(owner, settings, trees)

    def follow(self, way: Way) -> bool:
        """Take note of a step that was no whole one; return whether the next is to be one."""
        before, self._before = self._before, (way, edition.present)
        self._alike = self._alike + 1 if before == self._before else 0
        patience = PATIENCE if self._way is None else min(PATIENCE, 4)  # there is code already
        return self._alike >= patience and way.joined.whole is not None

    def next(
        self,
        way: Way,
        read: tuple[int, object],
        plan: Any,
        rows: Sequence[Numbers],
        groups: Sequence[Group],
        noted: object,
    ) -> Step:
        """Return what may take the next step, if it is like the one that this way has taken.

        `read` are the changes of the state, and the edition of hyperparameters, that the plan and
        the rows were made of: a handler, or another thread, may set something in the midst of this.
        """
        changes, present = read
        self._alike = 0  # after an exception it is some steps before this is tried again
        if way is not self._way or self._whole is None:
            require_frames(_FRAMES)  # for `ctypes` makes another error of it
            assert way.joined.whole is not None
            self._way, self._whole = way, way.joined.whole(like=self._like(way.fits))
        checks = [
            Attribute(None, "plan", Unkept(id(plan))),
            Attribute(None, "changes", changes),
            Attribute(edition, "present", present),
        ]
        notes = [
            *(Attribute(group.history, "taken", own(i)) for i, group in enumerate(groups)),
            Attribute(None, "t", STEP),
            Attribute(None, "last", noted),
            Attribute(noted, "rows", ROWS),
        ]
        self._whole.renew(checks, rows, notes)
        self._alike = PATIENCE
        return self._whole.step

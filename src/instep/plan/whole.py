"""When a step is like the last in everything but its number, and gradients: one call takes it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from instep.engines.whole import ROWS, STEP, Attribute, Like, Numbers, Unkept, Whole, own
from instep.graph.rows import Group
from instep.rule import edition
from instep.state import Owner, State
from instep.tree import LeafReader
from instep.turns import lock_of

if TYPE_CHECKING:
    from instep.plan.repetition import Way

#: Takes a step, given an optimizer and both trees, or returns False.
Step = Callable[[Any, Any, Any], bool]


class WholeSteps:
    """The whole steps of a plan, whose settings say the same of all leaves, and do not change.

    Parameters
    ----------
    params, grads
        What reads the trees.
    """

    def __init__(self, owner: Owner, params: LeafReader, grads: LeafReader) -> None:
        self._like = partial(Like, lock_of(owner), "_state", "t", owner.overrides, params, grads)
        self._way: Way | None = None
        self._whole: Whole | None = None
        self._before: tuple[object, ...] = ()

    @staticmethod
    def suit(owner: Owner) -> bool:
        """Return whether an optimizer may take any: overrides may change unheard of."""
        return type(owner.overrides) is dict and not owner.overrides

    def after(
        self,
        way: "Way",
        state: State,
        plan: Any,
        rows: Sequence[Numbers] | None,
        groups: Sequence[Group],
        noted: object,
    ) -> Step | None:
        """Return what may take the next step, where two in a row were alike in their settings."""
        before, self._before = self._before, (way, edition.present)
        if rows is None or before != self._before or way.joined.whole is None:
            return None
        if way is not self._way or self._whole is None:
            self._way, self._whole = way, way.joined.whole(like=self._like(way.fits))
        checks = [
            Attribute(None, "plan", Unkept(id(plan))),
            Attribute(None, "changes", state.changes),
            Attribute(edition, "present", edition.present),
        ]
        notes = [
            *(Attribute(group.history, "taken", own(i)) for i, group in enumerate(groups)),
            Attribute(None, "t", STEP),
            Attribute(None, "last", noted),
            Attribute(noted, "rows", ROWS),
        ]
        self._whole.renew(checks, rows, notes)
        return self._whole.step

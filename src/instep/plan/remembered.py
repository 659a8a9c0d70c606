"""Plans that are remembered, for the steps of one optimizer may be on several trees in turn.

Some users step on a network leaf by leaf, some on a part of it now and then, some leave gradients
out. A plan takes a millisecond to make; one that is remembered is found in microseconds.
"""

from collections.abc import Hashable, Sequence
from typing import Any

from instep.state import State

#: Plans that are remembered for trees that look alike at first sight, and kinds of such trees.
#: Those that were used least recently go. A plan holds tables, 23 KiB for a small leaf, and a few
#: blocks of 64 Ki elements where arrays are no lines in memory; the state is not its own.
MOST_ALIKE, MOST_KINDS = 4, 128


def look(params: Any, grads: Any) -> Hashable:
    """Return what is seen of two trees at first sight: the same wherever one plan serves."""
    if isinstance(params, dict) and isinstance(grads, dict):
        return frozenset(params), frozenset([key for key, g in grads.items() if g is None])
    if isinstance(params, list | tuple) and isinstance(grads, list | tuple):
        return len(params), tuple([i for i, g in enumerate(grads) if g is None])
    return None


def alike(state: State, params: Any, grads: Any) -> Sequence[Any]:
    """Return the plans that may be for these trees, the one that was used last first."""
    plans, last = state.plans, state.plan
    if len(plans) > 1:
        found: Sequence[Any] = plans.get(look(params, grads), ())
    else:
        found = next(iter(plans.values()), ())
    is_remembered = last is None or not last.is_heavy
    return found if is_remembered else (last, *found)


def remember(state: State, plan: Any, *, alone: bool = False) -> None:
    """Keep a plan that is used, and no other if it is to be alone.

    Arrays between passes are as large as the parameters: a plan that has some is not kept beside
    others. What the handler of a signal cuts off here is forgotten, which only costs time.
    """
    plans, kind = state.plans, plan.look
    if alone:
        plans.clear()
    if not plan.is_heavy:
        known = plans.pop(kind, ())
        if known[:1] != [plan]:
            others = [other for other in known if other is not plan]
            known = [plan, *others[: MOST_ALIKE - 1]]
        plans[kind] = known
        if len(plans) > MOST_KINDS:
            del plans[next(iter(plans))]

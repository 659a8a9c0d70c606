"""Whether a step meets the parameters whose state was loaded: under another name they begin anew.

Both some that were loaded and were not met, and some of which the state knows nothing, tell of
other names. Either alone does not: some step on a part of the tree, some on one leaf after the
other, and trees grow. So the names are looked at for one round, until some parameter has taken
its second step since the load.
"""

from collections.abc import Sequence

from instep.plan.leaves import Leaf
from instep.state import State


def check_names(call: str, state: State, leaves: Sequence[Leaf], active: Sequence[Leaf]) -> None:
    """Raise if the leaves of a tree have other names than those that were loaded.

    `active` are those that are to be stepped; a parameter without a gradient is met.
    """
    if not state.loaded:
        return
    new = [leaf.key for leaf in active if leaf.key not in state.leaves]
    if not new:  # as at every step of those who step leaf by leaf: it takes no look at all leaves
        return
    if _is_second(state, active):
        state.loaded = {}
        return
    met = {leaf.key for leaf in leaves}
    unmet = [key for key in state.loaded if key not in met and not _steps(state, key)]
    if unmet:
        raise ValueError(
            f"{call}: the state that was loaded is of {_listed(unmet)}, which this tree has not, "
            f"and knows nothing of {_listed(new)}, which it has; give the names of then, step on "
            f"those first, or load with strict=False if these are to begin anew"
        )


def _is_second(state: State, active: Sequence[Leaf]) -> bool:
    """Return whether some parameter has taken a second step since the load, or is to take it."""
    steps = {key: _steps(state, key) for key in state.leaves}
    return any(count > 1 for count in steps.values()) or any(steps.get(x.key) for x in active)


def _steps(state: State, key: str) -> int:
    """Return how many steps a parameter has taken since the load."""
    leaf = state.leaves.get(key)
    return 0 if leaf is None else leaf.history.taken - state.loaded.get(key, 0)


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys[:10])) + (", ..." if keys[10:] else "")

"""Means of parameters along the path, computed from the state of a rule by the engines.

CuPy's own functions flush subnormal numbers; what the engines compute has the same bits everywhere.
"""

from collections.abc import Mapping
from typing import Any

from instep import arrays, tree
from instep.numerics import STATE_DTYPE
from instep.optimizer import LeafState, Optimizer
from instep.plan import validation


def evaluate(call: str, mean: Optimizer, params: Any, states: Mapping[str, LeafState]) -> Any:
    """Return a tree of new arrays like `params`, which the rule of `mean` makes.

    Parameters
    ----------
    call
        Who asks, for messages.
    mean
        An optimizer that has not taken a step. Its rule returns the mean as the new parameter.
    params
        The tree of parameters, which are not changed. Leaves without a state are copied.
    states
        The states of leaves, by their keys.

    Raises
    ------
    TypeError, ValueError
        If a leaf with a state is no array that can be read, or has another shape than its state.
    """
    tree.check_nesting(call, "params", params)
    leaves = {tree.join_path(path): (path, w) for path, w in tree.flatten(params)}
    known = {key: state for key, state in states.items() if key in leaves}
    new: dict[str, Any] = {}
    grads: dict[str, Any] = {}
    for key, state in known.items():
        path, w = leaves[key]
        validation.check_array(call, path, w)
        _check_shapes(call, path, w, state)
        like = _like(w, state)
        new[key] = arrays.converted(w, like)
        # No rule of a mean reads its gradient, which has to be of the same kind, that is all.
        plain = like is w and not getattr(w, "requires_grad", False)
        grads[key] = w if plain else arrays.converted(w, like)
    mean.__dict__["_states"] = known
    new = mean.update(new, grads)

    def result(path: tree.Path, w: Any) -> Any:
        value = new.get(tree.join_path(path), w)
        if arrays.library(w) is None or (value is not w and value.dtype == w.dtype):
            return value
        return arrays.converted(value, w)

    return tree.mapped(result, params)


def _check_shapes(call: str, path: tree.Path, w: Any, state: LeafState) -> None:
    for slot in state.slots.values():
        if tuple(slot.shape) != tuple(w.shape):
            raise ValueError(
                f"{call}: {tree.format_path('params', path)} is {arrays.describe(w)}, but its "
                f"average has shape {tuple(slot.shape)}"
            )


def _like(w: Any, state: LeafState) -> Any:
    """Return an array of the dtype in which a mean is computed: that of `w`, if its state fits."""
    dtypes = {arrays.dtype_name(slot) for slot in state.slots.values()}
    if dtypes <= {STATE_DTYPE.get(arrays.dtype_name(w))}:
        return w
    xp = arrays.namespace(w)
    return xp.empty((), dtype=getattr(xp, dtypes.pop()), device=arrays.namespace_device(w))

"""Trees of optax: named tuples in chains and wrappers, and trees of arrays in these."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from instep.bridges.optax_rows import COUNTERS, HOLDERS
from instep.hyperparameters import described
from instep.tree import join_path


def _name(state: Any) -> str:
    return type(state).__name__ if hasattr(state, "_fields") else ""


def states(call: str, tree: Any) -> Iterator[Any]:
    """Return the named tuples in a state of optax that keep something, or raise."""
    name = _name(tree)
    if not name:
        if not isinstance(tree, tuple | list | Mapping):
            raise TypeError(
                f"{call}: state must be what init of an optimizer of optax has returned, a tuple, "
                f"got {described(tree)}"
            )
        for entry in tree.values() if isinstance(tree, Mapping) else tree:
            yield from states(call, entry)
        return
    if tree:
        yield tree
    for held in HOLDERS.get(name, ()):
        yield from states(call, getattr(tree, held))


def replaced(tree: Any, change: Callable[[str, Any], Any]) -> Any:
    """Return a state of optax with other fields: ``change("ScaleByAdamState.mu", old)``."""
    name = _name(tree)
    if not name:
        if isinstance(tree, Mapping):
            made: Any = type(tree)
            return made({key: replaced(entry, change) for key, entry in tree.items()})
        return type(tree)(replaced(entry, change) for entry in tree)
    held = HOLDERS.get(name, ())
    new = {
        one: replaced(old, change) if one in held else change(f"{name}.{one}", old)
        for one, old in zip(tree._fields, tree, strict=True)
    }
    return tree._replace(**new)


def contents(state: Any) -> dict[str, Any]:
    """Return the fields of a named tuple that are no other states, and no counts of steps alone."""
    name = _name(state)
    left_out = (*HOLDERS.get(name, ()), COUNTERS.get(name, ""), "hyperparams")
    fields = zip(state._fields, state, strict=True)
    return {f"{name}.{one}": x for one, x in fields if one not in left_out}


def counters(state: Any) -> dict[str, Any]:
    """Return the fields of a named tuple that count the steps of schedules."""
    name = _name(state)
    one = COUNTERS.get(name)
    return {} if one is None else {f"{name}.{one}": getattr(state, one)}


def injected(state: Any) -> dict[str, Any]:
    """Return the hyperparameters that a named tuple keeps, by their names in optax."""
    found: dict[str, Any] = dict(getattr(state, "hyperparams", {}) or {})
    return found


def is_counter(field: str) -> bool:
    """Return whether a field counts the steps of schedules."""
    name, _, one = field.partition(".")
    return COUNTERS.get(name) == one


def leaves(call: str, tree: Any) -> dict[str, Any]:
    """Return the arrays of a tree of JAX, by the keys that instep has for them."""
    import jax

    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        found[_key(call, tree, path)] = leaf
    return found


def filled(call: str, tree: Any, new: Callable[[str, Any], Any]) -> Any:
    """Return a tree of JAX with other arrays: ``new(key, old)``."""
    import jax

    change: Any = lambda path, old: new(_key(call, tree, path), old)  # noqa: E731
    return jax.tree_util.tree_map_with_path(change, tree)


def _key(call: str, tree: Any, path: Any) -> str:
    """Return the key of a leaf in instep, where named tuples have numbers as all tuples have."""
    keys = []
    for entry in path:
        if hasattr(entry, "idx"):
            key = entry.idx
        elif hasattr(entry, "name") and hasattr(tree, "_fields"):
            key = tree._fields.index(entry.name)
        elif hasattr(entry, "key") and isinstance(tree, Mapping):
            key = entry.key
        else:
            raise TypeError(
                f"{call}: state is of parameters in a {type(tree).__name__}, which is no tree of "
                f"instep; make it of dicts, lists and tuples of arrays"
            )
        tree = tree[key]
        keys.append(key)
    return join_path(tuple(keys))


def like(old: Any, new: Any) -> Any:
    """Return an array of JAX like another, of its dtype and at its place."""
    import jax

    if not hasattr(old, "dtype"):
        return type(old)(new)
    made = np.asarray(new, old.dtype)
    if getattr(old, "committed", False):
        return jax.device_put(made, old.sharding)
    return jax.numpy.asarray(made)

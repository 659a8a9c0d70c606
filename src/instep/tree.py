"""Trees of arrays: dicts, lists and tuples, nested or not, or a single array.

The leaves of a tree are ordered by their paths, dict keys in sorted order, so that neither the
result of a step nor the order of a sum depends on the order in which keys were inserted.
"""

from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

Path = tuple[Any, ...]

#: Levels of containers in a tree. Each takes two frames of Python's stack of a thousand.
MOST_LEVELS = 100


def format_path(root: str, path: Path) -> str:
    """Return a path as Python would write it: ``params['encoder'][0]``."""
    return root + "".join(f"[{key!r}]" for key in path)


def join_path(path: Path) -> str:
    """Return a path as one string, ``encoder/0``: the key of the state, and what patterns match."""
    return "/".join(str(key) for key in path)


def is_leaf(tree: Any) -> bool:
    """Return whether `tree` is no container."""
    return not isinstance(tree, dict | list | tuple)


def children(tree: Any) -> list[tuple[Any, Any]]:
    """Return the (key, subtree) pairs of a container, in the order of trees."""
    if isinstance(tree, dict):
        try:
            return sorted(tree.items(), key=itemgetter(0))
        except TypeError:  # keys of several types
            return sorted(tree.items(), key=lambda item: (type(item[0]).__name__, repr(item[0])))
    return list(enumerate(tree))


def check_nesting(call: str, root: str, tree: Any) -> None:
    """Raise ValueError if a tree contains itself, or if its branches are too deep to follow.

    Everything else here follows branches by recursion.
    """
    waiting: list[tuple[Path, Any, tuple[int, ...]]] = [((), tree, ())]
    while waiting:
        path, subtree, above = waiting.pop()
        if is_leaf(subtree):
            continue
        if id(subtree) in above:
            whole = format_path(root, path[: above.index(id(subtree))])
            raise ValueError(
                f"{call}: {format_path(root, path)} is {whole} itself, so the tree has no end; "
                f"give a tree of arrays"
            )
        if len(above) == MOST_LEVELS:
            raise ValueError(
                f"{call}: {format_path(root, path[:3])}... has more than {MOST_LEVELS} levels; "
                f"give a flatter tree, such as one dict"
            )
        above = (*above, id(subtree))
        waiting += [((*path, key), child, above) for key, child in children(subtree)]


def flatten(tree: Any) -> list[tuple[Path, Any]]:
    """Return (path, leaf) for every leaf of `tree`, in the order of trees."""
    found: list[tuple[Path, Any]] = []
    _collect(found, (), tree)
    return found


# A function that is defined within another and calls itself is garbage that waits for the
# collector, with all that it refers to: leaves would wait with it.


def _collect(found: list[tuple[Path, Any]], path: Path, tree: Any) -> None:
    if is_leaf(tree):
        found.append((path, tree))
    else:
        for key, child in children(tree):
            _collect(found, (*path, key), child)


def rebuild(tree: Any, replacements: Sequence[Any]) -> Any:
    """Return `tree` with its leaves replaced in order; dicts and lists are changed in place."""
    return _rebuilt(tree, iter(replacements))


def _rebuilt(tree: Any, values: Iterator[Any]) -> Any:
    if is_leaf(tree):
        return next(values)
    replaced = [(key, _rebuilt(child, values)) for key, child in children(tree)]
    if isinstance(tree, tuple):
        return _tuple_like(tree, [value for _, value in replaced])
    for key, value in replaced:
        if tree[key] is not value:
            tree[key] = value
    return tree


def mapped(function: Callable[[Path, Any], Any], tree: Any, path: Path = ()) -> Any:
    """Return a new tree of ``function(path, leaf)``."""
    if is_leaf(tree):
        return function(path, tree)
    new = {key: mapped(function, child, (*path, key)) for key, child in children(tree)}
    if isinstance(tree, dict):
        return {key: new[key] for key in tree}
    values = list(new.values())
    return _tuple_like(tree, values) if isinstance(tree, tuple) else values


def _tuple_like(original: tuple[Any, ...], values: list[Any]) -> Any:
    """Return a tuple of the type of `original`, a named one too."""
    make = getattr(original, "_make", tuple)
    return make(values)


class LeafReader:
    """Reads the leaves of trees that have the structure of the tree it was made from.

    A flat dict, the common case, is read by one call into C. `read` returns None where the
    structure differs; then the slow path finds out what is wrong.

    Parameters
    ----------
    tree
        The tree whose structure is read from then on.
    unseen
        Positions of leaves that nothing else looks at. In place of any other leaf, a branch is
        met by whoever wants its array.
    """

    def __init__(self, tree: Any, unseen: Sequence[int] = ()) -> None:
        self._count = len(tree) if isinstance(tree, dict) else 0
        self._keys: list[Any] = []
        self._read_nested: Callable[[Any], list[Any]] | None = None
        self._get: Callable[[Any], Any] | None = None
        if isinstance(tree, dict) and tree and all(is_leaf(child) for child in tree.values()):
            self._keys = [key for key, _ in children(tree)]
            get = itemgetter(*self._keys)
            self._get = get if len(self._keys) > 1 else (lambda mapping: (get(mapping),))
            if unseen:
                self._get = _watching(self._get, tuple(unseen))
        else:
            self._read_nested = _nested_reader(tree)

    def read(self, tree: Any) -> Sequence[Any] | None:
        """Return the leaves of `tree`, or None where its structure differs."""
        if self._get is not None:
            if type(tree) is not dict and not _has_keys(tree, self._keys):
                return None
            if len(tree) != self._count:
                return None
            try:
                leaves: Sequence[Any] = self._get(tree)
            except (KeyError, _StructureError):
                return None
            return leaves
        assert self._read_nested is not None
        try:
            return self._read_nested(tree)
        except (KeyError, _StructureError):
            return None


class _StructureError(Exception):
    """A tree has not the structure that a reader was made for."""


def _watching(
    get: Callable[[Any], tuple[Any, ...]], unseen: tuple[int, ...]
) -> Callable[[Any], tuple[Any, ...]]:
    """Return what gets leaves, and raises where one of the unseen is a branch."""

    def watch(mapping: Any) -> tuple[Any, ...]:
        leaves = get(mapping)
        if not all(is_leaf(leaves[i]) for i in unseen):
            raise _StructureError
        return leaves

    return watch


def _has_keys(tree: Any, keys: Sequence[Any]) -> bool:
    """Return whether a dict of any class has the keys: asked, for reading could create them."""
    return isinstance(tree, dict) and all(key in tree for key in keys)


def _nested_reader(tree: Any) -> Callable[[Any], list[Any]]:
    if is_leaf(tree):

        def read_leaf(other: Any) -> list[Any]:
            if not is_leaf(other):
                raise _StructureError
            return [other]

        return read_leaf

    kind = next(kind for kind in (dict, list, tuple) if isinstance(tree, kind))
    count = len(tree)
    readers = [(key, _nested_reader(child)) for key, child in children(tree)]
    keys = [key for key, _ in readers]

    def read(other: Any) -> list[Any]:
        if not isinstance(other, kind) or len(other) != count:
            raise _StructureError
        if kind is dict and type(other) is not dict and not _has_keys(other, keys):
            raise _StructureError
        leaves: list[Any] = []
        for key, reader in readers:
            leaves += reader(other[key])
        return leaves

    return read

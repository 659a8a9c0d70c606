"""Trees of arrays: mappings and sequences, nested or not, or a single array.

The leaves of a tree are ordered by their paths, keys of mappings in sorted order, so that neither
the result of a step nor the order of a sum depends on the order in which keys were inserted.
"""

import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, ValuesView
from functools import lru_cache
from operator import itemgetter
from typing import Any, TypeVar

Path = tuple[Any, ...]

#: What a call is given and returns, whatever it is.
Tree = TypeVar("Tree")

#: Levels of containers in a tree. Each takes two frames of Python's stack of a thousand.
MOST_LEVELS = 100

#: Sequences that hold no arrays.
_NO_CONTAINERS = (str, bytes, bytearray, memoryview, range, array.array)


def format_path(root: str, path: Path) -> str:
    """Return a path as Python would write it: ``params['encoder'][0]``."""
    return root + "".join(f"[{key!r}]" for key in path)


def join_path(path: Path) -> str:
    """Return a path as one string, ``encoder/0``: the key of the state, and what patterns match."""
    return "/".join(str(key) for key in path)


@lru_cache(maxsize=256)  # an instance of an abstract class takes ten times as long to recognize
def _is_container(kind: Any) -> bool:
    is_one = issubclass(kind, Mapping | Sequence | ValuesView)
    return is_one and not issubclass(kind, _NO_CONTAINERS)


def is_leaf(tree: Any) -> bool:
    """Return whether `tree` is no container: neither a mapping nor a sequence."""
    kind: Any = type(tree)
    return not _is_container(kind)


def is_mapping(tree: Any) -> bool:
    """Return whether a container has keys, and not numbers alone."""
    return isinstance(tree, dict | Mapping)


def is_writable(container: Any, key: Any, child: Any) -> bool:
    """Return whether entries of a container can be replaced, such as this one: it is set again.

    Some classes have a method for it that always raises.
    """
    if type(container) in (dict, list):
        return True
    try:
        container[key] = child
    except Exception:  # noqa: BLE001  (of a class of the user's)
        return False
    return True


def children(tree: Any) -> list[tuple[Any, Any]]:
    """Return the (key, subtree) pairs of a container, in the order of trees."""
    if is_mapping(tree):
        try:
            return sorted(tree.items(), key=itemgetter(0))
        except TypeError:  # keys of several types
            return sorted(tree.items(), key=lambda item: (type(item[0]).__name__, repr(item[0])))
    return list(enumerate(tree))


def entry(container: Any, key: Any) -> Any:
    """Return what a container holds at a key, or at a number."""
    is_view = not hasattr(type(container), "__getitem__")
    return (list(container) if is_view else container)[key]


def remedy(x: Any) -> str:
    """Say what to give in the place of an object that is neither an array nor a container."""
    if isinstance(x, set | frozenset):
        return "a set has no order; give a dict, list or tuple of arrays"
    if isinstance(x, Iterator):
        return "it can be walked only once; give a dict, list or tuple of arrays"
    if hasattr(x, "__dict__") or hasattr(x, "__dataclass_fields__"):
        return "give a dict, list or tuple of its arrays"
    return "give an array of floats, or a dict, list or tuple of arrays"


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
        entries = children(subtree)
        if [id(child) for _, child in entries] != [id(child) for _, child in children(subtree)]:
            raise TypeError(
                f"{call}: {format_path(root, path)} is a {type(subtree).__name__}, which makes its "
                f"entries anew whenever it is read, so a step could not write them; give a dict, "
                f"list or tuple of arrays"
            )
        waiting += [((*path, key), child, above) for key, child in entries]


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


def check_replaceable(call: str, root: str, tree: Any, paths: Collection[Path]) -> None:
    """Raise TypeError if the leaves at `paths` could not be replaced by `rebuild`."""
    if paths:
        _check_replaceable(call, root, (), tree, frozenset(paths))


def _check_replaceable(
    call: str, root: str, path: Path, tree: Any, paths: Collection[Path]
) -> bool:
    """Return whether another object takes the place of a branch, or raise."""
    if is_leaf(tree):
        return path in paths
    entries = children(tree)
    replaced = [
        _check_replaceable(call, root, (*path, key), child, paths) for key, child in entries
    ]
    if not any(replaced) or is_writable(tree, *entries[0]):
        return False
    if not _can_be_made(tree, entries):
        raise TypeError(
            f"{call}: {format_path(root, path)} is a {type(tree).__name__}, which cannot be "
            f"written, and no other can be made of its entries, some of which a step replaces; "
            f"give a dict, list or tuple"
        )
    return True


def _can_be_made(tree: Any, entries: list[tuple[Any, Any]]) -> bool:
    if isinstance(tree, tuple):
        return True
    try:
        made = children(_like(tree, entries))
    except Exception:  # noqa: BLE001  (of a class of the user's)
        return False
    return [id(child) for _, child in made] == [id(child) for _, child in entries]


def rebuild(tree: Any, replacements: Sequence[Any]) -> Any:
    """Return `tree` with its leaves replaced in order.

    Containers that can be written are changed in place; others are made anew, of the same type.
    """
    return _rebuilt(tree, iter(replacements))


def _rebuilt(tree: Any, values: Iterator[Any]) -> Any:
    if is_leaf(tree):
        return next(values)
    old = children(tree)
    new = [(key, _rebuilt(child, values)) for key, child in old]
    changed = [pair for pair, (_, child) in zip(new, old, strict=True) if pair[1] is not child]
    if changed and not is_writable(tree, *old[0]):
        return _like(tree, new)
    for key, value in changed:
        tree[key] = value
    return tree


def _like(tree: Any, entries: list[tuple[Any, Any]]) -> Any:
    """Return a container of the type of `tree` that holds other entries; a named tuple, too."""
    if is_mapping(tree):
        new = dict(entries)
        return type(tree)({key: new[key] for key in tree})
    make = getattr(tree, "_make", tuple if isinstance(tree, tuple) else type(tree))
    return make([value for _, value in entries])


def mapped(function: Callable[[Path, Any], Any], tree: Any, path: Path = ()) -> Any:
    """Return a new tree of ``function(path, leaf)``, of dicts, lists, and tuples of any type."""
    if is_leaf(tree):
        return function(path, tree)
    new = [(key, mapped(function, child, (*path, key))) for key, child in children(tree)]
    if isinstance(tree, tuple):
        return _like(tree, new)
    if is_mapping(tree):
        values = dict(new)
        return {key: values[key] for key in tree}
    return [value for _, value in new]


#: A function from a tree to its leaves, or None where its structure is another one.
Reading = Callable[[Any], tuple[Any, ...] | None]


class LeafReader:
    """Reads the leaves of trees that have the structure of the tree it was made from.

    Parameters
    ----------
    tree
        The tree whose structure is read from then on.
    unseen
        Positions of leaves that nothing else looks at. In place of any other leaf, a branch is
        met by whoever wants its array.

    Attributes
    ----------
    read
        The function that returns the leaves of a tree, or None where its structure differs; then
        the slow path finds out what is wrong.
    kind, keys
        The type of a container without branches, and what its leaves are called, in their order.
        The type is None where a leaf is the whole tree, and `object` where there are branches.
    """

    def __init__(self, tree: Any, unseen: Sequence[int] = ()) -> None:
        read = _reader(tree)
        entries = [] if is_leaf(tree) else children(tree)
        self.kind = None if is_leaf(tree) else type(tree)
        self.keys = [key for key, _ in entries]
        if not all(is_leaf(child) for _, child in entries):
            self.kind = object
        self.read: Reading = _watching(read, unseen) if unseen else read


def _watching(read: Reading, unseen: Sequence[int]) -> Reading:
    """Return what reads leaves, but None where one of the unseen is a branch."""

    def watch(tree: Any) -> tuple[Any, ...] | None:
        leaves = read(tree)
        if leaves is None:
            return None
        for i in unseen:  # without a generator, which takes longer than the rest
            if not is_leaf(leaves[i]):
                return None
        return leaves

    return watch


def _reader(tree: Any) -> Reading:
    if is_leaf(tree):
        return lambda leaf: (leaf,)
    keys = [key for key, _ in children(tree)]
    branches = [None if is_leaf(child) else _reader(child) for _, child in children(tree)]
    read_entries = _entry_reader(tree, keys)

    def read(other: Any) -> tuple[Any, ...] | None:
        entries = read_entries(other)
        if entries is None:
            return None
        leaves: list[Any] = []
        for child, branch in zip(entries, branches, strict=True):
            if branch is None:
                leaves.append(child)
                continue
            found = branch(child)
            if found is None:
                return None
            leaves += found
        return tuple(leaves)

    return read if any(branches) else read_entries


def _entry_reader(tree: Any, keys: Sequence[Any]) -> Reading:
    """Return the function from a container like `tree` to its entries in the order of trees."""
    kind, count = type(tree), len(keys)
    asks = is_mapping(tree) and kind is not dict
    get: Reading = _getter(keys) if is_mapping(tree) else _lister(kind, count)

    def read(other: Any) -> tuple[Any, ...] | None:
        if type(other) is not kind or len(other) != count:
            return None
        if asks and not all(key in other for key in keys):  # reading could create them
            return None
        try:
            return get(other)
        except KeyError:
            return None

    return read


def _lister(kind: type, count: int) -> Reading:
    """Return what gets the entries of a sequence, or None where it has not as many as it says."""
    if kind in (list, tuple):
        return tuple

    def entries(sequence: Any) -> tuple[Any, ...] | None:
        found = tuple(sequence)
        return found if len(found) == count else None

    return entries


def _getter(keys: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what gets the entries of a mapping: in one call into C, where there are several."""
    if not keys:
        return lambda mapping: ()
    get = itemgetter(*keys)
    return get if len(keys) > 1 else lambda mapping: (get(mapping),)

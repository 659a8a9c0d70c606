"""Passes over graphs: dead code, and the cut at sums and calls. Each is idempotent."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from instep.graph.dtypes import itemsize
from instep.graph.nodes import Call, Graph, Node, Reading, Remembered, Store, Sum

#: Sums of a pass at most: their lanes, 8 KiB each, are on the stack of a thread.
MOST_SUMS = 256


def prune(graph: Graph) -> Graph:
    """Return `graph` without nodes that nothing needs, and without stores that change nothing."""
    stores = [store for store in graph.stores if not _stores_what_it_loaded(graph, store)]
    return _keep(graph, stores, graph.sums, graph.calls, graph.remembered, graph.readings)


def cut(graph: Graph) -> tuple[Graph, ...]:
    """Split `graph` at its sums and calls into passes over memory; the last pass stores.

    A pass computes everything that needs only the sums and calls of earlier passes. What several
    passes need is computed again in each: recomputing costs arithmetic, of which there is plenty,
    and storing costs memory traffic, which is the limit.
    """
    breaks: dict[object, Sum | Call] = {entry.number: entry for entry in graph.sums}
    breaks |= {call.array: call for call in graph.calls}
    levels: list[int] = []
    for node in graph.nodes:
        before = _break_before(node, breaks)
        if before is not None:
            levels.append(levels[breaks[before].node] + 1)
        else:
            levels.append(max((levels[operand] for operand in node.operands), default=0))

    stores = [store for store in graph.stores if not _stores_what_it_loaded(graph, store)]
    last = _keep(graph, stores)
    remembers = _keep(graph, remembered=graph.remembered) if graph.remembered else None
    reads = _keep(graph, readings=graph.readings) if graph.readings else None
    in_the_end = [key for one in (last, remembers, reads) if one for key in _breaks_in(one, breaks)]
    renewed = [call.array for call in graph.calls if call.slots]
    # Another leaf may need a sum over the tree that this one has only its part in.
    of_tree = [entry.number for entry in graph.sums if entry.scope == "tree"]
    needed = _closure(graph, breaks, [*of_tree, *renewed, *in_the_end])
    level_of = {key: levels[entry.node] for key, entry in breaks.items() if key in needed}
    _postpone_sums(graph, breaks, level_of)
    passes = []
    for level in sorted(set(level_of.values())):
        here = [breaks[key] for key in level_of if level_of[key] == level]
        calls = [entry for entry in here if isinstance(entry, Call)]
        sums = [entry for entry in here if isinstance(entry, Sum)]
        if calls:
            drafts = [Store(call.array, call.node) for call in calls]
            passes.append(_keep(graph, drafts, (), calls))
        starts = range(0, len(sums), MOST_SUMS)
        passes += [_keep(graph, (), sums[first : first + MOST_SUMS]) for first in starts]
    return (*passes, replace(last, remembers=remembers, reads=reads))


def with_lasting(graph: Graph, names: Collection[str]) -> Graph:
    """Return a graph in which the numbers of these names last."""
    entries = (replace(entry, lasts=entry.name in names) for entry in graph.remembered)
    return replace(graph, remembered=tuple(entries))


def remembering(graph: Graph, entries: Iterable[Remembered]) -> Graph:
    """Return the part of a graph that makes these numbers."""
    return _keep(graph, remembered=entries)


def reading(graph: Graph, names: Collection[str]) -> Graph:
    """Return the part of a graph that makes the readings of these names."""
    return _keep(graph, readings=[entry for entry in graph.readings if entry.name in names])


def _postpone_sums(
    graph: Graph, breaks: Mapping[object, Sum | Call], level_of: dict[object, int]
) -> None:
    """Move sums that only the last pass needs to the last pass that reduces anyway.

    It has to read most arrays in any case: with a norm of `w` that stands for itself, LAMB after
    clipping would read `w` once more. Sums over the tree stay, for all leaves compute them at once.
    """
    reducing = [level for key, level in level_of.items() if isinstance(breaks[key], Sum)]
    before_breaks = {
        inner
        for key in level_of
        for inner in _breaks_in(_keep(graph, [Store("", breaks[key].node)]), breaks)
    }
    for key in level_of:
        entry = breaks[key]
        if isinstance(entry, Sum) and entry.scope == "tensor" and key not in before_breaks:
            level_of[key] = max(reducing)


def _break_before(node: Node, breaks: Mapping[object, Sum | Call]) -> object:
    """Return the key of the sum or call whose result a node reads, or None."""
    reads = node.operation in ("reduced", "load") and node.value in breaks
    return node.value if reads else None


def _breaks_in(graph: Graph, breaks: Mapping[object, Sum | Call]) -> list[object]:
    found = (_break_before(node, breaks) for node in graph.nodes)
    return [key for key in found if key is not None]


def _closure(
    graph: Graph, breaks: Mapping[object, Sum | Call], keys: Iterable[object]
) -> set[object]:
    """Return `keys` and the keys of all sums and calls that those depend on."""
    found: set[object] = set()
    pending = list(keys)
    while pending:
        key = pending.pop()
        if key not in found:
            found.add(key)
            inner = _keep(graph, [Store("", breaks[key].node)])
            pending += _breaks_in(inner, breaks)
    return found


def _stores_what_it_loaded(graph: Graph, store: Store) -> bool:
    node, narrowest = graph.nodes[store.node], 8
    while node.operation == "cast":
        narrowest = min(narrowest, itemsize(node.dtype))
        node = graph.nodes[node.operands[0]]
    # On the way through a narrower format it would have been rounded.
    same = node.operation == "load" and node.value == store.array
    return same and narrowest >= itemsize(node.dtype)


def _keep(
    graph: Graph,
    stores: Iterable[Store] = (),
    sums: Iterable[Sum] = (),
    calls: Iterable[Call] = (),
    remembered: Iterable[Remembered] = (),
    readings: Iterable[Reading] = (),
) -> Graph:
    """Return the part of `graph` that these need, renumbered."""
    stores, sums, calls, remembered = tuple(stores), tuple(sums), tuple(calls), tuple(remembered)
    readings = tuple(readings)
    alive: set[int] = set()
    entries: tuple[Store | Sum | Call | Remembered | Reading, ...]
    entries = (*stores, *sums, *calls, *remembered, *readings)
    pending = [entry.node for entry in entries]
    while pending:
        position = pending.pop()
        if position not in alive:
            alive.add(position)
            pending += graph.nodes[position].operands

    nodes: list[Node] = []
    position_of: dict[int, int] = {}
    for position in sorted(alive):
        node = graph.nodes[position]
        position_of[position] = len(nodes)
        nodes.append(replace(node, operands=tuple(position_of[i] for i in node.operands)))
    return replace(
        graph,
        nodes=tuple(nodes),
        stores=tuple(replace(entry, node=position_of[entry.node]) for entry in stores),
        sums=tuple(replace(entry, node=position_of[entry.node]) for entry in sums),
        calls=tuple(replace(entry, node=position_of[entry.node]) for entry in calls),
        remembered=tuple(replace(entry, node=position_of[entry.node]) for entry in remembered),
        readings=tuple(replace(entry, node=position_of[entry.node]) for entry in readings),
    )

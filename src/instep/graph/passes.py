"""Passes over graphs: dead code, and the cut at sums. Each is idempotent."""

from collections.abc import Iterable
from dataclasses import replace

from instep.graph.nodes import ITEMSIZE, Graph, Node, Store, Sum


def prune(graph: Graph) -> Graph:
    """Return `graph` without nodes that nothing needs, and without stores that change nothing."""
    stores = [store for store in graph.stores if not _stores_what_it_loaded(graph, store)]
    return _keep(graph, stores, graph.sums)


def cut(graph: Graph) -> tuple[Graph, ...]:
    """Split `graph` at its sums into passes over memory; the last pass stores.

    A pass computes every sum that needs only the sums of earlier passes. What several passes
    need is computed again in each: recomputing costs arithmetic, of which there is plenty, and
    storing costs memory traffic, which is the limit.
    """
    level_of_sum: dict[int, int] = {}
    operand_of_sum = {entry.number: entry.node for entry in graph.sums}
    levels: list[int] = []
    for node in graph.nodes:
        if node.operation == "reduced":
            assert isinstance(node.value, int)
            levels.append(levels[operand_of_sum[node.value]] + 1)
        else:
            levels.append(max((levels[operand] for operand in node.operands), default=0))
    for entry in graph.sums:
        level_of_sum[entry.number] = levels[entry.node]

    stored = prune(replace(graph, sums=()))
    used = {node.value for node in stored.nodes if node.operation == "reduced"}
    needed = _closure(graph, used | set(graph.guards))
    passes = []
    for level in sorted({level_of_sum[number] for number in needed}):
        sums = [s for s in graph.sums if s.number in needed and level_of_sum[s.number] == level]
        passes.append(_keep(graph, (), sums))
    stores = [store for store in graph.stores if not _stores_what_it_loaded(graph, store)]
    passes.append(_keep(graph, stores, ()))
    return tuple(passes)


def _closure(graph: Graph, numbers: Iterable[object]) -> set[int]:
    """Return `numbers` and the numbers of all sums that those sums depend on."""
    found: set[int] = set()
    pending = [number for number in numbers if isinstance(number, int)]
    by_number = {entry.number: entry for entry in graph.sums}
    while pending:
        number = pending.pop()
        if number not in found:
            found.add(number)
            inner = _keep(graph, (), [by_number[number]])
            pending += [
                node.value
                for node in inner.nodes
                if node.operation == "reduced" and isinstance(node.value, int)
            ]
    return found


def _stores_what_it_loaded(graph: Graph, store: Store) -> bool:
    node, narrowest = graph.nodes[store.node], 8
    while node.operation == "cast":
        narrowest = min(narrowest, ITEMSIZE[node.dtype])
        node = graph.nodes[node.operands[0]]
    # On the way through a narrower format it would have been rounded.
    same = node.operation == "load" and node.value == store.array
    return same and narrowest >= ITEMSIZE[node.dtype]


def _keep(graph: Graph, stores: Iterable[Store], sums: Iterable[Sum]) -> Graph:
    """Return the part of `graph` that `stores` and `sums` need, renumbered."""
    stores, sums = tuple(stores), tuple(sums)
    alive: set[int] = set()
    pending = [store.node for store in stores] + [entry.node for entry in sums]
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
        stores=tuple(Store(store.array, position_of[store.node]) for store in stores),
        sums=tuple(Sum(entry.number, position_of[entry.node], entry.scope) for entry in sums),
    )

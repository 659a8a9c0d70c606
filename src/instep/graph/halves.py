"""A pass in two halves: before the largest words of blocks are known, and after."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from instep.graph.dtypes import WORDS
from instep.graph.nodes import DRAWS, Graph, Node, Store


@dataclass(frozen=True)
class Half:
    """A part of a pass that stores, without what is the same for a whole tensor.

    Attributes
    ----------
    nodes
        What it computes for an element, in order.
    """

    graph: Graph
    nodes: tuple[int, ...]
    stores: tuple[Store, ...]

    @property
    def loaded(self) -> frozenset[str]:
        """Names of the arrays that it reads."""
        nodes = (self.graph.nodes[i] for i in self.nodes)
        return frozenset(str(node.value) for node in nodes if node.operation == "load")

    @property
    def stored(self) -> frozenset[str]:
        """Names of the arrays that it writes."""
        return frozenset(store.array for store in self.stores)

    @property
    def drawn(self) -> list[Node]:
        """The random words that it reads."""
        nodes = (self.graph.nodes[i] for i in self.nodes)
        return [node for node in nodes if node.operation in DRAWS]


@dataclass(frozen=True)
class Halves:
    """Both of a pass.

    Attributes
    ----------
    largest
        The nodes that give the largest words of blocks, of which the second half is made.
    kept
        The numbers that it needs of the first. Words that it needs are made of these again.
    """

    first: Half
    second: Half
    largest: tuple[int, ...]
    kept: tuple[int, ...]

    @classmethod
    def of(cls, graph: Graph) -> "Halves":
        """Divide a pass. No largest word depends on another one."""
        nodes, late = graph.nodes, set[int]()
        varying = [i for i in range(len(nodes)) if i not in graph.uniform]
        largest = [i for i in varying if nodes[i].operation == "largest"]
        for i in varying:
            if i in largest or late.intersection(nodes[i].operands):
                late.add(i)
        assert not any(late.intersection(nodes[i].operands) for i in largest)
        numbers = {i for i in varying if i not in late and _is_number(nodes[i])}
        stores = tuple(store for store in graph.stores if store.node in late)
        others = tuple(store for store in graph.stores if store.node not in late)
        second = _needed(graph, (store.node for store in stores), {*largest, *numbers})
        kept = numbers.intersection(operand for i in second for operand in nodes[i].operands)
        of_largest = (operand for i in largest for operand in nodes[i].operands)
        first = _needed(graph, [*(store.node for store in others), *kept, *of_largest])
        halves = Half(graph, first, others), Half(graph, second, stores)
        return cls(*halves, tuple(largest), tuple(sorted(kept)))


def _is_number(node: Node) -> bool:
    return node.dtype not in (*WORDS, "bool") and node.operation != "bits"


def _needed(graph: Graph, wanted: Iterable[int], known: Collection[int] = ()) -> tuple[int, ...]:
    """Return the nodes that these need, but for those that are known."""
    found: set[int] = set()
    pending = list(wanted)
    while pending:
        i = pending.pop()
        if i not in found and i not in known and i not in graph.uniform:
            found.add(i)
            pending += graph.nodes[i].operands
    return tuple(sorted(found))

"""Complex numbers as they lie in memory: what is done alike to both parts is done to them in turn.

A rule is traced on real and imaginary parts. To take these out of vectors of complex numbers, and
to put them back, takes as many instructions as the arithmetic of Adam; but what a rule does to both
parts alike, as to its momentum, can be done to them where they are.
"""

from dataclasses import replace

from instep.graph import Graph, Node, dtypes

#: Operations: the complex numbers of which both parts are this real value; and real values in the
#: order that parts have in vectors of them.
BOTH, TURNED = "both", "turned"


def joined(graph: Graph) -> Graph:
    """Return a graph of the same values, with an operation on complex numbers for every two alike.

    It is done to real and imaginary parts, each by itself.
    """
    is_complex = any(dtypes.is_complex(array.dtype) for array in (*graph.loaded, *graph.stored))
    return _Joining(graph).graph if is_complex else graph


def _twins(graph: Graph) -> dict[int, int]:
    """Return the nodes that do the same to both parts: those of imaginary ones, by the others."""
    places = {node: position for position, node in enumerate(graph.nodes)}
    twins: dict[int, int] = {}
    imaginary: set[int] = set()
    for position, node in enumerate(graph.nodes):
        if node.operation == "real":
            other = replace(node, operation="imag")
        else:
            other = replace(node, operands=tuple([twins.get(i, i) for i in node.operands]))
        kinds = {node.dtype, *(graph.nodes[i].dtype for i in node.operands)}
        place = places[other] if node.operands and other in places else position
        are_floats = kinds.isdisjoint(("bool", "uint32"))
        if place > position and are_floats and imaginary.isdisjoint(node.operands):
            twins[position] = place
            imaginary.add(place)
    return twins


class _Joining:
    """The nodes of a graph, of which some are joined."""

    def __init__(self, graph: Graph) -> None:
        twins = _twins(graph)
        self._old, self._new = graph.nodes, list[Node]()
        self._made: dict[Node, int] = {}
        # Where nodes are now: those that are real, and those that are complex.
        self._single: dict[int, int] = {}
        self._joint: dict[int, int] = {}
        self._twin = {imaginary: real for real, imaginary in twins.items()}
        for position, node in enumerate(graph.nodes):
            if position in twins:
                self._joint[position] = self._join(node)
            elif node.operation == "complex" and twins.get(node.operands[0]) == node.operands[1]:
                self._single[position] = self._joint[node.operands[0]]
            elif position not in self._twin:
                operands = tuple([self._one(i) for i in node.operands])
                place = self._add(replace(node, operands=operands))
                is_read = node.operation in ("load", "random")
                self._single[position] = self._turn(place, node.dtype) if is_read else place
        stores = [replace(store, node=self._stored(store.node)) for store in graph.stores]
        self.graph = replace(graph, nodes=tuple(self._new), stores=tuple(stores))

    def _add(self, node: Node) -> int:
        self._new.append(node)
        return len(self._new) - 1

    def _make(self, node: Node) -> int:
        """Return the place of a node that was not there, and is made once."""
        if node not in self._made:
            self._made[node] = self._add(node)
        return self._made[node]

    def _turn(self, place: int, dtype: str) -> int:
        """Return the place of what was loaded, or is to be stored, in the other order."""
        return place if dtypes.is_complex(dtype) else self._make(Node(TURNED, (place,), dtype))

    def _stored(self, position: int) -> int:
        return self._turn(self._one(position), self._old[position].dtype)

    def _join(self, node: Node) -> int:
        """Return the place of the operation of which this is done to the real parts."""
        if node.operation == "real":
            return self._single[node.operands[0]]
        operands = tuple([self._both(i) for i in node.operands])
        return self._add(replace(node, operands=operands, dtype=dtypes.COMPLEX[node.dtype]))

    def _both(self, position: int) -> int:
        """Return the place of what an operation on both parts is given."""
        if position in self._joint:
            return self._joint[position]
        dtype = dtypes.COMPLEX[self._old[position].dtype]
        return self._make(Node(BOTH, (self._single[position],), dtype))

    def _one(self, position: int) -> int:
        """Return the place of a node; where it was joined, the part that it was is taken again."""
        if position in self._single:
            return self._single[position]
        real = self._twin.get(position, position)
        part = "real" if position == real else "imag"
        return self._make(Node(part, (self._joint[real],), self._old[position].dtype))

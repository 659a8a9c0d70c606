"""The loops of a pass that stores, where elements have something in common with their block.

They are walked block by block. What a block has is computed once, such as the words for rounding by
chance, and the unit of its codes. That of new state follows from its largest magnitude: what
needs it waits until the whole block was walked, and values that it is made of are kept meanwhile.
"""

from instep.engines.native.cast import TYPES, repeated
from instep.engines.native.expressions import elements
from instep.engines.native.loops import CACHE_LINE, PREFETCH, Loops, function
from instep.engines.native.random import shared_words, turned_words
from instep.engines.native.target import Traits
from instep.graph import Graph
from instep.graph.dtypes import itemsize
from instep.graph.halves import Halves
from instep.words import AT_ONCE, BLOCK

#: How many blocks before they are walked they are asked for. On two threads of Zen 3 Adam with
#: state in 8 bits takes 1.31 ns an element of 2**24 without, and 1.0 to 1.1 with 1 to 8 of them; on
#: one thread it takes 1.7 in any case.
AHEAD = 4


class Blocks(Loops):
    """Writes the functions of such a pass."""

    def __init__(self, graph: Graph, traits: Traits) -> None:
        super().__init__(graph, traits)
        self.code.blocks = blocks = graph.of_blocks
        halves, number = Halves.of(graph), list(graph.stores).index
        self._largest = halves.largest
        self._shared = [i for i, node in enumerate(graph.nodes) if node.operation == "shared"]
        self._first_nodes = [i for i in halves.first.nodes if i not in blocks]
        self._second_nodes = [i for i in halves.second.nodes if i not in blocks]
        self._kept = [i for i in halves.kept if i not in blocks]
        # What a block has that is made of its largest words.
        self._late = blocks.intersection(halves.second.nodes).difference(halves.first.nodes)
        self._late |= {*self._largest}
        per = {array.name: array.per for array in graph.arrays}
        self._of_blocks = [number(x) for x in graph.stores if per[x.array] > 1]
        self._first = [number(x) for x in halves.first.stores if per[x.array] == 1]
        self._last = [number(x) for x in halves.second.stores if per[x.array] == 1]

    def span(self) -> str:
        """Return `span` for the pass: blocks, and in each vectors, then elements, once or twice."""
        nodes = self.graph.nodes
        rooms = [
            f"%kept{i} = alloca [{BLOCK} x {TYPES[nodes[i].dtype]}], align 64" for i in self._kept
        ]
        rooms += [f"%words{i} = alloca [{BLOCK // AT_ONCE} x i32], align 64" for i in self._shared]
        twice = bool(self._last)
        lines = [
            *rooms,
            *self.prologue(),
            "br label %block_loop",
            "block_loop:",
            "%begins = phi i64 [ %begin, %entry ], [ %ends, %block_done ]",
            "%block_more = icmp ult i64 %begins, %end",
            "br i1 %block_more, label %block, label %done",
            "block:",
            f"%begins_next = add i64 %begins, {BLOCK}",
            "%is_whole = icmp ult i64 %begins_next, %end",
            "%ends = select i1 %is_whole, i64 %begins_next, i64 %end",
            "%block_count = sub i64 %ends, %begins",
            f"%vectors_count = and i64 %block_count, {-self.width}",
            "%vectors_end = add i64 %begins, %vectors_count",
            *(
                line
                for i in self._shared
                for line in shared_words(f"%x{i}", i, f"%words{i}", "%begins")
            ),
            *self._asked_for(),
            *self._of_block(late=False),
            "br label %v_loop",
            *self.loop("v", self.width, "%begins", "%vectors_end", "block", "v_done"),
            "v_done:",
            *self._reduced(),
            "br label %t_loop",
            *self.loop("t", 1, "%vectors_end", "%ends", "v_done", "walked"),
            "walked:",
            *self._of_block(late=True),
            *self._stores_of_block(),
            f"br label %{'vv_loop' if twice else 'block_done'}",
        ]
        if twice:
            lines += self.loop("vv", self.width, "%begins", "%vectors_end", "walked", "tt_loop")
            lines += self.loop("tt", 1, "%vectors_end", "%ends", "vv_loop", "block_done")
        return function([*lines, "block_done:", "br label %block_loop", "done:", "ret void"])

    def loop(
        self, prefix: str, width: int, begin: str, end: str, before: str, after: str
    ) -> list[str]:
        """Return a loop over elements of a block in steps of `width`: the first walk, or last."""
        index, is_last = f"%{prefix}_i", len(prefix) > 1
        lines = [
            f"{prefix}_loop:",
            f"{index} = phi i64 [ {begin}, %{before} ], [ {index}_next, %{prefix}_body ]",
            *([] if is_last else self._carried(prefix, before)),
            f"%{prefix}_more = icmp ult i64 {index}, {end}",
            f"br i1 %{prefix}_more, label %{prefix}_body, label %{after}",
            f"{prefix}_body:",
            f"%{prefix}_place = sub i64 {index}, %begins",
        ]
        for i in self._kept if is_last else ():
            kind = elements(self.graph.nodes[i].dtype, width)
            lines += [
                self._room(prefix, i),
                f"%{prefix}{i} = load {kind}, ptr %{prefix}_kept{i}, align 4",
            ]
        for i in self._second_nodes if is_last else self._first_nodes:
            lines += self._node(i, prefix, width, index)
        for i in () if is_last else self._kept:
            kind, value = (
                elements(self.graph.nodes[i].dtype, width),
                self.code.value(prefix, width, i),
            )
            lines += [
                self._room(prefix, i),
                f"store {kind} {value}, ptr %{prefix}_kept{i}, align 4",
            ]
        if not is_last:
            lines += self._taken(prefix, width)
        lines += self.code.stores(prefix, width, index, self._last if is_last else self._first)
        return [*lines, f"{index}_next = add i64 {index}, {width}", f"br label %{prefix}_loop"]

    def _node(self, i: int, prefix: str, width: int, index: str) -> list[str]:
        if self.graph.nodes[i].operation != "shared":
            return self.code.node(i, prefix, width, index)
        return turned_words(f"%{prefix}{i}", f"%words{i}", f"%{prefix}_place", width)

    def _room(self, prefix: str, i: int) -> str:
        """Return what makes the address where the value of a node is kept."""
        kind = TYPES[self.graph.nodes[i].dtype]
        return f"%{prefix}_kept{i} = getelementptr {kind}, ptr %kept{i}, i64 %{prefix}_place"

    def _asked_for(self) -> list[str]:
        """Return the calls that fetch what a later block loads.

        The processor foresees less where an array is walked in parts, each of a few lines.
        """
        lines = [f"%later = add i64 %begins, {AHEAD * BLOCK}"]
        for array in (array for array in self.graph.loaded if array.per == 1):
            position = self.code.position[array.name]
            name, kind = f"%later{position}", self.code.element(position)
            lines.append(f"{name} = getelementptr {kind}, ptr %array{position}, i64 %later")
            for k in range(0, BLOCK * itemsize(array.dtype), CACHE_LINE):
                lines += [
                    f"{name}_{k} = getelementptr i8, ptr {name}, i64 {k}",
                    f"call void @llvm.prefetch.p0(ptr {name}_{k}, i32 0, i32 3, i32 1)",
                ]
        self.code.declarations.add(PREFETCH)
        return lines

    # The largest of a block ---------------------------------------------------------------------

    def _carried(self, prefix: str, before: str) -> list[str]:
        """Return the largest words so far, of each place in a vector, or of all."""
        kind = elements("uint32", self.width if prefix == "v" else 1)
        return [
            f"%{prefix}_so_far{i} = phi {kind} "
            f"[ {'zeroinitializer' if prefix == 'v' else f'%v_all{i}'}, %{before} ], "
            f"[ %{prefix}_larger{i}, %{prefix}_body ]"
            for i in self._largest
        ]

    def _taken(self, prefix: str, width: int) -> list[str]:
        """Return what takes the larger of the largest so far and those of a vector."""
        kind, lines = elements("uint32", width), []
        suffix = "i32" if width == 1 else f"v{width}i32"
        for i in self._largest:
            self.code.declarations.add(f"declare {kind} @llvm.umax.{suffix}({kind}, {kind})")
            value = self.code.value(prefix, width, self.graph.nodes[i].operands[0])
            lines.append(
                f"%{prefix}_larger{i} = call {kind} @llvm.umax.{suffix}"
                f"({kind} %{prefix}_so_far{i}, {kind} {value})"
            )
        return lines

    def _reduced(self) -> list[str]:
        """Return what takes the largest of what vectors have found."""
        kind, lines = elements("uint32", self.width), []
        for i in self._largest:
            function = f"@llvm.vector.reduce.umax.v{self.width}i32"
            self.code.declarations.add(f"declare i32 {function}({kind})")
            lines.append(f"%v_all{i} = call i32 {function}({kind} %v_so_far{i})")
        return lines

    # What a block has ---------------------------------------------------------------------------

    def _of_block(self, *, late: bool) -> list[str]:
        """Return what is computed once for a block, before the first walk, or after it."""
        lines = []
        for i in sorted(self.graph.of_blocks):
            if (i in self._late) == late:
                node, kind = self.graph.nodes[i], TYPES[self.graph.nodes[i].dtype]
                if node.operation == "largest":
                    lines.append(f"%k{i} = select i1 true, {kind} %t_so_far{i}, {kind} 0")
                else:
                    lines += self.code.node(i, "k", 1, "%begins")
                lines += repeated(f"%ks{i}", f"%k{i}", kind, self.width)
        return lines

    def _stores_of_block(self) -> list[str]:
        lines = []
        for k in self._of_blocks:
            store = self.graph.stores[k]
            kind, value = (
                TYPES[self.graph.nodes[store.node].dtype],
                self.code.value("k", 1, store.node),
            )
            lines += [
                *self.code.place_of_block(f"%of{k}", store.array, "%begins"),
                f"store {kind} {value}, ptr %of{k}_of_block ; {store.array}",
            ]
        return lines

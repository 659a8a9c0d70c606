"""What all functions of a pass have in common, as LLVM IR."""

from collections.abc import Collection, Iterable

from instep.engines.native.arguments import Argument, Entry, scalar_layout
from instep.engines.native.expressions import Expressions
from instep.engines.native.random import SHARED_WIDTH, before_loops
from instep.engines.native.target import Traits
from instep.graph import Graph
from instep.graph.dtypes import DTYPES
from instep.graph.nodes import DRAWS

#: Bytes of a vector of compute values: two AVX2 registers or one AVX-512 register. Two chains of
#: dependent operations in flight hide the latency of division and root. On Zen 5 vectors of 32, 64
#: and 128 bytes take the same time, of 1,000 to 256,000 elements: its divider is the limit.
VECTOR_BYTES = 64

CACHE_LINE = 64

PREFETCH = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"

#: What a function begins with: one on elements or tiles of a tensor, and one on all that is given.
SPAN = "internal void @span(ptr %entry_row, i64 %begin, i64 %end, ptr %arguments) noinline"
RUN = "void @run(ptr %arguments)"


class Loops:
    """Writes loops over the elements of a tensor.

    Attributes
    ----------
    code
        What writes the operations of the pass.
    width
        Elements of a vector.
    sparse
        As in `Expressions`.
    """

    def __init__(self, graph: Graph, traits: Traits, sparse: Collection[int] = ()) -> None:
        self.graph, self.sparse = graph, sparse
        self.code = Expressions(graph, traits, scalar_layout(graph).offsets, sparse)
        self.width = VECTOR_BYTES // DTYPES[graph.compute].itemsize

    def prologue(self, address: str = "array") -> list[str]:
        """Return the loads of addresses, which get this name, and of everything that is uniform."""
        graph, lines = self.graph, []
        for i, array in enumerate(graph.arrays):
            if array in graph.loaded or array in graph.stored:
                lines += [
                    f"%{address}{i}_at = getelementptr i64, ptr %entry_row, i64 {i}",
                    f"%{address}{i} = load ptr, ptr %{address}{i}_at ; {array.name}",
                ]
        fields = len(graph.arrays)
        lines += [
            f"%row_at = getelementptr i64, ptr %entry_row, i64 {fields + Entry.ROW}",
            "%row = load i64, ptr %row_at",
            f"%offset = mul i64 %row, {scalar_layout(graph).itemsize}",
            f"%scalars_argument = {argument(Argument.SCALARS)}",
            "%all_scalars = load ptr, ptr %scalars_argument",
            "%scalars = getelementptr i8, ptr %all_scalars, i64 %offset",
            f"%column_at = getelementptr i64, ptr %entry_row, i64 {fields + Entry.COLUMN}",
            "%column = load i64, ptr %column_at",
            f"%sums_argument = {argument(Argument.SUMS)}",
            "%sums = load ptr, ptr %sums_argument",
            f"%stride_argument = {argument(Argument.SUMS_STRIDE)}",
            "%stride = load i64, ptr %stride_argument",
            "%tree_column = sub i64 %stride, 1",
        ]
        for position, node in enumerate(graph.nodes):
            if position in graph.uniform:
                lines += self.code.uniform(position, node, self.width)
        if graph.draws or graph.has_blocks:
            first = fields + Entry.FIRST
            lines += [
                f"%first_element_at = getelementptr i64, ptr %entry_row, i64 {first}",
                "%first_element = load i64, ptr %first_element_at",
            ]
        for position, node in enumerate(graph.nodes):
            if node.operation in DRAWS:
                width = self.width if node.operation == "random" else SHARED_WIDTH
                lines += before_loops(position, node, width)
        return lines


def argument(position: Argument) -> str:
    """Return the address of an argument."""
    return f"getelementptr i64, ptr %arguments, i64 {position.value}"


def function(lines: Iterable[str], head: str = SPAN) -> str:
    """Return a function of these instructions and labels."""
    body = "\n".join(line if line.endswith(":") else f"  {line}" for line in lines)
    return f"define {head} {{\nentry:\n{body}\n}}"

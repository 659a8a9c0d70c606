"""Graphs as CUDA C++: a pure function from a pass to text, with no CuPy and no GPU needed.

One launch runs a pass over all tensors of a bucket. A block works on one chunk of one tensor,
which it finds in a table. There are two ways to walk over a tensor:

- as a *line*, where parameter, gradient and state lie in memory without gaps and in one order:
  16 bytes a load and a store where the addresses allow, single elements where they do not and
  for what is left at the end;
- *strided*: a pass that stores takes boxes of the tensor; arrays whose elements lie closest along
  the rows of a box, and not along its columns, go through shared memory, so that the threads of a
  warp always read and write side by side. A pass that sums takes the elements in C order, and so
  much of a tile at once as such arrays have room for there.

Where elements have something in common with their block, such as the scale of state in 8 bits, a
warp takes a block, on lines as on others.

A pass with sums computes them as `numerics.canonical_sum` says: a block sums one tile.
"""

from instep.engines.cuda.blocks import LineBlocks, StridedBlocks
from instep.engines.cuda.boxes import BoxStores, StridedSums
from instep.engines.cuda.lines import LineStores, LineSums
from instep.engines.cuda.numbers import NumbersKernel
from instep.graph import Graph


def emit(graph: Graph, *, strided: bool = False) -> str:
    """Return the CUDA C++ text of a pass."""
    if not (graph.stores or graph.sums or graph.remembered):
        return f"// {graph.name} changes nothing: there is nothing to launch.\n"
    if graph.remembered:
        return NumbersKernel(graph).text()
    if graph.sums:
        return StridedSums(graph).text() if strided else LineSums(graph).text()
    if graph.has_blocks:
        return StridedBlocks(graph).text() if strided else LineBlocks(graph).text()
    return BoxStores(graph).text() if strided else LineStores(graph).text()

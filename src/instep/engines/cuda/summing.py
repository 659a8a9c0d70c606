"""What passes that sum have in common, however they walk over tensors."""

from abc import abstractmethod
from typing import ClassVar

from instep.engines.cuda.canonical_sum import (
    LAST,
    PREFIX,
    add_up,
    lane_of,
    lanes_of,
    tensor_sum,
)
from instep.engines.cuda.kernel import Kernel, indented
from instep.graph import Sum


class SumKernel(Kernel):
    """A pass that sums: a block takes a tile, as the canonical sum has them."""

    #: Which lanes a thread has.
    lane: ClassVar[str]

    #: Elements of the memory that is shared: lanes to be folded, and what else goes through it.
    room: ClassVar[str] = "LANES"

    @abstractmethod
    def _add(self) -> str:
        """Return what adds the elements of a tile to the lanes of a thread."""

    def _kernel(self) -> str:
        sums = self._graph.sums
        lanes = [lanes_of(entry.kind, f"sum{entry.number}") for entry in sums]
        partials = [
            f"const double partial{e.number} = {PREFIX[e.kind]}fold(lanes, sum{e.number});"
            for e in sums
        ]
        writes = [
            f"step.partials[{j} * (long long)gridDim.x + blockIdx.x] = partial{e.number};"
            for j, e in enumerate(sums)
        ]
        totals = [
            f"{PREFIX[e.kind]}canonical_sum(lanes, step.partials + {j} * (long long)gridDim.x + "
            f"leaf.first_block, tiles, step.sums + {e.number} * step.columns + leaf.position);"
            for j, e in enumerate(sums)
        ]
        alone = [
            f"step.sums[{e.number} * step.columns + leaf.position] = partial{e.number};"
            for e in sums
        ]
        return f"""\
{self._signature()}
{{
    alignas(16) __shared__ double lanes[{self.room}];  // stages hold elements of up to 16 bytes
{indented([*self._turn_away, "const int number = step.leaf_of_block[blockIdx.x];"], 1)}
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * TILE;
    const int count = (int)min(leaf.size - start, (long long)TILE);
{indented(self._addresses(), 1)}

    // A thread has V lanes, and meets their elements in increasing order.
{indented(lanes, 1)}
{self._add()}
{indented(partials, 1)}

    if (threadIdx.x == 0) {{
{indented(writes, 2)}
    }}

    // The last block of a tensor sums the tiles. The sum of a single one is that of the tensor.
    const long long tiles = leaf.size > TILE ? (leaf.size + TILE - 1) / TILE : 1;
    if (tiles > 1) {{
        if (!last(step.arrived + number, tiles))
            return;
{indented(totals, 2)}
    }} else if (threadIdx.x == 0) {{
{indented(alone, 2)}
    }}
{self._tree()}}}"""

    @property
    def _sums_over_tree(self) -> list[Sum]:
        return [entry for entry in self._graph.sums if entry.scope == "tree"]

    def _summing(self) -> list[str]:
        kinds = sorted({entry.kind for entry in self._graph.sums}, reverse=True)
        functions = [lane_of(self.lane), *map(tensor_sum, kinds), LAST]
        over_tree = {entry.kind for entry in self._sums_over_tree}
        return [*functions, *(add_up(kind) for kind in kinds if kind in over_tree)]

    def _tree(self) -> str:
        if not self._sums_over_tree:
            return ""
        calls = [
            f"{PREFIX[entry.kind]}add_up(lanes, step.sums + {entry.number} * step.columns, "
            f"step.columns - 1);"
            for entry in self._sums_over_tree
        ]
        return f"""
    // The last tensor adds up the tree, if no other launch has a part in it.
    if (step.tree == 0 || !last(step.arrived + step.tree, step.tree))
        return;
{indented(calls, 1)}
"""

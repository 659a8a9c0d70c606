"""The kernel that makes what is remembered of sums: one block, a thread for each tensor."""

from typing import ClassVar

from instep.engines.cuda.expressions import outside
from instep.engines.cuda.kernel import Kernel, indented


class NumbersKernel(Kernel):
    """What runs when the last pass has read what the numbers were."""

    strided: ClassVar[bool] = False
    unit: ClassVar[str] = "tensors"

    def text(self) -> str:
        candidate = [self._candidate()] if self._graph.guards else []
        reading = [self._uniform(), self._tables(), *candidate, self._read_uniform()]
        return "\n\n".join([self._heading(), *reading, self._kernel()]) + "\n"

    def _walk(self) -> str:
        return "one tensor at a time"

    def _constants(self) -> list[str]:
        return []

    def _reach(self) -> str:
        return ""

    @property
    def _is_last(self) -> bool:
        return not self._graph.lasting  # else it runs in a step that is turned away, too

    @property
    def _is_judged(self) -> bool:
        return self._graph.lasting != self._graph.remembered

    def _kernel(self) -> str:
        graph = self._graph
        stores: dict[str, list[str]] = {"tensor": [], "tree": []}
        for entry in graph.remembered:
            value = outside(graph.nodes[entry.node], entry.node, self._names)
            store = f"*leaf.number{entry.number} = {value};"
            is_free = self._is_last or entry.lasts
            stores[entry.scope] += [store] if is_free else ["if (allowed(step))", f"    {store}"]
        of_tree = ["const Leaf leaf = step.leaves[0];", "const Uniform h = uniform(step, leaf);"]
        tree = f"""
    __syncthreads();  // all have read what the numbers of the tree were
    if (threadIdx.x == 0) {{
{indented([*of_tree, *stores["tree"]], 2)}
    }}"""
        return f"""\
{self._signature()}
{{
{indented(self._turn_away, 1)}
    for (long long number = threadIdx.x; number < step.chunk; number += THREADS) {{
        const Leaf leaf = step.leaves[number];
        const Uniform h = uniform(step, leaf);
{indented(stores["tensor"], 2)}
    }}{tree if stores["tree"] else ""}
}}"""

"""Random words as CUDA C++: Philox-4x32-10, as `words.random` says it."""

from instep.graph import Graph, Node
from instep.words import AT_ONCE, MULTIPLIERS, ROUNDS, WEYL

PHILOX = f"""\
// The random words of {AT_ONCE} elements: Philox-4x32-10 of their number, the step and the draw.
struct Words {{
    unsigned at[{AT_ONCE}];
}};

__device__ __forceinline__ Words philox(
    unsigned k, unsigned l, const unsigned at_step, const unsigned draw, const long long block)
{{
    unsigned a = (unsigned)block, b = (unsigned)(block >> 32), c = at_step, d = draw;
    #pragma unroll
    for (int round = 0; round < {ROUNDS}; ++round, k += {WEYL[0]}u, l += {WEYL[1]}u) {{
        const unsigned high_a = __umulhi({MULTIPLIERS[0]}u, a), low_a = {MULTIPLIERS[0]}u * a;
        const unsigned high_c = __umulhi({MULTIPLIERS[1]}u, c), low_c = {MULTIPLIERS[1]}u * c;
        a = high_c ^ b ^ k, b = low_c, c = high_a ^ d ^ l, d = low_a;
    }}
    return {{a, b, c, d}};
}}"""

_CHOSEN = """\
// That of one of them, without an array that would have to be in memory.
__device__ __forceinline__ unsigned chosen(const Words& words, const long long element)
{
    const unsigned early = element & 1 ? words.at[1] : words.at[0];
    const unsigned late = element & 1 ? words.at[3] : words.at[2];
    return element & 2 ? late : early;
}"""


class Draws:
    """What the text of a pass says of the random words that it draws."""

    def __init__(self, graph: Graph) -> None:
        self._nodes: list[Node] = [node for node in graph.nodes if node.operation == "random"]

    def __bool__(self) -> bool:
        return bool(self._nodes)

    @property
    def functions(self) -> list[str]:
        """The functions that make words."""
        return [PHILOX, _CHOSEN] if self else []

    @property
    def parameters(self) -> list[str]:
        """What the rule is given for an element."""
        return [f"const unsigned draw{node.value}" for node in self._nodes]

    def made(self, block: str) -> list[str]:
        """Return what makes the words of a block of elements."""
        return [f"words{node.value} = {self.words(node, block)};" for node in self._nodes]

    @property
    def variables(self) -> list[str]:
        """The words of a block."""
        return [f"Words words{node.value};" for node in self._nodes]

    def arguments(self, element: str, *, made: bool = False) -> list[str]:
        """Return the words of an element, of a block that is made, or is to be."""
        block = f"({element}) / {AT_ONCE}"
        words = [f"words{node.value}" if made else self.words(node, block) for node in self._nodes]
        return [f"chosen({one}, {element})" for one in words]

    @staticmethod
    def words(node: Node, block: str) -> str:
        """Return what makes the words of a counter."""
        low, high, step = (f"h.u{i}" for i in node.operands)
        return f"philox({low}, {high}, {step}, {node.value}u, {block})"

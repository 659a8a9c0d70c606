"""Kernels of passes that store, where elements have something in common with their block.

A warp takes a block. The random words for rounding by chance are made once for it; and what needs
the largest word of it, as the scale of new state does, is computed in a second half, when the
threads of the warp have told each other theirs. What it needs of the first stays in registers.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from instep.engines.cuda.boxes import POINTER, Strided
from instep.engines.cuda.expressions import NOTHING, TYPES, Expressions
from instep.engines.cuda.kernel import Kernel, Operand, indented
from instep.engines.cuda.lines import aligned, pack
from instep.engines.cuda.random import PHILOX
from instep.graph import Graph
from instep.graph.halves import Half, Halves
from instep.words import AT_ONCE, BLOCK

_LARGEST = """\
// The largest word that a thread of the warp has.
__device__ __forceinline__ unsigned largest_of(unsigned mine)
{
#if __CUDA_ARCH__ >= 800
    return __reduce_max_sync(~0u, mine);
#else
    #pragma unroll
    for (int apart = WARP / 2; apart > 0; apart /= 2)
        mine = max(mine, __shfl_xor_sync(~0u, mine, apart));
    return mine;
#endif
}"""

_SHARED = f"""\
// The random words of a block, as `words.shared` says it: each thread gives those of a counter, and
// gets those of its own elements.
__device__ __forceinline__ Words shared_words(unsigned* const room, const Words& made)
{{
    const int lane = threadIdx.x % WARP;
    __syncwarp();  // what was there has been read
    if (lane < COUNTERS)
        for (int j = 0; j < {AT_ONCE}; ++j)
            room[j * COUNTERS + lane] = made.at[j];
    __syncwarp();
    const Pack<unsigned> own = pack(room, V * lane % (BLOCK / {AT_ONCE}));
    Words mine;
    for (int k = 0; k < V; ++k)
        mine.at[k] = __funnelshift_l(own.at[k], own.at[k], V * lane / (BLOCK / {AT_ONCE}) * 8);
    return mine;
}}

// That of the element `k` of a part.
__device__ __forceinline__ unsigned turned(const Words& words, const int part, const int k)
{{
    return __funnelshift_l(words.at[k], words.at[k], part * APART / (BLOCK / {AT_ONCE}) * 8);
}}"""

#: Loops over the elements of a thread.
_PARTS = ["#pragma unroll", "for (int p = 0; p < BLOCK / APART; ++p) {"]
_ELEMENTS = ["    #pragma unroll", "    for (int k = 0; k < V; ++k)"]


class _Blocks(Kernel):
    """A pass that stores, block by block."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._halves = Halves.of(graph)
        self._shared = [node for node in graph.nodes if node.operation == "shared"]

    def _walk(self) -> str:
        return "a block of elements with each warp"

    @property
    def _together(self) -> int:
        # A thread has eight elements: of many numbers, or wide ones, more than 128 registers hold.
        many = len(self._operands) + len(self._halves.kept) > 8
        return 256 if many or self._graph.compute == "float64" else 512

    def _constants(self) -> list[str]:
        return [
            "constexpr int WARP = 32;",
            f"constexpr int BLOCK = {BLOCK};  // elements that have something in common",
            f"constexpr int V = {self._vector};  // a thread has that lie side by side",
            "constexpr int APART = V * WARP;  // from these to others that it has in the block",
            f"constexpr int COUNTERS = BLOCK / {AT_ONCE**2};  // of its random words",
        ]

    def _reach(self) -> str:
        found = [pack(self._graph)]
        if self._halves.largest:
            found.append(_LARGEST)
        if self._shared:
            found += [_SHARED] if self._draws else [PHILOX, _SHARED]
        return "\n\n".join(found)

    # The rule -----------------------------------------------------------------------------------

    @property
    def _functions(self) -> dict[str, Half]:
        """What is run on elements, by name."""
        halves = self._halves
        if not halves.largest:
            return {"update": halves.first}
        return {"before": halves.first, "after": halves.second}

    def _element(self) -> str:
        if not self._halves.largest:
            return f"// The rule, for one element.\n{self._function('update')}"
        return (
            f"// The rule, for one element: what comes before the largest words of its block are "
            f"known.\n{self._function('before')}\n\n"
            f"// And what is made of them.\n{self._function('after')}"
        )

    def _function(self, function: str) -> str:
        half, halves, names = self._functions[function], self._halves, self._names.arrays
        wanted: dict[int, str] = {}
        for store in half.stores:
            wanted.setdefault(store.node, f"new_{names[store.array]}")
        given = {i: f"kept{i}" for i in halves.kept} | {i: f"largest{i}" for i in halves.largest}
        is_second = half is halves.second
        values = Expressions(
            self._graph, self._names, half.nodes, wanted, given if is_second else NOTHING
        )
        of_blocks = {operand.name for operand in self._of_blocks}
        endings = ["_kept" if names[store.array] in of_blocks else "" for store in half.stores]
        results = [
            f"{names[store.array]}{ending} = {values[store.node]};"
            for store, ending in zip(half.stores, endings, strict=True)
        ]
        if not is_second:
            results += [f"kept{i} = {values[i]};" for i in halves.kept]
            for i in halves.largest:
                word = values[self._graph.nodes[i].operands[0]]
                results.append(f"largest{i} = max(largest{i}, is_there ? {word} : 0u);")
        declared = ", ".join(declaration for declaration, _ in self._parameters(half))
        return f"""\
__device__ __forceinline__ void {function}(
{indented([declared + ")"], 1)}
{{
{indented([*values.statements, *results], 1)}
}}"""

    def _parameters(self, half: Half) -> list[tuple[str, str]]:
        """Return the parameters of a half, with what they are given for an element."""
        names, is_second = self._names.arrays, half is self._halves.second
        loaded, stored = ({names[x] for x in found} for found in (half.loaded, half.stored))
        found = [("const Uniform& h", "h")]
        for one in self._operands:
            if one.name in loaded | stored:
                kind = f"{one.type}&" if one.name in stored else f"const {one.type}"
                found.append((f"{kind} {one.name}", f"{one.name}_pack[p].at[k]"))
        for one in self._of_blocks:
            if one.name in loaded:
                found.append((f"const {one.type} {one.name}", f"{one.name}_i"))
            if one.name in stored:
                found.append((f"{one.type}& {one.name}_kept", f"{one.name}_kept"))
        for node in half.drawn:
            element = "chosen({}, k)" if node.operation == "random" else "turned({}, p, k)"
            found.append((f"const unsigned draw{node.value}", element.format(f"words{node.value}")))
        form = "const {}" if is_second else "{}&"
        kinds = {i: TYPES[self._graph.nodes[i].dtype] for i in self._halves.kept}
        found += [(f"{form.format(kinds[i])} kept{i}", f"kept{i}[p][k]") for i in kinds]
        word = form.format("unsigned")
        found += [(f"{word} largest{i}", f"largest{i}") for i in self._halves.largest]
        if self._halves.largest and not is_second:
            found.append(("const bool is_there", "p * APART + k < left"))
        return found

    # The kernel ---------------------------------------------------------------------------------

    @abstractmethod
    def _enter(self) -> list[str]:
        """Return what is found once for all blocks."""

    @abstractmethod
    def _move(self, operands: Sequence[Operand], form: str) -> list[str]:
        """Return what moves elements of arrays: `form` is of their place and of a thread's own."""

    def _begin(self) -> list[str]:
        """Return what a thread loads of a block, and the words that are made for it."""
        lines = [
            f"Pack<{one.type}> {one.name}_pack[BLOCK / APART]{' = {}' * one.loaded};"
            for one in self._operands
        ]
        for one in self._of_blocks:
            lines += [f"const {one.type} {one.name}_i = {one.name}[block];"] * one.loaded
            lines += [f"{one.type} {one.name}_kept;"] * one.stored
        lines += self._move([one for one in self._operands if one.loaded], "{1} = {0};")
        for node in self._shared:
            made = self._draws.words(node, "block * COUNTERS + threadIdx.x % COUNTERS")
            lines.append(f"const Words words{node.value} = shared_words(room, {made});")
        kinds = {i: TYPES[self._graph.nodes[i].dtype] for i in self._halves.kept}
        lines += [f"{kind} kept{i}[BLOCK / APART][V];" for i, kind in kinds.items()]
        return [*lines, *(f"unsigned largest{i} = 0;" for i in self._halves.largest)]

    def _run(self, function: str) -> list[str]:
        """Return what runs a half on the elements of a thread, and stores what it gives."""
        half = self._functions[function]
        words = [
            f"    const Words words{node.value} = "
            f"{self._draws.words(node, f'(start + mine + p * APART) / {AT_ONCE}')};"
            for node in half.drawn
            if node.operation == "random"
        ]
        arguments = ", ".join(argument for _, argument in self._parameters(half))
        call = [*_PARTS, *words, *_ELEMENTS, f"        {function}({arguments});", "}"]
        stored = {self._names.arrays[name] for name in half.stored}
        return [*call, *self._move([x for x in self._operands if x.name in stored], "{0} = {1};")]

    def _of_block(self) -> list[str]:
        """Return what runs the rule on a block."""
        first, *second = map(self._run, self._functions)
        lines = [*self._begin(), *first]
        lines += [f"largest{i} = largest_of(largest{i});" for i in self._halves.largest]
        lines += [line for half in second for line in half]
        stores = [f"{one.name}[block] = {one.name}_kept;" for one in self._of_blocks if one.stored]
        if stores:
            lines.append("__syncwarp();  // all have read what was there")
            lines += ["if (threadIdx.x % WARP == 0) {", *(f"    {line}" for line in stores), "}"]
        return lines

    def _kernel(self) -> str:
        room = [
            f"alignas(16) __shared__ unsigned rooms[THREADS / WARP][BLOCK / {AT_ONCE}];",
            "unsigned* const room = rooms[threadIdx.x / WARP];",
        ]
        number = "const int number = step.leaf_of_block[blockIdx.x];"
        return f"""\
{self._signature()}
{{
{indented([*(room if self._shared else []), *self._turn_away, number], 1)}
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * step.chunk;
    const int count = (int)min(leaf.size - start, step.chunk);
{indented([*self._addresses(), *self._enter()], 1)}

    #pragma unroll 1
    for (int begin = threadIdx.x / WARP * BLOCK; begin < count; begin += THREADS / WARP * BLOCK) {{
        const long long block = (start + begin) / BLOCK;
        const int mine = begin + V * (threadIdx.x % WARP), left = count - mine;
{indented(self._of_block(), 2)}
    }}
}}"""


class LineBlocks(_Blocks):
    """Of tensors that are lines: with as wide loads and stores as V elements are."""

    strided: ClassVar[bool] = False

    def _enter(self) -> list[str]:
        return [aligned(self._operands, "{}")]

    def _move(self, operands: Sequence[Operand], form: str) -> list[str]:
        wide = [
            form.format(f"pack({one.name}, mine + p * APART)", f"{one.name}_pack[p]")
            for one in operands
        ]
        single = [
            form.format(f"{one.name}[mine + p * APART + k]", f"{one.name}_pack[p].at[k]")
            for one in operands
        ]
        if not operands:
            return []
        return [
            "if (aligned && begin + BLOCK <= count) {",
            *(f"    {line}" for line in _PARTS),
            *(f"        {line}" for line in wide),
            "    }",
            "} else {",
            *(f"    {line}" for line in (*_PARTS, *_ELEMENTS)),
            "            if (p * APART + k < left) {",
            *(f"                {line}" for line in single),
            "            }",
            "    }",
            "}",
        ]


class StridedBlocks(Strided, _Blocks):
    """Of other tensors: where each element is follows from its number."""

    def _reach(self) -> str:
        positions, many = self._positions, len(self._graph.arrays)
        fields = ", ".join(f"{name} = 0" for name in positions)
        moves = [f"at.{name} += index * axis[{1 + i}];" for name, i in positions.items()]
        return f"""\
{super()._reach()}

// Byte offsets of an element from the first one.
struct Offsets {{
    long long {fields};
}};

// The layout: the number of axes; then for each, the last one first, its length and the bytes from
// one element to the next in every array.
__device__ __forceinline__ Offsets locate(const long long* const layout, unsigned long long i)
{{
    Offsets at;
    const long long* axis = layout + 1;
    #pragma unroll 1
    for (long long rest = layout[0]; rest > 0; --rest, axis += {1 + many}) {{
        const unsigned long long length = axis[0];
        const long long index = i % length;
        i /= length;
{indented(moves, 2)}
    }}
    return at;
}}

{POINTER}"""

    def _enter(self) -> list[str]:
        return ["const long long* const layout = leaf.layout;", "GLOBAL(layout);"]

    def _move(self, operands: Sequence[Operand], form: str) -> list[str]:
        lines = [
            form.format(f"pointer({one.name}, at.{one.name})", f"{one.name}_pack[p].at[k]")
            for one in operands
        ]
        if not operands:
            return []
        return [
            *_PARTS,
            *_ELEMENTS,
            "        if (p * APART + k < left) {",
            "            const Offsets at = locate(layout, start + mine + p * APART + k);",
            *(f"            {line}" for line in lines),
            "        }",
            "}",
        ]

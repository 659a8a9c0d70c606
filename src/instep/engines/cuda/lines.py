"""Kernels on lines: tensors whose arrays lie in memory without gaps, and in one order."""

from collections.abc import Sequence
from typing import ClassVar

from instep.engines.cuda.kernel import Kernel, Operand, indented, vector_length
from instep.engines.cuda.summing import SumKernel
from instep.graph import Graph
from instep.graph.dtypes import itemsize
from instep.words import AT_ONCE

_PACK = """\
// V elements that lie side by side.
template <typename T>
struct alignas({}) Pack {{
    T at[V];
}};

template <typename T>
__device__ __forceinline__ Pack<T>& pack(T* const address, const int i)
{{
    return *reinterpret_cast<Pack<T>*>(address + i);
}}

__device__ __forceinline__ unsigned long long bits(const void* const address)
{{
    return reinterpret_cast<unsigned long long>(address);
}}"""


def pack(graph: Graph) -> str:
    """Return what reaches elements that lie side by side, those of codes in less than 16 bytes."""
    narrowest = min(itemsize(array.dtype) for array in graph.arrays)
    is_narrow = vector_length(graph) * narrowest < 16
    return _PACK.format("sizeof(T) * V < 16 ? sizeof(T) * V : 16" if is_narrow else "16")


def aligned(operands: Sequence[Operand], address: str) -> str:
    """Return what tells whether all arrays are reached 16 bytes at a time."""
    addresses = " | ".join(f"bits({address.format(o.name)})" for o in operands)
    if not addresses:  # the sum of a number
        return "const bool aligned = true;"
    return f"const bool aligned = (({addresses}) & 15) == 0;"


def vectors(
    operands: Sequence[Operand], of_element: Sequence[str], address: str, count: str
) -> list[str]:
    """Return what runs a pass on the `whole` first of `count` elements, 16 bytes at a time.

    `address` is the form of the names of where arrays begin, `of_element` what is done for each.
    """
    places = [(o, f"pack({address.format(o.name)}, i)") for o in operands]
    loads = [
        f"Pack<{o.type}> {o.name}_pack" + (f" = {place};" if o.loaded else ";")
        for o, place in places
    ]
    stores = [f"{place} = {o.name}_pack;" for o, place in places if o.stored]
    return [
        aligned(operands, address),
        f"const int whole = aligned ? {count} / V * V : 0;",
        "#pragma unroll 1  // other blocks, not more code, keep the memory busy",
        "for (int i = V * threadIdx.x; i < whole; i += V * THREADS) {",
        *(f"    {line}" for line in loads),
        "    #pragma unroll",
        "    for (int k = 0; k < V; ++k)",
        *(f"        {line}" for line in of_element),
        *(f"    {line}" for line in stores),
        "}",
    ]


class _Line(Kernel):
    """A kernel that takes 16 bytes at once, where the addresses allow."""

    strided: ClassVar[bool] = False

    def _walk(self) -> str:
        return f"{self._vector} elements at a time"

    def _constants(self) -> list[str]:
        return [f"constexpr int V = {self._vector};"]

    def _reach(self) -> str:
        return pack(self._graph)

    def _loads(self, index: str) -> list[str]:
        """Return what loads one element."""
        return [
            f"{operand.type} {operand.name}_i"
            + (f" = {operand.name}[{index}];" if operand.loaded else ";")
            for operand in self._operands
        ]


class LineStores(_Line):
    """A pass that stores: a block takes a chunk of a tensor."""

    def _of_vector(self) -> list[str]:
        """Return what is done for element `k` of a vector."""
        if not self._draws:
            return [self._call("{}_pack.at[k]", "")]
        # Vectors begin with elements of a number that can be divided by their length.
        element = "k" if self._vector % AT_ONCE == 0 else "start + i + k"
        made = self._draws.made(f"(start + i + k) / {AT_ONCE}")
        return [
            "{",
            f"    if (k % {AT_ONCE} == 0) {{",
            *(f"        {line}" for line in made),
            "    }",
            f"    {self._call('{}_pack.at[k]', element, made=True)}",
            "}",
        ]

    def _kernel(self) -> str:
        whole = vectors(self._operands, self._of_vector(), "{}", "count")
        vectors_ = indented([*self._draws.variables, *whole], 1)
        return f"""\
{self._signature()}
{{
{indented([*self._turn_away, "const int number = step.leaf_of_block[blockIdx.x];"], 1)}
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * step.chunk;
    const int count = (int)min(leaf.size - start, step.chunk);
{indented(self._addresses(), 1)}

{vectors_}

    #pragma unroll 1
    for (int i = whole + threadIdx.x; i < count; i += THREADS) {{
{indented(self._loads("i"), 2)}
{indented([self._call("{}_i", "start + i")], 2)}
{indented([f"{o.name}[i] = {o.name}_i;" for o in self._operands if o.stored], 2)}
    }}
}}"""


class LineSums(_Line, SumKernel):
    """A pass that sums."""

    lane: ClassVar[str] = "V * threadIdx.x + k"

    @property
    def _rows_in_flight(self) -> str:
        """How many rows are loaded before the first is used, and why."""
        if len(self._operands) > 8:
            return "1  // many arrays are enough loads in flight, and have no room for more"
        return "4  // loads of four rows in flight: a tile has few threads"

    def _add(self) -> str:
        loads = [f"const Pack<{o.type}> {o.name}_pack = pack({o.name}, i);" for o in self._operands]
        return f"""\
    int i = V * threadIdx.x;

{indented([aligned(self._operands, "{}")], 1)}
    if (aligned) {{
        #pragma unroll {self._rows_in_flight}
        for (; i + V <= count; i += LANES) {{
{indented(loads, 3)}
            #pragma unroll
            for (int k = 0; k < V; ++k)
{indented([self._call("{}_pack.at[k]", "start + i + k", "k")], 4)}
        }}
    }}

    #pragma unroll 1
    for (; i < count; i += LANES)
        #pragma unroll
        for (int k = 0; k < V; ++k) {{
            if (i + k >= count)
                break;
{indented(self._loads("i + k"), 3)}
{indented([self._call("{}_i", "start + i + k", "k")], 3)}
        }}"""

"""Kernels on tensors that are no lines: views, and arrays in another order than their parameter."""

from typing import ClassVar

from instep.engines.cuda.kernel import Kernel, SumKernel, indented
from instep.graph import Graph
from instep.graph.dtypes import DTYPES


def box_room(graph: Graph) -> int:
    """Return how many elements of each array have room in shared memory, of 48 KB in all.

    That is 32 rows of 32 elements, or of fewer, and a gap after each row.
    """
    size = sum(DTYPES[array.dtype].itemsize for array in graph.arrays)
    rows = 32
    while rows * 33 * size > 48 * 1024:
        rows //= 2
    return 33 * rows


_POINTER = """\
template <typename T>
__device__ __forceinline__ T& pointer(T* const first, const long long bytes)
{
    return *reinterpret_cast<T*>(reinterpret_cast<char*>(first) + bytes);
}"""


class _Strided(Kernel):
    """A kernel that computes where each element is."""

    strided: ClassVar[bool] = True

    @property
    def _positions(self) -> dict[str, int]:
        """The positions of the operands among all arrays, by name."""
        names = {operand.name for operand in self._operands}
        found = {self._names.arrays[array.name]: i for i, array in enumerate(self._graph.arrays)}
        return {name: i for name, i in found.items() if name in names}

    def _offsets(self) -> str:
        return f"""\
// Byte offsets of an element from the first one.
struct Offsets {{
    long long {", ".join(f"{name} = 0" for name in self._positions)};
}};"""


class BoxStores(_Strided):
    """A pass that stores: a block takes boxes of a tensor."""

    unit: ClassVar[str] = "boxes"

    def _walk(self) -> str:
        return "box by box"

    def _constants(self) -> list[str]:
        return [f"constexpr int ROOM = {box_room(self._graph)};"]

    def _reach(self) -> str:
        positions, many = self._positions, len(self._graph.arrays)

        def each(line: str, plus: int) -> str:
            return " ".join(line.format(name, plus + i) for name, i in positions.items())

        staged = [f"{operand.type} {operand.name}[ROOM];" for operand in self._operands]
        return f"""\
{self._offsets()}

// A part of a tensor: where it begins in each array, and the bytes from row to row and from column
// to column.
struct Box {{
    Offsets at, down, along;
    unsigned rows, columns;
    unsigned turned;  // a bit for each array that goes through shared memory
}};

// What goes through shared memory. Rows are an odd number of elements apart, so that neither those
// of a row nor those of a column meet in a bank.
struct Staged {{
{indented(staged, 1)}
}};

// The layout: the bits of what goes through shared memory; the number of axes; the bytes to where
// each array is entered. Then for each axis, columns and rows first: into how many parts it is cut,
// their length, its length, and the bytes from one element to the next in every array.
__device__ __forceinline__ Box locate(const long long* const layout, unsigned long long i)
{{
    GLOBAL(layout);
    Box box;
    box.turned = layout[0];
{indented([each("box.at.{} = layout[{}];", 2)], 1)}
    const long long* axis = layout + {2 + many};
    #pragma unroll 1
    for (long long k = 0; k < layout[1]; ++k, axis += {3 + many}) {{
        const unsigned long long parts = axis[0];
        const long long index = (long long)(i % parts) * axis[1];
        const unsigned length = min(axis[1], axis[2] - index);
        i /= parts;
{indented([each("box.at.{} += index * axis[{}];", 3)], 2)}
        if (k == 0) {{
            box.columns = length;
{indented([each("box.along.{} = axis[{}];", 3)], 3)}
        }} else if (k == 1) {{
            box.rows = length;
{indented([each("box.down.{} = axis[{}];", 3)], 3)}
        }}
    }}
    return box;
}}

{_POINTER}

template <typename T>
__device__ __forceinline__ T take(const bool turned, const T& staged, const T& place)
{{
    if (turned)
        return staged;
    return place;
}}

template <typename T>
__device__ __forceinline__ void put(const bool turned, T& staged, T& place, const T value)
{{
    if (turned)
        staged = value;
    else
        place = value;
}}"""

    def _place(self, name: str) -> str:
        return f"pointer({name}, box.at.{name} + r * box.down.{name} + c * box.along.{name})"

    def _kernel(self) -> str:
        turned = {name: f"box.turned >> {i} & 1" for name, i in self._positions.items()}
        here = "staged.{}[r * pitch + c]"
        ins, outs, loads, stores = [], [], [], []
        for o in self._operands:
            staged, place = here.format(o.name), self._place(o.name)
            given = f"({turned[o.name]}, {staged}, {place}"
            loads.append(f"{o.type} {o.name}_i" + (f" = take{given});" if o.loaded else ";"))
            if o.loaded:
                ins += [f"if ({turned[o.name]})", f"    {staged} = {place};"]
            if o.stored:
                stores.append(f"put{given}, {o.name}_i);")
                outs += [f"if ({turned[o.name]})", f"    {place} = {staged};"]
        down = ["const unsigned r = i % box.rows, c = i / box.rows;"]
        along = ["const unsigned r = i / box.columns, c = i % box.columns;"]
        return f"""\
{self._signature()}
{{
    __shared__ Staged staged;
{indented([*self._turn_away, "const int number = step.leaf_of_block[blockIdx.x];"], 1)}
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * step.chunk;
    const int count = (int)min(leaf.size - start, step.chunk);
{indented(self._addresses(), 1)}

    #pragma unroll 1
    for (int k = 0; k < count; ++k) {{
        const Box box = locate(leaf.layout, start + k);
        const unsigned size = box.rows * box.columns, pitch = box.columns | 1;
        if (box.turned) {{
            __syncthreads();  // the box before is done
            #pragma unroll 1
            for (unsigned i = threadIdx.x; i < size; i += THREADS) {{
{indented([*down, *ins], 4)}
            }}
            __syncthreads();
        }}
        #pragma unroll 1
        for (unsigned i = threadIdx.x; i < size; i += THREADS) {{
{indented([*along, *loads], 3)}
{indented([self._call("{}_i")], 3)}
{indented(stores, 3)}
        }}
        if (box.turned) {{
            __syncthreads();
            #pragma unroll 1
            for (unsigned i = threadIdx.x; i < size; i += THREADS) {{
{indented([*down, *outs], 4)}
            }}
        }}
    }}
}}"""


class StridedSums(_Strided, SumKernel):
    """A pass that sums."""

    def _walk(self) -> str:
        return "one element at a time"

    def _constants(self) -> list[str]:
        return [f"constexpr int V = {self._vector};"]

    def _reach(self) -> str:
        stride = 1 + len(self._graph.arrays)
        moves = [f"at.{name} += index * axis[{1 + i}];" for name, i in self._positions.items()]
        return f"""\
{self._offsets()}

// The layout: the number of axes, then for each, the last one first, its length and the bytes
// from one element to the next in every array.
__device__ __forceinline__ Offsets locate(const long long* const layout, unsigned long long i)
{{
    GLOBAL(layout);
    Offsets at;
    const long long* axis = layout + 1;
    #pragma unroll 1
    for (long long rest = layout[0]; rest > 0; --rest, axis += {stride}) {{
        const unsigned long long length = axis[0];
        const long long index = i % length;
        i /= length;
{indented(moves, 2)}
    }}
    return at;
}}

{_POINTER}"""

    def _add(self) -> str:
        loads = [
            "const Offsets at = locate(leaf.layout, start + i + k);",
            *(f"{o.type} {o.name}_i = pointer({o.name}, at.{o.name});" for o in self._operands),
        ]
        return f"""\
    int i = V * threadIdx.x;

    #pragma unroll 1
    for (; i < count; i += LANES)
        #pragma unroll
        for (int k = 0; k < V; ++k) {{
            if (i + k >= count)
                break;
{indented(loads, 3)}
{indented([self._call("{}_i", "k")], 3)}
        }}"""

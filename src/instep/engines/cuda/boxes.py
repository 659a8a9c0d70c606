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


#: Bytes of shared memory of a pass that sums: of 48 KB, what else it shares has some.
STAGE_ROOM = 47 * 1024


_POINTER = """\
template <typename T>
__device__ __forceinline__ T& pointer(T* const first, const long long bytes)
{
    return *reinterpret_cast<T*>(reinterpret_cast<char*>(first) + bytes);
}"""


_TAKE = """\
template <typename T>
__device__ __forceinline__ T take(const bool turned, const T& staged, const T& place)
{
    if (turned)
        return staged;
    return place;
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

{_TAKE}

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
    """A pass that sums: a block takes a tile in stages, as much of it as there is room for."""

    lane: ClassVar[str] = "k * THREADS + threadIdx.x"  # a warp has those that are side by side
    room: ClassVar[str] = "ROOM / sizeof(double)"

    def _walk(self) -> str:
        return "stage by stage"

    def _constants(self) -> list[str]:
        return [f"constexpr int V = {self._vector};", f"constexpr int ROOM = {STAGE_ROOM};"]

    def _reach(self) -> str:
        positions, many = self._positions, len(self._graph.arrays)
        moves = [f"at.{name} += index * axis[{1 + i}];" for name, i in positions.items()]
        return f"""\
{self._offsets()}

// The layout: the elements of a stage; those of a line, if something goes through shared memory;
// the number of axes; the bytes to where each array is in shared memory, below 0 if it is not. Then
// for each axis, the last one first, its length and the bytes from one element to the next in every
// array.
__device__ __forceinline__ Offsets locate(const long long* const layout, unsigned long long i)
{{
    GLOBAL(layout);
    Offsets at;
    const long long* axis = layout + {3 + many};
    #pragma unroll 1
    for (long long rest = layout[2]; rest > 0; --rest, axis += {1 + many}) {{
        const unsigned long long length = axis[0];
        const long long index = rest > 1 ? i % length : i;
        i = rest > 1 ? i / length : 0;
{indented(moves, 2)}
    }}
    return at;
}}

{_POINTER}

// An element in shared memory. Neither those of a line nor those that follow each other in another
// one meet in a bank.
template <typename T>
__device__ __forceinline__ T& kept(double* const room, const long long bytes, const int i)
{{
    return (&pointer(reinterpret_cast<T*>(room), bytes))[i ^ (i >> 5 & 31) ^ (i >> 10 & 31)];
}}

{_TAKE}"""

    def _add(self) -> str:
        offsets = [f"layout[{3 + i}]" for i in self._positions.values()]
        ins, loads = [], []
        for o in self._operands:
            is_kept, place = f"staged.{o.name} >= 0", f"pointer({o.name}, at.{o.name})"
            there = f"kept<{o.type}>(lanes, staged.{o.name}, i - first)"
            ins += [f"if ({is_kept})", f"    {there} = {place};"]
            loads.append(f"{o.type} {o.name}_i = take({is_kept}, {there}, {place});")
        return f"""\
    const long long* const layout = leaf.layout;
    GLOBAL(layout);
{indented([f"const Offsets staged = {{{', '.join(offsets)}}};"], 1)}
    const int stage = layout[0];
    const long long line = layout[1];
    #pragma unroll 1
    for (int first = 0; first < count; first += stage) {{
        const int end = min(count, first + stage);
        if (line) {{
            // Along the lines, which are several, an array is read side by side.
            const long long begin = (start + first) / line;
            const unsigned lines = (start + end - 1) / line - begin + 1;
            __syncthreads();  // the stage before is done
            #pragma unroll 1
            for (unsigned j = threadIdx.x; j < lines * (unsigned)line; j += THREADS) {{
                const long long place = (begin + j % lines) * line + j / lines - start;
                if (place < first || place >= end)
                    continue;
                const int i = place;
                const Offsets at = locate(layout, start + i);
{indented(ins, 4)}
            }}
            __syncthreads();
        }}
        #pragma unroll 1
        for (int row = first / LANES * LANES; row < end; row += LANES)
            #pragma unroll
            for (int k = 0; k < V; ++k) {{
                const int i = row + lane(k);
                if (i < first || i >= end)
                    continue;
                const Offsets at = locate(layout, start + i);
{indented(loads, 4)}
{indented([self._call("{}_i", "k")], 4)}
            }}
    }}"""

"""Kernels on tensors that are no lines: views, and arrays in another order than their parameter."""

from typing import ClassVar

from instep.engines.cuda.kernel import Kernel, indented
from instep.engines.cuda.lines import pack, vectors
from instep.engines.cuda.summing import SumKernel
from instep.graph import Graph
from instep.graph.dtypes import itemsize


def elements_in_flight(graph: Graph) -> int:
    """Return how many elements a thread takes at once: some 64 bytes of what it reaches.

    In a pass that stores these are bytes of registers, where short numbers are as long as float32.
    The number is a power of two: four at most in a pass that stores, eight in one that sums, and
    half as many for each further sum, which needs registers for its lanes.
    """
    reached = graph.loaded if graph.sums else graph.arrays
    least = 0 if graph.sums else 4
    size = sum(max(least, itemsize(array.dtype)) for array in reached)
    most = max(1, 16 >> len(graph.sums)) if graph.sums else 4
    while most > 1 and most * size > 64:
        most //= 2
    return most


#: Bytes of shared memory of a pass that sums: of 48 KB, what else it shares has some.
STAGE_ROOM = 47 * 1024


POINTER = """\
template <typename T>
__device__ __forceinline__ T& pointer(T* const first, const long long bytes)
{
    return *reinterpret_cast<T*>(reinterpret_cast<char*>(first) + bytes);
}"""


_ELEMENTS = """\
// The elements of a thread, `step` bytes apart, from memory and back: those whose bits are set.
template <typename T>
__device__ __forceinline__ void load(
    T (&values)[E], T* const first, const long long step, const unsigned there)
{
    #pragma unroll
    for (int k = 0; k < E; ++k)
        if (there >> k & 1)
            values[k] = pointer(first, k * step);
}

template <typename T>
__device__ __forceinline__ void store(
    const T (&values)[E], T* const first, const long long step, const unsigned there)
{
    #pragma unroll
    for (int k = 0; k < E; ++k)
        if (there >> k & 1)
            pointer(first, k * step) = values[k];
}

// Into shared memory, and from there, so many elements apart.
template <typename T>
__device__ __forceinline__ void put(
    const T (&values)[E], T* const first, const unsigned apart, const unsigned there)
{
    #pragma unroll
    for (int k = 0; k < E; ++k)
        if (there >> k & 1)
            first[k * apart] = values[k];
}

template <typename T>
__device__ __forceinline__ void take(
    T (&values)[E], const T* const first, const unsigned apart, const unsigned there)
{
    #pragma unroll
    for (int k = 0; k < E; ++k)
        if (there >> k & 1)
            values[k] = first[k * apart];
}"""


class Strided(Kernel):
    """A kernel that computes where each element is."""

    strided: ClassVar[bool] = True

    @property
    def _positions(self) -> dict[str, int]:
        """The positions of the operands among all arrays, by name."""
        names = {operand.name for operand in self._operands}
        found = {self._names.arrays[array.name]: i for i, array in enumerate(self._graph.arrays)}
        return {name: i for name, i in found.items() if name in names}


class BoxStores(Strided):
    """A pass that stores: a block takes boxes of a tensor."""

    unit: ClassVar[str] = "boxes"

    def _walk(self) -> str:
        return "box by box"

    def _constants(self) -> list[str]:
        return [
            f"constexpr int V = {self._vector};",
            f"constexpr int E = {elements_in_flight(self._graph)};  // a thread takes at once",
            f"constexpr int ARRAYS = {len(self._graph.arrays) + bool(self._draws)};",
            "constexpr int ROOM = E * (THREADS + THREADS / 4);",
        ]

    def _reach(self) -> str:
        staged = [f"{operand.type} {operand.name}[ROOM];" for operand in self._operands]
        return f"""\
{pack(self._graph)}

// A part of a tensor. Of each array, in bytes: where it begins; from row to row and from column to
// column; for a thread, from one element to the next, and to those that it takes after these.
struct Box {{
    unsigned rows, columns;
    long long at[ARRAYS], down[ARRAYS], along[ARRAYS], step[ARRAYS], next[ARRAYS];
}};

// What is turned. Rows are an odd number of elements apart, so that neither those of a row nor
// those of a column meet in a bank.
struct Staged {{
{indented(staged, 1)}
}};

// The layout: the bits of arrays that are turned; how many threads stand in a row, and how many
// rows of them; whether a box is one row, cut into those of threads, and without gaps; the number
// of axes; the bytes to where each array is entered. Then for each axis, columns and rows first:
// into how many parts it is cut, their length, its length, and the bytes from one element to the
// next in every array. A thread looks after one array.
__device__ __forceinline__ void locate(
    const long long* const layout, unsigned long long i, Box& box)
{{
    const int a = threadIdx.x;
    if (a >= ARRAYS)
        return;
    long long at = layout[6 + a], down = 0, along = 0;
    unsigned rows = 0, columns = 0;
    const long long* axis = layout + 6 + ARRAYS;
    #pragma unroll 1
    for (long long k = 0; k < layout[5]; ++k, axis += 3 + ARRAYS) {{
        const unsigned long long parts = axis[0];
        const long long index = (long long)(i % parts) * axis[1];
        const unsigned length = min(axis[1], axis[2] - index);
        i /= parts;
        at += index * axis[3 + a];
        if (k == 0)
            columns = length, along = axis[3 + a];
        else if (k == 1)
            rows = length, down = axis[3 + a];
    }}
    const long long high = layout[2], tall = E * high;
    box.at[a] = at;
    box.down[a] = down;
    box.along[a] = along;
    box.step[a] = layout[0] >> a & 1 ? THREADS / tall * along : high * down;
    box.next[a] = tall * down;
    if (a == 0) {{
        box.rows = rows;
        box.columns = columns;
    }}
}}

{POINTER}

{_ELEMENTS}"""

    def _enter(self) -> list[str]:
        """Return what sets a thread on its first elements."""
        lines = []
        for o in self._operands:
            i = self._positions[o.name]
            is_turned = f"turned >> {i} & 1"
            lines += [
                f"{o.name}_at = &pointer({o.name}_at, {is_turned} ? r_turned * box.down[{i}]",
                f"    + c_turned * box.along[{i}] : r * box.down[{i}] + c * box.along[{i}]);",
            ]
        return lines

    def _exchange(self, *, back: bool) -> list[str]:
        """Return what exchanges elements, so that a thread has those of one place in all arrays."""
        puts, takes = [], []
        for o in self._operands:
            if o.stored if back else o.loaded:
                is_turned = f"if (turned >> {self._positions[o.name]} & 1)"
                mine = f"({o.name}_i, staged.{o.name} + mine_staged, high * pitch, here);"
                turned = f"({o.name}_i, staged.{o.name} + turned_staged, apart, there);"
                puts += [is_turned, f"    put{mine if back else turned}"]
                takes += [is_turned, f"    take{turned if back else mine}"]
        return [*puts, "__syncthreads();", *takes]

    def _piece(self) -> list[str]:
        """Return what a thread does with elements that it takes at once."""
        loads, stores, moves = [], [], []
        for o in self._operands:
            name, i = o.name, self._positions[o.name]
            there = f"({name}_i, {name}_at, {name}_step, {name}_there);"
            loads += [
                f"{o.type} {name}_i[E];",
                f"const long long {name}_step = box.step[{i}];",
                f"const unsigned {name}_there = turned >> {i} & 1 ? there : here;",
                *([f"load{there}"] if o.loaded else []),
            ]
            stores += [f"store{there}"] if o.stored else []
            moves.append(f"{name}_at = &pointer({name}_at, box.next[{i}]);")
        return [
            "unsigned here = 0, there = 0;  // which elements there are",
            "#pragma unroll",
            "for (int k = 0; k < E; ++k)",
            "    here |= (unsigned)(begin + mine + k * high * width < size) << k;",
            "if (turned && begin + r_turned * width < size)",
            "    #pragma unroll",
            "    for (int k = 0; k < E; ++k)",
            "        there |= (unsigned)(c_turned + k * apart < box.columns) << k;",
            *loads,
            "if (turned) {",
            "    __syncthreads();  // the elements before are done",
            *(f"    {line}" for line in self._exchange(back=False)),
            "}",
            "#pragma unroll",
            "for (int k = 0; k < E; ++k)",
            "    if (here >> k & 1)",
            f"        {self._call('{}_i[k]', f'element + k * box.step[{self._number}]')}",
            "if (turned) {",
            *(f"    {line}" for line in self._exchange(back=True)),
            "}",
            *stores,
            *moves,
            *([f"element += box.next[{self._number}];"] if self._draws else []),
        ]

    @property
    def _number(self) -> int:
        """The position of the numbers of elements, in C order, as if they were an array."""
        return len(self._graph.arrays)

    def _kernel(self) -> str:
        operands, positions = self._operands, self._positions
        begins = [
            f"{o.type}* {o.name}_at = &pointer({o.name}, box.at[{positions[o.name]}]);"
            for o in operands
        ]
        of_vector = self._call("{}_pack.at[k]", f"box.at[{self._number}] + i + k")
        number, draws = self._number, bool(self._draws)
        begins += [f"long long element = box.at[{number}];"] * draws
        enter = [f"element += r * box.down[{number}] + c * box.along[{number}];"] * draws
        return f"""\
{self._signature()}
{{
    __shared__ Box box;
    __shared__ Staged staged;
{indented([*self._turn_away, "const int number = step.leaf_of_block[blockIdx.x];"], 1)}
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * step.chunk;
    const int count = (int)min(leaf.size - start, step.chunk);
    const long long* const layout = leaf.layout;
    GLOBAL(layout);

    #pragma unroll 1
    for (int b = 0; b < count; ++b) {{
        __syncthreads();  // the box before is done
        locate(layout, start + b, box);
        __syncthreads();
        unsigned size = layout[3] ? box.columns : box.rows * (unsigned)layout[1];
{indented(self._addresses(), 2)}
{indented(begins, 2)}
        if (layout[4]) {{
{indented(vectors(operands, [of_vector], "{}_at", "size"), 3)}
            size -= whole;
{indented([f"{o.name}_at += whole;" for o in operands] + ["element += whole;"] * draws, 3)}
        }}
        // A thread takes E elements of a column at once. Of what is turned, it reads and writes E
        // of a row, so that the threads of a warp go down the columns.
        const unsigned turned = layout[0], width = layout[1], high = layout[2], pitch = width | 1;
        const unsigned tall = E * high, apart = THREADS / tall;
        const unsigned r = threadIdx.x / width, c = threadIdx.x % width;
        const unsigned r_turned = threadIdx.x % tall, c_turned = threadIdx.x / tall;
        const unsigned mine_staged = r * pitch + c, turned_staged = r_turned * pitch + c_turned;
        const unsigned mine = r < high && c < box.columns ? threadIdx.x : size;
{indented([*self._enter(), *enter], 2)}
        #pragma unroll 1
        for (unsigned begin = 0; begin < size; begin += tall * width) {{
{indented(self._piece(), 3)}
        }}
    }}
}}"""


class StridedSums(Strided, SumKernel):
    """A pass that sums: a block takes a tile in stages, as much of it as there is room for."""

    lane: ClassVar[str] = "k * THREADS + threadIdx.x"  # a warp has those that are side by side
    room: ClassVar[str] = "ROOM / sizeof(double)"

    def _walk(self) -> str:
        return "stage by stage"

    def _constants(self) -> list[str]:
        return [
            f"constexpr int V = {self._vector};",
            f"constexpr int E = {elements_in_flight(self._graph)};  // a thread takes at once",
            "constexpr int BATCH = E > V ? E : V;",
            f"constexpr int ROOM = {STAGE_ROOM};",
        ]

    def _reach(self) -> str:
        positions, many = self._positions, len(self._graph.arrays)
        fields = ", ".join(f"{name} = 0" for name in positions)
        moves = [f"at.{name} += index * axis[{1 + i}];" for name, i in positions.items()]
        return f"""\
// Byte offsets of an element from the first one.
struct Offsets {{
{indented([f"long long {fields};"] if fields else [], 1)}
}};

// The layout: the elements of a stage; those of a line, if something goes through shared memory;
// the rows that have room there; the number of axes beside that of the rows; the bytes to where
// each array is in shared memory, 0 if it is not. Then for each axis, the last one first, its
// length and the bytes from one element to the next in every array.
//
// Where a row begins in each array.
__device__ __forceinline__ Offsets locate(const long long* const layout, unsigned long long i)
{{
    GLOBAL(layout);
    Offsets at;
    const long long* axis = layout + {4 + many + 1 + many};
    #pragma unroll 1
    for (long long rest = layout[3]; rest > 0; --rest, axis += {1 + many}) {{
        const unsigned long long length = axis[0];
        const long long index = rest > 1 ? i % length : i;
        i = rest > 1 ? i / length : 0;
{indented(moves, 2)}
    }}
    return at;
}}

{POINTER}

// An element in shared memory. Neither those of a line nor those that follow each other in another
// one meet in a bank.
template <typename T>
__device__ __forceinline__ T& kept(double* const room, const long long bytes, const int i)
{{
    return (&pointer(reinterpret_cast<T*>(room), bytes))[i ^ (i >> 5 & 31) ^ (i >> 10 & 31)];
}}"""

    def _add(self) -> str:
        number = "start + begun + (part + k) * THREADS"
        many, positions = len(self._graph.arrays), self._positions
        facts, tables, ins, puts, loads = [], [], [], [], []
        for j, o in enumerate(self._operands):
            i, name = positions[o.name], o.name
            facts += [
                f"const long long {name}_kept = layout[{4 + i}];",
                f"const long long {name}_along = layout[{5 + many + i}];",
            ]
            tables.append(f"rows[{j} * room + j] = at.{name} - passed * {name}_along;")
            place = f"pointer({name}, rows[{j} * room + row] + i * {name}_along)"
            there, put = (
                f"kept<{o.type}>(lanes, {name}_kept, {i})" for i in ("i - first", "places[k]")
            )
            ins += [f"if ({name}_kept)", f"    {name}_i[k] = {place};"]
            puts += [f"if ({name}_kept)", f"    {put} = {name}_i[k];"]
            loads += [
                f"if ({name}_kept)",
                f"    {name}_i[k] = {there};",
                "else",
                f"    {name}_i[k] = {place};",
            ]
        return f"""\
    const long long* const layout = leaf.layout;
    GLOBAL(layout);
    const int stage = layout[0], room = layout[2];
    const long long line = layout[1], length = layout[{4 + many}];
{indented(facts, 1)}
    long long* const rows = reinterpret_cast<long long*>(lanes);
    #pragma unroll 1
    for (int first = 0; first < count; first += stage) {{
        const int end = min(count, first + stage);
        const long long begin = (start + first) / length;
        const int many = (start + end - 1) / length - begin + 1;
        __syncthreads();  // the stage before is done
        #pragma unroll 1
        for (int j = threadIdx.x; j < many; j += THREADS) {{
            const Offsets at = locate(layout, begin + j);
            const long long passed = (begin + j) * length - start;
{indented(tables, 3)}
        }}
        __syncthreads();
        if (line) {{
            // Along the lines, which are several, an array is read side by side.
            const long long ahead = (start + first) / line * line - start;
            const unsigned lines = (start + end - 1) / line - (start + first) / line + 1;
            const unsigned passed = start - begin * length, width = length;
            unsigned l = threadIdx.x % lines, p = threadIdx.x / lines;
            const unsigned all = lines * (unsigned)line;
            #pragma unroll 1
            for (unsigned j = threadIdx.x; j < all; j += E * THREADS) {{
                int places[E];
{indented([f"{o.type} {o.name}_i[E];" for o in self._operands], 4)}
                #pragma unroll
                for (int k = 0; k < E; ++k) {{
                    const int i = (int)ahead + (int)(l * (unsigned)line + p);
                    const bool is_there = j + k * THREADS < all && i >= first && i < end;
                    places[k] = is_there ? i - first : -1;
                    if (is_there) {{
                        const unsigned row = line == length ? l : (i + passed) / width;
{indented(ins, 6)}
                    }}
                    l += THREADS % lines;
                    p += THREADS / lines;
                    if (l >= lines) {{
                        l -= lines;
                        ++p;
                    }}
                }}
                #pragma unroll
                for (int k = 0; k < E; ++k)
                    if (places[k] >= 0) {{
{indented(puts, 6)}
                    }}
            }}
            __syncthreads();
        }}
        // A thread has every element of this number: in which row is it, and how much of that is
        // left?
        const long long here = start + first + threadIdx.x;
        int row = here / length - begin;
        const int most = min(length, 1ll << 30), over = THREADS % most, whole = THREADS / most;
        int left = min(length - here % length, 1ll << 30);
        #pragma unroll 1
        for (int begun = first + threadIdx.x; begun < end; begun += BATCH * THREADS)
            #pragma unroll
            for (int part = 0; part < BATCH; part += E) {{
{indented([f"{o.type} {o.name}_i[E];" for o in self._operands], 4)}
                #pragma unroll
                for (int k = 0; k < E; ++k) {{
                    const int i = begun + (part + k) * THREADS;
                    if (i < end) {{
{indented(loads, 6)}
                    }}
                    row += whole;
                    left -= over;
                    if (left <= 0) {{
                        left += most;
                        ++row;
                    }}
                }}
                #pragma unroll
                for (int k = 0; k < E; ++k)
                    if (begun + (part + k) * THREADS < end)
{indented([self._call("{}_i[k]", number, "(part + k) % V")], 6)}
            }}
    }}"""

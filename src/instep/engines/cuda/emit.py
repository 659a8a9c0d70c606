"""Graphs as CUDA C++: a pure function from a pass to text, with no CuPy and no GPU needed.

One launch runs a pass over all tensors of a bucket. A block works on one chunk of one tensor,
which it finds in a table. There are two ways to walk over a tensor:

- as a *line*, where parameter, gradient and state lie in memory without gaps and in one order:
  16 bytes a load and a store where the addresses allow, single elements where they do not and
  for what is left at the end;
- *strided*: a pass that stores takes boxes of the tensor; arrays whose elements lie closest along
  the rows of a box, and not along its columns, go through shared memory, so that the threads of a
  warp always read and write side by side. A pass that sums takes one element at a time, whose
  address is computed from its index in C order.

A pass with sums computes them as `numerics.canonical_sum` says: a block sums one tile.
"""

import textwrap
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from instep.engines.cuda.canonical_sum import ADD_UP, TENSOR_SUM
from instep.engines.cuda.expressions import NARROW_TYPES, TYPES, Expressions, Names
from instep.graph import Graph, sum_scope
from instep.graph.dtypes import DTYPES
from instep.numerics import LANES, TILE

#: Threads of a block in a pass that stores. With up to 40 registers a thread, six to eight such
#: blocks share a multiprocessor: enough loads in flight to fill the memory bus, and short waits
#: at the end of a launch.
THREADS = 256

#: Words of the step that travel with the launch, as an argument by value. Every CUDA version
#: takes 4,096 bytes of arguments; the fields of `Step` before the words take the rest.
NEAR = 496

#: Fields of `Step` before the words, in order.
_POINTERS = ("leaves", "leaf_of_block", "far", "sums", "partials", "arrived", "taken")
_NUMBERS = ("chunk", "pairs", "columns", "tree", "known", "candidates", "rows")


def step_dtype() -> np.dtype[np.void]:
    """Return the layout of the argument of every kernel."""
    fields = [(name, "u8") for name in _POINTERS] + [(name, "i8") for name in _NUMBERS]
    return np.dtype([*fields, ("near", "u8", (NEAR,))], align=True)


def leaf_dtype(graph: Graph) -> np.dtype[np.void]:
    """Return the layout of the row of a tensor in the table."""
    fields = [("size", "i8"), ("first_block", "i8"), ("row", "i4"), ("position", "i4")]
    slots = [(f"slot{i}", "u8") for i in range(len(graph.arrays) - 2)]
    return np.dtype([*fields, ("layout", "u8"), *slots], align=True)


def vector_length(graph: Graph) -> int:
    """Return how many elements a thread takes at once: 16 bytes of the narrowest array."""
    return 16 // min(DTYPES[array.dtype].itemsize for array in graph.arrays)


def threads_per_block(graph: Graph) -> int:
    """Return the number of threads of a block."""
    return LANES // vector_length(graph) if graph.sums else THREADS


def box_room(graph: Graph) -> int:
    """Return how many elements of each array have room in shared memory, of 48 KB in all.

    That is 32 rows of 32 elements, or of fewer, and a gap after each row.
    """
    size = sum(DTYPES[array.dtype].itemsize for array in graph.arrays)
    rows = 32
    while rows * 33 * size > 48 * 1024:
        rows //= 2
    return 33 * rows


def kernel_name(graph: Graph, *, strided: bool) -> str:
    """Return the name of the kernel: an identifier of C."""
    name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "x" for c in graph.name)
    return name + ("_sums" if graph.sums else "") + ("_strided" if strided else "")


def emit(graph: Graph, *, strided: bool = False) -> str:
    """Return the CUDA C++ text of a pass."""
    if not (graph.stores or graph.sums):
        return f"// {graph.name} changes nothing: there is nothing to launch.\n"
    emitter = _Emitter(graph, strided)
    return "\n\n".join(emitter.parts()) + "\n"


def _indent(lines: list[str], depth: int) -> str:
    return "\n".join(part for line in lines for part in _wrapped("    " * depth + line))


def _wrapped(line: str) -> list[str]:
    """Return a line of code as lines of at most 100 characters, where it has spaces."""
    if "//" in line:
        return [line.rstrip()]
    margin = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.wrap(
        line, 100, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    ) or [""]


_POINTER = """\
template <typename T>
__device__ __forceinline__ T& pointer(T* const first, const long long bytes)
{
    return *reinterpret_cast<T*>(reinterpret_cast<char*>(first) + bytes);
}"""


@dataclass(frozen=True)
class _Operand:
    """An array of the rule as the text sees it."""

    name: str
    type: str
    loaded: bool
    stored: bool
    source: str  # where its address stands

    @property
    def parameter(self) -> str:
        if self.stored:
            return f"{self.type}& {self.name}"
        return f"const {self.type} {self.name}"


class _Emitter:
    """The text of one pass, part by part."""

    def __init__(self, graph: Graph, strided: bool) -> None:
        self._graph, self._strided = graph, strided
        self._names = Names(graph)
        loaded, stored = set(graph.loaded), set(graph.stored)
        self._operands = [
            _Operand(
                self._names.arrays[array.name],
                TYPES[array.dtype],
                array in loaded,
                array in stored,
                f"word(step, step.pairs + 2 * number + {i})"
                if i < 2
                else f"leaf.{self._names.arrays[array.name]}",
            )
            for i, array in enumerate(graph.arrays)
            if array in loaded or array in stored
        ]
        self._vector = vector_length(graph)

    def parts(self) -> list[str]:
        kernel = self._sums_kernel if self._graph.sums else self._store_kernel
        if self._in_boxes:
            kernel = self._boxes_kernel
        return [
            self._heading(),
            self._uniform(),
            self._element(),
            self._tables(),
            *([self._candidate()] if self._graph.guards else []),
            self._read_uniform(),
            self._reach(),
            *([TENSOR_SUM] if self._graph.sums else []),
            *([ADD_UP] if self._sums_over_tree else []),
            kernel(),
        ]

    # What the text begins with -------------------------------------------------------------

    def _heading(self) -> str:
        graph = self._graph
        walk = f"{self._vector} elements at a time"
        if self._strided:
            walk = "one element at a time" if graph.sums else "box by box"
        narrow = {array.dtype for array in graph.arrays} & NARROW_TYPES.keys()
        headers = sorted(NARROW_TYPES[dtype].header for dtype in narrow)
        includes = [f"#include <{name}>" for name in headers]
        return "\n".join(
            [
                f"// {graph.name}: arithmetic in {graph.compute}, {walk}.",
                "// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every",
                "// operation is rounded once, as IEEE 754 says.",
                *includes,
                "",
                f"constexpr int THREADS = {threads_per_block(graph)};",
                *([f"constexpr int V = {self._vector};"] if self._in_vectors else []),
                *([f"constexpr int ROOM = {box_room(graph)};"] if self._in_boxes else []),
                f"constexpr int NEAR = {NEAR};",
                *(
                    [f"constexpr int LANES = {LANES};", f"constexpr int TILE = {TILE};"]
                    if graph.sums
                    else []
                ),
            ]
        )

    @property
    def _in_vectors(self) -> bool:
        # In a pass with sums a thread has its lanes, whichever way it reads the elements.
        return bool(self._graph.sums) or not self._strided

    @property
    def _in_boxes(self) -> bool:
        return self._strided and not self._graph.sums

    def _tables(self) -> str:
        slots = [
            f"{TYPES[array.dtype]}* {self._names.arrays[array.name]};"
            for array in self._graph.arrays[2:]
        ]
        return f"""\
// A tensor: what stays the same from step to step.
struct Leaf {{
    long long size;  // in {"boxes" if self._in_boxes else "elements"}
    long long first_block;
    int row;       // of the hyperparameters
    int position;  // in the tree: its column in the table of sums
    const long long* layout;
{_indent(slots, 1)}
}};

// A step: hyperparameters of every row, then the addresses of parameter and gradient of every
// tensor, as words of 64 bits. The first of them travel with the launch.
struct Step {{
    const Leaf* leaves;
    const int* leaf_of_block;
    const unsigned long long* far;
    double* sums;       // a row for every sum; columns: the tensors, and the tree
    double* partials;   // the sums of tiles
    unsigned* arrived;  // blocks that are done, for every tensor; and tensors that are done
    const long long* taken;
    long long chunk;    // {"boxes" if self._in_boxes else "elements"} of a block
    long long pairs;    // the first word that is an address
    long long columns;  // of the table of sums
    long long tree;     // tensors of the tree, if this launch has them all
    // Of a guarded step: the host knows of `known` steps, and prepared a launch for each number
    // of steps that may have been taken by now. The device knows how many were.
    long long known;
    long long candidates;  // the bit of every number of steps that this launch is for
    long long rows;        // of hyperparameters, for each of them
    unsigned long long near[NEAR];
}};

__device__ __forceinline__ unsigned long long word(const Step& step, const long long i)
{{
    return i < NEAR ? step.near[i] : step.far[i - NEAR];
}}

// The compiler cannot see that an address from a table is one of global memory; where it knows,
// it uses the faster instructions for it. (A host compiler has one kind of memory only.)
#ifdef __GNUC__
#define GLOBAL(address)
#else
#define GLOBAL(address) __builtin_assume(__isGlobal(address))
#endif"""

    # Steps that a guard may turn away -----------------------------------------------------------

    def _candidate(self) -> str:
        totals = [
            f"__ldcg(step.sums + {number} * step.columns + step.columns - 1) == 0.0"
            for number in self._graph.guards
        ]
        allowed = f"""

// Whether no element of the tree forbids the step.
__device__ __forceinline__ bool allowed(const Step& step)
{{
{_indent([f"return {' && '.join(totals)};"], 1)}
}}"""
        return f"""\
// How many steps were taken of which the host does not know.
__device__ __forceinline__ long long candidate(const Step& step)
{{
    return *step.taken - step.known;
}}{allowed if self._is_last else ""}"""

    @property
    def _is_last(self) -> bool:
        """Whether this is the pass that changes parameters and state."""
        return not (self._graph.sums or self._graph.calls)

    @property
    def _turn_away(self) -> list[str]:
        """Return what ends a kernel that is for another number of steps, or is forbidden."""
        if not self._graph.guards:
            return []
        forbidden = " || !allowed(step)" if self._is_last else ""
        return [f"if (!(step.candidates >> candidate(step) & 1){forbidden})", "    return;"]

    # What is the same for all elements of a tensor ---------------------------------------------

    def _used(self, operation: str) -> list[int]:
        """Return the numbers of the scalars, or of the sums, that the pass reads."""
        nodes = self._graph.nodes
        return sorted({int(str(node.value)) for node in nodes if node.operation == operation})

    @cached_property
    def _derived(self) -> list[int]:
        """Nodes that are the same for all elements, and that elements need."""
        graph = self._graph
        needed = {store.node for store in graph.stores} | {entry.node for entry in graph.sums}
        for position, node in enumerate(graph.nodes):
            if position not in graph.uniform:
                needed.update(node.operands)
        return [
            position
            for position in sorted(graph.uniform & needed)
            if graph.nodes[position].operation not in ("scalar", "constant")
        ]

    def _uniform(self) -> str:
        graph, names = self._graph, self._names
        fields = []
        for i in self._used("scalar"):
            name, scalar = names.scalars[i], graph.scalars[i]
            comment = "" if name == scalar.source else f"  // {scalar.source}"
            fields.append(f"{TYPES[scalar.dtype]} {name};{comment}")
        fields += [f"{TYPES[graph.nodes[i].dtype]} u{i};" for i in self._derived]
        body = f"{{\n{_indent(fields, 1)}\n}}" if fields else "{}"
        return f"// What is the same for all elements of a tensor.\nstruct Uniform {body};"

    def _read_uniform(self) -> str:
        graph, names = self._graph, self._names
        # A float32 is in the low bits of a word.
        read = {
            "float32": "__uint_as_float((unsigned)word(step, first + {}))",
            "float64": "__longlong_as_double((long long)word(step, first + {}))",
        }
        lines = []
        if self._used("scalar"):
            row = "(candidate(step) * step.rows + leaf.row)" if graph.guards else "leaf.row"
            lines.append(f"const long long first = {row} * {len(graph.scalars)};")
        lines += [
            f"h.{names.scalars[i]} = {read[graph.scalars[i].dtype].format(i)};"
            for i in self._used("scalar")
        ]
        if self._derived:
            lines += [
                f"const double sum{number} = __ldcg(step.sums + {number} * step.columns + "
                f"{'leaf.position' if sum_scope(number) == 'tensor' else 'step.columns - 1'});"
                for number in self._used("reduced")
            ]
            wanted = {position: f"u{position}" for position in self._derived}
            lines += Expressions(graph, names, graph.uniform, wanted).statements
            lines += [f"h.u{position} = u{position};" for position in self._derived]
        return f"""\
__device__ __forceinline__ Uniform uniform(const Step& step, const Leaf& leaf)
{{
{_indent(["Uniform h;", *lines, "return h;"], 1)}
}}"""

    # The rule -------------------------------------------------------------------------------

    def _element(self) -> str:
        graph = self._graph
        rest = [i for i in range(len(graph.nodes)) if i not in graph.uniform]
        wanted: dict[int, str] = {}
        for store in graph.stores:
            wanted.setdefault(store.node, f"new_{self._names.arrays[store.array]}")
        expressions = Expressions(graph, self._names, rest, wanted)
        parameters = ["const Uniform& h", *(operand.parameter for operand in self._operands)]
        if graph.sums:
            parameters += [f"double& sum{entry.number}" for entry in graph.sums]
            results = [
                f"sum{entry.number} += (double)({expressions[entry.node]});" for entry in graph.sums
            ]
            comment, name = "// The summands of one element, added to a lane.", "accumulate"
        else:
            results = [
                f"{self._names.arrays[store.array]} = {expressions[store.node]};"
                for store in graph.stores
            ]
            comment, name = "// The rule, for one element.", "update"
        return f"""\
{comment}
__device__ __forceinline__ void {name}(
{_indent([", ".join(parameters) + ")"], 1)}
{{
{_indent([*expressions.statements, *results], 1)}
}}"""

    def _call(self, forms: str, lane: str = "") -> str:
        arguments = ["h", *(forms.format(operand.name) for operand in self._operands)]
        if self._graph.sums:
            arguments += [f"sum{entry.number}[{lane}]" for entry in self._graph.sums]
            return f"accumulate({', '.join(arguments)});"
        return f"update({', '.join(arguments)});"

    # Reaching elements ----------------------------------------------------------------------

    def _reach(self) -> str:
        if not self._strided:
            return self._pack()
        return self._locate_box() if self._in_boxes else self._locate()

    @staticmethod
    def _pack() -> str:
        return """\
// V elements that lie side by side.
template <typename T>
struct alignas(16) Pack {
    T at[V];
};

template <typename T>
__device__ __forceinline__ Pack<T>& pack(T* const address, const int i)
{
    return *reinterpret_cast<Pack<T>*>(address + i);
}

__device__ __forceinline__ unsigned long long bits(const void* const address)
{
    return reinterpret_cast<unsigned long long>(address);
}"""

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

    def _locate(self) -> str:
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
{_indent(moves, 2)}
    }}
    return at;
}}

{_POINTER}"""

    def _locate_box(self) -> str:
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
{_indent(staged, 1)}
}};

// The layout: the bits of what goes through shared memory; the number of axes; the bytes to where
// each array is entered. Then for each axis, columns and rows first: into how many parts it is cut,
// their length, its length, and the bytes from one element to the next in every array.
__device__ __forceinline__ Box locate(const long long* const layout, unsigned long long i)
{{
    GLOBAL(layout);
    Box box;
    box.turned = layout[0];
{_indent([each("box.at.{} = layout[{}];", 2)], 1)}
    const long long* axis = layout + {2 + many};
    #pragma unroll 1
    for (long long k = 0; k < layout[1]; ++k, axis += {3 + many}) {{
        const unsigned long long parts = axis[0];
        const long long index = (long long)(i % parts) * axis[1];
        const unsigned length = min(axis[1], axis[2] - index);
        i /= parts;
{_indent([each("box.at.{} += index * axis[{}];", 3)], 2)}
        if (k == 0) {{
            box.columns = length;
{_indent([each("box.along.{} = axis[{}];", 3)], 3)}
        }} else if (k == 1) {{
            box.rows = length;
{_indent([each("box.down.{} = axis[{}];", 3)], 3)}
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

    def _addresses(self) -> list[str]:
        move = "" if self._strided else " + start"
        lines = []
        for operand in self._operands:
            name, source = operand.name, operand.source
            if source.startswith("word"):
                source = f"reinterpret_cast<{operand.type}*>({source})"
            lines += [f"{operand.type}* const {name} = {source}{move};", f"GLOBAL({name});"]
        return lines

    def _aligned(self) -> str:
        addresses = " | ".join(f"bits({o.name})" for o in self._operands)
        if not addresses:  # the sum of a number
            return "const bool aligned = true;"
        return f"const bool aligned = (({addresses}) & 15) == 0;"

    def _place(self, name: str) -> str:
        return f"pointer({name}, box.at.{name} + r * box.down.{name} + c * box.along.{name})"

    def _element_loads(self, index: str) -> list[str]:
        if self._strided:
            return [
                f"const Offsets at = locate(leaf.layout, start + {index});",
                *(
                    f"{operand.type} {operand.name}_i"
                    + (f" = pointer({operand.name}, at.{operand.name});" if operand.loaded else ";")
                    for operand in self._operands
                ),
            ]
        return [
            f"{operand.type} {operand.name}_i"
            + (f" = {operand.name}[{index}];" if operand.loaded else ";")
            for operand in self._operands
        ]

    def _element_stores(self, index: str) -> list[str]:
        stored = [operand.name for operand in self._operands if operand.stored]
        if self._strided:
            return [f"pointer({name}, at.{name}) = {name}_i;" for name in stored]
        return [f"{name}[{index}] = {name}_i;" for name in stored]

    # Kernels --------------------------------------------------------------------------------

    def _signature(self) -> str:
        name = kernel_name(self._graph, strided=self._strided)
        # Left to itself the compiler may spill a register to keep one more block on a
        # multiprocessor. Where a pass reads many arrays, or computes addresses or sums, it is
        # asked for 512 threads only: they have tens of KB of loads in flight, which is more than
        # any GPU needs to fill its memory bus.
        many = len(self._graph.loaded) > 4 or self._strided or self._graph.sums
        blocks = f", {512 // threads_per_block(self._graph)}" if many else ""
        return (
            f'extern "C" __global__ void __launch_bounds__(THREADS{blocks})\n'
            f"{name}(const __grid_constant__ Step step)"
        )

    def _store_kernel(self) -> str:
        loads = [
            f"Pack<{o.type}> {o.name}_pack" + (f" = pack({o.name}, i);" if o.loaded else ";")
            for o in self._operands
        ]
        stores = [f"pack({o.name}, i) = {o.name}_pack;" for o in self._operands if o.stored]
        vectors = f"""
{_indent([self._aligned()], 1)}
    const int whole = aligned ? count / V * V : 0;
    #pragma unroll 1  // other blocks, not more code, keep the memory busy
    for (int i = V * threadIdx.x; i < whole; i += V * THREADS) {{
{_indent(loads, 2)}
        #pragma unroll
        for (int k = 0; k < V; ++k)
{_indent([self._call("{}_pack.at[k]")], 3)}
{_indent(stores, 2)}
    }}
"""
        return f"""\
{self._signature()}
{{
{_indent([*self._turn_away, "const int number = step.leaf_of_block[blockIdx.x];"], 1)}
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * step.chunk;
    const int count = (int)min(leaf.size - start, step.chunk);
{_indent(self._addresses(), 1)}
{vectors}
    #pragma unroll 1
    for (int i = whole + threadIdx.x; i < count; i += THREADS) {{
{_indent(self._element_loads("i"), 2)}
{_indent([self._call("{}_i")], 2)}
{_indent(self._element_stores("i"), 2)}
    }}
}}"""

    def _boxes_kernel(self) -> str:
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
{_indent([*self._turn_away, "const int number = step.leaf_of_block[blockIdx.x];"], 1)}
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * step.chunk;
    const int count = (int)min(leaf.size - start, step.chunk);
{_indent(self._addresses(), 1)}

    #pragma unroll 1
    for (int k = 0; k < count; ++k) {{
        const Box box = locate(leaf.layout, start + k);
        const unsigned size = box.rows * box.columns, pitch = box.columns | 1;
        if (box.turned) {{
            __syncthreads();  // the box before is done
            #pragma unroll 1
            for (unsigned i = threadIdx.x; i < size; i += THREADS) {{
{_indent([*down, *ins], 4)}
            }}
            __syncthreads();
        }}
        #pragma unroll 1
        for (unsigned i = threadIdx.x; i < size; i += THREADS) {{
{_indent([*along, *loads], 3)}
{_indent([self._call("{}_i")], 3)}
{_indent(stores, 3)}
        }}
        if (box.turned) {{
            __syncthreads();
            #pragma unroll 1
            for (unsigned i = threadIdx.x; i < size; i += THREADS) {{
{_indent([*down, *outs], 4)}
            }}
        }}
    }}
}}"""

    def _sums_kernel(self) -> str:
        sums = self._graph.sums
        loads = [f"const Pack<{o.type}> {o.name}_pack = pack({o.name}, i);" for o in self._operands]
        vectors = f"""
{_indent([self._aligned()], 1)}
    if (aligned) {{
        #pragma unroll 4  // loads of four rows in flight: a tile has few threads
        for (; i + V <= count; i += LANES) {{
{_indent(loads, 3)}
            #pragma unroll
            for (int k = 0; k < V; ++k)
{_indent([self._call("{}_pack.at[k]", "k")], 4)}
        }}
    }}
"""
        lanes = ", ".join(f"sum{entry.number}[V] = {{}}" for entry in sums)
        partials = [f"const double partial{e.number} = fold(lanes, sum{e.number});" for e in sums]
        writes = [
            f"step.partials[{j} * (long long)gridDim.x + blockIdx.x] = partial{e.number};"
            for j, e in enumerate(sums)
        ]
        totals = [
            f"canonical_sum(lanes, step.partials + {j} * (long long)gridDim.x + leaf.first_block, "
            f"tiles, step.sums + {e.number} * step.columns + leaf.position);"
            for j, e in enumerate(sums)
        ]
        return f"""\
{self._signature()}
{{
    __shared__ double lanes[LANES];
{_indent([*self._turn_away, "const int number = step.leaf_of_block[blockIdx.x];"], 1)}
    const Leaf leaf = step.leaves[number];
    const Uniform h = uniform(step, leaf);
    const long long start = (blockIdx.x - leaf.first_block) * TILE;
    const int count = (int)min(leaf.size - start, (long long)TILE);
{_indent(self._addresses(), 1)}

    // A thread has V lanes, and meets their elements in increasing order.
    double {lanes};
    int i = V * threadIdx.x;
{"" if self._strided else vectors}
    #pragma unroll 1
    for (; i < count; i += LANES)
        #pragma unroll
        for (int k = 0; k < V; ++k) {{
            if (i + k >= count)
                break;
{_indent(self._element_loads("i + k"), 3)}
{_indent([self._call("{}_i", "k")], 3)}
        }}
{_indent(partials, 1)}
    if (threadIdx.x == 0) {{
{_indent(writes, 2)}
    }}

    // The last block of the tensor sums the tiles.
    const long long tiles = leaf.size > TILE ? (leaf.size + TILE - 1) / TILE : 1;
    if (!last(step.arrived + number, tiles))
        return;
{_indent(totals, 1)}
{self._tree()}}}"""

    @property
    def _sums_over_tree(self) -> list[int]:
        return [entry.number for entry in self._graph.sums if entry.scope == "tree"]

    def _tree(self) -> str:
        if not self._sums_over_tree:
            return ""
        calls = [
            f"add_up(lanes, step.sums + {number} * step.columns, step.columns - 1);"
            for number in self._sums_over_tree
        ]
        return f"""
    // The last tensor adds up the tree, if no other launch has a part in it.
    if (step.tree == 0 || !last(step.arrived + step.tree, step.tree))
        return;
{_indent(calls, 1)}
"""

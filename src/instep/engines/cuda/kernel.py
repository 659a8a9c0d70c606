"""What every kernel has in common, however it walks over tensors: its tables, and the rule."""

import textwrap
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from instep.engines.cuda.canonical_sum import (
    LARGER,
    combined,
)
from instep.engines.cuda.expressions import NARROW_TYPES, TYPES, Expressions, Names
from instep.engines.cuda.random import Draws
from instep.graph import Array, Graph, sum_kind, sum_scope
from instep.graph.dtypes import WORDS, itemsize
from instep.numerics import LANES, TILE
from instep.words import AT_ONCE, BLOCK

#: Threads of a block in a pass that stores. Five such blocks share a multiprocessor where a thread
#: has 48 registers, as Adam's, and eight where it has 32, as SGD's: enough loads in flight to fill
#: the memory bus, and short waits at the end of a launch.
THREADS = 256

#: The same where a warp has a block of elements that have something in common: threads have some
#: hundred registers, of which smaller blocks leave fewer unused. Adam with state of 8 bits took
#: 0.76 of the time of 256 threads on an H200, with state of bfloat16 0.86.
THREADS_OF_BLOCKS = 128

#: Sums of lanes that a thread of a pass with many sums keeps: two registers each. With more of
#: them, fewer lanes are a thread's, and there are more threads.
MOST_LANES = 48

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
    numbers = [(f"number{number}", "u8") for number in remembered_numbers(graph)]
    return np.dtype([*fields, ("layout", "u8"), *slots, *numbers], align=True)


def remembered_numbers(graph: Graph) -> list[int]:
    """Return the numbers of what is remembered that a pass reads or makes."""
    read = {int(str(node.value)) for node in graph.nodes if node.operation == "reduced"}
    made = {entry.number for entry in graph.remembered}
    return sorted(made | {number for number in read if sum_kind(number) == "remembered"})


def vector_length(graph: Graph) -> int:
    """Return how many elements a thread takes at once: 16 bytes of the narrowest array.

    It is less where a pass has many sums. Codes are counted as numbers of the arithmetic. In
    blocks there are four, twice: a warp reads the halves of a block of float32 with 16 bytes a
    thread, side by side.
    """
    if graph.has_blocks and graph.stores:
        return AT_ONCE
    dtypes = (graph.compute if array.dtype in WORDS else array.dtype for array in graph.arrays)
    length = 16 // min(map(itemsize, dtypes))
    while length > 1 and length * len(graph.sums) > MOST_LANES:
        length //= 2
    return length


def threads_per_block(graph: Graph) -> int:
    """Return the number of threads of a block."""
    if graph.sums:
        return LANES // vector_length(graph)
    return THREADS_OF_BLOCKS if graph.has_blocks else THREADS


def kernel_name(graph: Graph, *, strided: bool) -> str:
    """Return the name of the kernel: an identifier of C."""
    name = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "x" for c in graph.name)
    ending = "_sums" if graph.sums else "_numbers" if graph.remembered else ""
    return name + ending + ("_strided" if strided else "")


def indented(lines: list[str], depth: int) -> str:
    """Return lines of code so many levels deep, none longer than 100 characters if it can be."""
    return "\n".join(part for line in lines for part in _wrapped("    " * depth + line))


def _wrapped(line: str) -> list[str]:
    """Return a line of code as lines of at most 100 characters, where it has spaces."""
    if "//" in line:
        return [line.rstrip()]
    margin = " " * (len(line) - len(line.lstrip()) + 4)
    return textwrap.wrap(
        line, 100, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    ) or [""]


@dataclass(frozen=True)
class Operand:
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


_BLOCKS = """\
#if __CUDA_ARCH__ / 100 == 9
constexpr int BLOCKS = 3;
#else  // elsewhere, a third block would cost a spilled register
constexpr int BLOCKS = 2;
#endif"""


class Kernel(ABC):
    """The text of one pass, part by part: how it walks is what its classes say.

    Attributes
    ----------
    strided
        Whether it serves tensors that are no lines.
    unit
        What a leaf and the part of a block are counted in.
    """

    strided: ClassVar[bool]
    unit: ClassVar[str] = "elements"

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._names = Names(graph)
        used = {*graph.loaded, *graph.stored}
        found = [(x, self._operand(i, x)) for i, x in enumerate(graph.arrays) if x in used]
        self._operands = [operand for array, operand in found if array.per == 1]
        self._of_blocks = [operand for array, operand in found if array.per > 1]
        self._vector, self._draws = vector_length(graph), Draws(graph)

    def _operand(self, position: int, array: Array) -> Operand:
        graph, name = self._graph, self._names.arrays[array.name]
        step = f"word(step, step.pairs + 2 * number + {position})"
        source = step if position < 2 else f"leaf.{name}"
        loaded, stored = array in graph.loaded, array in graph.stored
        return Operand(name, TYPES[array.dtype], loaded, stored, source)

    def text(self) -> str:
        """Return the text."""
        parts = [
            self._heading(),
            self._uniform(),
            *([LARGER] if any(x.kind == "maximum" for x in self._graph.sums) else []),
            *self._draws.functions,
            self._element(),
            self._tables(),
            *([self._candidate()] if self._graph.guards else []),
            self._read_uniform(),
            self._reach(),
            *self._summing(),
            self._kernel(),
        ]
        return "\n\n".join(parts) + "\n"

    def _summing(self) -> list[str]:
        """Return the functions that fold lanes and add up tiles."""
        return []

    @abstractmethod
    def _walk(self) -> str:
        """Say how it walks, in words."""

    @abstractmethod
    def _constants(self) -> list[str]:
        """Return the constants that are its own."""

    @abstractmethod
    def _reach(self) -> str:
        """Return the functions that reach elements."""

    @abstractmethod
    def _kernel(self) -> str:
        """Return the kernel itself."""

    # What the text begins with -------------------------------------------------------------

    def _heading(self) -> str:
        graph = self._graph
        narrow = {array.dtype for array in graph.arrays} & NARROW_TYPES.keys()
        headers = sorted(NARROW_TYPES[dtype].header for dtype in narrow)
        includes = [f"#include <{name}>" for name in headers]
        return "\n".join(
            [
                f"// {graph.name}: arithmetic in {graph.compute}, {self._walk()}.",
                "// Compiled with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true: every",
                "// operation is rounded once, as IEEE 754 says.",
                *includes,
                "",
                f"constexpr int THREADS = {threads_per_block(graph)};",
                *([_BLOCKS] if self._is_light else []),
                *self._constants(),
                f"constexpr int NEAR = {NEAR};",
                *(
                    [f"constexpr int LANES = {LANES};", f"constexpr int TILE = {TILE};"]
                    if graph.sums
                    else []
                ),
            ]
        )

    def _tables(self) -> str:
        slots = [
            f"{TYPES[array.dtype]}* {self._names.arrays[array.name]};"
            for array in self._graph.arrays[2:]
        ]
        slots += [f"double* number{number};" for number in remembered_numbers(self._graph)]
        return f"""\
// A tensor: what stays the same from step to step.
struct Leaf {{
    long long size;  // in {self.unit}
    long long first_block;
    int row;       // of the hyperparameters
    int position;  // in the tree: its column in the table of sums
    const long long* layout;
{indented(slots, 1)}
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
    long long chunk;    // {self.unit} of a block
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
{indented([f"return {' && '.join(totals)};"], 1)}
}}"""
        return f"""\
// How many steps were taken of which the host does not know.
__device__ __forceinline__ long long candidate(const Step& step)
{{
    return *step.taken - step.known;
}}{allowed if self._is_judged else ""}"""

    @property
    def _is_last(self) -> bool:
        """Whether this is the pass that changes parameters and state."""
        return not (self._graph.sums or self._graph.calls)

    @property
    def _is_judged(self) -> bool:
        """Whether it asks if the step is allowed."""
        return self._is_last

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
        needed |= {entry.node for entry in graph.remembered}
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
        body = f"{{\n{indented(fields, 1)}\n}}" if fields else "{}"
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
                f"const double sum{number} = __ldcg({self._place_of_sum(number)});"
                for number in self._used("reduced")
            ]
            wanted = {position: f"u{position}" for position in self._derived}
            lines += Expressions(graph, names, graph.uniform, wanted).statements
            lines += [f"h.u{position} = u{position};" for position in self._derived]
        return f"""\
__device__ __forceinline__ Uniform uniform(const Step& step, const Leaf& leaf)
{{
{indented(["Uniform h;", *lines, "return h;"], 1)}
}}"""

    @staticmethod
    def _place_of_sum(number: int) -> str:
        if sum_kind(number) == "remembered":
            return f"leaf.number{number}"
        column = "leaf.position" if sum_scope(number) == "tensor" else "step.columns - 1"
        return f"step.sums + {number} * step.columns + {column}"

    # The rule -------------------------------------------------------------------------------

    def _element(self) -> str:
        graph = self._graph
        rest = [i for i in range(len(graph.nodes)) if i not in graph.uniform]
        wanted: dict[int, str] = {}
        for store in graph.stores:
            wanted.setdefault(store.node, f"new_{self._names.arrays[store.array]}")
        expressions = Expressions(graph, self._names, rest, wanted)
        arrays = [*self._operands, *self._of_blocks]
        parameters = ["const Uniform& h", *(operand.parameter for operand in arrays)]
        parameters += self._draws.parameters
        if graph.sums:
            parameters += [f"double& sum{entry.number}" for entry in graph.sums]
            results = [
                combined(entry.kind, f"sum{entry.number}", f"(double)({expressions[entry.node]})")
                for entry in graph.sums
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
{indented([", ".join(parameters) + ")"], 1)}
{{
{indented([*expressions.statements, *results], 1)}
}}"""

    def _call(self, forms: str, element: str, lane: str = "", *, made: bool = False) -> str:
        """Return the call of the rule for an element, whose random words may be made already."""
        arguments = ["h", *(forms.format(operand.name) for operand in self._operands)]
        arguments += [f"{one.name}[({element}) / {BLOCK}]" for one in self._of_blocks]
        arguments += self._draws.arguments(element, made=made)
        if self._graph.sums:
            arguments += [f"sum{entry.number}[{lane}]" for entry in self._graph.sums]
            return f"accumulate({', '.join(arguments)});"
        return f"update({', '.join(arguments)});"

    # What kernels are made of ----------------------------------------------------------------

    @property
    def _together(self) -> int:
        """Threads for which a multiprocessor has to have registers, where these are many."""
        is_wide = self.strided and self._graph.compute == "float64" and len(self._operands) > 6
        return 256 if is_wide else 512

    def _addresses(self) -> list[str]:
        move = "" if self.strided else " + start"
        lines = []
        for operand in (*self._operands, *self._of_blocks):
            name, source = operand.name, operand.source
            if source.startswith("word"):
                source = f"reinterpret_cast<{operand.type}*>({source})"
            source += move if operand in self._operands else ""
            lines += [f"{operand.type}* const {name} = {source};", f"GLOBAL({name});"]
        return lines

    @property
    def _is_light(self) -> bool:
        """Whether three strided blocks find registers on a multiprocessor of an H100 or H200.

        They took 0.87 of the time of two for a transposed gradient of Adam on an H200.
        """
        graph = self._graph
        is_small = len(graph.arrays) <= 4 and len(graph.scalars) <= 6 and len(graph.nodes) <= 40
        is_float32 = all(array.dtype == "float32" for array in graph.arrays)
        return self.strided and is_small and is_float32 and not graph.sums

    def _signature(self) -> str:
        name = kernel_name(self._graph, strided=self.strided)
        # Left to itself the compiler may spill a register to keep one more block on a
        # multiprocessor. Where a pass has many arrays or numbers, or computes addresses or sums,
        # it is asked for 512 threads only: they have tens of KB of loads in flight, which is more
        # than any GPU needs to fill its memory bus.
        numbers = remembered_numbers(self._graph)
        is_heavy = len(self._operands) > 4 or len(numbers) > 1
        many = is_heavy or self.strided or self._graph.sums or self._graph.has_blocks
        blocks = f", {self._together // threads_per_block(self._graph)}" if many else ""
        blocks = ", BLOCKS" if self._is_light else blocks
        return (
            f'extern "C" __global__ void __launch_bounds__(THREADS{blocks})\n'
            f"{name}(const __grid_constant__ Step step)"
        )

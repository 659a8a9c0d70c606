"""Graphs as LLVM IR: a pure function from a pass to text, with no compiler needed.

The module that is emitted has two functions. `span` runs the pass on a range of elements of one
tensor: single elements up to the next cache line, vectors, single elements to the end. `run`
takes chunks of work from a list that all threads share, until none is left, and calls `span` for
the part of each tensor in the chunk.

All arguments stand in one block of 64-bit words (`Argument`), and what is known of a tensor in one
row of words (`entry_words`), so a call costs the same for any number of tensors.
"""

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from instep.engines.native.cast import TYPES, vector
from instep.engines.native.expressions import Expressions
from instep.engines.native.joining import joined
from instep.engines.native.target import Traits
from instep.graph import Graph
from instep.graph.dtypes import DTYPES
from instep.numerics import LANES, TILE

#: Bytes of a vector of compute values: two AVX2 registers or one AVX-512 register. Two chains of
#: dependent operations in flight hide the latency of division and root. On Zen 5 vectors of 32, 64
#: and 128 bytes take the same time, of 1,000 to 256,000 elements: its divider is the limit.
VECTOR_BYTES = 64

CACHE_LINE = 64

#: Elements from which a span is peeled to the cache line. It spares a fifth of the time on Zen 3
#: (1.42 instead of 1.75 ns an element of Adam), and nothing on Zen 5.
SHORTEST_PEELED = 4096

#: Bytes that a pass that reduces asks for ahead of its work, in all its arrays together. Adding to
#: lanes fills the window of a core with instructions that need no memory, so without it too few
#: loads are in flight: the sum of squares of 2**25 float32 takes 5.2 ms, with it 3.7, and reading
#: alone 3.6 (Zen 5; half or twice the distance costs 0.2).
PREFETCHED_BYTES = 16 * 1024


_PREFETCH = "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)"


class Argument(enum.IntEnum):
    """Positions in the block of arguments of `run`."""

    TABLE = 0  # address of the rows of the tensors
    SCALARS = 1  # address of the rows of scalars
    CHUNKS = 2  # address of the chunks
    COUNT = 3  # number of chunks
    NEXT = 4  # the next chunk to take: counted up by all threads
    SUMS = 5  # address of the table of sums
    SUMS_STRIDE = 6  # columns of the table of sums
    PARTIALS = 7  # address of the sums of tiles
    PARTIALS_STRIDE = 8  # tiles of all tensors


class Entry(enum.IntEnum):
    """Positions in the row of a tensor, after the addresses of its arrays."""

    COUNT = 0  # elements
    ROW = 1  # number of its row of scalars
    COLUMN = 2  # its column in the table of sums
    TILES = 3  # tiles of its canonical sum
    FIRST_TILE = 4  # position of its first tile among those of all tensors


def entry_words(graph: Graph) -> int:
    """Return the number of 64-bit words of the row of a tensor."""
    return len(graph.arrays) + len(Entry)


@dataclass(frozen=True)
class ScalarLayout:
    """How a row of scalars lies in memory: as a structure of C, each in its own dtype."""

    offsets: tuple[int, ...]
    itemsize: int
    format: str  # of the module struct


def scalar_layout(graph: Graph) -> ScalarLayout:
    """Return the layout of the rows of scalars that a pass loads."""
    offsets, end, letters = [], 0, ""
    for scalar in graph.scalars:
        size = DTYPES[scalar.dtype].itemsize
        padding = -end % size
        offsets.append(end + padding)
        end += padding + size
        letters += padding * "x" + {4: "f", 8: "d"}[size]
    widest = max((DTYPES[scalar.dtype].itemsize for scalar in graph.scalars), default=1)
    return ScalarLayout(tuple(offsets), end + -end % widest, f"={letters}")


def emit(
    graph: Graph,
    traits: Traits = Traits(),  # noqa: B008 - it is frozen
    *,
    in_rows: bool = False,
    sparse: Collection[int] = (),
) -> str:
    """Return the LLVM module of a pass, for a processor with these traits.

    A pass that stores runs on rows where that is asked for, which are parts of one tensor; those of
    arrays at the positions `sparse` have a gap as large as an element after each.
    """
    if not graph.sums:
        graph = joined(graph)
    emitter = _Emitter(graph, traits, sparse)
    if graph.sums:
        functions = f"{emitter.reduce_span()}\n\n{_fold()}\n\n{_run(graph)}"
    elif in_rows:
        functions = emitter.store_rows()
    else:
        functions = f"{emitter.store_span()}\n\n{_run(graph)}"
    declarations = "\n".join(sorted(emitter.code.declarations))
    comment = "\n".join(f"; {line}" for line in str(graph).splitlines())
    return f"{comment}\n\n{functions}\n\n{declarations}\n"


def _run(graph: Graph) -> str:
    words = entry_words(graph)
    # Chunks of a pass that reduces are counted in tiles, others in elements.
    extent = len(graph.arrays) + (Entry.TILES if graph.sums else Entry.COUNT)
    return f"""\
define void @run(ptr %arguments) {{
entry:
{_load("i64", "count", Argument.COUNT)}
{_load("ptr", "table", Argument.TABLE)}
{_load("ptr", "chunks", Argument.CHUNKS)}
  %next = {_argument(Argument.NEXT)}
  br label %take

take:
  %taken = atomicrmw add ptr %next, i64 1 monotonic
  %more = icmp ult i64 %taken, %count
  br i1 %more, label %chunk, label %done

chunk:
  %chunk_at = getelementptr [4 x i64], ptr %chunks, i64 %taken
  %first = load i64, ptr %chunk_at
  %begin_at = getelementptr i64, ptr %chunk_at, i64 1
  %begin = load i64, ptr %begin_at
  %last_at = getelementptr i64, ptr %chunk_at, i64 2
  %last = load i64, ptr %last_at
  %end_at = getelementptr i64, ptr %chunk_at, i64 3
  %end = load i64, ptr %end_at
  br label %tensor

tensor:
  %number = phi i64 [ %first, %chunk ], [ %number_next, %tensor ]
  %tensor_at = getelementptr [{words} x i64], ptr %table, i64 %number
  %extent_at = getelementptr i64, ptr %tensor_at, i64 {extent}
  %extent = load i64, ptr %extent_at
  %is_first = icmp eq i64 %number, %first
  %is_last = icmp eq i64 %number, %last
  %low = select i1 %is_first, i64 %begin, i64 0
  %high = select i1 %is_last, i64 %end, i64 %extent
  call void @span(ptr %tensor_at, i64 %low, i64 %high, ptr %arguments)
  %number_next = add i64 %number, 1
  br i1 %is_last, label %take, label %tensor

done:
  ret void
}}"""


def _argument(argument: Argument) -> str:
    return f"getelementptr i64, ptr %arguments, i64 {argument.value}"


def _load(kind: str, name: str, argument: Argument) -> str:
    return f"  %{name}_at = {_argument(argument)}\n  %{name} = load {kind}, ptr %{name}_at"


class _Emitter:
    """Writes the functions of one pass."""

    def __init__(self, graph: Graph, traits: Traits, sparse: Collection[int]) -> None:
        self.graph, self.sparse = graph, sparse
        self.code = Expressions(graph, traits, scalar_layout(graph).offsets, sparse)
        self.width = VECTOR_BYTES // DTYPES[graph.compute].itemsize

    # The parts of a function.

    def prologue(self, address: str = "array") -> list[str]:
        """Return the loads of addresses, which get this name, and of everything that is uniform."""
        graph, lines = self.graph, []
        for i, array in enumerate(graph.arrays):
            if array in graph.loaded or array in graph.stored:
                lines += [
                    f"%{address}{i}_at = getelementptr i64, ptr %entry_row, i64 {i}",
                    f"%{address}{i} = load ptr, ptr %{address}{i}_at ; {array.name}",
                ]
        fields = len(graph.arrays)
        lines += [
            f"%row_at = getelementptr i64, ptr %entry_row, i64 {fields + Entry.ROW}",
            "%row = load i64, ptr %row_at",
            f"%offset = mul i64 %row, {scalar_layout(graph).itemsize}",
            f"%scalars_argument = {_argument(Argument.SCALARS)}",
            "%all_scalars = load ptr, ptr %scalars_argument",
            "%scalars = getelementptr i8, ptr %all_scalars, i64 %offset",
            f"%column_at = getelementptr i64, ptr %entry_row, i64 {fields + Entry.COLUMN}",
            "%column = load i64, ptr %column_at",
            f"%sums_argument = {_argument(Argument.SUMS)}",
            "%sums = load ptr, ptr %sums_argument",
            f"%stride_argument = {_argument(Argument.SUMS_STRIDE)}",
            "%stride = load i64, ptr %stride_argument",
            "%tree_column = sub i64 %stride, 1",
        ]
        for position, node in enumerate(graph.nodes):
            if position in graph.uniform:
                lines += self.code.uniform(position, node, self.width)
        return lines

    # The two kinds of span.

    def store_span(self) -> str:
        """Return `span` for the pass that stores: elements, vectors, elements."""
        if not self.graph.stores:
            return _function(["ret void"])
        lines = [
            *self.prologue(),
            *self.cut("%begin", "%end"),
            "br label %h_loop",
            *self.loop("h", 1, "%begin", "%head_end", "entry", "v_loop"),
            *self.loop("v", self.width, "%head_end", "%vectors_end", "h_loop", "t_loop"),
            *self.loop("t", 1, "%vectors_end", "%end", "v_loop", "done"),
            "done:",
            "ret void",
        ]
        return _function(lines)

    def store_rows(self) -> str:
        """Return `run` for a pass that stores, on rows of one tensor that are equally far apart."""
        graph, steps = self.graph, len(self.graph.arrays) + len(Entry)
        if not graph.stores:
            return _function(["ret void"], _RUN)
        used = [i for i, x in enumerate(graph.arrays) if x in graph.loaded or x in graph.stored]
        lines = [
            f"%table_at = {_argument(Argument.TABLE)}",
            "%entry_row = load ptr, ptr %table_at",
            f"%chunks_at = {_argument(Argument.CHUNKS)}",
            "%chunk = load ptr, ptr %chunks_at",
            "%last_at = getelementptr i64, ptr %chunk, i64 2",
            "%last = load i64, ptr %last_at",
            "%end_at = getelementptr i64, ptr %chunk, i64 3",
            "%end = load i64, ptr %end_at",
            *self.prologue("first"),
            *(f"%step{i}_at = getelementptr i64, ptr %entry_row, i64 {steps + i}" for i in used),
            *(f"%step{i} = load i64, ptr %step{i}_at" for i in used),
            f"%is_wide = icmp uge i64 %end, {self.width}",
            f"%last_vector = sub i64 %end, {self.width}",
            "br label %each_row",
            "each_row:",
            "%r = phi i64 [ 0, %entry ], [ %r_next, %row_done ]",
            *(f"%array{i} = phi ptr [ %first{i}, %entry ], [ %next{i}, %row_done ]" for i in used),
            *(f"%next{i} = getelementptr i8, ptr %array{i}, i64 %step{i}" for i in used),
            *self.store_row(),
            "row_done:",
            "%r_next = add i64 %r, 1",
            "%r_more = icmp ule i64 %r_next, %last",
            "br i1 %r_more, label %each_row, label %done",
            "done:",
            "ret void",
        ]
        return _function(lines, _RUN)

    def store_row(self) -> list[str]:
        """Return the loops over a row: vectors, and single elements where it is too short for one.

        What is left at the end is not passed over one by one, which for SGD would take the time of
        40 elements: the last vector is computed from what is there before the others, some of whose
        elements it has too, and is stored after them.
        """
        return [
            "br i1 %is_wide, label %wide, label %t_loop",
            "wide:",
            *self.code.body("l", self.width, "%last_vector"),
            *self.cut("0", "%end"),
            "br label %h_loop",
            *self.loop("h", 1, "0", "%head_end", "wide", "v_loop"),
            *self.loop("v", self.width, "%head_end", "%vectors_end", "h_loop", "v_done", ahead=2),
            "v_done:",
            *self.code.stores("l", self.width, "%last_vector"),
            "br label %row_done",
            *self.loop("t", 1, "0", "%end", "each_row", "row_done"),
        ]

    def cut(self, begin: str, end: str) -> list[str]:
        """Return what cuts a line into elements to `head_end`, vectors to `vectors_end`, elements.

        The first are those up to where the first array that is written meets a cache line, of those
        without gaps: a vector that straddles two lines costs twice.
        """
        stored = [self.code.position[store.array] for store in self.graph.stores]
        first = next((i for i in stored if i not in self.sparse), stored[0])
        itemsize = DTYPES[self.graph.arrays[first].dtype].itemsize
        return [
            f"%begin_at = getelementptr i8, ptr %array{first}, i64 0",
            "%address = ptrtoint ptr %begin_at to i64",
            f"%begin_bytes = mul i64 {begin}, {itemsize}",
            "%begin_address = add i64 %address, %begin_bytes",
            "%past_line = sub i64 0, %begin_address",
            f"%to_line = and i64 %past_line, {CACHE_LINE - 1}",
            f"%to_peel = udiv i64 %to_line, {itemsize}",
            # For a short span the single elements cost more than the lines that they spare.
            f"%length = sub i64 {end}, {begin}",
            f"%is_long = icmp ugt i64 %length, {SHORTEST_PEELED}",
            "%peeled = select i1 %is_long, i64 %to_peel, i64 0",
            f"%head_wanted = add i64 {begin}, %peeled",
            f"%head_in = icmp ult i64 %head_wanted, {end}",
            f"%head_end = select i1 %head_in, i64 %head_wanted, i64 {end}",
            f"%vectors_left = sub i64 {end}, %head_end",
            f"%vectors_floor = and i64 %vectors_left, {-self.width}",
            "%vectors_end = add i64 %head_end, %vectors_floor",
        ]

    def loop(
        self,
        prefix: str,
        width: int,
        begin: str,
        end: str,
        before: str,
        after: str,
        ahead: int = 0,
    ) -> list[str]:
        """Return a loop over elements in steps of `width`.

        So many of the first arrays, parameter and gradient, are asked for the row after this one:
        these may lie apart, and the processor foresees no row but that where it is.
        """
        index = f"%{prefix}_i"
        return [
            f"{prefix}_loop:",
            f"{index} = phi i64 [ {begin}, %{before} ], [ {index}_next, %{prefix}_body ]",
            f"%{prefix}_more = icmp ult i64 {index}, {end}",
            f"br i1 %{prefix}_more, label %{prefix}_body, label %{after}",
            f"{prefix}_body:",
            *(line for i in range(ahead) for line in self.next_row(i, index)),
            *self.code.body(prefix, width, index),
            *self.code.stores(prefix, width, index),
            f"{index}_next = add i64 {index}, {width}",
            f"br label %{prefix}_loop",
        ]

    def next_row(self, position: int, index: str) -> list[str]:
        """Return the calls that fetch the elements of the next row below those of a vector."""
        array = self.graph.arrays[position]
        if array not in (*self.graph.loaded, *self.graph.stored):
            return []
        name, lines, element = f"%ahead{position}", list[str](), self.code.element(position)
        length = self.width * DTYPES[array.dtype].itemsize * (1 + (position in self.sparse))
        for k in range(0, length, CACHE_LINE):
            lines += [
                f"{name}_{k}_row = getelementptr i8, ptr %next{position}, i64 {k}",
                f"{name}_{k} = getelementptr {element}, ptr {name}_{k}_row, i64 {index}",
                f"call void @llvm.prefetch.p0(ptr {name}_{k}, i32 0, i32 2, i32 1)",
            ]
        self.code.declarations.add(_PREFETCH)
        return lines

    def reduce_span(self) -> str:
        """Return `span` for a pass that reduces tiles `begin` to `end` of a tensor.

        The lanes of a tile are float64 accumulators on the stack, 8 KiB a sum: they stay in the
        first-level cache.
        """
        graph, fields = self.graph, len(self.graph.arrays)
        lanes = f"[{LANES} x double]"
        lines = [
            *(f"%lanes{k} = alloca {lanes}, align 64" for k in range(len(graph.sums))),
            *self.prologue(),
            f"%count_at = getelementptr i64, ptr %entry_row, i64 {fields + Entry.COUNT}",
            "%count = load i64, ptr %count_at",
            f"%first_at = getelementptr i64, ptr %entry_row, i64 {fields + Entry.FIRST_TILE}",
            "%first = load i64, ptr %first_at",
            f"%partials_argument = {_argument(Argument.PARTIALS)}",
            "%partials = load ptr, ptr %partials_argument",
            f"%partials_stride_argument = {_argument(Argument.PARTIALS_STRIDE)}",
            "%partials_stride = load i64, ptr %partials_stride_argument",
            "br label %tile_loop",
            "tile_loop:",
            "%tile = phi i64 [ %begin, %entry ], [ %tile_next, %fold ]",
            "%tile_more = icmp ult i64 %tile, %end",
            "br i1 %tile_more, label %tile_body, label %done",
            "tile_body:",
            *(
                f"call void @llvm.memset.p0.i64(ptr %lanes{k}, i8 0, i64 {8 * LANES}, i1 false)"
                for k in range(len(graph.sums))
            ),
            f"%base = mul i64 %tile, {TILE}",
            f"%full_end = add i64 %base, {TILE}",
            "%is_full = icmp ult i64 %full_end, %count",
            "%limit = select i1 %is_full, i64 %full_end, i64 %count",
            "%tile_count = sub i64 %limit, %base",
            f"%tile_vectors = and i64 %tile_count, {-self.width}",
            "%vectors_end = add i64 %base, %tile_vectors",
            "br label %v_loop",
            *self.lane_loop("v", self.width, "%base", "%vectors_end", "tile_body", "t_loop"),
            *self.lane_loop("t", 1, "%vectors_end", "%limit", "v_loop", "fold"),
            "fold:",
            *self.fold(),
            "%tile_next = add i64 %tile, 1",
            "br label %tile_loop",
            "done:",
            "ret void",
        ]
        self.code.declarations.add("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
        return _function(lines)

    def lane_loop(
        self, prefix: str, width: int, begin: str, end: str, before: str, after: str
    ) -> list[str]:
        """Return a loop that adds `width` elements at a time to their lanes."""
        index, kind = f"%{prefix}_i", vector("double", width)
        lines = [
            f"{prefix}_loop:",
            f"{index} = phi i64 [ {begin}, %{before} ], [ {index}_next, %{prefix}_body ]",
            f"%{prefix}_more = icmp ult i64 {index}, {end}",
            f"br i1 %{prefix}_more, label %{prefix}_body, label %{after}",
            f"{prefix}_body:",
            *(self.prefetches(prefix, index) if width > 1 else ()),
            *self.code.body(prefix, width, index),
            f"%{prefix}_lane = and i64 {index}, {LANES - 1}",
        ]
        for k, entry in enumerate(self.graph.sums):
            name = f"%{prefix}_sum{k}"
            value = self.code.value(prefix, width, entry.node)
            dtype = self.graph.nodes[entry.node].dtype
            if dtype != "float64":
                lines += self.code.cast(f"{name}_term", value, dtype, "float64", width)
                value = f"{name}_term"
            lines += [
                f"{name}_at = getelementptr double, ptr %lanes{k}, i64 %{prefix}_lane",
                f"{name}_old = load {kind}, ptr {name}_at, align 8",
                f"{name} = fadd {kind} {name}_old, {value}",
                f"store {kind} {name}, ptr {name}_at, align 8",
            ]
        return [
            *lines,
            f"{index}_next = add i64 {index}, {width}",
            f"br label %{prefix}_loop",
        ]

    def prefetches(self, prefix: str, index: str) -> list[str]:
        """Return the calls that fetch what the loop will load a little later.

        Beyond the end of an array a prefetch does nothing: it never faults.
        """
        lines = []
        for array in self.graph.loaded:
            position = self.code.position[array.name]
            ahead = PREFETCHED_BYTES // len(self.graph.loaded) // DTYPES[array.dtype].itemsize
            name, kind = f"%{prefix}_ahead{position}", TYPES[array.dtype]
            lines += [
                f"{name}_index = add i64 {index}, {ahead}",
                f"{name} = getelementptr {kind}, ptr %array{position}, i64 {name}_index",
                f"call void @llvm.prefetch.p0(ptr {name}, i32 0, i32 3, i32 1)",
            ]
        self.code.declarations.add(_PREFETCH)
        return lines

    def fold(self) -> list[str]:
        """Return the folding of the lanes by halves, and the stores of the tile's sums."""
        lines = ["%tile_number = add i64 %first, %tile"]
        for k in range(len(self.graph.sums)):
            lines += [
                f"%p{k} = call double @fold(ptr %lanes{k})",
                f"%p{k}_row = mul i64 %partials_stride, {k}",
                f"%p{k}_index = add i64 %p{k}_row, %tile_number",
                f"%p{k}_at = getelementptr double, ptr %partials, i64 %p{k}_index",
                f"store double %p{k}, ptr %p{k}_at, align 8",
            ]
        return lines


def _fold() -> str:
    """Return the function that folds the lanes of a tile by halves, and returns their sum.

    A loop, for it would be compiled in 200 ms if it were written out.
    """
    low4, high4 = "<4 x i32> <i32 0, i32 1, i32 2, i32 3>", "<4 x i32> <i32 4, i32 5, i32 6, i32 7>"
    return f"""\
define internal double @fold(ptr %lanes) noinline {{
entry:
  br label %halve

halve:
  %half = phi i64 [ {LANES // 2}, %entry ], [ %half_next, %halved ]
  br label %add

add:
  %i = phi i64 [ 0, %halve ], [ %i_next, %add ]
  %to = getelementptr double, ptr %lanes, i64 %i
  %from = getelementptr double, ptr %to, i64 %half
  %a = load <8 x double>, ptr %to, align 8
  %b = load <8 x double>, ptr %from, align 8
  %c = fadd <8 x double> %a, %b
  store <8 x double> %c, ptr %to, align 8
  %i_next = add i64 %i, 8
  %more = icmp ult i64 %i_next, %half
  br i1 %more, label %add, label %halved

halved:
  %half_next = lshr i64 %half, 1
  %long = icmp uge i64 %half_next, 8
  br i1 %long, label %halve, label %last

last:
  %high4 = shufflevector <8 x double> %c, <8 x double> poison, {high4}
  %low4 = shufflevector <8 x double> %c, <8 x double> poison, {low4}
  %four = fadd <4 x double> %low4, %high4
  %high2 = shufflevector <4 x double> %four, <4 x double> poison, <2 x i32> <i32 2, i32 3>
  %low2 = shufflevector <4 x double> %four, <4 x double> poison, <2 x i32> <i32 0, i32 1>
  %two = fadd <2 x double> %low2, %high2
  %first = extractelement <2 x double> %two, i64 0
  %second = extractelement <2 x double> %two, i64 1
  %sum = fadd double %first, %second
  ret double %sum
}}"""


_RUN = "void @run(ptr %arguments)"
_SPAN = "internal void @span(ptr %entry_row, i64 %begin, i64 %end, ptr %arguments) noinline"


def _function(lines: Iterable[str], head: str = _SPAN) -> str:
    body = "\n".join(line if line.endswith(":") else f"  {line}" for line in lines)
    return f"define {head} {{\nentry:\n{body}\n}}"

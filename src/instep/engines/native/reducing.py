"""The loops of a pass that sums, as LLVM IR: lanes and tiles of the canonical sum."""

from instep.engines.native.arguments import Argument, Entry
from instep.engines.native.cast import TYPES, splat, vector
from instep.engines.native.expressions import literal
from instep.engines.native.loops import PREFETCH, Loops, argument, function
from instep.graph import Node
from instep.graph.dtypes import itemsize
from instep.graph.nodes import FIRST
from instep.numerics import LANES, TILE

#: Bytes that a pass that reduces asks for ahead of its work, in all its arrays together. Adding to
#: lanes fills the window of a core with instructions that need no memory, so without it too few
#: loads are in flight: the sum of squares of 2**25 float32 takes 5.2 ms, with it 3.7, and reading
#: alone 3.6 (Zen 5; half or twice the distance costs 0.2).
PREFETCHED_BYTES = 16 * 1024


#: Sums from which on several rows of a tile are taken at once. The lanes of fewer, 8 KiB a sum,
#: stay in the first-level cache; those of more come from the second, once for all these rows. Sums
#: of 2**22 products of float32 take, row by row and in two rows, 0.53 and 0.55 ns an element (4
#: sums), 0.98 and 0.86 (6), 1.70 and 1.12 (8), 3.39 and 1.92 (12; one thread of Sapphire Rapids).
MANY_SUMS = 6

#: How many rows are taken at once.
ROWS = 2


class Reducing(Loops):
    """Writes the functions of a pass that sums."""

    def span(self) -> str:
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
            f"%partials_argument = {argument(Argument.PARTIALS)}",
            "%partials = load ptr, ptr %partials_argument",
            f"%partials_stride_argument = {argument(Argument.PARTIALS_STRIDE)}",
            "%partials_stride = load i64, ptr %partials_stride_argument",
            "br label %tile_loop",
            "tile_loop:",
            "%tile = phi i64 [ %begin, %entry ], [ %tile_next, %fold ]",
            "%tile_more = icmp ult i64 %tile, %end",
            "br i1 %tile_more, label %tile_body, label %done",
            "tile_body:",
            *(
                f"call void @begin_{entry.kind}(ptr %lanes{k})"
                for k, entry in enumerate(graph.sums)
            ),
            f"%base = mul i64 %tile, {TILE}",
            f"%full_end = add i64 %base, {TILE}",
            "%is_full = icmp ult i64 %full_end, %count",
            "%limit = select i1 %is_full, i64 %full_end, i64 %count",
            "%tile_count = sub i64 %limit, %base",
            f"%tile_vectors = and i64 %tile_count, {-self.width}",
            "%vectors_end = add i64 %base, %tile_vectors",
            *(self.rows_loop() if len(graph.sums) >= MANY_SUMS else ["br label %v_loop"]),
            *self.lane_loop("v", self.width, "%base", "%vectors_end", "tile_body", "t_loop"),
            *self.lane_loop("t", 1, "%vectors_end", "%limit", "v_loop", "fold"),
            "fold:",
            *self.fold(),
            "%tile_next = add i64 %tile, 1",
            "br label %tile_loop",
            "done:",
            "ret void",
        ]
        return function(lines)

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
                *combined_by(entry.kind, name, kind, f"{name}_old", value),
                f"store {kind} {name}, ptr {name}_at, align 8",
            ]
        return [
            *lines,
            f"{index}_next = add i64 {index}, {width}",
            f"br label %{prefix}_loop",
        ]

    def rows_loop(self) -> list[str]:
        """Return a loop over a whole tile that adds elements of several rows to their lanes.

        Each lane still adds its elements in their order.
        """
        width, prefixes = self.width, [f"r{row}" for row in range(ROWS)]
        kind, lines = vector("double", width), list[str]()
        for row, prefix in enumerate(prefixes):
            index = f"%{prefix}_i"
            lines.append(f"{index} = add i64 %rows_first, {row * LANES}")
            lines += [
                *self.prefetches(prefix, index, ROWS * LANES),
                *self.code.body(prefix, width, index),
            ]
        for k, entry in enumerate(self.graph.sums):
            total, dtype = f"%rows_sum{k}", self.graph.nodes[entry.node].dtype
            lines += [
                f"{total}_at = getelementptr double, ptr %lanes{k}, i64 %rows_lane",
                f"{total}_start = load {kind}, ptr {total}_at, align 8",
            ]
            last = f"{total}_start"
            for prefix in prefixes:
                value = self.code.value(prefix, width, entry.node)
                if dtype != "float64":
                    term = f"%{prefix}_sum{k}_term"
                    lines += self.code.cast(term, value, dtype, "float64", width)
                    value = term
                lines += combined_by(entry.kind, f"{total}_{prefix}", kind, last, value)
                last = f"{total}_{prefix}"
            lines.append(f"store {kind} {last}, ptr {total}_at, align 8")
        return [
            f"%is_whole = icmp eq i64 %tile_count, {TILE}",
            "br i1 %is_whole, label %rows_loop, label %v_loop",
            "rows_loop:",
            "%rows_number = phi i64 [ 0, %tile_body ], [ %rows_next, %rows_loop ]",
            # Numbers of rows in the upper bits, of lanes in the lower.
            f"%rows_lane = and i64 %rows_number, {LANES - 1}",
            "%rows_upper = sub i64 %rows_number, %rows_lane",
            f"%rows_group = mul i64 %rows_upper, {ROWS}",
            "%rows_begin = add i64 %base, %rows_group",
            "%rows_first = add i64 %rows_begin, %rows_lane",
            *lines,
            f"%rows_next = add i64 %rows_number, {width}",
            f"%rows_more = icmp ult i64 %rows_next, {TILE // ROWS}",
            "br i1 %rows_more, label %rows_loop, label %fold",
        ]

    def prefetches(self, prefix: str, index: str, distance: int = 0) -> list[str]:
        """Return the calls that fetch what the loop will load a little later.

        Beyond the end of an array a prefetch does nothing: it never faults.
        """
        lines = []
        for array in (array for array in self.graph.loaded if array.per == 1):
            position = self.code.position[array.name]
            ahead = distance or (
                PREFETCHED_BYTES // len(self.graph.loaded) // itemsize(array.dtype)
            )
            name, kind = f"%{prefix}_ahead{position}", TYPES[array.dtype]
            lines += [
                f"{name}_index = add i64 {index}, {ahead}",
                f"{name} = getelementptr {kind}, ptr %array{position}, i64 {name}_index",
                f"call void @llvm.prefetch.p0(ptr {name}, i32 0, i32 3, i32 1)",
            ]
        self.code.declarations.add(PREFETCH)
        return lines

    def fold(self) -> list[str]:
        """Return the folding of the lanes by halves, and the stores of the tile's sums."""
        lines = ["%tile_number = add i64 %first, %tile"]
        for k, entry in enumerate(self.graph.sums):
            lines += [
                f"%p{k} = call double @fold_{entry.kind}(ptr %lanes{k})",
                f"%p{k}_row = mul i64 %partials_stride, {k}",
                f"%p{k}_index = add i64 %p{k}_row, %tile_number",
                f"%p{k}_at = getelementptr double, ptr %partials, i64 %p{k}_index",
                f"store double %p{k}, ptr %p{k}_at, align 8",
            ]
        return lines


def combined_by(kind: str, name: str, type_of: str, a: str, b: str) -> list[str]:
    """Return what adds `b` to `a`, or takes it if it is larger, or NaN."""
    if kind == "sum":
        return [f"{name} = fadd {type_of} {a}, {b}"]
    booleans = type_of.replace("double", "i1")
    return [
        f"{name}_larger = fcmp ogt {type_of} {b}, {a}",
        f"{name}_nan = fcmp uno {type_of} {b}, {b}",
        f"{name}_taken = or {booleans} {name}_larger, {name}_nan",
        f"{name} = select {booleans} {name}_taken, {type_of} {b}, {type_of} {a}",
    ]


def begin(kind: str) -> str:
    """Return the function that sets the lanes of a tile to what they begin with."""
    first = splat("double", literal(Node("constant", (), "float64", FIRST[kind])), 8)
    return f"""\
define internal void @begin_{kind}(ptr %lanes) noinline {{
entry:
  br label %loop

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %loop ]
  %to = getelementptr double, ptr %lanes, i64 %i
  store <8 x double> {first}, ptr %to, align 8
  %i_next = add i64 %i, 8
  %more = icmp ult i64 %i_next, {LANES}
  br i1 %more, label %loop, label %done

done:
  ret void
}}"""


def fold(kind: str) -> str:
    """Return the function that folds the lanes of a tile by halves, and returns their sum.

    A loop, for it would be compiled in 200 ms if it were written out.
    """
    low4, high4 = "<4 x i32> <i32 0, i32 1, i32 2, i32 3>", "<4 x i32> <i32 4, i32 5, i32 6, i32 7>"

    def combined(name: str, type_of: str, a: str, b: str) -> str:
        return "\n  ".join(combined_by(kind, name, type_of, a, b))

    return f"""\
define internal double @fold_{kind}(ptr %lanes) noinline {{
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
  {combined("%c", "<8 x double>", "%a", "%b")}
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
  {combined("%four", "<4 x double>", "%low4", "%high4")}
  %high2 = shufflevector <4 x double> %four, <4 x double> poison, <2 x i32> <i32 2, i32 3>
  %low2 = shufflevector <4 x double> %four, <4 x double> poison, <2 x i32> <i32 0, i32 1>
  {combined("%two", "<2 x double>", "%low2", "%high2")}
  %first = extractelement <2 x double> %two, i64 0
  %second = extractelement <2 x double> %two, i64 1
  {combined("%sum", "double", "%first", "%second")}
  ret double %sum
}}"""

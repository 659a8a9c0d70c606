"""The loops of a pass that stores, as LLVM IR: on lines of elements, and on rows that lie apart."""

from instep.engines.native.arguments import Argument, Entry
from instep.engines.native.loops import CACHE_LINE, PREFETCH, RUN, Loops, argument, function
from instep.graph.dtypes import itemsize

#: Elements from which a span is peeled to the cache line. It spares a fifth of the time on Zen 3
#: (1.42 instead of 1.75 ns an element of Adam), and nothing on Zen 5. In a shorter one the single
#: elements cost more than the lines that they spare.
SHORTEST_PEELED = 4096

#: Bytes by which a line is asked for ahead: processors foresee what follows, yet not so many lines
#: at once. Of Adam on one thread it spares some 4 % of the time in the caches, and 8 to 17 % from a
#: million elements on; on two threads 10 to 15 %, and it costs 2 to 5 % at 100,000 to 300,000
#: (Emerald Rapids). 512 and 2,048 bytes are nearly alike.
AHEAD = 1024


class Storing(Loops):
    """Writes the functions of a pass that stores."""

    def span(self) -> str:
        """Return `span` for the pass that stores: elements, vectors, elements."""
        if not self.graph.stores:
            return function(["ret void"])
        lines = [
            *self.prologue(),
            # Random words are made for the elements of whole vectors, counted from the first.
            *self.cut("%begin", "%end", 2**62 if self.graph.in_order else SHORTEST_PEELED),
            "br label %h_loop",
            *self.loop("h", 1, "%begin", "%head_end", "entry", "v_loop"),
            *self.loop("v", self.width, "%head_end", "%vectors_end", "h_loop", "t_loop"),
            *self.loop("t", 1, "%vectors_end", "%end", "v_loop", "done"),
            "done:",
            "ret void",
        ]
        return function(lines)

    def rows(self) -> str:
        """Return `run` for a pass that stores, on rows of one tensor that are equally far apart."""
        graph, steps = self.graph, len(self.graph.arrays) + len(Entry)
        if not graph.stores:
            return function(["ret void"], RUN)
        used = [i for i, x in enumerate(graph.arrays) if x in graph.loaded or x in graph.stored]
        lines = [
            f"%table_at = {argument(Argument.TABLE)}",
            "%entry_row = load ptr, ptr %table_at",
            f"%chunks_at = {argument(Argument.CHUNKS)}",
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
            *self.row(),
            "row_done:",
            "%r_next = add i64 %r, 1",
            "%r_more = icmp ule i64 %r_next, %last",
            "br i1 %r_more, label %each_row, label %done",
            "done:",
            "ret void",
        ]
        return function(lines, RUN)

    def row(self) -> list[str]:
        """Return the loops over a row: vectors, and single elements where it is too short for one.

        Between vectors that meet cache lines some elements are left at both ends. One by one they
        would take SGD the time of 40 others: the first and the last vector are computed from what
        is there before the others, some of whose elements they have too, and are stored after them.
        """
        return [
            "br i1 %is_wide, label %wide, label %t_loop",
            "wide:",
            *self.code.body("f", self.width, "0"),
            *self.code.body("l", self.width, "%last_vector"),
            *self.cut("0", "%end", 0),
            "br label %v_loop",
            *self.loop("v", self.width, "%head_end", "%vectors_end", "wide", "v_done", ahead=2),
            "v_done:",
            *self.code.stores("f", self.width, "0"),
            *self.code.stores("l", self.width, "%last_vector"),
            "br label %row_done",
            *self.loop("t", 1, "0", "%end", "each_row", "row_done"),
        ]

    def cut(self, begin: str, end: str, shortest: int) -> list[str]:
        """Return what cuts a line into elements to `head_end`, vectors to `vectors_end`, elements.

        In a line of more than `shortest` elements, the first are those up to where the vectors of
        the first array that is written, of those without gaps, straddle no cache lines: one that
        does costs twice. They are fewer than a vector has.
        """
        stored = [self.code.position[store.array] for store in self.graph.stores]
        first = next((i for i in stored if i not in self.sparse), stored[0])
        size = itemsize(self.graph.arrays[first].dtype)
        aligned = min(CACHE_LINE, self.width * size)
        return [
            f"%begin_at = getelementptr i8, ptr %array{first}, i64 0",
            "%address = ptrtoint ptr %begin_at to i64",
            f"%begin_bytes = mul i64 {begin}, {size}",
            "%begin_address = add i64 %address, %begin_bytes",
            "%past_line = sub i64 0, %begin_address",
            f"%to_line = and i64 %past_line, {aligned - 1}",
            f"%to_peel = udiv i64 %to_line, {size}",
            f"%length = sub i64 {end}, {begin}",
            f"%is_long = icmp ugt i64 %length, {shortest}",
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
            *(self.farther(prefix, index, width) if width > 1 and not ahead else ()),
            *self.code.body(prefix, width, index),
            *self.code.stores(prefix, width, index),
            f"{index}_next = add i64 {index}, {width}",
            f"br label %{prefix}_loop",
        ]

    def farther(self, prefix: str, index: str, width: int) -> list[str]:
        """Return the calls that fetch what is `AHEAD` bytes behind a vector of a line.

        Beyond the end of an array they do nothing: a prefetch never faults.
        """
        lines = list[str]()
        for i, array in enumerate(self.graph.arrays):
            if array not in (*self.graph.loaded, *self.graph.stored) or i in self.sparse:
                continue
            element, name = self.code.element(i), f"%{prefix}_far{i}"
            for k in range(0, width * itemsize(array.dtype), CACHE_LINE):
                lines += [
                    f"{name}_{k}_row = getelementptr i8, ptr %array{i}, i64 {AHEAD + k}",
                    f"{name}_{k} = getelementptr {element}, ptr {name}_{k}_row, i64 {index}",
                    f"call void @llvm.prefetch.p0(ptr {name}_{k}, i32 0, i32 3, i32 1)",
                ]
        self.code.declarations.add(PREFETCH)
        return lines

    def next_row(self, position: int, index: str) -> list[str]:
        """Return the calls that fetch the elements of the next row below those of a vector."""
        array = self.graph.arrays[position]
        if array not in (*self.graph.loaded, *self.graph.stored):
            return []
        name, lines, element = f"%ahead{position}", list[str](), self.code.element(position)
        length = self.width * itemsize(array.dtype) * (1 + (position in self.sparse))
        for k in range(0, length, CACHE_LINE):
            lines += [
                f"{name}_{k}_row = getelementptr i8, ptr %next{position}, i64 {k}",
                f"{name}_{k} = getelementptr {element}, ptr {name}_{k}_row, i64 {index}",
                f"call void @llvm.prefetch.p0(ptr {name}_{k}, i32 0, i32 2, i32 1)",
            ]
        self.code.declarations.add(PREFETCH)
        return lines

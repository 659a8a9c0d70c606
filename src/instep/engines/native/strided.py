"""Leaves whose arrays are no lines: blocks of them are copied, passed over, and copied back.

One call of compiled code does it for all such leaves of a launch. It allocates nothing and runs
no Python, so that neither a lack of memory nor the handler of a signal finds it half done.
"""

import ctypes
import enum
from array import array
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from instep.engines.gathering import GATHERED
from instep.engines.native.compile import compile_function
from instep.engines.native.emit import Argument, Entry
from instep.engines.native.fields import loads, named, store
from instep.engines.placement import Placement
from instep.graph import Graph
from instep.graph.dtypes import DTYPES
from instep.numerics import TILE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Word(enum.IntEnum):
    """Positions in the block of arguments of `run_strided`."""

    LEAVES = 0  # address of the records of the leaves
    COUNT = 1  # number of leaves
    KERNEL = 2  # address of the pass
    KERNEL_ARGUMENTS = 3  # its arguments, whose table has the one row of a block
    ROW = 4  # where that row has what stands after the addresses
    CHUNK = 5  # its one chunk
    ARRAYS = 6  # address of three words of each array: item size, use, buffer
    ARRAY_COUNT = 7
    REDUCES = 8  # whether chunks are counted in tiles
    DONE = 9  # 1 when all is done


class Record(enum.IntEnum):
    """Positions in the record of a leaf."""

    COUNT = 0  # elements
    ROW = 1  # number of its row of scalars
    COLUMN = 2  # its column in the table of sums
    FIRST_TILE = 3
    ADDRESSES = 4  # where the addresses of its arrays stand
    AXES = 5  # number of axes
    SHAPE = 6  # where their lengths stand
    STRIDES = 7  # where the strides of the first array stand; those of the others follow
    CONTIGUOUS = 8  # a bit for each array: whether it needs no copy


#: Bits of the use of an array.
LOADED, STORED = 1, 2


class Strided:
    """The leaves of a launch that are no lines.

    Parameters
    ----------
    graph
        The pass, of which `kernel` is the address.
    leaves
        The leaves, with the addresses at which those of their arrays stand, and the positions of
        their first tiles.
    buffers
        Contiguous memory for a block of each array.
    arguments
        The arguments of the kernel, their table, and their chunk.
    """

    def __init__(
        self,
        graph: Graph,
        kernel: int,
        leaves: Sequence[tuple[Placement, int, int]],
        buffers: "Sequence[NDArray[Any]]",
        arguments: "tuple[array[int], NDArray[np.int64], NDArray[np.int64]]",
    ) -> None:
        words, row, chunk = arguments
        self.arguments = words
        loaded, stored = ({spec.name for spec in of} for of in (graph.loaded, graph.stored))
        self._arrays = array("q")
        for spec, buffer in zip(graph.arrays, buffers, strict=True):
            use = LOADED * (spec.name in loaded) | STORED * (spec.name in stored)
            self._arrays.extend([buffer.itemsize, use, buffer.ctypes.data])
        self._records, self._layouts = array("q"), []
        for leaf, addresses, first_tile in leaves:
            shape = array("q", leaf.shape or (1,))
            strides = array("q", [s for one in leaf.strides for s in one or (0,)])
            self._layouts += [shape, strides]
            places = [values.buffer_info()[0] for values in (shape, strides)]
            self._records.extend([leaf.size, leaf.row, leaf.position, first_tile, addresses])
            contiguous = sum(1 << i for i, is_so in enumerate(leaf.contiguous) if is_so)
            self._records.extend([len(shape), *places, contiguous])
        self._kept = row, chunk, list(buffers)
        values = {
            Word.LEAVES: self._records.buffer_info()[0],
            Word.COUNT: len(leaves),
            Word.KERNEL: kernel,
            Word.KERNEL_ARGUMENTS: words.buffer_info()[0],
            Word.ROW: row.ctypes.data + 8 * len(graph.arrays),
            Word.CHUNK: chunk.ctypes.data,
            Word.ARRAYS: self._arrays.buffer_info()[0],
            Word.ARRAY_COUNT: len(graph.arrays),
            Word.REDUCES: int(bool(graph.sums)),
            Word.DONE: 0,
        }
        self._words = array("q", [values[word] for word in Word])
        self._address = self._words.buffer_info()[0]
        self._run = _compiled()

    def begin(self) -> None:
        """Begin a step."""
        self._words[Word.DONE] = 0

    def run(self) -> None:
        """Run the pass on all leaves, once since `begin`."""
        if not self._words[Word.DONE]:
            self._run(self._address)


@cache
def _compiled() -> Any:
    return compile_function(emit(), "run_strided", ctypes.CFUNCTYPE(None, ctypes.c_void_p))


def emit() -> str:
    """Return the module of `run_strided`."""
    copies = "\n".join(_copy(name, store) for name, store in (("gather", 0), ("scatter", 1)))
    return f"""\
{copies}
define void @run_strided(ptr %words) {{
entry:
{loads("words", {word.name.lower(): word for word in Word if word is not Word.DONE})}
  br label %leaf

leaf:
  %l = phi i64 [ 0, %entry ], [ %l_next, %leaf_done ]
  %leaf_more = icmp ult i64 %l, %count
  br i1 %leaf_more, label %leaf_body, label %all_done

leaf_body:
  %l_next = add i64 %l, 1
  %leaves_at = inttoptr i64 %leaves to ptr
  %record = getelementptr [{len(Record)} x i64], ptr %leaves_at, i64 %l
{loads("record", named(Record, prefix="r_"))}
  %row_at = inttoptr i64 %row to ptr
{store("row_at", Entry.ROW, "%r_row")}
{store("row_at", Entry.COLUMN, "%r_column")}
  br label %block

block:
  %start = phi i64 [ 0, %leaf_body ], [ %start_next, %scattered ]
  %tile = phi i64 [ %r_first_tile, %leaf_body ], [ %tile_next, %scattered ]
  %block_more = icmp ult i64 %start, %r_count
  br i1 %block_more, label %block_body, label %leaf_done

block_body:
  %left = sub i64 %r_count, %start
  %is_long = icmp ugt i64 %left, {GATHERED}
  %length = select i1 %is_long, i64 {GATHERED}, i64 %left
  %padded = add i64 %length, {TILE - 1}
  %tiles = udiv i64 %padded, {TILE}
  %tile_next = add i64 %tile, %tiles
{store("row_at", Entry.COUNT, "%length")}
{store("row_at", Entry.TILES, "%tiles")}
{store("row_at", Entry.FIRST_TILE, "%tile")}
  %is_reducing = icmp ne i64 %reduces, 0
  %end = select i1 %is_reducing, i64 %tiles, i64 %length
  %chunk_at = inttoptr i64 %chunk to ptr
{store("chunk_at", 3, "%end")}
  %kernel_at = inttoptr i64 %kernel_arguments to ptr
{store("kernel_at", Argument.NEXT, "0")}
  call void @each_array(ptr %words, ptr %record, i64 %start, i64 %length, i64 {LOADED})
  %kernel_code = inttoptr i64 %kernel to ptr
  call void %kernel_code(ptr %kernel_at)
  call void @each_array(ptr %words, ptr %record, i64 %start, i64 %length, i64 {STORED})
  br label %scattered

scattered:
  %start_next = add i64 %start, %length
  br label %block

leaf_done:
  br label %leaf

all_done:
{store("words", Word.DONE, "1")}
  ret void
}}

; Copies the part of each array that has this use, and notes where the pass finds the part.
define internal void @each_array(ptr %words, ptr %record, i64 %start, i64 %length, i64 %use) {{
entry:
{loads("words", named(Word, "arrays", "array_count", "row"))}
{loads("record", named(Record, "addresses", "axes", "shape", "strides", "contiguous"))}
  %row_begin = mul i64 %array_count, -8
  %row_end = inttoptr i64 %row to ptr
  %row_at = getelementptr i8, ptr %row_end, i64 %row_begin
  %arrays_at = inttoptr i64 %arrays to ptr
  %addresses_at = inttoptr i64 %addresses to ptr
  %strides_at = inttoptr i64 %strides to ptr
  %shape_at = inttoptr i64 %shape to ptr
  br label %next

next:
  %a = phi i64 [ 0, %entry ], [ %a_next, %done ]
  %more = icmp ult i64 %a, %array_count
  br i1 %more, label %look, label %end

look:
  %a_next = add i64 %a, 1
  %of_array = getelementptr [3 x i64], ptr %arrays_at, i64 %a
{loads("of_array", {"itemsize": 0, "uses": 1, "buffer": 2})}
{loads("addresses_at", {"base": "%a"})}
  %bit = shl i64 1, %a
  %own_bit = and i64 %contiguous, %bit
  %is_copied = icmp eq i64 %own_bit, 0
  %passed = mul i64 %start, %itemsize
  %within = add i64 %base, %passed
  %place = select i1 %is_copied, i64 %buffer, i64 %within
  %place_at = getelementptr i64, ptr %row_at, i64 %a
  store i64 %place, ptr %place_at
  %common = and i64 %uses, %use
  %has_use = icmp ne i64 %common, 0
  %is_used = and i1 %has_use, %is_copied
  br i1 %is_used, label %used, label %done

used:
  %base_pointer = inttoptr i64 %base to ptr
  %buffer_pointer = inttoptr i64 %buffer to ptr
  %first_stride = mul i64 %a, %axes
  %own_strides = getelementptr i64, ptr %strides_at, i64 %first_stride
  %is_gather = icmp eq i64 %use, {LOADED}
  br i1 %is_gather, label %gather, label %scatter

gather:
  call void @gather(ptr %base_pointer, ptr %buffer_pointer, ptr %shape_at, ptr %own_strides,
                    i64 %axes, i64 %start, i64 %length, i64 %itemsize)
  br label %done

scatter:
  call void @scatter(ptr %base_pointer, ptr %buffer_pointer, ptr %shape_at, ptr %own_strides,
                     i64 %axes, i64 %start, i64 %length, i64 %itemsize)
  br label %done

done:
  br label %next

end:
  ret void
}}
"""


def _copy(name: str, scatters: int) -> str:
    """Return the function that copies elements `start` to `start + length`, in C order.

    It goes along the last axis, and finds where each row begins from its number.
    """
    sizes = sorted({dtype.itemsize for dtype in DTYPES.values()})
    cases = f"\n{'':42}".join(f"i64 {size}, label %loop{size}" for size in sizes)
    loops = "\n".join(_row(size, scatters) for size in sizes)
    return f"""\
define internal void @{name}(ptr %base, ptr %buffer, ptr %shape, ptr %strides,
                             i64 %axes, i64 %start, i64 %length, i64 %itemsize) {{
entry:
  %last = sub i64 %axes, 1
{loads("shape", {"n": "%last"})}
{loads("strides", {"step": "%last"})}
  %end = add i64 %start, %length
  br label %row

row:
  %i = phi i64 [ %start, %entry ], [ %i_next, %row_done ]
  %line = phi ptr [ %buffer, %entry ], [ %line_next, %row_done ]
  %more = icmp ult i64 %i, %end
  br i1 %more, label %locate, label %done

locate:
  %number = udiv i64 %i, %n
  %column = urem i64 %i, %n
  %along = mul i64 %column, %step
  br label %axis

axis:
  %d = phi i64 [ %last, %locate ], [ %d_next, %axis_body ]
  %rest = phi i64 [ %number, %locate ], [ %rest_next, %axis_body ]
  %offset = phi i64 [ %along, %locate ], [ %offset_next, %axis_body ]
  %axis_more = icmp ugt i64 %d, 0
  br i1 %axis_more, label %axis_body, label %copy

axis_body:
  %d_next = sub i64 %d, 1
{loads("shape", {"d_n": "%d_next"})}
{loads("strides", {"d_step": "%d_next"})}
  %index = urem i64 %rest, %d_n
  %rest_next = udiv i64 %rest, %d_n
  %distance = mul i64 %index, %d_step
  %offset_next = add i64 %offset, %distance
  br label %axis

copy:
  %from = getelementptr i8, ptr %base, i64 %offset
  %row_left = sub i64 %n, %column
  %left = sub i64 %end, %i
  %is_whole = icmp ult i64 %row_left, %left
  %m = select i1 %is_whole, i64 %row_left, i64 %left
  switch i64 %itemsize, label %row_done [ {cases} ]

{loops}

row_done:
  %i_next = add i64 %i, %m
  %bytes = mul i64 %m, %itemsize
  %line_next = getelementptr i8, ptr %line, i64 %bytes
  br label %row

done:
  ret void
}}
"""


def _row(size: int, scatters: int) -> str:
    """Return the loop over a row whose elements have this size."""
    kind, source, target = f"i{8 * size}", f"%there{size}", f"%here{size}"
    if scatters:
        source, target = target, source
    return f"""\
loop{size}:
  %j{size} = phi i64 [ 0, %copy ], [ %j_next{size}, %body{size} ]
  %j_more{size} = icmp ult i64 %j{size}, %m
  br i1 %j_more{size}, label %body{size}, label %row_done

body{size}:
  %away{size} = mul i64 %j{size}, %step
  %there{size} = getelementptr i8, ptr %from, i64 %away{size}
  %here{size} = getelementptr {kind}, ptr %line, i64 %j{size}
  %value{size} = load {kind}, ptr {source}, align 1
  store {kind} %value{size}, ptr {target}, align 1
  %j_next{size} = add i64 %j{size}, 1
  br label %loop{size}
"""

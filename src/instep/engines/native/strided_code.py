"""The code that runs a pass over leaves that are no lines, as LLVM IR, and what it reads.

`run_strided` takes blocks from a list that all threads share, until none is left: it copies what
the pass cannot read where it lies, runs the pass, and copies back. What it reads of blocks, their
boxes and their leaves are records of 64-bit words.
"""

import enum

from instep.engines.native.arguments import Argument, Entry
from instep.engines.native.copies import emit_copies
from instep.engines.native.fields import loads, named, store


class Word(enum.IntEnum):
    """Positions in the block of arguments of `run_strided`."""

    NEXT = 0  # the next block to take: counted up by all threads
    THREAD = 1  # the number of the next thread
    BLOCKS = 2  # address of the blocks
    COUNT = 3  # their number
    ARGUMENTS = 4  # of the pass but for table and chunks, of which each thread has its own
    ARRAYS = 5  # address of a record of each array
    ARRAY_COUNT = 6
    BUFFERS = 7  # address of the memory for copies
    BUFFERS_BYTES = 8  # of each thread
    REDUCES = 9  # whether chunks are counted in tiles


class Record(enum.IntEnum):
    """Positions in the record of an array."""

    SIZE = 0  # of an element
    USE = 1  # whether it is loaded, or stored
    BUFFER = 2  # where its copies are in the memory of a thread


class Leaf(enum.IntEnum):
    """Positions in the record of a leaf."""

    ADDRESSES = 0  # where the addresses of its arrays stand
    ROW = 1  # number of its row of scalars
    COLUMN = 2  # its column in the table of sums
    AXES = 3  # number of axes of its walk
    ARRAYS = 4  # address of what follows for each array, and then its steps along these axes
    KERNEL = 5  # address of the pass


class LeafArray(enum.IntEnum):
    """Positions in what the record of a leaf says of an array."""

    IS_COPIED = 0
    ROW_STEP = 1  # bytes from row to row, of the copy if there is one


class Block(enum.IntEnum):
    """Positions in the record of a block: what the pass runs on at a time."""

    LEAF = 0  # address of its record
    PARTS = 1  # address of its boxes
    PART_COUNT = 2
    ROWS = 3
    LENGTH = 4  # elements of each
    TILES = 5
    FIRST_TILE = 6
    FIRST = 7  # number of its first element, where they are counted


class Part(enum.IntEnum):
    """Positions in the record of a box; then follows how far into each array it begins."""

    FORM = 0  # address of lengths, and of steps in a copy, of the axes of each array
    PLACE = 1  # elements of the block before it


#: Bits of the use of an array.
LOADED, STORED = 1, 2


def emit(sizes: frozenset[int]) -> str:
    """Return the module of `run_strided` for arrays whose elements have these sizes."""
    passed = ("SCALARS", "SUMS", "SUMS_STRIDE", "PARTIALS", "PARTIALS_STRIDE")
    given = "\n".join(store("arguments", Argument[name], f"%{name.lower()}") for name in passed)
    return f"""\
{emit_copies(sizes)}
{_move(sizes)}
{_point()}
define void @run_strided(ptr %words) {{
entry:
{loads("words", named(Word, "count", "array_count", "buffers_bytes", "reduces"))}
{loads("words", named(Word, "blocks", "arrays", "buffers"), "ptr")}
{loads("words", {"given": Word.ARGUMENTS}, "ptr")}
{loads("given", named(Argument, *passed))}
  %twice = mul i64 %array_count, 2
  %row_words = add i64 %twice, {len(Entry)}
  %row = alloca i64, i64 %row_words
  %entry_row = getelementptr i64, ptr %row, i64 %array_count
  %steps = getelementptr i64, ptr %entry_row, i64 {len(Entry)}
  %chunk = alloca [4 x i64]
  %arguments = alloca [{len(Argument)} x i64]
  %table_address = ptrtoint ptr %row to i64
  %chunk_address = ptrtoint ptr %chunk to i64
{given}
{store("arguments", Argument.TABLE, "%table_address")}
{store("arguments", Argument.CHUNKS, "%chunk_address")}
{store("arguments", Argument.COUNT, "1")}
{store("chunk", 0, "0")}
{store("chunk", 1, "0")}
  %thread_at = getelementptr i64, ptr %words, i64 {Word.THREAD}
  %thread = atomicrmw add ptr %thread_at, i64 1 monotonic
  %own = mul i64 %thread, %buffers_bytes
  %own_buffers = getelementptr i8, ptr %buffers, i64 %own
  %next = getelementptr i64, ptr %words, i64 {Word.NEXT}
  br label %take

take:
  %taken = atomicrmw add ptr %next, i64 1 monotonic
  %more = icmp ult i64 %taken, %count
  br i1 %more, label %block_begins, label %done

block_begins:
  %block = getelementptr [{len(Block)} x i64], ptr %blocks, i64 %taken
{loads("block", named(Block, "leaf"), "ptr")}
{loads("block", named(Block, "rows", "length", "tiles", "first_tile"))}
{loads("block", {"first_element": Block.FIRST})}
{loads("leaf", named(Leaf, "kernel"), "ptr")}
{loads("leaf", {"scalars_row": Leaf.ROW, "column": Leaf.COLUMN})}
  %is_reducing = icmp ne i64 %reduces, 0
  %end = select i1 %is_reducing, i64 %tiles, i64 %length
  %last = sub i64 %rows, 1
{store("chunk", 2, "%last")}
{store("chunk", 3, "%end")}
{store("arguments", Argument.NEXT, "0")}
  call void @move(ptr %block, ptr %arrays, i64 %array_count, ptr %own_buffers, i64 {LOADED})
  call void @point(ptr %block, ptr %arrays, i64 %array_count, ptr %own_buffers, ptr %row,
                   ptr %steps)
{store("entry_row", Entry.COUNT, "%length")}
{store("entry_row", Entry.ROW, "%scalars_row")}
{store("entry_row", Entry.COLUMN, "%column")}
{store("entry_row", Entry.TILES, "%tiles")}
{store("entry_row", Entry.FIRST_TILE, "%first_tile")}
{store("entry_row", Entry.FIRST, "%first_element")}
  call void %kernel(ptr %arguments)
  call void @move(ptr %block, ptr %arrays, i64 %array_count, ptr %own_buffers, i64 {STORED})
  br label %take

done:
  ret void
}}
"""


def _move(sizes: frozenset[int]) -> str:
    """Return the function that copies what a block loads, or what it stores."""
    copies = "\n".join(
        f"""
copy{size}:
  call void @copy{size}(i64 %axes, ptr %lengths, ptr %from, ptr %from_steps, ptr %to, ptr %to_steps)
  br label %array_done"""
        for size in sorted(sizes)
    )
    cases = " ".join(f"i64 {size}, label %copy{size}" for size in sorted(sizes))
    return f"""\
define internal void @move(ptr %block, ptr %arrays, i64 %array_count, ptr %buffers, i64 %use) {{
entry:
{loads("block", named(Block, "leaf", "parts"), "ptr")}
{loads("block", named(Block, "part_count"))}
{loads("leaf", named(Leaf, "addresses", "arrays", prefix="of_"), "ptr")}
{loads("leaf", named(Leaf, "axes"))}
  %array_words = add i64 %axes, {len(LeafArray)}
  %form_words = mul i64 %axes, 2
  %part_words = add i64 %array_count, {len(Part)}
  br label %array

array:
  %a = phi i64 [ 0, %entry ], [ %a_next, %parts_done ]
  %a_more = icmp ult i64 %a, %array_count
  br i1 %a_more, label %look, label %done

look:
  %a_next = add i64 %a, 1
  %array_begin = mul i64 %a, %array_words
  %of_array = getelementptr i64, ptr %of_arrays, i64 %array_begin
  %strides = getelementptr i64, ptr %of_array, i64 {len(LeafArray)}
  %record = getelementptr [{len(Record)} x i64], ptr %arrays, i64 %a
{loads("record", named(Record, prefix="a_"))}
{loads("of_array", named(LeafArray, "is_copied"))}
{loads("of_addresses", {"base": "%a"}, "ptr")}
  %common = and i64 %a_use, %use
  %wanted = mul i64 %common, %is_copied
  %is_wanted = icmp ne i64 %wanted, 0
  %buffer = getelementptr i8, ptr %buffers, i64 %a_buffer
  %form_begin = mul i64 %a, %form_words
  %offset_at = add i64 %a, {len(Part)}
  br i1 %is_wanted, label %part, label %parts_done

part:
  %p = phi i64 [ 0, %look ], [ %p_next, %array_done ]
  %p_more = icmp ult i64 %p, %part_count
  br i1 %p_more, label %part_body, label %parts_done

part_body:
  %p_next = add i64 %p, 1
  %part_begin = mul i64 %p, %part_words
  %of_part = getelementptr i64, ptr %parts, i64 %part_begin
{loads("of_part", named(Part, "form"), "ptr")}
{loads("of_part", named(Part, "place") | {"offset": "%offset_at"})}
  %lengths = getelementptr i64, ptr %form, i64 %form_begin
  %dense = getelementptr i64, ptr %lengths, i64 %axes
  %there = getelementptr i8, ptr %base, i64 %offset
  %passed = mul i64 %place, %a_size
  %here = getelementptr i8, ptr %buffer, i64 %passed
  %is_load = icmp eq i64 %use, {LOADED}
  %from = select i1 %is_load, ptr %there, ptr %here
  %to = select i1 %is_load, ptr %here, ptr %there
  %from_steps = select i1 %is_load, ptr %strides, ptr %dense
  %to_steps = select i1 %is_load, ptr %dense, ptr %strides
  switch i64 %a_size, label %array_done [ {cases} ]
{copies}

array_done:
  br label %part

parts_done:
  br label %array

done:
  ret void
}}
"""


def _point() -> str:
    """Return the function that writes where the rows of each array begin, and their distance."""
    return f"""\
define internal void @point(ptr %block, ptr %arrays, i64 %array_count, ptr %buffers, ptr %row,
                            ptr %steps) {{
entry:
{loads("block", named(Block, "leaf", "parts"), "ptr")}
{loads("leaf", named(Leaf, "addresses", "arrays", prefix="of_"), "ptr")}
{loads("leaf", named(Leaf, "axes"))}
  %array_words = add i64 %axes, {len(LeafArray)}
  br label %array

array:
  %a = phi i64 [ 0, %entry ], [ %a_next, %body ]
  %a_more = icmp ult i64 %a, %array_count
  br i1 %a_more, label %body, label %done

body:
  %a_next = add i64 %a, 1
  %array_begin = mul i64 %a, %array_words
  %of_array = getelementptr i64, ptr %of_arrays, i64 %array_begin
  %record = getelementptr [{len(Record)} x i64], ptr %arrays, i64 %a
  %offset_at = add i64 %a, {len(Part)}
{loads("record", named(Record, "buffer", prefix="a_"))}
{loads("of_array", named(LeafArray, "is_copied", "row_step"))}
{loads("of_addresses", {"base": "%a"}, "ptr")}
{loads("parts", {"offset": "%offset_at"})}
  %is_copy = icmp ne i64 %is_copied, 0
  %buffer = getelementptr i8, ptr %buffers, i64 %a_buffer
  %there = getelementptr i8, ptr %base, i64 %offset
  %begin = select i1 %is_copy, ptr %buffer, ptr %there
  %begin_at = getelementptr i64, ptr %row, i64 %a
  store ptr %begin, ptr %begin_at
  %step_at = getelementptr i64, ptr %steps, i64 %a
  store i64 %row_step, ptr %step_at
  br label %array

done:
  ret void
}}
"""

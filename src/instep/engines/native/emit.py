"""Graphs as LLVM IR: a pure function from a pass to text, with no compiler needed.

The module that is emitted has two functions. `span` runs the pass on a range of elements of one
tensor: single elements up to the next cache line, vectors, single elements to the end. `run`
takes chunks of work from a list that all threads share, until none is left, and calls `span` for
the part of each tensor in the chunk.

All arguments stand in one block of 64-bit words (`Argument`), and what is known of a tensor in one
row of words (`entry_words`), so a call costs the same for any number of tensors.
"""

from collections.abc import Collection

from instep.engines.native.arguments import Argument, Entry, entry_words
from instep.engines.native.blocks import Blocks
from instep.engines.native.joining import joined
from instep.engines.native.loops import argument
from instep.engines.native.reducing import Reducing, begin, fold
from instep.engines.native.remembering import Remembering
from instep.engines.native.storing import Storing
from instep.engines.native.target import Traits
from instep.graph import Graph


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
    loops: Reducing | Remembering | Storing | Blocks
    if graph.remembered:
        loops = Remembering(graph, traits)
        functions = f"{loops.span()}\n\n{loops.run()}"
    elif graph.sums:
        loops = Reducing(graph, traits)
        kinds = sorted({entry.kind for entry in graph.sums})
        lanes = "\n\n".join(f"{begin(kind)}\n\n{fold(kind)}" for kind in kinds)
        functions = f"{loops.span()}\n\n{lanes}\n\n{_run(graph)}"
    elif graph.has_blocks and graph.stores:
        loops = Blocks(graph, traits)
        functions = f"{loops.span()}\n\n{_run(graph)}"
    else:
        graph = joined(graph)
        loops = Storing(graph, traits, sparse)
        functions = loops.rows() if in_rows else f"{loops.span()}\n\n{_run(graph)}"
    declarations = "\n".join(sorted(loops.code.declarations))
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
  %next = {argument(Argument.NEXT)}
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


def _load(kind: str, name: str, position: Argument) -> str:
    return f"  %{name}_at = {argument(position)}\n  %{name} = load {kind}, ptr %{name}_at"

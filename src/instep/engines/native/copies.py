"""Copies between an array and a contiguous box of it, as LLVM IR, for each size of an element.

`copy4` copies elements of 4 bytes along any number of axes. Its innermost loops are `row4`, along
one axis, in vectors where both sides are contiguous, and `tiles4`, along two, where one side is
contiguous along the one and the other along the other: there, squares are turned in registers.
"""

from instep.engines.native.fields import loads

#: Bytes of a vector.
_VECTOR = 32

#: Rows of the source after the one that is copied, of which the lines are asked for: they lie far
#: apart, so the processor does not foresee them (1.28 ns an element of Adam without, 0.85 with it:
#: 1000 x 1000 float32, the gradient transposed, one thread of Zen 3).
_AHEAD = 16


def emit_copies(sizes: frozenset[int]) -> str:
    """Return the functions for these sizes."""
    functions = "\n".join(_copy(size) + _row(size) + _tiles(size) for size in sorted(sizes))
    return f"declare void @llvm.prefetch.p0(ptr, i32, i32, i32)\n{functions}"


def _copy(size: int) -> str:
    """Return the function that copies a box: it goes along the first axis, and calls itself."""
    return f"""\
define internal void @copy{size}(i64 %axes, ptr %lengths, ptr %from, ptr %from_steps,
                                 ptr %to, ptr %to_steps) {{
entry:
{loads("lengths", {"n": 0, "m": 1})}
{loads("from_steps", {"from_step": 0, "from_next": 1})}
{loads("to_steps", {"to_step": 0, "to_next": 1})}
  %lengths_left = getelementptr i64, ptr %lengths, i64 1
  %from_left = getelementptr i64, ptr %from_steps, i64 1
  %to_left = getelementptr i64, ptr %to_steps, i64 1
  %axes_left = sub i64 %axes, 1
  %is_outer = icmp ugt i64 %axes, 2
  br i1 %is_outer, label %loop, label %look

look:
  %read_along = icmp eq i64 %from_next, {size}
  %write_across = icmp eq i64 %to_step, {size}
  %is_read_along = and i1 %read_along, %write_across
  br i1 %is_read_along, label %along, label %look_across

along:
  call void @tiles{size}(i64 %n, i64 %m, ptr %from, i64 %from_step, ptr %to, i64 %to_next)
  ret void

look_across:
  %read_across = icmp eq i64 %from_step, {size}
  %write_along = icmp eq i64 %to_next, {size}
  %is_read_across = and i1 %read_across, %write_along
  br i1 %is_read_across, label %across, label %loop

across:
  call void @tiles{size}(i64 %m, i64 %n, ptr %from, i64 %from_next, ptr %to, i64 %to_step)
  ret void

loop:
  %i = phi i64 [ 0, %entry ], [ 0, %look_across ], [ %i_next, %copied ]
  %source = phi ptr [ %from, %entry ], [ %from, %look_across ], [ %source_next, %copied ]
  %target = phi ptr [ %to, %entry ], [ %to, %look_across ], [ %target_next, %copied ]
  %more = icmp ult i64 %i, %n
  br i1 %more, label %body, label %done

body:
  br i1 %is_outer, label %inner, label %row

inner:
  call void @copy{size}(i64 %axes_left, ptr %lengths_left, ptr %source, ptr %from_left,
                        ptr %target, ptr %to_left)
  br label %copied

row:
  call void @row{size}(i64 %m, ptr %source, i64 %from_next, ptr %target, i64 %to_next)
  br label %copied

copied:
  %i_next = add i64 %i, 1
  %source_next = getelementptr i8, ptr %source, i64 %from_step
  %target_next = getelementptr i8, ptr %target, i64 %to_step
  br label %loop

done:
  ret void
}}
"""


def _row(size: int) -> str:
    """Return the function that copies along one axis, such that it writes forwards."""
    kind, width = f"i{8 * size}", _VECTOR // size
    vector, order = f"<{width} x {kind}>", ", ".join(f"i32 {width - 1 - i}" for i in range(width))
    four = "\n".join(
        f"  %s{i} = getelementptr i8, ptr %source4, i64 %from_step_{i}\n"
        f"  %t{i} = getelementptr i8, ptr %target4, i64 %to_step_{i}\n"
        f"  %value{i} = load {kind}, ptr %s{i}, align 1\n"
        f"  store {kind} %value{i}, ptr %t{i}, align 1"
        for i in range(4)
    )
    scattered = "\n".join(
        f"  %c{i}_from = getelementptr {kind}, ptr %c_from, i64 {i}\n"
        f"  %c{i}_to = getelementptr [2 x {kind}], ptr %c_to, i64 {i}\n"
        f"  %c{i} = load {kind}, ptr %c{i}_from, align 1\n"
        f"  store {kind} %c{i}, ptr %c{i}_to, align 1"
        for i in range(width)
    )
    steps = "\n".join(
        f"  %{side}_step_{i} = mul i64 %{side}_step, {i}"
        for side in ("from", "to")
        for i in range(5)
    )
    evens = ", ".join(f"i32 {2 * i}" for i in range(width))
    back = size - _VECTOR  # from the last element of a vector to the first
    return f"""\
define internal void @row{size}(i64 %n, ptr %given_from, i64 %given_from_step,
                                ptr %given_to, i64 %given_to_step) {{
entry:
  %n_before = sub i64 %n, 1
  %from_backward = sub i64 0, %given_from_step
  %to_backward = sub i64 0, %given_to_step
  %from_way = mul i64 %n_before, %given_from_step
  %to_way = mul i64 %n_before, %given_to_step
  %from_last = getelementptr i8, ptr %given_from, i64 %from_way
  %to_last = getelementptr i8, ptr %given_to, i64 %to_way
  %turns = icmp slt i64 %given_to_step, 0
  %from = select i1 %turns, ptr %from_last, ptr %given_from
  %from_step = select i1 %turns, i64 %from_backward, i64 %given_from_step
  %to = select i1 %turns, ptr %to_last, ptr %given_to
  %to_step = select i1 %turns, i64 %to_backward, i64 %given_to_step
  %whole = and i64 %n, {-width}
  %writes_on = icmp eq i64 %to_step, {size}
  %reads_on = icmp eq i64 %from_step, {size}
  %reads_back = icmp eq i64 %from_step, {-size}
  %goes_on = and i1 %writes_on, %reads_on
  %last = sub i64 %n, {width}
  %is_long = icmp sge i64 %last, 0
  %is_forward = and i1 %goes_on, %is_long
  %is_backward = and i1 %writes_on, %reads_back
  %reads_others = icmp eq i64 %from_step, {2 * size}
  %is_sparse = and i1 %writes_on, %reads_others
  %writes_others = icmp eq i64 %to_step, {2 * size}
  %is_scattered = and i1 %reads_on, %writes_others
  %whole_before = and i64 %n_before, {-width}
  br i1 %is_forward, label %forward, label %look

look:
  br i1 %is_backward, label %backward, label %look_again

look_again:
  br i1 %is_sparse, label %sparse, label %look_last

look_last:
  br i1 %is_scattered, label %scattered, label %single

; The last vector may copy some elements again.
forward:
  %f = phi i64 [ 0, %entry ], [ %f_next, %forward_body ]
  %f_more = icmp ult i64 %f, %n
  br i1 %f_more, label %forward_body, label %done

forward_body:
  %f_is_last = icmp ugt i64 %f, %last
  %f_at = select i1 %f_is_last, i64 %last, i64 %f
  %f_from = getelementptr {kind}, ptr %from, i64 %f_at
  %f_to = getelementptr {kind}, ptr %to, i64 %f_at
  %f_value = load {vector}, ptr %f_from, align 1
  store {vector} %f_value, ptr %f_to, align 1
  %f_next = add i64 %f, {width}
  br label %forward

backward:
  %b = phi i64 [ 0, %look ], [ %b_next, %backward_body ]
  %b_more = icmp ult i64 %b, %whole
  br i1 %b_more, label %backward_body, label %single

backward_body:
  %b_away = sub i64 0, %b
  %b_first = getelementptr {kind}, ptr %from, i64 %b_away
  %b_from = getelementptr i8, ptr %b_first, i64 {back}
  %b_to = getelementptr {kind}, ptr %to, i64 %b
  %b_value = load {vector}, ptr %b_from, align 1
  %b_turned = shufflevector {vector} %b_value, {vector} poison, <{width} x i32> <{order}>
  store {vector} %b_turned, ptr %b_to, align 1
  %b_next = add i64 %b, {width}
  br label %backward

; Every other element of two vectors. What lies after the last element is not read.
sparse:
  %s = phi i64 [ 0, %look_again ], [ %s_next, %sparse_body ]
  %s_more = icmp ult i64 %s, %whole_before
  br i1 %s_more, label %sparse_body, label %single

sparse_body:
  %s_from = getelementptr [2 x {kind}], ptr %from, i64 %s
  %s_then = getelementptr {vector}, ptr %s_from, i64 1
  %s_to = getelementptr {kind}, ptr %to, i64 %s
  %s_low = load {vector}, ptr %s_from, align 1
  %s_high = load {vector}, ptr %s_then, align 1
  %s_value = shufflevector {vector} %s_low, {vector} %s_high, <{width} x i32> <{evens}>
  store {vector} %s_value, ptr %s_to, align 1
  %s_next = add i64 %s, {width}
  br label %sparse

; To every other element. Where the distance is known, no address waits for the one before.
scattered:
  %c = phi i64 [ 0, %look_last ], [ %c_next, %scattered_body ]
  %c_more = icmp ult i64 %c, %whole
  br i1 %c_more, label %scattered_body, label %single

scattered_body:
  %c_from = getelementptr {kind}, ptr %from, i64 %c
  %c_to = getelementptr [2 x {kind}], ptr %to, i64 %c
{scattered}
  %c_next = add i64 %c, {width}
  br label %scattered

single:
  %first = phi i64 [ 0, %look_last ], [ %whole, %scattered ],
                   [ %whole_before, %sparse ], [ %whole, %backward ]
  %from_passed = mul i64 %first, %from_step
  %to_passed = mul i64 %first, %to_step
{steps}
  %from_begin = getelementptr i8, ptr %from, i64 %from_passed
  %to_begin = getelementptr i8, ptr %to, i64 %to_passed
  br label %element4

element4:
  %g = phi i64 [ %first, %single ], [ %g_next, %element4_body ]
  %source4 = phi ptr [ %from_begin, %single ], [ %source4_next, %element4_body ]
  %target4 = phi ptr [ %to_begin, %single ], [ %target4_next, %element4_body ]
  %g_next = add i64 %g, 4
  %more4 = icmp ule i64 %g_next, %n
  br i1 %more4, label %element4_body, label %element

element4_body:
{four}
  %source4_next = getelementptr i8, ptr %source4, i64 %from_step_4
  %target4_next = getelementptr i8, ptr %target4, i64 %to_step_4
  br label %element4

element:
  %i = phi i64 [ %g, %element4 ], [ %i_next, %element_body ]
  %source = phi ptr [ %source4, %element4 ], [ %source_next, %element_body ]
  %target = phi ptr [ %target4, %element4 ], [ %target_next, %element_body ]
  %more = icmp ult i64 %i, %n
  br i1 %more, label %element_body, label %done

element_body:
  %value = load {kind}, ptr %source, align 1
  store {kind} %value, ptr %target, align 1
  %i_next = add i64 %i, 1
  %source_next = getelementptr i8, ptr %source, i64 %from_step
  %target_next = getelementptr i8, ptr %target, i64 %to_step
  br label %element

done:
  ret void
}}
"""


def _tiles(size: int) -> str:
    """Return the function that copies where one side goes along rows and the other along columns.

    `from` is contiguous along the columns, `to` along the rows.
    """
    side = min(8, _VECTOR // size)
    kind = f"i{8 * size}"
    vector = f"<{side} x {kind}>"
    loaded = "\n".join(
        f"  %a{i}_away = mul i64 %from_step, {i}\n"
        f"  %a{i}_at = getelementptr i8, ptr %tile_from, i64 %a{i}_away\n"
        f"  %a{i}_ahead = getelementptr i8, ptr %a{i}_at, i64 %ahead\n"
        f"  call void @llvm.prefetch.p0(ptr %a{i}_ahead, i32 0, i32 3, i32 1)\n"
        f"  %t{side}_{i} = load {vector}, ptr %a{i}_at, align 1"
        for i in range(side)
    )
    stored = "\n".join(
        f"  %b{i}_away = mul i64 %to_step, {i}\n"
        f"  %b{i}_at = getelementptr i8, ptr %tile_to, i64 %b{i}_away\n"
        f"  store {vector} %t1_{i}, ptr %b{i}_at, align 1"
        for i in range(side)
    )
    return f"""\
define internal void @tiles{size}(i64 %rows, i64 %columns, ptr %from, i64 %from_step,
                                  ptr %to, i64 %to_step) {{
entry:
  %whole_rows = and i64 %rows, {-side}
  %whole_columns = and i64 %columns, {-side}
  %ahead = mul i64 %from_step, {_AHEAD}
  br label %row

row:
  %i = phi i64 [ 0, %entry ], [ %i_next, %row_done ]
  %row_more = icmp ult i64 %i, %whole_rows
  br i1 %row_more, label %row_body, label %last_row

row_body:
  %row_away = mul i64 %i, %from_step
  %row_from = getelementptr i8, ptr %from, i64 %row_away
  %row_to = getelementptr {kind}, ptr %to, i64 %i
  br label %tile

tile:
  %j = phi i64 [ 0, %row_body ], [ %j_next, %tile_body ]
  %tile_more = icmp ult i64 %j, %whole_columns
  br i1 %tile_more, label %tile_body, label %last_column

tile_body:
  %tile_from = getelementptr {kind}, ptr %row_from, i64 %j
  %tile_away = mul i64 %j, %to_step
  %tile_to = getelementptr i8, ptr %row_to, i64 %tile_away
{loaded}
{_turned(side, vector)}
{stored}
  %j_next = add i64 %j, {side}
  br label %tile

last_column:
  %k = phi i64 [ %whole_columns, %tile ], [ %k_next, %column_body ]
  %column_more = icmp ult i64 %k, %columns
  br i1 %column_more, label %column_body, label %row_done

column_body:
  %column_from = getelementptr {kind}, ptr %row_from, i64 %k
  %column_away = mul i64 %k, %to_step
  %column_to = getelementptr i8, ptr %row_to, i64 %column_away
  call void @row{size}(i64 {side}, ptr %column_from, i64 %from_step, ptr %column_to, i64 {size})
  %k_next = add i64 %k, 1
  br label %last_column

row_done:
  %i_next = add i64 %i, {side}
  br label %row

last_row:
  %l = phi i64 [ %whole_rows, %row ], [ %l_next, %last_body ]
  %last_more = icmp ult i64 %l, %rows
  br i1 %last_more, label %last_body, label %done

last_body:
  %last_away = mul i64 %l, %from_step
  %last_from = getelementptr i8, ptr %from, i64 %last_away
  %last_to = getelementptr {kind}, ptr %to, i64 %l
  call void @row{size}(i64 %columns, ptr %last_from, i64 {size}, ptr %last_to, i64 %to_step)
  %l_next = add i64 %l, 1
  br label %last_row

done:
  ret void
}}
"""


def _turned(side: int, vector: str) -> str:
    """Return the transposition of a square of `side` vectors: its quarters, theirs, and so on."""
    lines, half = [], side // 2
    while half:
        kept = ", ".join(f"i32 {j if not j & half else side + j - half}" for j in range(side))
        moved = ", ".join(f"i32 {j + half if not j & half else side + j}" for j in range(side))
        for i in (i for i in range(side) if not i & half):
            pair = f"{vector} %t{2 * half}_{i}, {vector} %t{2 * half}_{i + half}"
            lines += [
                f"  %t{half}_{i} = shufflevector {pair}, <{side} x i32> <{kept}>",
                f"  %t{half}_{i + half} = shufflevector {pair}, <{side} x i32> <{moved}>",
            ]
        half //= 2
    return "\n".join(lines)

"""The text of compiled checks: whether the objects of a step are what they were, and where."""

import enum

from instep.engines.native.fields import loads, named
from instep.engines.native.functions import DECLARATIONS

# Byte offsets, with the CPython header of 16 bytes before them: of the type in any object, and of
# the references in a tuple, before which Python 3.14 has put a word.
TYPE, ITEMS = 8, tuple.__basicsize__

#: What is found: arrays of another signature; the addresses of the time before; others; or others
#: of gradients alone, none of which touches a parameter. LOST: arrays of another signature, and
#: parameters before them that have moved.
DIFFERENT, SAME, MOVED, CLEAR, LOST = 0, 1, 2, 3, 4

#: The number of ranges while it is not known where the parameters are.
UNKNOWN = -1


class Expected(enum.IntEnum):
    """Positions in what is expected of an object, whatever it is."""

    PLACE = 0  # its number among all leaves
    TYPE = 1
    SHAPE = 2  # address of the pairs of length and stride
    TO = 3  # where its address goes
    BEFORE = 4  # bytes before that address
    AFTER = 5  # bytes from it on


class Word(enum.IntEnum):
    """Positions in the block of a check."""

    EXPECTED = 0  # address of what is expected of the parameters
    EXPECTED_GRADIENTS = 1
    COUNT = 2  # number of parameters
    STARTS = 3  # address of the first bytes of the ranges of memory that parameters take
    STOPS = 4  # address of the bytes after their last
    RANGES = 5  # their number


def emit(own: type[enum.IntEnum], fields: str, memory: str) -> str:
    """Return the text of the check of objects of a kind: the functions `compare` and `fits`.

    Parameters
    ----------
    own
        Positions in what is expected of such an object beside `Expected`.
    fields
        Code that compares fields of ``%object`` other than its shape: it sets ``%alike``, and for
        the shape ``%lengths``, ``%strides`` and ``%axes``.
    memory
        Code that sets ``%address``, and ``%sound``: whether it is one to work on.
    """
    width = len(Expected) + len(own)
    return f"""\
{DECLARATIONS}
define internal i64 @check(ptr %objects, ptr %expected, i64 %count) {{
entry:
  br label %loop

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %next ]
  %result = phi i64 [ {SAME}, %entry ], [ %result_next, %next ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %done

body:
  %want = getelementptr [{width} x i64], ptr %expected, i64 %i
{loads("want", named(Expected, prefix="want_") | named(own, prefix="want_"))}
{loads("objects", {"object": "%want_place"}, "ptr", "ptr")}
{loads("object", {"type": TYPE}, unit="i8")}
  %type_ok = icmp eq i64 %type, %want_type
  br i1 %type_ok, label %fields, label %different

fields:
{fields}
  %pairs = inttoptr i64 %want_shape to ptr
  br i1 %alike, label %axis, label %different

axis:
  %a = phi i64 [ 0, %fields ], [ %a_next, %axis_ok ]
  %axes_left = icmp ult i64 %a, %axes
  br i1 %axes_left, label %axis_body, label %memory

axis_body:
{loads("lengths", {"n": "%a"})}
{loads("strides", {"s": "%a"})}
  %pair = mul i64 %a, 2
  %pair_1 = add i64 %pair, 1
{loads("pairs", {"want_n": "%pair", "want_s": "%pair_1"})}
  %n_ok = icmp eq i64 %n, %want_n
  %s_ok = icmp eq i64 %s, %want_s
  %pair_ok = and i1 %n_ok, %s_ok
  br i1 %pair_ok, label %axis_ok, label %different

axis_ok:
  %a_next = add i64 %a, 1
  br label %axis

memory:
{memory}
  br i1 %sound, label %next, label %different

next:
  %to = inttoptr i64 %want_to to ptr
  %known = load i64, ptr %to
  %unmoved = icmp eq i64 %address, %known
  store i64 %address, ptr %to
  %result_next = select i1 %unmoved, i64 %result, i64 {MOVED}
  %i_next = add i64 %i, 1
  br label %loop

done:
  ret i64 %result

different:
  %has_moved = icmp eq i64 %result, {MOVED}
  %lost = select i1 %has_moved, i64 {LOST}, i64 {DIFFERENT}
  ret i64 %lost
}}
{_both_sides(width)}"""


def _both_sides(width: int) -> str:
    """Return the functions of Python that check parameters and gradients, in tuples of leaves."""
    return f"""
define ptr @compare(ptr %self, ptr %sides, i64 %number) {{
  %block = call ptr @PyByteArray_AsString(ptr %self)
  %found = call i64 @check_both(ptr %block, ptr %sides)
  %result = call ptr @PyLong_FromLongLong(i64 %found)
  ret ptr %result
}}

define ptr @fits(ptr %self, ptr %sides, i64 %number) {{
entry:
  %block = call ptr @PyByteArray_AsString(ptr %self)
  %found = call i64 @check_both(ptr %block, ptr %sides)
  %is_same = icmp eq i64 %found, {SAME}
  %is_clear = icmp eq i64 %found, {CLEAR}
  %repeats = or i1 %is_same, %is_clear
  br i1 %repeats, label %answer, label %forget

; Let nothing be taken for the step before whose arrays nobody has looked at.
forget:
{loads("block", named(Word, "count"))}
{loads("block", named(Word, "expected", "expected_gradients"), "ptr")}
  call void @forget(ptr %expected_gradients, i64 %count)
  %stay = icmp eq i64 %found, {DIFFERENT}
  %moved = select i1 %stay, i64 0, i64 %count
  call void @forget(ptr %expected, i64 %moved)
  br label %answer

answer:
  %truth = zext i1 %repeats to i64
  %result = call ptr @PyBool_FromLong(i64 %truth)
  ret ptr %result
}}

define internal void @forget(ptr %expected, i64 %count) {{
entry:
  br label %loop

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %body ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %done

body:
  %want = getelementptr [{width} x i64], ptr %expected, i64 %i
{loads("want", named(Expected, "to"), "ptr")}
  store i64 0, ptr %to
  %i_next = add i64 %i, 1
  br label %loop

done:
  ret void
}}

define internal i64 @check_both(ptr %block, ptr %sides) {{
entry:
{loads("block", named(Word, "count"))}
{loads("block", named(Word, "expected", "expected_gradients"), "ptr")}
{loads("sides", {"tuple": 0, "other_tuple": 1}, "ptr", "ptr")}
  %parameters = getelementptr i8, ptr %tuple, i64 {ITEMS}
  %gradients = getelementptr i8, ptr %other_tuple, i64 {ITEMS}
  %found = call i64 @check(ptr %parameters, ptr %expected, i64 %count)
  %found_others = call i64 @check(ptr %gradients, ptr %expected_gradients, i64 %count)
  %stay = icmp ule i64 %found, {SAME}
  br i1 %stay, label %compare, label %away

away:
  %ranges_field = getelementptr i64, ptr %block, i64 {int(Word.RANGES)}
  store i64 {UNKNOWN}, ptr %ranges_field
  br label %compare

compare:
  %is_alike = and i64 %found, {SAME | MOVED}
  %are_alike = and i64 %found_others, {SAME | MOVED}
  %one_differs = mul i64 %is_alike, %are_alike
  %differs = icmp eq i64 %one_differs, 0
  br i1 %differs, label %different, label %alike

different:
  %how = select i1 %stay, i64 {DIFFERENT}, i64 {LOST}
  ret i64 %how

alike:
  br i1 %stay, label %here, label %moved

moved:
  ret i64 {MOVED}

here:
  %are_here = icmp eq i64 %found_others, {SAME}
  br i1 %are_here, label %same, label %look

same:
  ret i64 {SAME}

look:
  %touches = call i1 @touches(ptr %block, ptr %expected_gradients, i64 %count)
  %result = select i1 %touches, i64 {MOVED}, i64 {CLEAR}
  ret i64 %result
}}

; Whether a gradient touches a parameter, or it is not known where the parameters are.
define internal i1 @touches(ptr %block, ptr %expected, i64 %count) {{
entry:
{loads("block", named(Word, "starts", "stops"), "ptr")}
{loads("block", named(Word, "ranges"))}
  %is_known = icmp sge i64 %ranges, 0
  br i1 %is_known, label %loop, label %yes

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %next ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %no

body:
  %i_next = add i64 %i, 1
  %want = getelementptr [{width} x i64], ptr %expected, i64 %i
{loads("want", named(Expected, "to"), "ptr")}
{loads("want", named(Expected, "before", "after"))}
  %address = load i64, ptr %to
  %start = sub i64 %address, %before
  %stop = add i64 %address, %after
  br label %halve

; The first range that ends after the gradient begins.
halve:
  %low = phi i64 [ 0, %body ], [ %low_next, %half ]
  %high = phi i64 [ %ranges, %body ], [ %high_next, %half ]
  %is_wide = icmp ult i64 %low, %high
  br i1 %is_wide, label %half, label %found

half:
  %sum = add i64 %low, %high
  %middle = lshr i64 %sum, 1
{loads("stops", {"end": "%middle"})}
  %is_after = icmp sgt i64 %end, %start
  %above = add i64 %middle, 1
  %low_next = select i1 %is_after, i64 %low, i64 %above
  %high_next = select i1 %is_after, i64 %middle, i64 %high
  br label %halve

found:
  %is_there = icmp ult i64 %low, %ranges
  br i1 %is_there, label %compare, label %next

compare:
{loads("starts", {"begin": "%low"})}
  %is_before = icmp slt i64 %begin, %stop
  %has_bytes = icmp slt i64 %start, %stop
  %touches = and i1 %is_before, %has_bytes
  br i1 %touches, label %yes, label %next

next:
  br label %loop

yes:
  ret i1 true

no:
  ret i1 false
}}
"""

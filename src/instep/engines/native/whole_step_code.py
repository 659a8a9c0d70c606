"""The text of a step that is one like the last: it reads, checks, packs and runs.

It works on objects of Python, through the C API, and holds the interpreter lock but while the
passes run.
"""

import enum

from instep.engines.native.check_code import ITEMS, TYPE
from instep.engines.native.fields import loads, named
from instep.engines.native.functions import DECLARATIONS
from instep.engines.whole import MOST_ROWS, MOST_STEPS


class Word(enum.IntEnum):
    """Positions in the block of a step."""

    TRUE = 0  # Python's constants
    FALSE = 1
    IS_OWNED = 2  # methods of the lock: whether this thread has it, without waiting for another
    ACQUIRE = 3
    RELEASE = 4
    STATE = 5  # names of attributes
    COUNTER = 6
    CHECKS = 7  # address of the checks
    CHECK_COUNT = 8
    EMPTY = 9  # a dict
    ASK = 10  # a function that is to return True, or 0
    PARAMS = 11  # address of how each tree is read
    GRADS = 12
    FITS = 13  # a function of the leaves of both
    ROWS = 14  # address of the rows
    ROW_COUNT = 15
    IS_ALONE = 16  # whether the own number of the first row is the argument of what makes scalars
    MAKE = 17  # the function that makes scalars
    RUN = 18
    NOTES = 19  # address of what is noted
    NOTE_COUNT = 20


class Check(enum.IntEnum):
    """Positions in a check: whether an attribute is this object."""

    OBJECT = 0  # 0: the state
    NAME = 1
    VALUE = 2


class OfRow(enum.IntEnum):
    """Positions in a row of hyperparameters: numbers, and the places of that of the step."""

    NUMBERS = 0  # address of the objects, 0 in place of the number of the step
    COUNT = 1
    MISSED = 2  # number of steps


class Note(enum.IntEnum):
    """Positions in what is noted: an attribute, and what it is set to."""

    OBJECT = 0  # 0: the state
    NAME = 1
    VALUE = 2  # an object, or the number of a result


#: Results of a step are its number and the rows; from here on they are the own numbers of these.
OWN = 2


class Tree(enum.IntEnum):
    """Positions in how a tree is read."""

    KIND = 0
    TYPE = 1  # of a container
    COUNT = 2
    KEYS = 3  # address of those of a dict; or the function that reads a tree into a tuple


LEAF, DICT, SEQUENCE, OTHER = range(4)

TEXT = f"""\
{DECLARATIONS}
declare void @Py_IncRef(ptr)
declare void @Py_DecRef(ptr)
declare ptr @PyObject_GetAttr(ptr, ptr)
declare i32 @PyObject_SetAttr(ptr, ptr, ptr)
declare ptr @PyObject_Vectorcall(ptr, ptr, i64, ptr)
declare i64 @PyLong_AsLongLong(ptr)
declare i64 @PyDict_Size(ptr)
declare ptr @PyDict_GetItemWithError(ptr, ptr)
declare i64 @PyObject_Size(ptr)
declare ptr @PySequence_Tuple(ptr)
declare ptr @PyTuple_New(i64)
declare void @PyErr_Fetch(ptr, ptr, ptr)
declare void @PyErr_Restore(ptr, ptr, ptr)
declare ptr @PyErr_Occurred()
declare void @PyErr_Clear()

; Given the owner and both trees, takes the step and returns True, or returns False.
define ptr @step(ptr %self, ptr %given, i64 %number) {{
entry:
  %one = alloca ptr
  %errors = alloca [3 x ptr]
  %block = call ptr @PyByteArray_AsString(ptr %self)
{loads("block", named(Word, "true", "false", "is_owned", "acquire", "release"), "ptr")}
  %owned = call ptr @PyObject_Vectorcall(ptr %is_owned, ptr null, i64 0, ptr null)
  %is_free = call i1 @is_it(ptr %owned, ptr %false)
  br i1 %is_free, label %take, label %no

take:
  store ptr %false, ptr %one
  %got = call ptr @PyObject_Vectorcall(ptr %acquire, ptr %one, i64 1, ptr null)
  %has_it = call i1 @is_it(ptr %got, ptr %true)
  br i1 %has_it, label %run, label %no

run:
  %taken = call i1 @attempt(ptr %block, ptr %given)
  br i1 %taken, label %leave, label %look

look:
  %error = call ptr @PyErr_Occurred()
  %has_failed = icmp ne ptr %error, null
  br i1 %has_failed, label %fail, label %leave

leave:
  %none = call ptr @PyObject_Vectorcall(ptr %release, ptr null, i64 0, ptr null)
  call void @Py_DecRef(ptr %none)
  %truth = zext i1 %taken to i64
  %result = call ptr @PyBool_FromLong(i64 %truth)
  ret ptr %result

fail:
  %second = getelementptr ptr, ptr %errors, i64 1
  %third = getelementptr ptr, ptr %errors, i64 2
  call void @PyErr_Fetch(ptr %errors, ptr %second, ptr %third)
  %nothing = call ptr @PyObject_Vectorcall(ptr %release, ptr null, i64 0, ptr null)
  call void @Py_DecRef(ptr %nothing)
{loads("errors", {"kind": 0, "value": 1, "trace": 2}, "ptr", "ptr")}
  call void @PyErr_Restore(ptr %kind, ptr %value, ptr %trace)
  ret ptr null

no:
  %unsure = call ptr @PyErr_Occurred()
  %is_sure = icmp eq ptr %unsure, null
  br i1 %is_sure, label %decline, label %raise

decline:
  %declined = call ptr @PyBool_FromLong(i64 0)
  ret ptr %declined

raise:
  ret ptr null
}}

; Whether a new reference, or null, is to this object. It is given up.
define internal i1 @is_it(ptr %object, ptr %expected) {{
entry:
  %is_one = icmp eq ptr %object, %expected
  %is_null = icmp eq ptr %object, null
  br i1 %is_null, label %done, label %give

give:
  call void @Py_DecRef(ptr %object)
  br label %done

done:
  ret i1 %is_one
}}

define internal i1 @attempt(ptr %block, ptr %given) {{
entry:
  %held = alloca [8 x ptr]
  store [8 x ptr] zeroinitializer, ptr %held
{loads("given", {"owner": 0, "params": 1, "grads": 2}, "ptr", "ptr")}
{loads("block", named(Word, "true", "state", "counter", "checks", "empty", "ask", "fits"), "ptr")}
{loads("block", {"params_tree": Word.PARAMS, "grads_tree": Word.GRADS}, "ptr")}
{loads("block", named(Word, "rows", "make", "run", "notes"), "ptr")}
{loads("block", named(Word, "check_count", "row_count", "is_alone", "note_count"))}
  %its_state = call ptr @PyObject_GetAttr(ptr %owner, ptr %state)
  store ptr %its_state, ptr %held
  %has_state = icmp ne ptr %its_state, null
  br i1 %has_state, label %check, label %end

check:
  %same = call i1 @holds(ptr %its_state, ptr %checks, i64 %check_count)
  br i1 %same, label %measure, label %end

measure:
  %size = call i64 @PyDict_Size(ptr %empty)
  %is_empty = icmp eq i64 %size, 0
  br i1 %is_empty, label %ask_or_not, label %end

ask_or_not:
  %asks = icmp ne ptr %ask, null
  br i1 %asks, label %ask_it, label %read

ask_it:
  %answer = call ptr @PyObject_Vectorcall(ptr %ask, ptr null, i64 0, ptr null)
  %agrees = call i1 @is_it(ptr %answer, ptr %true)
  br i1 %agrees, label %read, label %end

read:
  %leaves = call ptr @leaves(ptr %params, ptr %params_tree)
  %leaves_at = getelementptr ptr, ptr %held, i64 1
  store ptr %leaves, ptr %leaves_at
  %has_leaves = icmp ne ptr %leaves, null
  br i1 %has_leaves, label %read_more, label %end

read_more:
  %gradients = call ptr @leaves(ptr %grads, ptr %grads_tree)
  %gradients_at = getelementptr ptr, ptr %held, i64 2
  store ptr %gradients, ptr %gradients_at
  %has_gradients = icmp ne ptr %gradients, null
  br i1 %has_gradients, label %fit, label %end

fit:
  %found = call ptr @PyObject_Vectorcall(ptr %fits, ptr %leaves_at, i64 2, ptr null)
  %is_alike = call i1 @is_it(ptr %found, ptr %true)
  br i1 %is_alike, label %count, label %end

count:
  %before = call ptr @PyObject_GetAttr(ptr %its_state, ptr %counter)
  %before_at = getelementptr ptr, ptr %held, i64 3
  store ptr %before, ptr %before_at
  %has_before = icmp ne ptr %before, null
  br i1 %has_before, label %number, label %end

number:
  %taken_before = call i64 @PyLong_AsLongLong(ptr %before)
  %is_small = icmp ult i64 %taken_before, {MOST_STEPS}
  br i1 %is_small, label %advance, label %give_up

give_up:
  call void @PyErr_Clear()
  br label %end

advance:
  %step = add i64 %taken_before, 1
  %step_object = call ptr @PyLong_FromLongLong(i64 %step)
  %step_at = getelementptr ptr, ptr %held, i64 4
  store ptr %step_object, ptr %step_at
  %has_step = icmp ne ptr %step_object, null
  br i1 %has_step, label %pack, label %end

pack:
  %numbers = call ptr @PyTuple_New(i64 %row_count)
  %numbers_at = getelementptr ptr, ptr %held, i64 5
  store ptr %numbers, ptr %numbers_at
  %has_numbers = icmp ne ptr %numbers, null
  br i1 %has_numbers, label %pack_own, label %end

pack_own:
  %own = call ptr @PyTuple_New(i64 %row_count)
  %own_at = getelementptr ptr, ptr %held, i64 6
  store ptr %own, ptr %own_at
  %has_own = icmp ne ptr %own, null
  br i1 %has_own, label %fill, label %end

fill:
  %full = call i1 @fill(ptr %rows, i64 %row_count, i64 %step, ptr %numbers, ptr %own)
  br i1 %full, label %make_scalars, label %end

make_scalars:
  %own_items = getelementptr i8, ptr %own, i64 {ITEMS}
  %alone = icmp ne i64 %is_alone, 0
  %argument = select i1 %alone, ptr %own_items, ptr %numbers_at
  %scalars = call ptr @PyObject_Vectorcall(ptr %make, ptr %argument, i64 1, ptr null)
  %scalars_at = getelementptr ptr, ptr %held, i64 7
  store ptr %scalars, ptr %scalars_at
  %has_scalars = icmp ne ptr %scalars, null
  br i1 %has_scalars, label %go, label %end

go:
  %scalar_count = call i64 @PyObject_Size(ptr %scalars)
  %first = getelementptr i8, ptr %scalars, i64 {ITEMS}
  %ran = call ptr @PyObject_Vectorcall(ptr %run, ptr %first, i64 %scalar_count, ptr null)
  %is_taken = call i1 @is_it(ptr %ran, ptr %true)
  br i1 %is_taken, label %take_note, label %end

take_note:
  call void @note(ptr %its_state, ptr %notes, i64 %note_count, ptr %step_at, ptr %own_items)
  br label %end

end:
  %result = phi i1 [ false, %entry ], [ false, %check ], [ false, %measure ], [ false, %ask_it ],
    [ false, %read ], [ false, %read_more ], [ false, %fit ], [ false, %count ],
    [ false, %give_up ], [ false, %advance ], [ false, %pack ], [ false, %pack_own ],
    [ false, %fill ], [ false, %make_scalars ], [ false, %go ], [ true, %take_note ]
  br label %give

give:
  %i = phi i64 [ 0, %end ], [ %i_next, %given_up ]
  %more = icmp ult i64 %i, 8
  br i1 %more, label %body, label %done

body:
{loads("held", {"reference": "%i"}, "ptr", "ptr")}
  call void @Py_DecRef(ptr %reference)
  br label %given_up

given_up:
  %i_next = add i64 %i, 1
  br label %give

done:
  ret i1 %result
}}

; Whether attributes are the objects that they were.
define internal i1 @holds(ptr %state, ptr %checks, i64 %count) {{
entry:
  br label %loop

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %body ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %yes

body:
  %check = getelementptr [{len(Check)} x i64], ptr %checks, i64 %i
{loads("check", named(Check), "ptr")}
  %is_state = icmp eq ptr %object, null
  %whose = select i1 %is_state, ptr %state, ptr %object
  %found = call ptr @PyObject_GetAttr(ptr %whose, ptr %name)
  %is_same = call i1 @is_it(ptr %found, ptr %value)
  %i_next = add i64 %i, 1
  br i1 %is_same, label %loop, label %no

yes:
  ret i1 true

no:
  ret i1 false
}}

; Sets attributes, after a step. At `results` are its number and the rows, own numbers elsewhere.
define internal void @note(ptr %state, ptr %notes, i64 %count, ptr %results, ptr %own) {{
entry:
  br label %loop

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %set ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %done

body:
  %note = getelementptr [{len(Note)} x i64], ptr %notes, i64 %i
{loads("note", named(Note, "object", "name"), "ptr")}
{loads("note", {"which": Note.VALUE})}
  %is_state = icmp eq ptr %object, null
  %whose = select i1 %is_state, ptr %state, ptr %object
  %i_next = add i64 %i, 1
  %is_object = icmp ugt i64 %which, {MOST_ROWS + OWN}
  br i1 %is_object, label %keep, label %find

find:
  %is_own = icmp uge i64 %which, {OWN}
  %place = sub i64 %which, {OWN}
  %index = select i1 %is_own, i64 %place, i64 %which
  %from = select i1 %is_own, ptr %own, ptr %results
{loads("from", {"result": "%index"}, "ptr", "ptr")}
  br label %set

keep:
  %constant = inttoptr i64 %which to ptr
  br label %set

set:
  %value = phi ptr [ %result, %find ], [ %constant, %keep ]
  %unused = call i32 @PyObject_SetAttr(ptr %whose, ptr %name, ptr %value)
  br label %loop

done:
  ret void
}}

; Fills tuples with the numbers of each row, and with the own number of its step.
define internal i1 @fill(ptr %rows, i64 %row_count, i64 %step, ptr %all, ptr %own) {{
entry:
  br label %rows_left

rows_left:
  %r = phi i64 [ 0, %entry ], [ %r_next, %full ]
  %is_row = icmp ult i64 %r, %row_count
  br i1 %is_row, label %begin, label %yes

begin:
  %row = getelementptr [{len(OfRow)} x i64], ptr %rows, i64 %r
{loads("row", named(OfRow, "count", "missed"))}
{loads("row", named(OfRow, "numbers"), "ptr")}
  %r_next = add i64 %r, 1
  %own_step = sub i64 %step, %missed
  %own_object = call ptr @PyLong_FromLongLong(i64 %own_step)
  %has_own = icmp ne ptr %own_object, null
  br i1 %has_own, label %keep, label %no

keep:
  %own_items = getelementptr i8, ptr %own, i64 {ITEMS}
  %own_item = getelementptr ptr, ptr %own_items, i64 %r
  store ptr %own_object, ptr %own_item
  %tuple = call ptr @PyTuple_New(i64 %count)
  %has_tuple = icmp ne ptr %tuple, null
  br i1 %has_tuple, label %put, label %no

put:
  %all_items = getelementptr i8, ptr %all, i64 {ITEMS}
  %tuple_at = getelementptr ptr, ptr %all_items, i64 %r
  store ptr %tuple, ptr %tuple_at
  %items = getelementptr i8, ptr %tuple, i64 {ITEMS}
  br label %loop

loop:
  %i = phi i64 [ 0, %put ], [ %i_next, %body ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %full

body:
{loads("numbers", {"number": "%i"}, "ptr", "ptr")}
  %is_step = icmp eq ptr %number, null
  %object = select i1 %is_step, ptr %own_object, ptr %number
  call void @Py_IncRef(ptr %object)
  %item = getelementptr ptr, ptr %items, i64 %i
  store ptr %object, ptr %item
  %i_next = add i64 %i, 1
  br label %loop

full:
  br label %rows_left

yes:
  ret i1 true

no:
  ret i1 false
}}

; The leaves of a tree, in a new tuple; or null, where its structure is another.
define internal ptr @leaves(ptr %tree, ptr %how) {{
entry:
  %one = alloca ptr
  store ptr %tree, ptr %one
{loads("how", named(Tree, "kind", "count"))}
{loads("how", named(Tree, "keys"), "ptr")}
{loads("how", {"its_type": Tree.TYPE})}
{loads("tree", {"type": TYPE}, unit="i8")}
  %is_its = icmp eq i64 %type, %its_type
  switch i64 %kind, label %ask [
    i64 {LEAF}, label %leaf
    i64 {DICT}, label %dict
    i64 {SEQUENCE}, label %sequence
  ]

leaf:
  %alone = call ptr @PyTuple_New(i64 1)
  %has_alone = icmp ne ptr %alone, null
  br i1 %has_alone, label %put, label %no

put:
  call void @Py_IncRef(ptr %tree)
  %alone_at = getelementptr i8, ptr %alone, i64 {ITEMS}
  store ptr %tree, ptr %alone_at
  ret ptr %alone

sequence:
  br i1 %is_its, label %measure, label %no

measure:
  %length = call i64 @PyObject_Size(ptr %tree)
  %is_long = icmp eq i64 %length, %count
  br i1 %is_long, label %copy, label %no

copy:
  %copied = call ptr @PySequence_Tuple(ptr %tree)
  ret ptr %copied

dict:
  br i1 %is_its, label %measure_dict, label %no

measure_dict:
  %size = call i64 @PyDict_Size(ptr %tree)
  %is_large = icmp eq i64 %size, %count
  br i1 %is_large, label %new, label %no

new:
  %found = call ptr @PyTuple_New(i64 %count)
  %has_found = icmp ne ptr %found, null
  br i1 %has_found, label %fill, label %no

fill:
  %items = getelementptr i8, ptr %found, i64 {ITEMS}
  br label %loop

loop:
  %i = phi i64 [ 0, %fill ], [ %i_next, %body ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %look, label %done

look:
{loads("keys", {"key": "%i"}, "ptr", "ptr")}
  %entry_found = call ptr @PyDict_GetItemWithError(ptr %tree, ptr %key)
  %is_there = icmp ne ptr %entry_found, null
  br i1 %is_there, label %body, label %give

body:
  call void @Py_IncRef(ptr %entry_found)
  %item = getelementptr ptr, ptr %items, i64 %i
  store ptr %entry_found, ptr %item
  %i_next = add i64 %i, 1
  br label %loop

done:
  ret ptr %found

give:
  call void @Py_DecRef(ptr %found)
  br label %no

ask:
  %answer = call ptr @PyObject_Vectorcall(ptr %keys, ptr %one, i64 1, ptr null)
  %is_null = icmp eq ptr %answer, null
  br i1 %is_null, label %no, label %weigh

weigh:
{loads("answer", {"answer_type": TYPE}, unit="i8")}
  %is_tuple = icmp eq i64 %answer_type, %its_type
  br i1 %is_tuple, label %answered, label %refused

answered:
  ret ptr %answer

refused:
  call void @Py_DecRef(ptr %answer)
  br label %no

no:
  ret ptr null
}}
"""

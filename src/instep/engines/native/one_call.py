"""Passes in their order, and what is done between them, as one call of compiled code.

A call from Python costs as much as a pass on a few hundred elements, and a step of several passes
would have many of them to make: each pass, the sums of its tensors, those over the tree. As one
call, no handler of a signal divides it, either.
"""

import enum
from array import array
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instep.engines.native.compile import compile_module, host
from instep.engines.native.expressions import literal
from instep.engines.native.fields import loads, named
from instep.engines.native.functions import DECLARATIONS, Block, compile_method
from instep.engines.native.mode import emit_mode
from instep.engines.native.pool import share_address, workers_for
from instep.engines.native.reducing import combined_by
from instep.graph import Node
from instep.graph.nodes import FIRST

#: The most arguments of a call: the first word is the address of the function.
_MOST = 4


class Word(enum.IntEnum):
    """Positions in the block of one call."""

    CALLS = 0  # address of the calls: a function and its arguments, each
    COUNT = 1  # their number
    FIRST = 2  # the number of those before the guards
    LAST = 3  # and of those up to the end of a step that is taken
    GUARDS = 4  # address of the addresses of sums that must be zero
    GUARD_COUNT = 5
    SCALARS = 6  # address of the places of scalars
    SCALAR_COUNT = 7
    OUTCOME = 8  # which calls were made: one of `_OUTCOMES`


class Scalar(enum.IntEnum):
    """Positions in the place of a scalar."""

    NUMBER = 0  # of the argument
    TO = 1  # its address
    IS_WIDE = 2  # whether it is a double there, or a float


#: The byte of the block that says what was done, and what its values mean.
_OUTCOME = 8 * Word.OUTCOME
_OUTCOMES = {0: None, 1: True, 2: False}

_TEXT = f"""\
{DECLARATIONS}
declare double @PyFloat_AsDouble(ptr)
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)

; Takes the scalars, floats of Python, and makes the calls, without the interpreter lock: behind the
; guards those of a step that is taken, or the others. Returns whether it is taken.
define ptr @run(ptr %self, ptr %scalars, i64 %number) {{
entry:
  %mode = call i64 @take_mode()
  %block = call ptr @PyByteArray_AsString(ptr %self)
{loads("block", named(Word, "count", "first", "last", "guard_count", "scalar_count"))}
{loads("block", named(Word, "calls", "guards") | {"places": Word.SCALARS}, "ptr")}
  br label %scalar

scalar:
  %i = phi i64 [ 0, %entry ], [ %i_next, %stored ]
  %i_more = icmp ult i64 %i, %scalar_count
  br i1 %i_more, label %take, label %begin

take:
  %place = getelementptr [{len(Scalar)} x i64], ptr %places, i64 %i
{loads("place", named(Scalar, "number", prefix="its_") | named(Scalar, "is_wide"))}
{loads("place", named(Scalar, "to"), "ptr")}
{loads("scalars", {"object": "%its_number"}, "ptr", "ptr")}
  %value = call double @PyFloat_AsDouble(ptr %object)
  %i_next = add i64 %i, 1
  %wide = icmp ne i64 %is_wide, 0
  br i1 %wide, label %store_wide, label %store_narrow

store_wide:
  store double %value, ptr %to
  br label %stored

store_narrow:
  %narrow = fptrunc double %value to float
  store float %narrow, ptr %to
  br label %stored

stored:
  br label %scalar

begin:
  %thread = call ptr @PyEval_SaveThread()
  call void @call_all(ptr %calls, i64 0, i64 %first)
  br label %guard

guard:
  %g = phi i64 [ 0, %begin ], [ %g_next, %look ]
  %g_more = icmp ult i64 %g, %guard_count
  br i1 %g_more, label %look, label %go_on

look:
{loads("guards", {"guarded": "%g"}, "ptr", "ptr")}
  %sum = load double, ptr %guarded
  %g_next = add i64 %g, 1
  %holds = fcmp oeq double %sum, 0.0
  br i1 %holds, label %guard, label %turn_away

go_on:
  call void @call_all(ptr %calls, i64 %first, i64 %last)
  br label %end

turn_away:
  call void @call_all(ptr %calls, i64 %last, i64 %count)
  br label %end

end:
  %taken = phi i64 [ 1, %go_on ], [ 0, %turn_away ]
  %outcome = phi i8 [ 1, %go_on ], [ 2, %turn_away ]
  %outcome_at = getelementptr i8, ptr %block, i64 {_OUTCOME}
  store i8 %outcome, ptr %outcome_at
  call void @give_mode(i64 %mode)
  call void @PyEval_RestoreThread(ptr %thread)
  %result = call ptr @PyBool_FromLong(i64 %taken)
  ret ptr %result
}}

define internal void @call_all(ptr %calls, i64 %first, i64 %count) {{
entry:
  br label %loop

loop:
  %i = phi i64 [ %first, %entry ], [ %i_next, %body ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %done

body:
  %i_next = add i64 %i, 1
  %call = getelementptr [{1 + _MOST} x i64], ptr %calls, i64 %i
{loads("call", {"function": 0}, "ptr")}
{loads("call", {"a": 1, "b": 2, "c": 3, "d": 4})}
  call void %function(i64 %a, i64 %b, i64 %c, i64 %d)
  br label %loop

done:
  ret void
}}

; Sets words to zero.
define void @clear(ptr %words, i64 %count, i64 %unused, i64 %nothing) {{
entry:
  br label %loop

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %body ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %done

body:
  %i_next = add i64 %i, 1
  %word = getelementptr i64, ptr %words, i64 %i
  store i64 0, ptr %word
  br label %loop

done:
  ret void
}}

; Copies words: pairs of addresses say from where, and where to.
define void @move(ptr %pairs, i64 %count, i64 %unused, i64 %nothing) {{
entry:
  br label %loop

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %body ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %done

body:
  %i_next = add i64 %i, 1
  %pair = getelementptr [2 x i64], ptr %pairs, i64 %i
{loads("pair", {"from": 0, "to": 1}, "ptr")}
  %word = load i64, ptr %from
  store i64 %word, ptr %to
  br label %loop

done:
  ret void
}}
"""


def _total(kind: str) -> str:
    next_one = "\n  ".join(combined_by(kind, "%sum_next", "double", "%sum", "%value"))
    first = literal(Node("constant", (), "float64", FIRST[kind]))
    return f"""
; Writes the {kind} of a row behind it: its elements are taken in their order.
define void @{kind}(ptr %row, i64 %count, i64 %unused, i64 %nothing) {{
entry:
  br label %loop

loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %body ]
  %sum = phi double [ {first}, %entry ], [ %sum_next, %body ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %body, label %done

body:
  %i_next = add i64 %i, 1
{loads("row", {"value": "%i"}, "double", "double")}
  {next_one}
  br label %loop

done:
  %behind = getelementptr double, ptr %row, i64 %count
  store double %sum, ptr %behind
  ret void
}}
"""


_TEXT += _total("sum") + _total("maximum")


@cache
def _text() -> str:
    """Return the module, for this processor."""
    return emit_mode(host()) + _TEXT


class _Shared(NamedTuple):
    """The call of a kernel that several threads share."""

    kernel: int
    arguments: int
    threads: int


class Calls:
    """Calls of compiled code, in their order, and the memory that they work on."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...] | _Shared] = []
        self.kept: list[Any] = []

    def run(self, kernel: int, arguments: int, threads: int = 1) -> None:
        """Add the call of a kernel, by the addresses of both."""
        alone = threads <= 1
        self.calls.append((kernel, arguments) if alone else _Shared(kernel, arguments, threads))

    def clear(self, words: int, count: int = 1) -> None:
        """Add the call that sets words to zero."""
        self.calls.append((_address("clear"), words, count))

    def move(self, origins: NDArray[np.int64], destinations: NDArray[np.int64]) -> None:
        """Add the call that copies words, given their addresses."""
        pairs = np.stack([origins, destinations], axis=-1).reshape(-1, 2)
        self.kept.append(pairs)
        self.calls.append((_address("move"), pairs.ctypes.data, len(pairs)))

    def total(self, kind: str, row: int, count: int) -> None:
        """Add the call that writes the sum of a row behind it, or its maximum."""
        self.calls.append((_address(kind), row, count))


class OneCall:
    """Calls that are made as one.

    Parameters
    ----------
    first, last, otherwise
        The calls before it is seen whether the step is turned away, those after, and those that
        are made if it is.
    guards
        Addresses of the sums that must be zero, or it is.
    scalars
        Where the arguments of `run` go: number, address, and whether it is a double there.

    Attributes
    ----------
    run
        Takes the scalars and makes the calls. Returns whether it made the last ones.
    compiled
        The same, where it is known that the process was not forked since a `run`.
    """

    def __init__(
        self,
        first: Calls,
        last: Calls,
        otherwise: Calls,
        guards: Iterable[int] = (),
        scalars: Iterable[tuple[int, int, bool]] = (),
    ) -> None:
        rows, self._shared = array("q"), list[tuple[int, int]]()
        for call in (*first.calls, *last.calls, *otherwise.calls):
            if isinstance(call, _Shared):
                self._shared.append((len(rows) + 1, call.threads))
                call = share_address(), *workers_for(call.threads), *call[:2]  # noqa: PLW2901
            rows.extend((*call, *(0,) * (1 + _MOST - len(call))))
        guarded, places = array("q", guards), array("q", [n for one in scalars for n in one])
        words = [rows.buffer_info()[0], len(rows) // (1 + _MOST), len(first.calls)]
        words += [len(first.calls) + len(last.calls)]
        words += [guarded.buffer_info()[0], len(guarded)]
        words += [places.buffer_info()[0], len(places) // len(Scalar), 0]
        kept = rows, guarded, places, first.kept, last.kept, otherwise.kept
        self._block, self._rows = Block(words, tables=kept), rows
        self.compiled = compile_method(_text(), "run")(self._block)
        self.run = self._run_shared if self._shared else self.compiled

    def _run_shared(self, *scalars: float) -> bool:
        # In a forked process there are no threads as yet, and they will be told elsewhere.
        for place, threads in self._shared:
            self._rows[place], self._rows[place + 1] = workers_for(threads)
        taken: bool = self.compiled(*scalars)
        return taken

    def begin(self) -> None:
        """Begin a step, in which the calls are not made as yet."""
        self._block[_OUTCOME] = 0

    def outcome(self) -> bool | None:
        """Return what `run` has returned since, or None: it has not come to its end."""
        return _OUTCOMES[self._block[_OUTCOME]]


@cache
def _address(name: str) -> int:
    found: int = compile_module(_text()).get_function_address(name)
    return found

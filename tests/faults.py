"""Exceptions at chosen places: what a handler of a signal raises, or a lack of memory."""

import collections
import itertools
import os
import sys
import zlib
from pathlib import Path

import instep

SOURCE = str(Path(instep.__file__).parent)

#: A CI machine tries about so many of the lines of a call, and a desk all that are asked for.
MOST = 48 if "CI" in os.environ else None

#: The last part of a call, in which it stores.
END = 1 / 3


class Fault:
    """Raises an exception at the n-th line of instep that runs within the context.

    The trace function raises where Python would let the handler of a signal run, or call a
    function that finds no memory. In a loop, the first `times` times of a line count.

    Parameters
    ----------
    after
        Name of a function: lines count from the first call of it.
    source
        Folder of the files whose lines count.

    Attributes
    ----------
    raised
        Whether so many lines have run.
    place
        Where that was.
    lines
        How many lines have run until then.
    """

    def __init__(self, line, exception, after=None, times=2, source=SOURCE):
        self.exception, self._at, self._after, self._most = exception, line, after, times
        self._source, self.lines = source, 0
        self._times = collections.Counter()
        self.raised, self.place = False, ""

    def __enter__(self):
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _enter(self, frame, event, _):
        if not frame.f_code.co_filename.startswith(self._source):
            return None
        if frame.f_code.co_qualname == self._after:
            self._after = None
        return self._line

    def _line(self, frame, event, _):
        if event != "line" or self._after is not None:
            return self._line
        place = (frame.f_code, frame.f_lineno)
        self._times[place] += 1
        if self._times[place] <= self._most:
            self.lines += 1
            if self.lines == self._at:
                sys.settrace(None)
                self.raised = True
                self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                self.act()
        return self._line

    def act(self):
        """Do at the line what a handler does."""
        raise self.exception


def each_line(run, exceptions, after=None, stride=1):
    """Call ``run(fault)`` with a fault at each line that it executes, one after the other.

    Yields the faults that were raised and what `run` returned; it must use the fault as a context
    and catch the exception outside of it. The exceptions take turns. Of every `stride` lines it is
    one, of more where `MOST` says so, and in every test and version of Python another.
    """
    draw = zlib.crc32(os.environ["PYTEST_CURRENT_TEST"].encode()) + sys.version_info.minor
    whole = Fault(0, None, after)
    if MOST is not None:  # to count them
        run(whole)
    for turn, line in enumerate(lines(whole.lines, stride, draw), draw):
        fault = Fault(line, exceptions[turn % len(exceptions)], after)
        result = run(fault)
        if not fault.raised:
            return
        yield fault, result


def lines(count, stride, draw, most=MOST):
    """Yield the numbers of the lines to try, of a call of `count` lines, and all beyond them.

    Of every `stride` lines it is the one that `draw` decides. Where there are to be about `most`,
    half of them lie as evenly up to the end, and there the others, closer and closer.
    """
    if most is None:
        yield from itertools.count(1 + draw % stride, stride)
        return
    end, half = int(END * count), most // 2
    gap = max(stride, (count - end) // half)
    yield from range(1 + draw % gap, count - end + 1, gap)
    shift = draw % 16 / 16
    distances = {int(end ** ((place + shift) / half)) for place in range(half)} if end else set()
    yield from sorted(count + 1 - distance for distance in distances)
    yield from itertools.count(count + 1)

"""Exceptions at chosen places: what a handler of a signal raises, or a lack of memory."""

import collections
import sys
from pathlib import Path

import instep

SOURCE = str(Path(instep.__file__).parent)


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
    """

    def __init__(self, line, exception, after=None, times=2, source=SOURCE):
        self.exception, self._left, self._after, self._most = exception, line, after, times
        self._source = source
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
            self._left -= 1
            if self._left == 0:
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
    one, and in every version of Python another.
    """
    line = 1 + sys.version_info.minor % stride
    while True:
        fault = Fault(line, exceptions[line // stride % len(exceptions)], after)
        result = run(fault)
        if not fault.raised:
            return
        yield fault, result
        line += stride

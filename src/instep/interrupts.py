"""Steps that are whole, whatever interrupts them.

Python runs the handlers of signals in its main thread between two of its own instructions, and a
handler may raise: KeyboardInterrupt for Ctrl-C, a TimeoutError for SIGALRM, SystemExit for
SIGTERM. Holding signals back would not do: there are many of them, their handlers may be changed
at any time, and another thread may receive them. So nothing is held back. What changes a step's
results is made of calls that no handler can divide, each of which leaves behind how far it has
come, and what is cut off in between is taken up again before the exception goes its way.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from operator import call as call_it
from typing import TYPE_CHECKING, Any, Generic, TypeVar

#: A function that is implemented in C, with its arguments.
Call = Callable[[], Any]

_Result = TypeVar("_Result")


def at_once(calls: Iterable[Call]) -> None:
    """Call functions that are implemented in C, one after the other, as one.

    No instruction of Python runs in between, and so no handler of a signal. Bind arguments with
    `functools.partial`; `operator.setitem` and `dict.update` are such functions, but those of
    NumPy's main namespace are not: many ask a function in Python for their arguments first.
    """
    deque(map(call_it, calls), maxlen=0)


def together(calls: Iterable[Call]) -> Call:
    """Return the call that makes calls of functions in C, as `at_once` does, those not yet made."""
    return partial(deque, map(call_it, calls), 0)


def finish(run: Callable[[], _Result]) -> _Result:
    """Return ``run()``; where an exception comes from between its parts, only after it is done.

    `run` goes on where it was cut off when it is called again. Handlers may raise twice in a row:
    a call follows the exception without an instruction at which a third could come. What `run`
    itself lacks, the few bytes of memory that calls take, it may find a moment later; an error
    that comes again each time is raised.
    """
    try:
        return run()
    except BaseException:
        try:
            run()
        except BaseException:
            attempts = 0
            while attempts < _ATTEMPTS:
                try:
                    run()
                except Exception:  # noqa: BLE001  (ctypes makes other errors of a MemoryError)
                    attempts += 1
                else:
                    raise
            run()
            raise
        raise


#: Numbers up to this need no memory: Python has them ready.
_ATTEMPTS = 250


def require_frames(count: int = 16) -> None:
    """Raise RecursionError now, where so many calls cannot be nested, rather than half-way."""
    if count:
        require_frames(count - 1)


def block(run: Generator[_Result, Any, None]) -> "Block[_Result]":
    """Return a context manager whose block stands at the first `yield` of a generator.

    What the generator does there in ``try`` and ``finally`` is done whenever an exception comes:
    between it and the block no instruction of Python runs at which a handler could raise, as some
    do in the context managers of `contextlib`. The generator goes on to yield 0.
    """
    # Python tells in three arguments how the block ended. `max`, which is in C, sends them all to
    # the generator. It returns the first of equals, 0, which is false: an exception goes on.
    return Block(partial(next, run), partial(max, 0, key=run.send))


@dataclass(frozen=True, slots=True)
class Block(Generic[_Result]):
    """A context manager of two functions in C."""

    enter: Callable[[], _Result]
    leave: Callable[..., Any]

    if TYPE_CHECKING:

        def __enter__(self) -> _Result: ...
        def __exit__(self, *error: object) -> None: ...

    else:
        __enter__ = property(attrgetter("enter"))
        __exit__ = property(attrgetter("leave"))

"""Calls that see whole steps: threads take turns, and no call comes in the midst of another.

A schedule, or the handler of a signal, may call the optimizer whose step it interrupts.
"""

import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

_LOCKS: "weakref.WeakSet[threading.RLock]" = weakref.WeakSet()


def new_lock() -> "threading.RLock":
    """Return a lock that a forked process finds free."""
    lock = threading.RLock()
    _LOCKS.add(lock)
    return lock


def lock_of(owner: Any) -> "threading.RLock | None":
    """Return the lock of an optimizer; None for what stands in for one within its own calls."""
    lock: threading.RLock | None = getattr(owner, "_lock", None)
    return lock


def _free_locks() -> None:
    """Free all locks in a forked process: the threads that held them are not in it."""
    for lock in _LOCKS:
        lock._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001  (as in `threading`)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)


def is_within_another_call(optimizer: Any) -> bool:
    """Return whether this thread is within a call that holds the lock, but for the one that asks.

    It asks from `Stateful._exclusive`.
    """
    frame: FrameType | None = sys._getframe(3)  # noqa: SLF001  (beyond the call that asks)
    while frame is not None:
        takes_lock = not _LOCKING.isdisjoint(frame.f_code.co_names)
        if takes_lock and frame.f_locals.get("self") is optimizer:
            return True
        frame = frame.f_back
    return False


#: What the methods name that hold the lock while they call others.
_LOCKING = frozenset({"_exclusive", "_lock"})

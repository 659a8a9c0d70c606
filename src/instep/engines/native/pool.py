"""Threads that wait for work in compiled code, and the call that shares a kernel with them.

A hand-over through Python's futures waits for the interpreter lock several times: a second thread
begins after 55 us, and after 25 with this (Zen 5, Linux in KVM).
"""

import ctypes
import os
import threading
from array import array
from functools import cache
from typing import Any

from instep.engines.native import handover
from instep.engines.native.compile import address_of, compile_function, host

#: Workers of a pool at most: each costs the thread that steps some microseconds to wake.
MOST_WORKERS = 255


class Pool:
    """Workers, and the memory in which jobs are handed to them."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Have no workers, as at first: in a forked process the threads of the parent are gone."""
        self.workers = 0
        self._lock = threading.Lock()
        # One record more than is needed, for the first to begin on a cache line.
        self._memory = array("q", bytes(8 * handover.RECORD * (MOST_WORKERS + 2)))
        start = self._memory.buffer_info()[0]
        self.address = start + -start % (8 * handover.RECORD)
        self._first = (self.address - start) // 8

    def grow(self, workers: int) -> None:
        """Start threads until there are so many workers, or no more can be had."""
        with self._lock:
            while self.workers < min(workers, MOST_WORKERS):
                try:
                    self._start(handover.RECORD * (self.workers + 1))
                except RuntimeError:  # no more threads: fewer do the same work
                    return
                self.workers += 1

    def _start(self, record: int) -> None:
        for lock in (handover.WAKE, handover.DONE):
            place = self._first + record + lock
            # They are there where no thread could be had the last time.
            self._memory[place] = self._memory[place] or _held_lock()
        worker = (self.address + 8 * record,)
        # A daemon: it never returns, and the process ends all the same.
        threading.Thread(target=_serve(), args=worker, name="instep", daemon=True).start()


_POOL = Pool()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_POOL.begin)


def start_workers(threads: int) -> None:
    """Start the other threads that `run_on_threads` will use, where they can be had.

    Starting one takes memory, which may be lacking: not in the midst of a step.
    """
    if threads - 1 > _POOL.workers:
        _POOL.grow(threads - 1)


def run_on_threads(kernel: int, arguments: int, threads: int) -> None:
    """Call a kernel on this thread and on `threads - 1` others, and return when all are done.

    `kernel` and `arguments` are addresses. The calls share a list of chunks, so those that come
    late find nothing to do, and any number of them does all the work: this thread does it alone
    where there are no others, or where they work for another thread.
    """
    _share()(*workers_for(threads), kernel, arguments)


def workers_for(threads: int) -> tuple[int, int]:
    """Return the address of the pool, and how many of its workers make so many threads."""
    start_workers(threads)
    return _POOL.address, min(threads - 1, _POOL.workers)


def share_address() -> int:
    """Return the address of what shares: it is given these two, a kernel and its arguments."""
    return address_of(_share())


@cache
def _serve() -> Any:
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    return compile_function(handover.emit_serve(host()), "serve", kind)


@cache
def _share() -> Any:
    address = ctypes.c_void_p
    kind = ctypes.CFUNCTYPE(None, address, ctypes.c_int64, address, address)
    return compile_function(handover.emit_share(host()), "share", kind)


def _held_lock() -> int:
    """Return the address of a new lock that is held. It is never freed."""
    allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))
    kind = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    acquire = kind(("PyThread_acquire_lock", ctypes.pythonapi))
    lock: int | None = allocate()
    if lock is None:
        raise MemoryError("native engine: no lock for another thread")
    acquire(lock, 1)
    return lock

"""The threads of the native engine: as many as the process may use, shared by all optimizers."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

VARIABLE = "INSTEP_NUM_THREADS"

_pool: ThreadPoolExecutor | None = None
_workers = 0
_lock = threading.Lock()


def available_threads() -> int:
    """Return the number of CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(requested: int | None) -> int:
    """Return the number of threads to use: what was asked for, bounded by the environment."""
    count = requested if requested is not None else available_threads()
    bound = os.environ.get(VARIABLE)
    if bound is None:
        return count
    if not bound.strip().isdecimal() or int(bound) < 1:
        raise ValueError(f"{VARIABLE} must be an integer >= 1, got {bound!r}; set or unset it")
    return min(count, int(bound))


def run_on_threads(work: Callable[[], None], threads: int) -> None:
    """Call `work` on this thread and on `threads - 1` others, and return when all are done.

    The calls share a list of chunks, so those that come late find nothing to do.
    """
    pool = _executor(threads - 1)
    others = [pool.submit(work) for _ in range(threads - 1)]
    work()
    for future in others:
        if not future.cancel():
            future.result()


def _executor(workers: int) -> ThreadPoolExecutor:
    global _pool, _workers
    with _lock:
        if _pool is None or _workers < workers:
            _pool, _workers = ThreadPoolExecutor(workers, thread_name_prefix="instep"), workers
        return _pool


def _forget_pool() -> None:
    """Start anew in a forked process, where the threads of the parent do not exist."""
    global _pool, _workers, _lock
    _pool, _workers, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)

"""The number of threads of the native engine: as many as the process may use, or was told to."""

import os

from instep.engines.native import control_groups

VARIABLE = "INSTEP_NUM_THREADS"


def available_threads() -> int:
    """Return the number of CPUs that this process may run on, and may keep busy."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    granted = control_groups.granted_cpus()
    return count if granted is None else min(count, granted)


def thread_count(requested: int | None) -> int:
    """Return the number of threads to use: what was asked for, bounded by the environment."""
    count = requested if requested is not None else available_threads()
    bound = os.environ.get(VARIABLE)
    if bound is None:
        return count
    if not bound.strip().isdecimal() or int(bound) < 1:
        raise ValueError(f"{VARIABLE} must be an integer >= 1, got {bound!r}; set or unset it")
    return min(count, int(bound))

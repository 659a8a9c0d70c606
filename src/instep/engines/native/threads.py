"""The number of threads of the native engine: as many as the process may use, or was told to."""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath

VARIABLE = "INSTEP_NUM_THREADS"


def available_threads(root: Path = Path("/")) -> int:
    """Return the number of CPUs that this process may run on, and may keep busy.

    `root` is where Linux has its files.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    granted = _granted(root)
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


@cache
def _granted(root: Path) -> int | None:
    """Return the number of CPUs whose time this process is granted, rounded up, if that is bounded.

    A container may see all CPUs of its host and have a share of them, which the kernel grants as
    time in each period: threads beyond it would be stopped until the next one. Read once, for it
    takes 0.4 ms.
    """
    return min((max(1, -(-quota // period)) for quota, period in _quotas(root)), default=None)


def _quotas(root: Path) -> Iterator[tuple[int, int]]:
    """Yield the CPU time, and the period, of each control group of this process that bounds it."""
    for hierarchy, group in _groups(root):
        # A group is bounded by all that it is in. The path may be one of the host, and then is not
        # there: what is mounted in a container is its own group.
        path = PurePosixPath(group.lstrip("/"))
        for folder in (hierarchy / path, *(hierarchy / parent for parent in path.parents)):
            with suppress(OSError, ValueError):  # not there, or "max": no bound
                if (folder / "cpu.max").exists():  # version 2
                    quota, period = (folder / "cpu.max").read_text("ascii").split()
                else:
                    quota = (folder / "cpu.cfs_quota_us").read_text("ascii")
                    period = (folder / "cpu.cfs_period_us").read_text("ascii")
                if int(quota) > 0 and int(period) > 0:  # -1: no bound
                    yield int(quota), int(period)


def _groups(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the hierarchies of control groups that count CPU time, and the group in each."""
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8", "replace").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield mounted, group
        elif "cpu" in controllers.split(","):
            yield mounted / "cpu", group

"""What Linux's control groups leave to this process: a container may have less than the machine."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

#: Where the files of the system are; tests have others.
SYSTEM = Path("/")


def granted_cpus() -> int | None:
    """Return the number of CPUs whose time this process is granted, rounded up, if bounded.

    A container may see all CPUs of its host and have a share of them, which the kernel grants as
    time in each period: threads beyond it would be stopped until the next one. Read once, for it
    takes 0.4 ms.
    """
    return _granted_cpus(SYSTEM)


@cache
def _granted_cpus(system: Path) -> int | None:
    return min(
        (
            max(1, -(-quota // period))
            for folder in _folders(system, "cpu")
            for quota, period in [_time(folder)]
            if quota > 0 and period > 0
        ),
        default=None,
    )


def memory_left() -> int | None:
    """Return the bytes that the tightest group leaves; None where no group has a limit."""
    left = [
        limit - used
        for folder in _folders(SYSTEM, "memory")
        if (limit := _number(folder, "memory.max", "memory.limit_in_bytes")) is not None
        if (used := _used(folder)) is not None
    ]
    return max(0, min(left)) if left else None


def _folders(system: Path, controller: str) -> Iterator[Path]:
    """Yield the folder of this process's group for a controller, then those of the groups above.

    Each may set a limit, and the smallest holds. In a container the groups above its own are not
    to be seen, its path may be one of the host, and the root is its own.
    """
    try:
        lines = (system / "proc/self/cgroup").read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:  # not Linux
        return
    paths = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    root = system / "sys/fs/cgroup"
    if controller in paths:  # version 1: a hierarchy for each controller
        root, path = root / controller, paths[controller]
    elif "" in paths:  # version 2: one for all, in a folder of its own where there are both
        unified = root / "unified"
        root, path = unified if unified.is_dir() else root, paths[""]
    else:
        return
    parts = Path(path).parts[1:]
    for length in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:length])


def _time(folder: Path) -> tuple[int, int]:
    """Return the CPU time that a group has in each period, and the period; 0 or less: no bound."""
    try:
        if (folder / "cpu.max").exists():  # version 2
            quota, period = (folder / "cpu.max").read_text("ascii").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text("ascii")
            period = (folder / "cpu.cfs_period_us").read_text("ascii")
        return int(quota), int(period)
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):  # or "max"
        return 0, 0


def _used(folder: Path) -> int | None:
    """Return the bytes that a group uses, without pages of files that it can give back."""
    used = _number(folder, "memory.current", "memory.usage_in_bytes")
    try:
        lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    statistics = dict(line.split() for line in lines)
    # Version 1 counts the groups below under names of their own.
    given_back = statistics.get("total_inactive_file", statistics.get("inactive_file", "0"))
    return None if used is None else used - int(given_back)


def _number(folder: Path, *names: str) -> int | None:
    """Return the number in the first of these files that is there; None for "max", no limit."""
    for name in names:
        try:
            text = (folder / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        return None if text == "max" else int(text)
    return None

"""What Linux's control groups leave to this process: a container may have less than the machine."""

from collections.abc import Iterator
from pathlib import Path

MEMBERSHIP = Path("/proc/self/cgroup")
ROOT = Path("/sys/fs/cgroup")


def folders(controller: str) -> Iterator[Path]:
    """Yield the folder of this process's group for a controller, then those of the groups above.

    Each may set a limit, and the smallest holds. In a container the groups above its own are not
    to be seen, and the root is its own.
    """
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    paths = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    if controller in paths:  # version 1: a hierarchy for each controller
        root, path = ROOT / controller, paths[controller]
    elif "" in paths:  # version 2: one for all, in a folder of its own where there are both
        unified = ROOT / "unified"
        root, path = unified if unified.is_dir() else ROOT, paths[""]
    else:
        return
    parts = Path(path).parts[1:]
    for length in range(len(parts), -1, -1):
        yield root.joinpath(*parts[:length])


def memory_left() -> int | None:
    """Return the bytes that the tightest group leaves; None where no group has a limit."""
    left = [
        limit - used
        for folder in folders("memory")
        if (limit := _number(folder, "memory.max", "memory.limit_in_bytes")) is not None
        if (used := _used(folder)) is not None
    ]
    return max(0, min(left)) if left else None


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

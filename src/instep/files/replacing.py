"""The place of a file: what is there is the old one or the new one, whole, at any moment."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced(call: str, path: Path) -> Iterator[Path]:
    """Give the name of a draft, and put it in the place of a file when the block is over.

    The draft has a name of its own, so that several processes may write one file: the last that is
    done wins. It is on the disk before it takes the place. A symbolic link stays one, and the file
    keeps its permissions. What an exception leaves is removed; a process that is killed leaves a
    hidden draft, which nobody reads.
    """
    target = Path(os.path.realpath(path))
    before = _looked_at(call, path, target)
    draft = target.with_name(f".instep-{secrets.token_hex(8)}.draft")
    # Made as any new file is, so that the mask of the process applies; and nobody may read it who
    # could not read the file before.
    mode = 0o666 if before is None else stat.S_IMODE(before.st_mode) & 0o666 | 0o600
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    try:
        like = draft.stat() if before is None else before
        yield draft  # what writes may put another file into its place
        _write_through(draft)
        _keep(draft, like)
        _put(call, draft, target)
    finally:
        draft.unlink(missing_ok=True)
    _write_through(target.parent)


def _looked_at(call: str, path: Path, target: Path) -> os.stat_result | None:
    """Return what is known of the file that is there, if one is, or raise."""
    if not target.parent.is_dir():
        what = "is no folder" if target.parent.exists() else "does not exist"
        raise FileNotFoundError(
            errno.ENOENT,
            f"{call}: the folder {os.fspath(target.parent)!r} {what}; make it before",
            os.fspath(target.parent),
        )
    try:
        found = target.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(
            errno.EISDIR, f"{call}: it is a folder; give the name of a file", os.fspath(path)
        )
    if not stat.S_ISREG(found.st_mode):
        raise OSError(
            errno.EINVAL, f"{call}: it is no regular file, and cannot be replaced", os.fspath(path)
        )
    return found


def _keep(draft: Path, like: os.stat_result) -> None:
    """Give a draft the permissions, and if that may be the owner, of a file."""
    now = draft.stat()
    if hasattr(os, "chown") and (now.st_uid, now.st_gid) != (like.st_uid, like.st_gid):
        with contextlib.suppress(PermissionError):
            os.chown(draft, like.st_uid, like.st_gid)
    draft.chmod(stat.S_IMODE(like.st_mode))


def _write_through(path: Path) -> None:
    """Wait until a file, or the list of what is in a folder, is on the disk."""
    is_folder = path.is_dir()
    if is_folder and (os.name == "nt" or not os.access(path, os.R_OK)):  # it cannot be opened
        return
    number = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(number)
    except OSError as error:  # of file systems that do not know it of folders
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(number)


def _put(call: str, draft: Path, target: Path) -> None:
    try:
        draft.replace(target)
    except PermissionError as error:
        if not target.exists():
            raise
        raise PermissionError(
            error.errno,
            f"{call}: the file cannot be replaced, and is as it was; close whatever "
            "has it open, for Windows replaces no open file",
            os.fspath(target),
        ) from error

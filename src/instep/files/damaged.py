"""Files that are not what they should be."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class DamagedFileError(ValueError):
    """A file is of another kind, or is damaged: what is wrong with it."""


@contextmanager
def damages() -> Iterator[None]:
    """Raise DamagedFileError where something is wrong in what was read, whatever trips over it."""
    try:
        yield
    except (DamagedFileError, MemoryError):
        raise
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # of the disk, and not of a place in the file
            raise
        raise DamagedFileError(_said(error)) from error
    except Exception as error:
        raise DamagedFileError(_said(error)) from error


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

"""Files of NumPy arrays and a header of JSON: written whole or not at all, never pickled."""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write(
    owner: str, path: str | os.PathLike[str], header: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write a file. One of that name is replaced when the new one is complete."""
    path = Path(path)
    draft = path.with_name(f"{path.name}.draft")
    try:
        with draft.open("wb") as file:
            np.savez(file, header=np.array(json.dumps(header)), **dict(arrays))
        _replace(owner, draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _replace(owner: str, draft: Path, path: Path) -> None:
    try:
        draft.replace(path)
    except PermissionError as error:
        if not path.exists():
            raise
        raise PermissionError(
            error.errno,
            f"{owner}.save: the file cannot be replaced, and is as it was; close whatever "
            "has it open, for Windows replaces no open file",
            os.fspath(path),
        ) from error


#: What reading raises if a file is not what it should be.
DAMAGES = (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header of a file and its arrays by name.

    Raises
    ------
    ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile
        If it is another kind of file, or damaged.
    """
    with Path(path).open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("no archive of NumPy")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            header = json.loads(str(archive["header"]))
            if not isinstance(header, dict):
                raise TypeError("no header")
            return header, {name: archive[name] for name in archive.files if name != "header"}

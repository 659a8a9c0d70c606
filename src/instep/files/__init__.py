"""Files of NumPy arrays and a header of JSON: written whole or not at all, never pickled."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instep.files import npz, safetensors
from instep.files.damaged import DamagedFileError as DamagedFileError
from instep.files.damaged import damages as damages
from instep.files.replacing import replaced

#: What writes a file, by the suffix of its name; one without a suffix is an archive of NumPy, too.
_WRITERS = {".npz": npz.write, ".safetensors": safetensors.write, "": npz.write}


def write(
    owner: str, path: str | os.PathLike[str], header: Mapping[str, Any], arrays: Mapping[str, Any]
) -> None:
    """Write a file. One of that name is replaced when the new one is complete.

    Raises
    ------
    ValueError
        If the suffix of the name is that of no format.
    ModuleNotFoundError
        If the format needs a package that is not installed.
    OSError
        If it cannot be written. What was there is as it was.
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise ValueError(
            f"{owner}.save: {os.fspath(path)!r} has the suffix {path.suffix!r}, and files are "
            f"written as .npz or .safetensors; name it {path.name + '.npz'!r}, say"
        )
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            raise TypeError(f"{owner}.save: {name!r} is {array.dtype}, which no file holds")
    if path.suffix == ".safetensors":
        safetensors.require(f"{owner}.save")
    with replaced(f"{owner}.save", path) as draft:
        _WRITERS[path.suffix](draft, header, arrays)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header of a file and its arrays by name. Its contents tell of which format it is.

    It takes no more memory than is in proportion to the file, whatever the file claims.

    Raises
    ------
    DamagedFileError
        If it is another kind of file, or damaged.
    ModuleNotFoundError
        If the format needs a package that is not installed.
    OSError
        If it cannot be read.
    """
    with Path(path).open("rb") as file:
        start = file.read(9)
        if start.startswith(b"PK\x03\x04"):
            with damages():
                return npz.read(file)
    if start[8:] == b"{":
        safetensors.require(f"{os.fspath(path)!r} is a file of safetensors")
        with damages():
            return safetensors.read(path)
    raise DamagedFileError("it is neither an archive of NumPy nor a file of safetensors")

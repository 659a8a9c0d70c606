"""Archives of NumPy: zip files of arrays, the header as an array of a string among them."""

import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from instep.files.damaged import DamagedFileError

#: What is read at a time, in bytes.
_PIECE = 1 << 20


def write(path: Path, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write an archive. It is not compressed: a claim of its size can be checked."""
    with path.open("wb") as file:
        np.savez(file, header=np.array(json.dumps(header)), **dict(arrays))


def read(file: IO[bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header of an archive and its arrays by name."""
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        for info in members:
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise DamagedFileError(
                    f"{info.filename!r} is compressed, which no file of instep's is"
                )
        if sum(info.file_size for info in members) > size:
            raise DamagedFileError("its members are larger than the file")
        if len({info.filename for info in members}) != len(members):
            raise DamagedFileError("two of its members have one name")
        found = {_name(info): _array(archive, info) for info in members}
    header = found.pop("header", None)
    if header is None or header.dtype.kind != "U" or header.shape != ():
        raise DamagedFileError("it has no header of instep's")
    if any(array.dtype.kind == "U" for array in found.values()):
        raise DamagedFileError("an array is of strings")
    parsed = json.loads(str(header))
    if not isinstance(parsed, dict):
        raise DamagedFileError("its header is no dict")
    return parsed, found


def _name(info: zipfile.ZipInfo) -> str:
    if not info.filename.endswith(".npy"):
        raise DamagedFileError(f"its member {info.filename!r} is no array")
    return info.filename.removesuffix(".npy")


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    """Return a member, whose size is compared with what it claims before memory is allocated."""
    with archive.open(info) as member:
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, is_fortran, dtype = readers[npy.read_magic(member)](member)
        if dtype.kind not in "biufcU" or dtype.itemsize == 0:
            raise DamagedFileError(f"{info.filename!r} is of dtype {dtype}")
        if any(length < 0 for length in shape):
            raise DamagedFileError(f"{info.filename!r} has the shape {shape}")
        size = math.prod(shape) * dtype.itemsize
        if member.tell() + size != info.file_size:
            raise DamagedFileError(f"{info.filename!r} has another size than its shape")
        array = np.empty(shape, dtype, order="F" if is_fortran else "C")
        memory = (
            array.reshape(-1, order="A").view(np.uint8) if array.size else np.empty(0, np.uint8)
        )
        place = 0
        while piece := member.read(_PIECE):  # compares the checksum at the end
            memory[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
            place += len(piece)
    return array

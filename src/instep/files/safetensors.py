"""Files of the format safetensors, which other libraries read too."""

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from instep.files.damaged import DamagedFileError

#: Where the header is in the metadata, and the names of the arrays that are of complex numbers:
#: the format has none, so they are stored as real ones with a last axis of two.
_HEADER, _COMPLEX = "instep", "complex"


def require(what: str) -> None:
    """Raise unless the package safetensors is installed."""
    if find_spec("safetensors") is None:
        raise ModuleNotFoundError(
            f"{what}: this needs the package safetensors; install it with "
            f"pip install 'instep[safetensors]'"
        )


def write(path: Path, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Write a file."""
    from safetensors.numpy import save_file

    both = [name for name, array in arrays.items() if array.dtype.kind == "c"]
    tensors = {
        name: np.array(_parts(array) if name in both else array, order="C")
        for name, array in arrays.items()
    }
    metadata = {_HEADER: json.dumps(header), _COMPLEX: json.dumps(both)}
    save_file(tensors, path, metadata)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the header of a file and its arrays by name.

    The package compares what the file claims with its size before it allocates memory.
    """
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        if _HEADER not in metadata:
            raise DamagedFileError("it has no header of instep's")
        header = json.loads(metadata[_HEADER])
        both = json.loads(metadata.get(_COMPLEX, "[]"))
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no dict)
    if not isinstance(header, dict):
        raise DamagedFileError("its header is no dict")
    for name in both:
        found[name] = _joined(found[name])
    return header, found


def _parts(array: Any) -> Any:
    return np.stack([array.real, array.imag], axis=-1)


def _joined(parts: Any) -> Any:
    """Return complex numbers, bit for bit."""
    if parts.dtype.kind != "f" or parts.shape[-1:] != (2,):
        raise DamagedFileError("an array of complex numbers has no pairs")
    found = np.empty(parts.shape[:-1], np.result_type(parts.dtype, np.complex64))
    found.real, found.imag = parts[..., 0], parts[..., 1]
    return found

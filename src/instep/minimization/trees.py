"""Trees of parameters and gradients, to be saved by their paths and put back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from instep import arrays, tree

#: Arrays by name.
Named = Mapping[str, Any]


def named(root: str, branch: Any) -> dict[str, Any]:
    """Return the arrays of a tree, but for what is None, as copies that belong to NumPy.

    Those of bfloat16, which files do not know, are of float32, which holds the same numbers.
    """
    return {
        f"{root}/{tree.join_path(path)}": on_host(leaf)
        for path, leaf in tree.flatten(branch)
        if leaf is not None
    }


def on_host(leaf: Any) -> Any:
    """Return a copy of an array, or number, that belongs to NumPy; bfloat16 as float32."""
    if not arrays.is_number(leaf) and arrays.dtype_name(leaf) == "bfloat16":
        if arrays.library(leaf) == "numpy":
            return leaf.astype("float32")
        xp = arrays.namespace(leaf)
        leaf = xp.astype(leaf, xp.float32)
    return arrays.to_numpy(leaf)


def below(found: Named, root: str) -> dict[str, Any]:
    """Return those of arrays whose names begin with a root, by the rest of their names."""
    start = f"{root}/"
    return {name[len(start) :]: x for name, x in found.items() if name.startswith(start)}


def check_fits(params: Any, found: Named) -> None:
    """Raise unless arrays of a file are those of parameters like these: paths, shapes and dtypes.

    Raises
    ------
    ValueError
        If they are others.
    """
    leaves = [(path, tree.join_path(path), leaf) for path, leaf in tree.flatten(params)]
    different = {key for _, key, _ in leaves} ^ found.keys()
    if different:
        raise ValueError(
            f"minimize: the parameters and those of the file do not have the same paths, such as "
            f"{min(different)!r}; resume with a tree like the one that was saved"
        )
    for path, key, leaf in leaves:
        what, value = tree.format_path("params", path), found[key]
        shape = () if arrays.is_number(leaf) else tuple(leaf.shape)
        if shape != value.shape:
            raise ValueError(
                f"minimize: {what} has the shape {shape}, and in the file {value.shape}; resume "
                f"with parameters like those that were saved"
            )
        dtype, saved = _dtype_name(leaf), value.dtype.name
        if saved != _in_files(dtype):
            raise ValueError(
                f"minimize: {what} is {dtype}, and in the file {saved}; resume with parameters "
                f"of {saved}, whatever their values, and convert those of the result"
            )


def _dtype_name(leaf: Any) -> str:
    """Return the name of a dtype, of a number too, whatever its byte order."""
    if arrays.is_number(leaf):
        return np.asarray(leaf).dtype.name
    name = arrays.dtype_name(leaf)
    return np.dtype(name).name if name.startswith((">", "<")) else name


def _in_files(dtype: str) -> str:
    """Return the name of the dtype that arrays of one have in files: see `on_host`."""
    return "float32" if dtype == "bfloat16" else dtype


def like_parameters(params: Any, found: Named) -> dict[str, Any]:
    """Return points that rules have kept as parameters have them: complex, and in their dtypes."""
    leaves = {tree.join_path(path): leaf for path, leaf in tree.flatten(params)}
    points = {}
    for key, x in found.items():
        dtype = np.dtype(_in_files(_dtype_name(leaves[key])))
        is_in_parts = dtype.kind == "c" and x.dtype.kind != "c"
        points[key] = (arrays.from_parts(x) if is_in_parts else x).astype(dtype)
    return points


def put(params: Any, found: Named) -> Any:
    """Put arrays into parameters, by their paths; return the tree, as `Optimizer.update` does.

    Raises
    ------
    ValueError
        If they are others. Nothing is changed then.
    """
    check_fits(params, found)
    return tree.rebuild(
        params, [_filled(leaf, found[tree.join_path(path)]) for path, leaf in tree.flatten(params)]
    )


def _filled(leaf: Any, value: Any) -> Any:
    if arrays.is_number(leaf):
        return arrays.number_of_type(type(leaf), value)
    return arrays.filled(leaf, value)


def like(params: Any, found: Named) -> Any:
    """Return a tree of new arrays where the parameters are, of arrays by path; None for the others.

    The arrays have the dtypes that they had: those of gradients may be finer than the parameters'.
    """

    def made(path: tree.Path, leaf: Any) -> Any:
        value = found.get(tree.join_path(path))
        if value is None or arrays.is_number(leaf):
            return value
        xp = arrays.namespace(leaf)
        return xp.asarray(value, device=arrays.namespace_device(leaf), copy=True)

    return tree.mapped(made, params)

"""Runs of a minimization in files."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from instep import files
from instep.hyperparameters import described
from instep.minimization.contents import Contents
from instep.minimization.descent import Method, SavedMethod
from instep.minimization.trees import below

_AnyMethod = TypeVar("_AnyMethod")

#: Version of the layout.
FORMAT = 1


def contents(method: Any, header: Mapping[str, Any], found: Mapping[str, Any]) -> Contents:
    """Return what a run of a method is continued from."""
    own = {"minimization": FORMAT, "method": method.name, "made_with": _made_with(method)}
    arrays: dict[str, Any] = {}
    if isinstance(method, Method):
        own["rules"], arrays = method.saved()
    arrays = {f"rules/{name}": array for name, array in arrays.items()}
    return Contents({**own, **header}, {**arrays, **found})


def method_of(
    method: _AnyMethod, header: Mapping[str, Any], found: Mapping[str, Any]
) -> _AnyMethod:
    """Return a method as it is in a file; an optimizer is loaded together with its state."""
    if not isinstance(method, Method):
        return method
    own = SavedMethod(header.get("made_with", {}), header.get("rules"), below(found, "rules"))
    return method.as_saved(own)


def read(path: str | os.PathLike[str], method: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what was written of a run of such a method.

    Raises
    ------
    ValueError
        If it is another kind of file, or damaged, or of another method.
    """
    try:
        header, found = files.read(path)
    except files.DamagedFileError as error:
        raise _damaged(path, str(error)) from error
    if "minimization" not in header and {"hyperparameters", "states"} <= header.keys():
        raise ValueError(
            f"minimize: {os.fspath(path)!r} is no file that Result.save has written, but one of "
            f"Optimizer.save; load it with {header.get('optimizer', 'Optimizer')}.load, and give "
            f"that optimizer as the method"
        )
    missing = {"minimization", "method", "descent", "history", "nfev"} - header.keys()
    if missing:
        raise _damaged(path, f"it has no {min(missing)!r}")
    if header["minimization"] != FORMAT:
        raise ValueError(
            f"minimize: {os.fspath(path)!r} has the format {described(header['minimization'])}, "
            f"expected {FORMAT}"
        )
    if header["method"] != method.name:
        raise ValueError(
            f"minimize: {os.fspath(path)!r} is of a run of {header['method']}, and this is "
            f"{method.name}; resume with that"
        )
    made_with = _made_with(method)
    for name, value in header.get("made_with", {}).items():
        if name in getattr(method, "adopted", ()):
            continue
        if name not in made_with or made_with[name] != value:
            raise ValueError(
                f"minimize: {os.fspath(path)!r} is of a run with {name}={value!r}, and this is one "
                f"with {made_with.get(name)!r}; resume with the same"
            )
    return header, found


def _made_with(method: Any) -> dict[str, Any]:
    """Return how a method was made, but for what rules hold."""
    found: dict[str, Any] = getattr(method, "made_with", {})
    return found


@contextmanager
def damages(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise ValueError with the name of the file where something in it is not what it should be."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    except ValueError as error:
        text = str(error).removeprefix("minimize: ")
        raise ValueError(f"minimize: {os.fspath(path)!r}: {text}") from error


def _damaged(path: str | os.PathLike[str], what: str) -> ValueError:
    return ValueError(
        f"minimize: {os.fspath(path)!r} is no file that Result.save has written, or is damaged: "
        f"{what}"
    )

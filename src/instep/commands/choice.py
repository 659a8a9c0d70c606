"""The optimizers that a command is to compare: chosen by name, and their hyperparameters."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from instep.commands.errors import CommandError


def registry() -> dict[str, Any]:
    """Return the optimizers of the kit by name, in alphabetical order."""
    from instep import optimizers

    names = sorted(optimizers.__all__, key=str.lower)
    return {name: getattr(optimizers, name) for name in names}


def select(
    asked: Sequence[str] | None, default: Sequence[str], option: str = "--optimizers"
) -> tuple[str, ...]:
    """Return the names of the optimizers to compare: those asked for, all, or the default ones.

    Upper and lower case do not matter.

    Raises
    ------
    CommandError
        The kit has no optimizer of a name.
    """
    if asked is None:
        return tuple(default)
    known = {name.lower(): name for name in registry()}
    if [name.lower() for name in asked] == ["all"]:
        return tuple(known.values())
    for name in asked:
        if name.lower() not in known:
            choices = ", ".join(known.values()) + (", or all" if option == "--optimizers" else "")
            raise CommandError(f"{option} {name}: unknown; choose among {choices}")
    return tuple(dict.fromkeys(known[name.lower()] for name in asked))


def hyperparameters(optimizer: Any) -> dict[str, Any]:
    """Return the hyperparameters of an optimizer by name.

    What every optimizer has, engine and threads, is none: it changes no result.
    """
    from instep import Optimizer

    settings = {field.name for field in dataclasses.fields(Optimizer)}
    return {
        field.name: getattr(optimizer, field.name)
        for field in dataclasses.fields(optimizer)
        if field.name not in settings
    }

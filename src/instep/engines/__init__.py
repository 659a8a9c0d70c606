"""Engines run the graph of a rule over buckets of arrays. Each emits and runs; none knows a rule.

An engine is a module of this package with an object `ENGINE`; it is imported when it is first
needed, so that nobody pays for a compiler or a GPU library that is not used.
"""

import importlib
from typing import Any

from instep import arrays
from instep.engines.base import Bucket, Engine
from instep.graph import FusionError
from instep.graph.program import Program
from instep.graph.rows import Flags

NAMES = ("native", "blocked", "cuda", "array_api")

#: Engines that ``engine="auto"`` tries for the arrays of a library, the fastest first.
_PREFERENCE = {"numpy": ("native", "blocked", "array_api"), "cupy": ("cuda", "array_api")}


def load(name: str) -> Engine:
    """Return the engine of this name."""
    engine: Engine = importlib.import_module(f"instep.engines.{name}").ENGINE
    return engine


def available() -> dict[str, str | None]:
    """Return, for every engine, None, or why it cannot run here and what to do about it."""
    return {name: load(name).unavailable() for name in NAMES}


def choose(requested: str, program: Program, w: Any, dtype: str, flags: Flags) -> tuple[str, str]:
    """Return the name of the engine for parameter `w`, and the reason in words.

    Raises
    ------
    ValueError
        If the engine that was asked for cannot run, or cannot update such an array.
    FusionError
        If the engine that was asked for cannot run the rule.
    RuleError
        If no engine can.
    """
    library = str(arrays.library(w))
    if requested != "auto":
        problem = _problem(requested, program, w, dtype, flags)
        if isinstance(problem, FusionError):
            raise problem
        if problem is not None:
            raise ValueError(f"{program.name}: engine={requested!r} was asked for, but {problem}")
        return requested, "it was asked for"
    reasons: dict[str, list[str]] = {}  # engines that cannot run it, by why
    for name in _PREFERENCE.get(library, ("array_api",)):
        problem = _problem(name, program, w, dtype, flags)
        if problem is None:
            slower = [f"not {' or '.join(names)}: {why}" for why, names in reasons.items()]
            return name, "; ".join([*slower, f"the fastest for {library} arrays that can run here"])
        reasons.setdefault(str(problem), []).append(name)
    raise ValueError(f"{program.name}: no engine can update {arrays.describe(w)}")


def _problem(
    name: str, program: Program, w: Any, dtype: str, flags: Flags
) -> str | FusionError | None:
    engine = load(name)
    problem = engine.unavailable() or engine.refuses(w)
    if problem is None:
        try:
            program.passes(dtype, flags)  # what no engine can run is refused by all
        except FusionError as error:
            return error if engine.fuses else None
    return problem


__all__ = ["NAMES", "Bucket", "Engine", "available", "choose", "load"]

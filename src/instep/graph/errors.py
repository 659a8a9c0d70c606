"""What is raised about a rule, and where in the rule it happened."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Never

_PACKAGE = Path(__file__).parents[1]

#: Files of the stand-ins for arrays.
_STAND_INS = (str(_PACKAGE / "graph"), str(_PACKAGE / "numerics.py"))

#: Files whose frames lie between a trace and the text of a rule.
_MACHINERY = (*_STAND_INS, str(_PACKAGE / "compound.py"))


class FusionError(TypeError):
    """A rule uses an operation that cannot be compiled into a fused kernel.

    Attributes
    ----------
    what
        What it does there, and in which line.
    """

    what: str = ""


class RuleError(TypeError):
    """A rule does what no engine can do."""


class UnknownNameError(AttributeError):
    """A rule reads a hyperparameter or a slot that does not exist."""


class Complaints:
    """What is raised about a rule that is called with symbols: it names the rule and its line.

    Parameters
    ----------
    rule
        Name of the rule.
    function, entry
        The rule, and the code of the function that calls it.
    """

    def __init__(self, rule: str, function: Callable[..., Any], entry: CodeType) -> None:
        self.rule = rule
        self._function, self._entry = function, entry
        self._postponed: FusionError | None = None

    def fail(self, what: str, remedy: str) -> Never:
        """Raise a FusionError that names the rule, its line, the operation, and the way out."""
        raise self.error(what, self._place(), remedy)

    def error(self, what: str, place: str, remedy: str) -> FusionError:
        """Return the error that `fail` raises."""
        error = FusionError(
            f"{self.rule}.rule cannot be fused: {what}{place}; {remedy}, or run the rule as it is "
            f'with engine="array_api"'
        )
        error.what = f"{what}{place}"
        return error

    def postpone(self, what: str, remedy: str) -> None:
        """Take note of what cannot be fused, and go on, for what is wrong on all engines."""
        self._postponed = self._postponed or self.error(what, self._place(), remedy)

    def raise_postponed(self) -> None:
        """Raise what `fail` would have raised in the place of `postpone`."""
        if self._postponed is not None:
            raise self._postponed

    def refuse(self, what: str, remedy: str) -> Never:
        """Raise a RuleError that names the rule, its line, what it does there, and the way out."""
        raise RuleError(f"{self.rule}.rule {what}{self._place()}; {remedy}")

    def refuse_change(self, what: str, place: str | None = None) -> Never:
        """Raise a RuleError for a rule that was called again, and does something else."""
        raise RuleError(
            f"{self.rule}.rule does not do the same in every call: the second time, {what}"
            f"{self._place() if place is None else place}; it is called once for many steps, so "
            f"give it what changes: random numbers of xp.random or of an array in `h`, the "
            f"number of the step as h.t, and what it remembers as slots"
        )

    def _place(self) -> str:
        return place_above(self._entry) or place_of_rule(self._function)


def refuse_number(rule: str, function: str) -> RuleError:
    """Return the error for a number where only an array has a meaning."""
    return RuleError(
        f"{rule}.rule: xp.{function} is given a number, and works on arrays; give it an array, as "
        f"in xp.{function}(w), or leave it out"
    )


def refuse_booleans(rule: str, function: str) -> RuleError:
    """Return the error for booleans where only real numbers have an order."""
    return RuleError(
        f"{rule}.rule: xp.{function} is given booleans; give it numbers, as in "
        f"xp.{function}(xp.where(x, 1.0, 0.0))"
    )


def random_without_place(rule: str) -> RuleError:
    """Return the error for random numbers that a rule draws without saying so before."""
    return RuleError(
        f"{rule}.rule calls xp.random, and {rule} does not say that it draws random numbers; set "
        f"needs_random = True in its class"
    )


def random_of_array(rule: str) -> RuleError:
    """Return the error for an array where random numbers want the number of the step."""
    return RuleError(f"{rule}.rule: xp.random is given an array; give it the step, h.t")


def place_above(entry: CodeType) -> str:
    """Say in which line of the rule this is called, beneath the function of code `entry`."""
    found: list[tuple[FrameType, int]] = []
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  (documented)
    while frame is not None and frame.f_code is not entry:
        found.append((frame, frame.f_lineno))
        frame = frame.f_back
    return _place(reversed(found)) if frame is not None else ""


def place_of(error: BaseException) -> str:
    """Say in which line of the rule an error was raised that came out of it."""
    found, traceback = [], error.__traceback__
    while traceback is not None:
        found.append((traceback.tb_frame, traceback.tb_lineno))
        traceback = traceback.tb_next
    return _place(found[1:])


def is_about_rules(error: BaseException) -> bool:
    """Return whether the kit raised an error itself: about how rules stand in a chain, say."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    name = "" if traceback is None else traceback.tb_frame.f_code.co_filename
    return name.startswith(str(_PACKAGE)) and not name.startswith(_STAND_INS)


def place_of_rule(rule: Callable[..., Any]) -> str:
    """Say where a rule is defined, for what is found when it has returned."""
    code = getattr(rule, "__code__", None)
    if code is None or code.co_filename.startswith(_MACHINERY):
        return ""
    return f" ({Path(code.co_filename).name}, line {code.co_firstlineno})"


def _place(frames: Iterable[tuple[FrameType, int]]) -> str:
    """Return the first place, from the outside, that is not the machinery's."""
    for frame, line in frames:
        name = frame.f_code.co_filename
        if not name.startswith(_MACHINERY):
            return f" ({Path(name).name}, line {line})"
    return ""

"""What rules derive from their numbers, for step after step: their `scalars` as one expression.

That method is plain Python, which is given numbers whose powers are correctly rounded: 5 us and
more a step. Where it computes and does nothing else, it is called once with symbols, as a rule is,
and what they write down is compiled.
"""

from collections.abc import Iterable, Mapping, Sequence
from dis import get_instructions
from types import CodeType, FunctionType
from typing import Any

from instep.graph.errors import FusionError
from instep.graph.evaluation import compile_sources
from instep.graph.program import Program
from instep.graph.recorder import Recorder
from instep.graph.rows import Flags, Part
from instep.graph.symbols import TracedScalar
from instep.graph.trace import Values


class Derivation:
    """Makes the rows of the steps of a program that derives numbers.

    Parameters
    ----------
    program
        Its rules have derived numbers before, so that it is known what these are called.
    """

    def __init__(self, program: Program) -> None:
        text = _Text(program.parts)
        self._flag_names = list(text.flags)
        memory = "".join(f"{name!r}: {source}, " for name, source in text.memory.items())
        sources = _tuple(text.numbers), _tuple(text.flags.values()), f"{{{memory}}}"
        self._evaluate = compile_sources((*text.names, _OLD), sources, tuple(text.steps))
        self._known: dict[tuple[bool | None, ...], Flags] = {(): ()}

    def row(
        self, numbers: Sequence[float], memory: Mapping[str, float]
    ) -> tuple[tuple[float, ...], Flags, dict[str, float]]:
        """Return what makes a `Row`, from hyperparameters and steps in their order, and memory."""
        found, chosen, new = self._evaluate(*numbers, memory)
        flags = self._known.get(chosen)
        if flags is None:
            pairs = zip(self._flag_names, chosen, strict=True)
            flags = tuple(sorted((name, value) for name, value in pairs if value is not None))
            self._known[chosen] = flags
        return found, flags, new


#: The variable of what is remembered, by name.
_OLD = "old"


def _tuple(sources: Iterable[str]) -> str:
    return f"({''.join(f'{source}, ' for source in sources)})"


class _Text:
    """The sources of a row.

    Attributes
    ----------
    names
        Of the variables in them that are hyperparameters and steps.
    steps
        Those of steps, which are integers.
    numbers, flags, memory
        The sources, of flags and of what is remembered by name.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.names: list[str] = []
        self.steps: list[str] = []
        self.numbers: list[str] = []
        self.flags: dict[str, str] = {}
        self.memory: dict[str, str] = {}
        # Whether the call that completes an accumulated gradient has come, if it is waited for.
        self._complete: list[str] = []
        for number, part in enumerate(parts):
            self._add(part, f"_{number}")

    def _add(self, part: Part, suffix: str) -> None:
        own = [f"n{i}{suffix}" for i in range(len(part.fields) + 1)]
        self.names += own
        self.steps.append(own[-1])
        self.numbers += own
        if not part.derives:
            return
        if part.products or part.borrowed:
            raise FusionError(f"{part.owner} derives numbers from more than its own")
        known = dict(zip((*(entry.name for entry in part.fields), "t"), own, strict=True))
        old = {name: f"{_OLD}[{part.prefix + name!r}]" for name in part.remembered}
        found = _sources(part, known | old)
        new = {name: f"new{i}{suffix}" for i, name in enumerate(found)}
        self.numbers += [f"({new[name]} := float({found[name]}))" for name in part.derived]
        # What comes after an incomplete call has no flags, and remembers what it did.
        when = " and ".join(self._complete)
        for name in part.flags:
            source = f"({new[name]} := {found[name]})"
            self.flags[part.prefix + name] = f"({source} if {when} else None)" if when else source
        for name, before in old.items():
            source = f"({new[name]} if {when} else {before})" if when else new[name]
            self.memory[part.prefix + name] = source
        if part.gathers and "complete" in part.flags:
            self._complete.append(new["complete"])


def _sources(part: Part, known: Mapping[str, str]) -> dict[str, str]:
    """Return the sources of what `scalars` derives, given those of what it is given."""
    scalars = part.rule.scalars
    if not _is_closed(scalars):
        raise FusionError(f"{part.owner}.scalars does more than to compute from what it is given")
    recorder = Recorder(part.owner, "float64", scalars, scalars.__code__)
    symbols = {name: TracedScalar(recorder, source) for name, source in known.items()}
    found = scalars(Values(part.owner, "hyperparameter", part.options | symbols, part.powers))
    names = {*part.derived, *part.flags}
    if not isinstance(found, dict) or found.keys() != names:
        raise FusionError(f"{part.owner}.scalars returns other names for symbols")
    for name, value in found.items():
        if not isinstance(value, TracedScalar | float | int):
            raise FusionError(f"{part.owner}.scalars returns a {type(value).__name__}")
        is_flag = isinstance(value, bool) or (isinstance(value, TracedScalar) and value.boolean)
        if is_flag != (name in part.flags):
            raise FusionError(f"{part.owner}.scalars returns other kinds of values for symbols")
    return {name: recorder.source(value) for name, value in found.items()}


def _is_closed(function: Any) -> bool:
    """Return whether a function knows nothing but what it is given, so that it is pure."""
    if not isinstance(function, FunctionType) or function.__defaults__ or function.__kwdefaults__:
        return False
    return not function.__code__.co_freevars and not _sees_more(function.__code__)


def _sees_more(code: CodeType) -> bool:
    """Return whether code, or what is nested in it, reads or writes anything by name.

    Or whether it asks which object it has, or writes it into text: a symbol does not hear of that.
    """
    nested = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    names = {one.opname for one in get_instructions(code)}
    looks = any("GLOBAL" in one or one.endswith("_NAME") for one in names)
    asks = "IS_OP" in names or any(one.startswith("FORMAT_") for one in names)
    return looks or asks or any(map(_sees_more, nested))


#: What `scalars` may raise with symbols, for which it was not written.
_ERRORS = (FusionError, TypeError, AttributeError, ValueError, ArithmeticError, LookupError)


def derivation(program: Program) -> Derivation | None:
    """Return what makes rows of a program, or None where some of its rules do more than compute."""
    try:
        return Derivation(program)
    except _ERRORS:
        return None

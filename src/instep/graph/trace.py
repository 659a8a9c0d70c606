"""Tracing: a rule is called once with symbolic arrays, and what it does is recorded.

Arithmetic on hyperparameters alone becomes a *host expression*, Python source that is evaluated
in Python floats at every step. Arithmetic with an array becomes a node. Equal operations become
one node, so common subexpressions are computed once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

from instep.graph import remembered, state
from instep.graph.dtypes import DTYPES, WORDS, is_complex
from instep.graph.errors import FusionError, RuleError, UnknownNameError, is_about_rules, place_of
from instep.graph.kept import Keeping
from instep.graph.namespace import TracedNamespace
from instep.graph.nodes import Array, Graph, Store
from instep.graph.pairs import PairNamespace
from instep.graph.passes import prune
from instep.graph.recorder import Recorder
from instep.graph.remembered import GIVEN, OBJECTIVE
from instep.graph.symbols import TracedScalar, WholeSlot


def trace(
    rule: Callable[..., Any],
    *,
    name: str,
    hyperparameters: Iterable[str],
    powers: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    options: Mapping[str, Any],
    keeping: Keeping,
    gradient: str = "",
    varying: Mapping[str, str] = MappingProxyType({}),
    whole: tuple[str, ...] = (),
    between: Sequence[Array] = (),
    numbers: Mapping[str, int] = MappingProxyType({}),
    readings: Mapping[str, str] = MappingProxyType({}),
) -> Graph:
    """Return the graph of `rule` for parameters of a dtype.

    Parameters
    ----------
    rule
        ``rule(xp, w, g, s, h)`` returns the new parameter and a dict of new slots.
    name
        Name of the rule, used in messages and as the name of the kernel.
    hyperparameters, powers
        Names of the numbers in `h`, the step number ``t`` included, and of those that are powers,
        with the names of base and exponent.
    options
        Values in `h` that the rule may branch on: they are part of what is compiled.
    keeping, gradient
        How parameters and state are kept. A gradient of another dtype, a name in `DTYPES`, is
        converted as it is loaded.
    varying
        The dtypes of those hyperparameters that are arrays.
    whole, between
        Names of slots of other shapes, which only functions on whole arrays touch, and the arrays
        that these are given and return.
    numbers, readings
        What is remembered: names, and the numbers by which the graph knows them. What the rule
        returns to be read: names, and scopes.

    Raises
    ------
    FusionError, RuleError
        If the rule does something that a kernel cannot, or that no engine can.
    """
    recorder = Recorder(name, DTYPES[keeping.dtype].compute, rule, _call.__code__)
    recorder.between = list(between)
    xp, loaded = _load(recorder, keeping, Array("g", gradient or keeping.dtype), _varying(varying))
    read = remembered.read(recorder, numbers)
    values = {**objective(read), **_numbers(recorder, hyperparameters, varying, loaded), **options}
    h = Values(name, "hyperparameter", values, powers)
    slots = [kept.name for kept in keeping.slots]
    given = xp, loaded["w"], loaded["g"], _slots(recorder, loaded, slots, whole, read), h
    arrays = [Array("w", keeping.dtype), Array("g", gradient or keeping.dtype)]
    arrays += [*keeping.arrays, *_varying(varying)]
    record = partial(_record, recorder, rule, given, arrays, keeping, whole, numbers, readings)
    return prune(_twice(recorder, record))


def _twice(recorder: Recorder, record: Callable[[], Graph]) -> Graph:
    """Return the graph that a rule leaves, or raise unless it leaves it again.

    What it did when it was traced is what it is going to do in all steps, whatever it would look
    up or draw in those.
    """
    first = record()
    recorder.begin_again()
    try:
        second = record()
    except FusionError as error:
        recorder.refuse_change(error.what, "")
    if _without_functions(first) != _without_functions(second):
        recorder.refuse_change("it returns another of its values")
    recorder.raise_postponed()
    return first


def _without_functions(graph: Graph) -> Graph:
    """Return a graph without what it calls: a rule may make a function anew in each call."""
    return replace(graph, calls=tuple(replace(call, function=print) for call in graph.calls))


def _record(
    recorder: Recorder,
    rule: Callable[..., Any],
    given: tuple[Any, ...],
    arrays: Sequence[Array],
    keeping: Keeping,
    whole: Sequence[str],
    numbers: Mapping[str, int],
    readings: Mapping[str, str],
) -> Graph:
    """Return the graph of what a rule does with what it is given."""
    returned = _call(recorder, rule, *given)
    stores = _results(recorder, returned, keeping, whole, numbers, readings)
    w, g, *_ = arrays
    kernel = f"{recorder.rule}_{w.dtype}" + (f"_{g.dtype}" if g.dtype != w.dtype else "")
    return recorder.graph(kernel, arrays, stores)


def _slots(
    recorder: Recorder,
    loaded: Mapping[str, Any],
    slots: Iterable[str],
    whole: Iterable[str],
    numbers: Mapping[str, Any],
) -> "Values":
    """Return `s`: what a rule sees of its state."""
    values = {name: loaded[name] for name in slots}
    values |= {name: number for name, number in numbers.items() if name not in GIVEN}
    values |= {name: WholeSlot(recorder, name) for name in whole}
    return Values(recorder.rule, "slot", values)


def _results(
    recorder: Recorder,
    returned: Any,
    keeping: Keeping,
    whole: Sequence[str],
    numbers: Mapping[str, int],
    readings: Mapping[str, str],
) -> list[Store]:
    """Record what a rule has returned."""
    slots = [kept.name for kept in keeping.slots]
    new, new_slots = check_result(recorder.rule, returned, (*slots, *whole, *numbers, *readings))
    recorder.check_whole(whole, new_slots)
    remembered.keep(recorder, numbers, new_slots)
    remembered.let_read(recorder, readings, new_slots)
    return state.stored(recorder, keeping, new, new_slots)


def objective(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of the objective as `h` has it, for one rule and for those of a chain."""
    known = OBJECTIVE in numbers
    return {"value": numbers[OBJECTIVE], OBJECTIVE: numbers[OBJECTIVE]} if known else {}


def varying_name(hyperparameter: str) -> str:
    """Return what the array of a hyperparameter is called among those of a graph, beside slots."""
    return f"h.{hyperparameter}"


def _varying(dtypes: Mapping[str, str]) -> list[Array]:
    return [Array(varying_name(key), dtype) for key, dtype in dtypes.items()]


def _numbers(
    recorder: Recorder, names: Iterable[str], varying: Iterable[str], loaded: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a rule sees of hyperparameters."""
    numbers = {name: TracedScalar(recorder, name) for name in names}
    return numbers | {name: loaded[varying_name(name)] for name in varying}


def _load(
    recorder: Recorder, keeping: Keeping, gradient: Array, others: Iterable[Array]
) -> tuple[Any, dict[str, Any]]:
    """Return the namespace of a rule, and what it sees of arrays, the parameter first."""
    xp: Any = TracedNamespace(recorder)
    is_pair = is_complex(keeping.dtype)
    pairs = PairNamespace(recorder.rule, xp) if is_pair else None
    loaded: dict[str, Any] = {"w": state.parameter(recorder, keeping, pairs)}
    for array in (gradient, *others):
        x: Any = state.mask(recorder, array) if array.dtype in WORDS else recorder.load(array)
        # A real gradient is a pair too.
        is_one = is_complex(array.dtype) or array is gradient
        loaded[array.name] = pairs.pair(x) if pairs and is_one else x
    loaded |= {kept.name: state.loaded(recorder, kept, pairs) for kept in keeping.slots}
    return pairs or xp, loaded


#: What a mistake in a rule, or a function that does not know symbols, raises. Others may come from
#: outside, as the TimeoutError of a signal's handler, and are nothing to take another way for.
_ERRORS_OF_RULES = (
    *(TypeError, AttributeError, ValueError, NameError, LookupError, ArithmeticError),
    *(AssertionError, RuntimeError, StopIteration),
)


def _call(recorder: Recorder, rule: Callable[..., Any], *arguments: Any) -> Any:
    """Call a rule with symbols; whatever it raises is a reason to run it with arrays instead.

    There the rule raises its own error again, if that was none of the symbols' doing.
    """
    try:
        return rule(*arguments)
    except (FusionError, RuleError, UnknownNameError, RecursionError):
        raise
    except _ERRORS_OF_RULES as error:
        if is_about_rules(error):
            raise
        raise recorder.error(
            f"it raises {type(error).__name__}: {error}",
            place_of(error),
            "use the operators and functions of xp on arrays",
        ) from error


def _what_came(result: Any) -> str:
    """Say what is wrong with what a rule returned."""
    if result is None:
        return "None; end it with return"
    if isinstance(result, list | Mapping):
        return f"a {type(result).__name__}"
    if not isinstance(result, tuple):
        return "one value; where there are no slots, write {} after it"
    if len(result) != 2:
        return f"a tuple of {len(result)}; put the slots into a dict by their names"
    kind = type(result[1])
    second = f"a {kind.__name__}" if kind.__module__ == "builtins" else "an array"
    second = "None" if result[1] is None else second
    return f"{second} in the place of the dict; where there are no slots, write {{}}"


def check_result(name: str, result: Any, slots: tuple[str, ...]) -> tuple[Any, Mapping[str, Any]]:
    """Return what a rule returned as (new parameter, new slots), or raise TypeError."""
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)):
        raise TypeError(
            f"{name}.rule must return a pair (new parameter, dict of new slots), got "
            f"{_what_came(result)}"
        )
    unknown = [slot for slot in result[1] if slot not in slots]
    if unknown:
        raise TypeError(
            f"{name}.rule returned slot {unknown[0]!r}, which is not one of its slots {slots}; "
            f"add it to the class attribute `slots`"
        )
    return result


class Values:
    """Read-only attributes: the hyperparameters `h` or the slots `s` that a rule sees.

    `powers` are those that are one value to the power of another, computed where they are read.
    """

    __slots__ = ("_kind", "_owner", "_powers", "_values")

    #: What sees them, of the rule.
    _function: ClassVar[str] = "rule"

    def __init__(
        self,
        owner: str,
        kind: str,
        values: Mapping[str, Any],
        powers: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    ) -> None:
        self._owner, self._kind, self._values, self._powers = owner, kind, values, powers

    def __getattr__(self, name: str) -> Any:
        if name in self._powers:
            base, exponent = self._powers[name]
            return getattr(self, base) ** getattr(self, exponent)
        try:
            return self._values[name]
        except KeyError:
            known = ", ".join(one for one in self._values if one not in GIVEN) or "none"
            remedy = f"there are {known}"
            if self._kind == "hyperparameter" and name == "value":
                remedy = self._of_value
            raise UnknownNameError(
                f"{self._owner}.{self._function} reads the {self._kind} {name!r}, which does not "
                f"exist; {remedy}"
            ) from None

    #: The remedy where the value of the objective is read.
    _of_value: ClassVar[str] = "for the value of the objective, set needs_value = True"

    def __contains__(self, name: str) -> bool:
        return name in self._values or name in self._powers

    def part(
        self, owner: str, prefix: str, lent: Mapping[str, str] = MappingProxyType({})
    ) -> "Values":
        """Return the values whose names begin with `prefix`, without it.

        And those that are lent, by the names that they have there, unless one is there already.
        """
        values = {name: self._values[full] for name, full in lent.items() if full in self._values}
        own = len(prefix)
        values |= {k[own:]: v for k, v in self._values.items() if k.startswith(prefix)}
        powers = {
            name[own:]: (base[own:], exponent[own:])
            for name, (base, exponent) in self._powers.items()
            if name.startswith(prefix)
        }
        return Values(owner, self._kind, values, powers)

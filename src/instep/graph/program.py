"""A rule as engines see it: its graphs, and the numbers of a step."""

import copy
import math
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from instep import arrays, declarations
from instep.correctly_rounded import numbers_for, power
from instep.graph import Graph, cut, trace
from instep.graph.dtypes import BOUNDS, state_dtype
from instep.graph.evaluation import compile_expressions
from instep.graph.host_expressions import shown
from instep.graph.nodes import numbers_of
from instep.graph.trace import Values, varying_name
from instep.hyperparameters import Hyperparameter, is_array
from instep.rule import Rule
from instep.state import History, Owner

_Kept = TypeVar("_Kept")

Flags = tuple[tuple[str, bool], ...]

_NONE: Mapping[str, Any] = MappingProxyType({})

#: What is other in a part of the tree: hyperparameters by the prefix of their rule, and name.
Overridden = Mapping[str, Mapping[str, Any]]


class Row(NamedTuple):
    """The hyperparameters of one step, for all leaves that share them.

    Attributes
    ----------
    numbers
        In the order of `Program.names`: the arguments of host expressions. NaN stands for an
        array, which no host expression reads.
    flags
        Booleans that `Rule.scalars` derived: they select the graph.
    memory
        New values of the numbers that are remembered from step to step.
    """

    numbers: tuple[float, ...]
    flags: Flags
    memory: Mapping[str, float] = _NONE


@dataclass(frozen=True, slots=True, eq=False)
class Varying:
    """A hyperparameter that is an array.

    Attributes
    ----------
    name
        What it is called in `Program.names`.
    owner
        The rule that declares it.
    """

    name: str
    owner: str
    entry: Hyperparameter
    array: Any

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"{self.owner}.{self.entry.name}"

    @property
    def prefix(self) -> str:
        """That of its rule."""
        return self.name.removesuffix(self.entry.name)

    @property
    def array_name(self) -> str:
        """What its array is called in graphs."""
        return varying_name(self.name)


@dataclass(eq=False)
class Group:
    """What decides a row: leaves that agree in it share their hyperparameters.

    Attributes
    ----------
    overrides
        Hyperparameters that are other in this part of the tree.
    missed
        Number of steps in which these leaves had no gradient.
    history
        What they have been through.
    """

    overrides: Overridden
    missed: int
    history: History

    @property
    def memory(self) -> dict[str, float]:
        """The numbers that they remember."""
        return self.history.scalars


class Part:
    """One rule of an optimizer: a plain optimizer has one, a chain several.

    It does not keep the rule, which through its plan keeps this.
    """

    def __init__(self, prefix: str, rule: Rule, period: int) -> None:
        self.prefix = prefix
        self._rule = weakref.ref(rule)
        self.period = period  # calls of `update` that make one step of this rule
        self.owner = rule.name
        self.fields = [field for field in rule.hyperparameters if not field.option]
        self.options = {
            field.name: getattr(rule, field.name) for field in rule.hyperparameters if field.option
        }
        self.varying = {name: rule.__dict__[name] for name in rule.varying}
        self.slots, self.real = rule.state_slots(), rule.real_slots
        self.has_forms = rule.defines("form")
        self._has_scalars = rule.defines("scalars")
        self.gathers = rule.defines("period")
        self.remembered = tuple(rule.scalar_slots)
        self.borrowed = rule.borrowed
        self.moving, self._moving = rule.moving, rule.__dict__.get("_moving")
        declared = {entry.name for entry in rule.hyperparameters}.union(rule.scalar_slots)
        self.decaying = tuple(
            entry.name
            for entry in self.fields
            if entry.domain.decays and product_of(entry.name) not in declared
        )
        self.multiply(())
        self.first_numbers = rule.numbers
        self.derived: tuple[str, ...] = ()
        self._found: set[str] = set()
        self._kinds: object = None  # what `scalars` returned last: names and types, as checked
        self.flags: tuple[str, ...] = ()

        # Whether nothing but a new value of an option, which ends a plan where it is set, can make
        # this part another one.
        self.fixed = not rule.defines("state_slots")

    @property
    def rule(self) -> Rule:
        """The rule, which lives as long as its optimizer."""
        return _alive(self._rule)

    def is_current(self) -> bool:
        """Return whether options, arrays and slots are those of the rule now."""
        rule = self.rule
        values = rule.__dict__
        if values.get("_moving") is not self._moving:
            return False
        if (self.varying or "_varying" in values) and not (
            rule.varying == tuple(self.varying)
            and all(values[name] is array for name, array in self.varying.items())
        ):
            return False
        for name, value in self.options.items():
            if getattr(rule, name) != value:
                return False
        return self.fixed or rule.state_slots() == self.slots

    def multiply(self, names: Iterable[str]) -> None:
        """Let the products of these decay rates be numbers: those of the others are powers."""
        self.products = tuple(names)
        self.derives = self._has_scalars or bool(self.products)
        constant = [name for name in self.decaying if name not in self.products]
        self.powers = {product_of(name): (name, "t") for name in constant}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the numbers of this part."""
        own = (*(entry.name for entry in self.fields), "t", *map(product_of, self.products))
        return tuple(self.prefix + name for name in (*own, *self.derived))

    def arrays(self, overrides: Mapping[str, Any]) -> list[Varying]:
        """Return the hyperparameters that are arrays, in a part of the tree with overrides."""
        values = self.varying | dict(overrides)
        return [
            Varying(self.prefix + entry.name, self.owner, entry, values[entry.name])
            for entry in self.fields
            if is_array(values.get(entry.name))
        ]

    def numbers(
        self,
        step: int,
        group: Group,
        overrides: Mapping[str, Any],
        lent: Mapping[str, float] = _NONE,
    ) -> tuple[list[float], Mapping[str, Any], Mapping[str, float]]:
        """Return the numbers, flags and memory of a step.

        `lent` are the numbers of the optimizer in a chain, NaN where they are arrays.
        """
        values = self.rule.__dict__
        numbers: list[float] = []
        varying: list[str] = []
        own_step = -(-step // self.period)
        for entry in self.fields:
            name = entry.name
            value = overrides[name] if name in overrides else values[name]
            if value.__class__ is not float:
                if not is_array(value):
                    value = entry.at(self.owner, value, own_step)
                elif name in overrides or name in self.varying:
                    varying.append(name)
                    value = math.nan
                else:
                    raise RuntimeError(
                        f"{self.owner}: {name} became an array in the midst of a step, by a "
                        f"schedule or the handler of a signal; set it between steps"
                    )
            numbers.append(value)
        numbers.append(-(-(step - group.missed) // self.period))
        memory: Mapping[str, float] = _NONE
        if self.products:
            products, memory = self._multiplied(numbers, group, overrides)
            numbers += products
        if not self._has_scalars:
            return numbers, _NONE, memory
        names = (*(entry.name for entry in self.fields), "t", *map(product_of, self.products))
        known = self.options | dict(zip(names, numbers, strict=True))
        known |= {name: lent[name] for name in self.borrowed if name in lent}
        varying += [name for name in self.borrowed if math.isnan(known.get(name, 0.0))]
        powers = self.powers | {product_of(name): (name, "t") for name in varying}
        for name in varying:
            del known[name]
        old = {name: group.memory[self.prefix + name] for name in self.remembered}
        h = _Numbers(self.owner, numbers_for(known | old), varying, powers)
        found = self._derive(h)
        kinds = varying, [(name, value.__class__) for name, value in found.items()]
        if kinds != self._kinds:
            self._check_kinds(found, known)
            self._kinds = kinds
        numbers += [found[name] for name in self.derived]
        flags = {name: found[name] for name in self.flags}
        return numbers, flags, {**memory, **{name: found[name] for name in self.remembered}}

    def _multiplied(
        self, numbers: Sequence[float], group: Group, overrides: Mapping[str, Any]
    ) -> tuple[list[float], dict[str, float]]:
        """Return the products of decay rates up to a step, and those that must be remembered."""
        now = {entry.name: x for entry, x in zip(self.fields, numbers, strict=False)}
        step, products, memory = numbers[-1], [], {}
        for name in self.products:
            rate, before = now[name], group.memory.get(self.prefix + product_of(name))
            if math.isnan(rate):  # an array, of which there is no product: what there was stays
                products.append(rate)
                continue
            moves = callable(overrides[name]) if name in overrides else name in self.moving
            if moves and before is None:
                constant = None if name in overrides else self.moving[name]
                before = power(rate if constant is None else constant, step - 1)
            # Where it has been the same in all steps, to the bit what it is where it is constant.
            is_power = before in (None, power(rate, step - 1))
            products.append(power(rate, step) if is_power or before is None else before * rate)
            if before is not None:
                memory[product_of(name)] = products[-1]
        return products, memory

    def _check_kinds(self, found: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        """Raise unless `scalars` returned names of its own, and the same numbers as before."""
        if taken := found.keys() & known.keys():
            raise TypeError(
                f"{self.owner}.scalars returned {min(taken)!r}, which is in `h` already; choose "
                f"another name"
            )
        extra = tuple([name for name, value in found.items() if not isinstance(value, bool)])
        self.derived = self.derived or extra
        if set(extra) != set(self.derived):
            raise TypeError(
                f"{self.owner}.scalars returned the numbers {extra}, and {self.derived} before; "
                f"return the same names at every step, and booleans for what differs"
            )
        if missing := [name for name in self.remembered if name not in extra]:
            raise TypeError(
                f"{self.owner}.scalars returned no number for {missing[0]!r}, which is one of its "
                f"scalar_slots; return its new value, or h.{missing[0]} where it stays the same"
            )
        self.flags = tuple([name for name in found if name not in extra])

    def _derive(self, h: Values) -> dict[str, float | bool]:
        """Return what `scalars` makes of the numbers of a step: floats and booleans."""
        found: Any = self.rule.scalars(h)
        if not isinstance(found, Mapping):
            raise TypeError(
                f"{self.owner}.scalars must return a dict of numbers, got {type(found).__name__}"
            )
        derived: dict[str, float | bool] = {}
        for name, value in found.items():
            if name not in self._found:
                _check_identifier(self.owner, name)
                self._found.add(name)
            if value.__class__ is float or isinstance(value, bool | np.bool_):
                derived[name] = value if value.__class__ is float else bool(value)
                continue
            try:
                if isinstance(value, str | bytes | bytearray):
                    raise TypeError("it is text")  # noqa: TRY301
                derived[name] = float(value)
            except (TypeError, ValueError, OverflowError) as error:
                raise TypeError(
                    f"{self.owner}.scalars returned {shown(value)} for {name!r}: {error}; "
                    f"return numbers that a float can hold, and booleans"
                ) from error
        return derived


class _Numbers(Values):
    """`h` as `scalars` sees it: without the hyperparameters that are arrays."""

    __slots__ = ("_varying",)

    def __init__(
        self,
        owner: str,
        values: Mapping[str, Any],
        varying: Sequence[str],
        powers: Mapping[str, tuple[str, str]],
    ) -> None:
        super().__init__(owner, "hyperparameter", values, powers)
        self._varying = varying

    def __getattr__(self, name: str) -> Any:
        if name in self._varying:
            raise TypeError(
                f"{self._owner}: {name} is an array, and {self._owner}.scalars computes numbers "
                f"from it; give a number"
            )
        return super().__getattr__(name)


def product_of(name: str) -> str:
    """Return what rules call the product of a decay rate over the steps."""
    return f"{name}_t"


def _check_identifier(owner: str, name: Any) -> None:
    if not (isinstance(name, str) and name.isidentifier() and not iskeyword(name)):
        raise TypeError(
            f"{owner}.scalars returned a value for {name!r}; give it a name that can stand after "
            f"`h.`"
        )


class Program:
    """The rules of an optimizer under their present options.

    That of a plan, which its optimizer keeps, does not keep the optimizer: `is_kept` says so.
    """

    def __init__(
        self, owner: Owner, *, is_kept: bool = False, remembered: Collection[str] = ()
    ) -> None:
        self.name = owner.name
        self._kept = None if is_kept else owner
        self._owner = weakref.ref(owner)
        self.parts: list[Part] = []
        period = 1
        for prefix, rule in owner.parts.items():
            self.parts.append(Part(prefix, rule, period))
            period *= rule.period
        mains = [part for part in self.parts if part.rule is owner.main]
        for part in self.parts:
            part.multiply(_products(owner, part, part in mains, remembered))
        self.powers, self.remembered = _powers(self.parts), _remembered(self.parts)
        self._lender = mains[0] if any(part.borrowed for part in self.parts) else None
        self._steps = tuple(part.prefix + "t" for part in self.parts)  # numbers that are integers
        self.slots = tuple(part.prefix + slot for part in self.parts for slot in part.slots)
        self._options = {
            part.prefix + name: value for part in self.parts for name, value in part.options.items()
        }
        self.varying: dict[str, str] = {}
        self.between: tuple[str, ...] = ()
        self.whole: tuple[str, ...] = ()
        self.real_slots = frozenset(part.prefix + slot for part in self.parts for slot in part.real)
        self._passes: dict[tuple[str, str, Flags], tuple[Graph, ...]] = {}
        self._forms: dict[object, Program] = {}
        self._places: list[tuple[Any, object]] = []  # of arrays: engines keep their addresses
        self._has_forms = any(part.has_forms for part in self.parts)

    @property
    def rule(self) -> Callable[..., Any]:
        """The mathematics: that of a chain is the composition of its rules."""
        return _alive(self._owner).rule

    def for_shape(self, shape: tuple[int, ...]) -> "Program":
        """Return the program for parameters of a shape: this one, unless a rule has forms."""
        if not self._has_forms:
            return self
        forms = [(part.prefix, part.rule.form(shape)) for part in self.parts]
        kinds = tuple((form.kind, form.slots, tuple(form.whole), form.between) for _, form in forms)
        if kinds not in self._forms:
            program = self._forms[kinds] = copy.copy(self)
            program.__dict__.update(
                slots=tuple(p + name for p, form in forms for name in form.slots),
                between=tuple(p + name for p, form in forms for name in form.between),
                whole=tuple(p + name for p, form in forms for name in form.whole),
                _options=self._options | {f"{p}kind": form.kind for p, form in forms},
                _passes={},
                _forms={},
            )
        return self._forms[kinds]

    def taking(self, varying: Sequence[Varying]) -> "Program":
        """Return the program in which these hyperparameters are arrays of their dtypes."""
        dtypes = {found.name: arrays.dtype_name(found.array) for found in varying}
        key = ("varying", *dtypes.items())
        if dtypes and key not in self._forms:
            program = self._forms[key] = copy.copy(self)
            powers = self.powers | _powers_of_arrays(varying)
            program.__dict__.update(varying=dtypes, powers=powers, _passes={}, _forms={})
        return self._forms[key] if dtypes else self

    def whole_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the slots of other shapes, for a parameter of this one."""
        return {
            part.prefix + name: size
            for part in self.parts
            if part.has_forms
            for name, size in part.rule.form(shape).whole.items()
        }

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays that passes use beside parameter and gradient."""
        return (*self.slots, *map(varying_name, self.varying), *self.between)

    def dtype_of(self, slot: str, dtype: str) -> str:
        """Return the dtype of a state array, or of one between, for parameters of a dtype."""
        return state_dtype(dtype, is_real=slot in self.real_slots)

    def is_current(self) -> bool:
        """Return whether the optimizer still has the options, arrays and slots of this program."""
        for part in self.parts:  # without a generator, which takes 0.3 us
            if not part.is_current():
                return False
        return not self._places or all(_place(array) == place for array, place in self._places)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the numbers of a row."""
        return tuple(name for part in self.parts for name in part.names)

    def memory(self) -> dict[str, float]:
        """Return the initial values of the numbers that are remembered."""
        return {
            part.prefix + name: float(value)
            for part in self.parts
            for name, value in part.rule.scalar_slots.items()
        }

    def row(self, step: int, group: Group) -> Row:
        """Return the hyperparameters at `step`."""
        if len(self.parts) == 1 and not self.parts[0].prefix:
            overrides = group.overrides.get("", _NONE)
            numbers, flags, memory = self.parts[0].numbers(step, group, overrides)
            if not flags and not memory:
                return Row(tuple(numbers), ())
            return Row(tuple(numbers), tuple(sorted(flags.items())), memory)
        everything: list[float] = []
        all_flags: dict[str, bool] = {}
        all_memory: dict[str, float] = {}
        waiting = False  # for the call that completes an accumulated gradient
        lent: Mapping[str, float] = _NONE
        for part in self.parts:
            overrides = group.overrides.get(part.prefix, _NONE)
            numbers, flags, memory = part.numbers(step, group, overrides, lent)
            everything += numbers
            if part is self._lender:
                lent = {entry.name: x for entry, x in zip(part.fields, numbers, strict=False)}
            if part.derives and not waiting:
                all_flags |= {part.prefix + name: flag for name, flag in flags.items()}
                all_memory |= {part.prefix + name: value for name, value in memory.items()}
                waiting = part.gathers and not flags.get("complete", True)
        return Row(tuple(everything), tuple(sorted(all_flags.items())), all_memory)

    def numbers(self, step: int, group: Group) -> tuple[float, ...]:
        """Return the numbers at `step`, where no rule derives any."""
        numbers: list[float] = []
        for part in self.parts:
            numbers += part.numbers(step, group, group.overrides.get(part.prefix, _NONE))[0]
        return tuple(numbers)

    def arrays_for(self, group: Group) -> list[Varying]:
        """Return the hyperparameters of a group that are arrays; raise if they do not fit."""
        found: list[Varying] = []
        for part in self.parts:
            overrides = group.overrides.get(part.prefix, {})
            own = part.arrays(overrides)
            if own and part.rule.defines("check_values"):
                part.rule.check_values(part.rule.__dict__ | dict(overrides))
            found += own
        self._places += [(one.array, _place(one.array)) for one in found]
        return found

    def hyperparameters(
        self, row: Row, number: Callable[[float], Any], varying: Mapping[str, Any]
    ) -> Values:
        """Return `h` for a rule that is called with arrays: `number` makes what it is to see."""
        numbers = dict(zip(self.names, map(number, row.numbers), strict=True))
        numbers |= {name: varying[varying_name(name)] for name in self.varying}
        values = numbers | self._options | dict(row.flags)
        return Values(self.name, "hyperparameter", values, self.powers)

    def check_rounding(self, numbers: Sequence[float], compute: str) -> None:
        """Raise if a hyperparameter that must not becomes 0 or infinite in the compute dtype."""
        least, most = BOUNDS[compute]
        position = 0
        for part in self.parts:
            for number, entry in zip(numbers[position:], part.fields, strict=False):
                if least < number < most or number == 0:  # almost all
                    continue
                domain = entry.domain
                if 0 < number <= least and domain.survives_rounding:
                    becomes = "0"
                    remedy = f"give {'' if domain.open_lower else '0 or '}a larger number"
                elif abs(number) >= most and not domain.infinite:
                    becomes, remedy = "infinite", "give a number nearer to 0"
                else:
                    continue
                raise ValueError(
                    f"{part.owner}: {entry.name}={number!r} is {becomes} in {compute}, the dtype "
                    f"of the arithmetic; {remedy}"
                )
            position += len(part.names)

    def passes(self, dtype: str, flags: Flags, gradient: str = "") -> tuple[Graph, ...]:
        """Return the graph of the rule, cut into passes, or raise FusionError.

        For parameters of a dtype, and gradients of theirs or of another one.
        """
        key = (dtype, gradient or dtype, flags)
        if key not in self._passes:
            graph = trace(
                self.rule,
                name=self.name,
                hyperparameters=self.names,
                powers=self.powers,
                options=self._options | dict(flags),
                slots=self.slots,
                dtype=dtype,
                gradient=gradient,
                varying=self.varying,
                whole=self.whole,
                between=self.between,
                real_slots=self.real_slots,
                numbers=self.remembered,
            )
            self._passes[key] = cut(graph)
        return self._passes[key]

    def host_expressions(self, graph: Graph) -> Callable[..., tuple[float, ...]]:
        """Return the function from the numbers of a row to the scalars of `graph`."""
        sources = tuple(scalar.source for scalar in graph.scalars)
        return compile_expressions(self.name, self.names, sources, self._steps)

    def call_arguments(self, graph: Graph, row: Row) -> list[dict[str, float]]:
        """Return the keyword arguments of the calls after a pass."""
        found = []
        for call in graph.calls:
            sources = tuple(source for _, source in call.numbers)
            evaluate = compile_expressions(
                self.name, self.names, sources, self._steps, floats=False
            )
            values = evaluate(*row.numbers)
            found.append(dict(zip((name for name, _ in call.numbers), values, strict=True)))
        return found

    def initial_values(self, row: Row) -> Mapping[str, float | str]:
        """Return how slots start: a number, ``"w"`` for a copy of the parameter, or of an array."""
        numbers = dict(zip(self.names, row.numbers, strict=True))
        initial: dict[str, float | str] = {}
        for part in self.parts:
            for slot, value in part.rule.initial_state().items():
                if slot not in part.slots:
                    continue
                start = numbers.get(part.prefix + value, value) if isinstance(value, str) else value
                if isinstance(value, str) and part.prefix + value in self.varying:
                    initial[part.prefix + slot] = varying_name(part.prefix + value)
                    continue
                if isinstance(start, str) and start != "w":
                    names = [name.removeprefix(part.prefix) for name in part.names]
                    raise TypeError(declarations.wrong_start(part.owner, slot, start, names))
                initial[part.prefix + slot] = start if isinstance(start, str) else float(start)
        return initial


def _remembered(parts: Sequence[Part]) -> dict[str, int]:
    """Return the numbers by which graphs know those that sums leave and that are remembered."""
    return numbers_of(
        [part.prefix + name for part in parts for name in part.rule.tensor_numbers],
        [part.prefix + name for part in parts for name in part.rule.tree_numbers],
    )


def _powers(parts: Iterable[Part]) -> dict[str, tuple[str, str]]:
    """Return the names of the products of constant decay rates, with those of their operands."""
    return {
        part.prefix + name: (part.prefix + base, part.prefix + exponent)
        for part in parts
        for name, (base, exponent) in part.powers.items()
    }


def _powers_of_arrays(varying: Iterable[Varying]) -> dict[str, tuple[str, str]]:
    """Return the same of decay rates that are arrays: of these there are no products."""
    decaying = [one for one in varying if one.entry.domain.decays]
    return {product_of(one.name): (one.name, f"{one.prefix}t") for one in decaying}


def _products(owner: Owner, part: Part, is_main: bool, remembered: Collection[str]) -> list[str]:
    """Return the decay rates that move somewhere in the tree, or once did."""
    found = []
    for name in part.decaying:
        key = name if is_main else part.prefix + name
        overridden = any(callable(values.get(key)) for values in owner.overrides.values())
        if name in part.moving or overridden or part.prefix + product_of(name) in remembered:
            found.append(name)
    return found


def _place(array: Any) -> object:
    """Return what tells whether an array is where it was, and as it was, but for its elements."""
    return arrays.signature(array), arrays.memory_bounds(array)


def _alive(reference: "weakref.ref[_Kept]") -> _Kept:
    found = reference()
    assert found is not None, "it keeps what asks for it"
    return found

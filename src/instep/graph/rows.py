"""The numbers of a step: rows of them, and what each rule of an optimizer puts into a row."""

import math
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from keyword import iskeyword
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from instep import declarations
from instep.correctly_rounded import numbers_for, power
from instep.graph.host_expressions import shown
from instep.graph.told import Told
from instep.graph.trace import Values, varying_name
from instep.hyperparameters import Hyperparameter, is_array
from instep.rule import Rule
from instep.state import History

_Kept = TypeVar("_Kept")

Flags = tuple[tuple[str, bool], ...]

NOTHING: Mapping[str, Any] = MappingProxyType({})

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
    memory: Mapping[str, float] = NOTHING


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
    told
        What schedules are told of the objective.
    """

    overrides: Overridden
    missed: int
    history: History
    told: Told = field(default_factory=partial(Told, "", None))

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
        copies = {name for name, start in rule.initial_state().items() if start == "w"}
        self.exact, self.positive = copies.union(rule.exact_slots), rule.positive_slots or ()
        self.knows_signs = rule.positive_slots is not None
        self.has_forms = rule.defines("form_for")
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
        return alive(self._rule)

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
        lent: Mapping[str, float] = NOTHING,
    ) -> tuple[list[float], Mapping[str, Any], Mapping[str, float]]:
        """Return the numbers, flags and memory of a step.

        `lent` are the numbers of the optimizer in a chain, NaN where they are arrays.
        """
        values = self.rule.__dict__  # as it is now: a schedule may set what comes after it
        numbers: list[float] = []
        varying: list[str] = []
        own_step = -(-step // self.period)
        for entry in self.fields:
            name = entry.name
            value = overrides[name] if name in overrides else values[name]
            if values.get("_moving") is not self._moving and name in self._steady(overrides):
                value = self.rule.moving[name]  # a step that has begun goes on with what it was
            if value.__class__ is not float:
                if not is_array(value):
                    value = entry.at(self.owner, group.told.to(value), own_step)
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
        memory: Mapping[str, float] = NOTHING
        if self.products:
            products, memory = self._multiplied(numbers, group, overrides)
            numbers += products
        if not self._has_scalars:
            return numbers, NOTHING, memory
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

    def _steady(self, overrides: Mapping[str, Any]) -> list[str]:
        """Return the decay rates that move now, and did not when this part was made."""
        known = {*self.moving, *self.products, *overrides}
        return [name for name, x in self.rule.moving.items() if name not in known and x is not None]

    def initial_values(
        self, numbers: Mapping[str, float], varying: Collection[str]
    ) -> dict[str, float | str]:
        """Return how slots start, where `numbers` are those of a row and `varying` are arrays."""
        initial: dict[str, float | str] = {}
        for slot, value in self.rule.initial_state().items():
            if slot not in self.slots:
                continue
            key = f"{self.prefix}{value}"
            if not isinstance(value, str):
                start: float | str = float(value)
            elif key in varying:
                start = varying_name(key)
            elif key in numbers:
                start = float(numbers[key])
            elif value == "w":
                start = value
            else:
                names = [name.removeprefix(self.prefix) for name in self.names]
                raise TypeError(declarations.wrong_start(self.owner, slot, value, names))
            initial[self.prefix + slot] = start
        return initial

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

    _function = "scalars"
    _of_value = "the value of the objective is for the rule alone"

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
    if hasattr(Values, name):
        raise TypeError(
            f"{owner}.scalars returned a value for {name!r}, which `h` has for itself; choose "
            f"another name"
        )


def alive(reference: "weakref.ref[_Kept]") -> _Kept:
    """Return what a weak reference refers to, where that keeps who asks."""
    found = reference()
    assert found is not None, "it keeps what asks for it"
    return found

"""A rule as engines see it: its graphs, and the numbers that they take at a step."""

import copy
import math
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from instep import arrays
from instep.choices import Selector
from instep.graph import Graph, cut, trace
from instep.graph.dtypes import loaded_as, state_dtype
from instep.graph.evaluation import compile_expressions
from instep.graph.kept import Fewer, Keeping
from instep.graph.nodes import Array, numbers_of
from instep.graph.passes import with_lasting
from instep.graph.remembered import OBJECTIVE, PLACE
from instep.graph.rows import Flags, Group, Part, Row, Varying, alive, product_of
from instep.graph.step_numbers import StepNumbers
from instep.graph.trace import Values, objective, varying_name
from instep.rule import Form
from instep.state import Composed, Owner


class Program(StepNumbers):
    """The rules of an optimizer for some leaves, under their present options.

    That of a plan, which its optimizer keeps, does not keep the optimizer: `is_kept` says so.
    """

    def __init__(
        self,
        owner: Owner,
        composed: Composed | None = None,
        *,
        is_kept: bool = False,
        remembered: Collection[str] = (),
    ) -> None:
        composed = composed or next(iter(owner.compositions.values()))
        self.name = owner.name
        self._kept = None if is_kept else owner
        self._composed = weakref.ref(composed)  # which its optimizer keeps
        self.parts: list[Part] = []
        period = 1
        for prefix, rule in composed.parts.items():
            self.parts.append(Part(prefix, rule, period))
            period *= rule.period
        mains = [part for part in self.parts if part.rule is composed.main]
        for part in self.parts:
            part.multiply(_products(owner, part, part in mains, remembered))
        self.powers, self.remembered = _powers(self.parts), _remembered(self.parts, owner)
        self.readings, self.lasting = _readings(self.parts), _lasting(self.parts)
        self._fewer = Fewer(
            *(owner.state_dtype, owner.rounding, owner.master),
            frozenset(part.prefix + name for part in self.parts for name in part.exact),
            frozenset(part.prefix + name for part in self.parts for name in part.positive),
            f"{mains[0].prefix}t",
            {
                part.prefix + name: part.owner
                for part in self.parts
                for name in part.slots
                if not part.knows_signs
            },
        )
        self._small = owner.min_float8_size if owner.state_dtype == "float8" else 0
        self.lender = mains[0] if any(part.borrowed for part in self.parts) else None
        self._steps = tuple(part.prefix + "t" for part in self.parts)  # numbers that are integers
        self.slots = tuple(part.prefix + slot for part in self.parts for slot in part.slots)
        self._options = {
            part.prefix + name: value for part in self.parts for name, value in part.options.items()
        }
        self.varying: dict[str, str] = {}
        self.between: tuple[str, ...] = ()
        self.whole: tuple[str, ...] = ()
        own = (part.prefix + slot for part in self.parts for slot in part.real)
        of_points = (
            prefix + name for prefix, part in _constrained(self.parts) for name in part.real
        )
        self.real_slots = frozenset((*own, *of_points))
        self._passes: dict[tuple[str, str, Flags], tuple[Graph, ...]] = {}
        self._keeping: dict[str, Keeping] = {}
        self._forms: dict[object, Program] = {}
        self._places: list[tuple[Any, object]] = []  # of arrays: engines keep their addresses
        self._has_forms = any(part.has_forms for part in self.parts)

    @property
    def rule(self) -> Callable[..., Any]:
        """The mathematics: that of a chain is the composition of its rules."""
        return alive(self._composed).rule

    def for_shape(self, shape: tuple[int, ...]) -> "Program":
        """Return the program for parameters of a shape.

        It is this one, unless a rule has forms, or state in 8 bits is for larger ones.
        """
        if math.prod(shape) < self._small:
            if "small" not in self._forms:
                self._variant("small", _small=0, _fewer=replace(self._fewer, state_dtype=None))
            return self._forms["small"].for_shape(shape)
        if not self._has_forms:
            return self
        forms = [(part.prefix, part.rule.form_for(shape)) for part in self.parts]
        kinds = tuple((form.kind, form.slots, tuple(form.whole), form.between) for _, form in forms)
        if kinds not in self._forms:
            self._variant(
                kinds,
                slots=tuple(p + name for p, form in forms for name in form.slots),
                between=self._between(dict(forms)),
                whole=tuple(p + name for p, form in forms for name in form.whole),
                _options=self._options | {f"{p}kind": form.kind for p, form in forms},
            )
        return self._forms[kinds]

    def _between(self, forms: Mapping[str, Form]) -> tuple[str, ...]:
        """Return the names of the arrays between passes, in the order in which rules ask for them.

        A rule hands its points to the constraints after it before they see the parameter.
        """
        found: list[str] = []
        for part in self.parts:
            for prefix, other in _constrained(self.parts, part):
                found += (prefix + name for name in forms[other.prefix].between)
            found += (part.prefix + name for name in forms[part.prefix].between)
        return tuple(found)

    def _variant(self, key: object, **changes: Any) -> "Program":
        """Return this program with these changes, which from now on is known by a key."""
        program = self._forms[key] = copy.copy(self)
        program.__dict__.update(changes, _passes={}, _keeping={}, _forms={})
        return program

    def taking(self, varying: Sequence[Varying], *, in_parts: bool = False) -> "Program":
        """Return the program in which these hyperparameters are arrays of their dtypes.

        Where parameters are `in_parts`, so are those of complex numbers.
        """
        known = [(found.name, arrays.dtype_name(found.array)) for found in varying]
        dtypes = {name: loaded_as(dtype, in_parts=in_parts) for name, dtype in known}
        key = ("varying", *dtypes.items())
        if dtypes and key not in self._forms:
            self._variant(key, varying=dtypes, powers=self.powers | _powers_of_arrays(varying))
        return self._forms[key] if dtypes else self

    def whole_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the slots of other shapes, for a parameter of this one."""
        return {
            part.prefix + name: size
            for part in self.parts
            if part.has_forms
            for name, size in part.rule.form_for(shape).whole.items()
        }

    @property
    def positive(self) -> frozenset[str]:
        """Names of the slots that hold positive."""
        return self._fewer.positive

    def keeping(self, dtype: str) -> Keeping:
        """Return how parameters of a dtype, and their state, are kept."""
        if dtype not in self._keeping:
            self._keeping[dtype] = self._fewer.keeping(dtype, self.slots, self.real_slots)
        return self._keeping[dtype]

    def arrays(self, dtype: str) -> tuple[str, ...]:
        """Return the names of the arrays that passes use beside parameter and gradient."""
        state = (array.name for array in self.keeping(dtype).arrays)
        return (*state, *map(varying_name, self.varying), *self.between)

    def dtype_of(self, name: str, dtype: str) -> str:
        """Return the dtype of an array of another shape, or of one between, for parameters."""
        return state_dtype(dtype, is_real=name in self.real_slots)

    def is_current(self) -> bool:
        """Return whether the optimizer still has the options, arrays and slots of this program."""
        for part in self.parts:  # without a generator, which takes 0.3 us
            if not part.is_current():
                return False
        return not self._places or all(_place(array) == place for array, place in self._places)

    def arrays_for(self, group: Group) -> list[Varying]:
        """Return the hyperparameters of a group that are arrays; raise if they do not fit."""
        found = super().arrays_for(group)
        self._places += [(one.array, _place(one.array)) for one in found]
        return found

    def hyperparameters(
        self,
        row: Row,
        number: Callable[[float], Any],
        varying: Mapping[str, Any],
        remembered: Mapping[str, Any],
    ) -> Values:
        """Return `h` for a rule that is called with arrays: `number` makes what it is to see."""
        numbers = dict(zip(self.names, map(number, row.numbers), strict=True))
        numbers |= {name: varying[varying_name(name)] for name in self.varying}
        values = objective(remembered) | numbers | self._options | dict(row.flags)
        return Values(self.name, "hyperparameter", values, self.powers)

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
                keeping=self.keeping(dtype),
                gradient=gradient,
                varying=self.varying,
                whole=self.whole,
                between=[Array(name, self.dtype_of(name, dtype)) for name in self.between],
                numbers=self.remembered,
                readings=self.readings,
            )
            self._passes[key] = cut(with_lasting(graph, self.lasting))
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
            initial |= part.initial_values(numbers, self.varying)
        return initial


def rows_after(
    programs: Sequence[Program], taken: int, more: int, groups: Sequence[Group]
) -> list[Row]:
    """Return the rows of the step that comes `more` steps after the next, one for each group."""
    step = taken + 1 + more
    return [program.row(step, group) for program, group in zip(programs, groups, strict=True)]


def programs_of(
    owner: Owner, *, is_kept: bool = False, remembered: Collection[str] = ()
) -> dict[Selector, Program]:
    """Return the programs of an optimizer, by what chooses their leaves."""
    return {
        selector: Program(owner, composed, is_kept=is_kept, remembered=remembered)
        for selector, composed in owner.compositions.items()
    }


def _remembered(parts: Sequence[Part], owner: Owner) -> dict[str, int]:
    """Return the numbers by which graphs know those that sums leave and that are remembered.

    Those of the tree are the same in all programs of the optimizer.
    """
    own = {part.prefix + name for part in parts for name in part.rule.numbers}
    if any(part.rule.needs_value for part in parts):
        own.add(OBJECTIVE)
    is_rounded = owner.rounding == "stochastic" or owner.state_dtype in ("bfloat16", "float8")
    draws = is_rounded or any(part.rule.needs_random for part in parts)
    places = [PLACE] if draws else []
    own.update(places)
    found = numbers_of(
        [*places, *(part.prefix + name for part in parts for name in part.rule.tensor_numbers)],
        [
            *(prefix + name for prefix, rule in owner.parts.items() for name in rule.tree_numbers),
            *([OBJECTIVE] if any(rule.needs_value for rule in owner.parts.values()) else ()),
        ],
    )
    return {name: number for name, number in found.items() if name in own}


def _constrained(parts: Sequence[Part], own: Part | None = None) -> list[tuple[str, Part]]:
    """Return the constraints that points of rules are handed to, or those of one: with prefixes."""
    return [
        (f"{part.prefix}{point}_{other.prefix}", other)
        for i, part in enumerate(parts)
        if own is None or part is own
        for point in part.rule.points
        for other in parts[i + 1 :]
        if other.rule.constrains
    ]


def _lasting(parts: Iterable[Part]) -> frozenset[str]:
    """Return the names of the numbers that a step leaves which is turned away, too."""
    return frozenset(part.prefix + name for part in parts for name in part.rule.lasting_numbers)


def _readings(parts: Iterable[Part]) -> dict[str, str]:
    """Return the scopes of what can be read of a step, by name."""
    return {part.prefix + name: scope for part in parts for name, scope in part.rule.scopes.items()}


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

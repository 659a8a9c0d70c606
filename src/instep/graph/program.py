"""A rule as engines see it: its graphs, and the numbers that they take at a step."""

import copy
import math
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from instep import arrays
from instep.graph import Graph, cut, trace
from instep.graph.dtypes import BOUNDS, state_dtype
from instep.graph.evaluation import compile_expressions
from instep.graph.kept import Fewer, Keeping
from instep.graph.nodes import Array, numbers_of
from instep.graph.remembered import OBJECTIVE, PLACE
from instep.graph.rows import NOTHING, Flags, Group, Part, Row, Varying, alive, product_of
from instep.graph.trace import Values, objective, varying_name
from instep.state import Composed, Owner, Selector


class Program:
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
        self.readings = {
            part.prefix + name: scope
            for part in self.parts
            for name, scope in part.rule.scopes.items()
        }
        self._fewer = Fewer(
            owner.state_dtype,
            owner.rounding,
            owner.master,
            frozenset(part.prefix + name for part in self.parts for name in part.exact),
            frozenset(part.prefix + name for part in self.parts for name in part.squares),
            f"{mains[0].prefix}t",
        )
        self._small = owner.min_float8_size if owner.state_dtype == "float8" else 0
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
                program = self._forms["small"] = copy.copy(self)
                fewer = replace(self._fewer, state_dtype=None)
                program.__dict__.update(_fewer=fewer, _small=0, _passes={}, _keeping={}, _forms={})
            return self._forms["small"].for_shape(shape)
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
                _keeping={},
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
    def squares(self) -> frozenset[str]:
        """Names of the slots that hold squares."""
        return self._fewer.squares

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
            overrides = group.overrides.get("", NOTHING)
            numbers, flags, memory = self.parts[0].numbers(step, group, overrides)
            if not flags and not memory:
                return Row(tuple(numbers), ())
            return Row(tuple(numbers), tuple(sorted(flags.items())), memory)
        everything: list[float] = []
        all_flags: dict[str, bool] = {}
        all_memory: dict[str, float] = {}
        waiting = False  # for the call that completes an accumulated gradient
        lent: Mapping[str, float] = NOTHING
        for part in self.parts:
            overrides = group.overrides.get(part.prefix, NOTHING)
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
            numbers += part.numbers(step, group, group.overrides.get(part.prefix, NOTHING))[0]
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

    def check_rounding(self, numbers: Sequence[float], compute: str) -> None:
        """Raise if a hyperparameter that must not becomes 0 or infinite in the compute dtype."""
        least, most = BOUNDS[compute]
        for number in numbers:
            if not (least < number < most or number == 0):
                position = 0
                for part in self.parts:
                    _check_rounding(part, numbers[position:], compute)
                    position += len(part.names)
                break

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


def _check_rounding(part: Part, numbers: Sequence[float], compute: str) -> None:
    """Raise if a hyperparameter of a part is the one to be refused: they are the first numbers."""
    least, most = BOUNDS[compute]
    for number, entry in zip(numbers, part.fields, strict=False):
        if least < number < most or number == 0:
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

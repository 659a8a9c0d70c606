"""A rule as engines see it: its graphs, and the numbers of a step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from instep.graph import Graph, cut, trace
from instep.graph.trace import Values

if TYPE_CHECKING:
    from instep.optimizer import Optimizer

Flags = tuple[tuple[str, bool], ...]

#: Half of the smallest subnormal number: what is not larger rounds to zero.
_ROUNDS_TO_ZERO = {"float32": 2.0**-150, "float64": 2.0**-1075}


@dataclass(frozen=True, slots=True)
class Row:
    """The hyperparameters of one step, for all leaves that share them.

    Attributes
    ----------
    numbers
        In the order of `Program.names`: the arguments of host expressions.
    flags
        Booleans that `Optimizer.scalars` derived: they select the graph.
    """

    numbers: tuple[float, ...]
    flags: Flags


class Program:
    """The rule of an optimizer under its present options."""

    def __init__(self, optimizer: "Optimizer") -> None:
        self.name = optimizer.name
        self.rule = optimizer.rule
        self.slots = optimizer.state_slots()
        for slot in self.slots:
            if slot in ("w", "g"):
                raise TypeError(f"{self.name}: {slot!r} cannot be the name of a slot")
        self.optimizer = optimizer
        fields = optimizer._hyperparameters
        self._fields = [field for field in fields if not field.option]
        self._survivors = [i for i, f in enumerate(self._fields) if f.domain.survives_rounding]
        self._options = {f.name: getattr(optimizer, f.name) for f in fields if f.option}
        derives = type(optimizer).scalars is not _base_scalars()
        self._scalars = optimizer.scalars if derives else None
        self._derived: tuple[str, ...] = ()
        self._passes: dict[tuple[str, Flags], tuple[Graph, ...]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the numbers of a row."""
        return (*(field.name for field in self._fields), "t", *self._derived)

    def row(self, step: int, missed: int) -> Row:
        """Return the hyperparameters at `step`, for leaves that missed `missed` steps."""
        values = self.optimizer.__dict__
        numbers: list[float] = []
        for field in self._fields:
            value = values[field.name]
            numbers.append(value if value.__class__ is float else field.at(self.name, value, step))
        numbers.append(step - missed)
        if self._scalars is None:
            return Row(tuple(numbers), ())
        base = (*(field.name for field in self._fields), "t")
        derived = self._scalars(
            Values(self.name, "hyperparameter", self._options | dict(zip(base, numbers, strict=True)))
        )
        flags = tuple(sorted((k, v) for k, v in derived.items() if isinstance(v, bool)))
        extra = {k: float(v) for k, v in derived.items() if not isinstance(v, bool)}
        self._derived = tuple(extra)
        return Row((*numbers, *extra.values()), flags)

    def hyperparameters(self, row: Row) -> Values:
        """Return `h` for a rule that is called with arrays."""
        numbers = dict(zip(self.names, row.numbers, strict=True))
        return Values(self.name, "hyperparameter", numbers | self._options | dict(row.flags))

    def check_rounding(self, row: Row, compute: str) -> None:
        """Raise if a hyperparameter that must not becomes zero in the compute dtype."""
        for i in self._survivors:
            value = row.numbers[i]
            if 0 < value <= _ROUNDS_TO_ZERO[compute]:
                raise ValueError(
                    f"{self.name}: {self._fields[i].name}={value!r} is 0 in {compute}, the dtype of the "
                    f"arithmetic; give 0 or a larger number"
                )

    def passes(self, dtype: str, flags: Flags) -> tuple[Graph, ...]:
        """Return the graph of the rule, cut into passes, or raise FusionError."""
        key = (dtype, flags)
        if key not in self._passes:
            graph = trace(
                self.rule,
                name=self.name,
                hyperparameters=self.names,
                options=self._options | dict(flags),
                slots=self.slots,
                dtype=dtype,
            )
            self._passes[key] = cut(graph)
        return self._passes[key]

    def host_expressions(self, graph: Graph) -> Callable[..., tuple[float, ...]]:
        """Return the function from the numbers of a row to the scalars of `graph`."""
        return _compile(self.names, graph.scalars)

    def initial_values(self, row: Row) -> Mapping[str, float | str]:
        """Return how slots start: a number, or ``"w"`` for a copy of the parameter."""
        numbers = dict(zip(self.names, row.numbers, strict=True))
        return {
            slot: numbers.get(value, value) if isinstance(value, str) else float(value)
            for slot, value in self.optimizer.initial_state().items()
            if slot in self.slots
        }


@cache
def _compile(names: tuple[str, ...], sources: tuple[str, ...]) -> Callable[..., tuple[float, ...]]:
    text = f"lambda {', '.join(names)}: ({''.join(source + ', ' for source in sources)})"
    function: Callable[..., tuple[float, ...]] = eval(text, {"__builtins__": {"abs": abs}})
    return function


def _base_scalars() -> Callable[..., Any]:
    from instep.optimizer import Optimizer

    return Optimizer.scalars

"""An optimizer of the kit as the bridges see it: a rule, numbers, and state by parameter."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import numpy as np

from instep.bridges.fields import Field, Row, Values
from instep.engines.codes import as_numbers
from instep.graph.kept import MASTER, unit_name
from instep.hyperparameters import described, is_array
from instep.optimizer import Optimizer
from instep.rule import Rule
from instep.schedules.base import needs_value

#: The rows of a bridge.
Table = Sequence[Row]

#: An optimizer that comes back as the one that it was.
AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)


@dataclass(frozen=True)
class Opened:
    """An optimizer with a row of a table.

    Attributes
    ----------
    call
        The function that was called, for messages.
    there
        The name of the other library.
    optimizer
        Of the kit.
    prefix, rule
        Its rule, and the prefix of what is the rule's in a state.
    row
        What the table says of it.
    state
        What its `state_dict` returned.
    """

    call: str
    there: str
    optimizer: Optimizer
    prefix: str
    rule: Rule
    row: Row
    state: Mapping[str, Any]

    # Hyperparameters ---------------------------------------------------------------------------

    def present(self) -> dict[str, Any]:
        """Return the hyperparameters of the rule as they are set."""
        return {entry.name: getattr(self.rule, entry.name) for entry in self.rule.hyperparameters}

    def overridden(self, key: str, array: Any = None) -> dict[str, Any]:
        """Return what `overrides` gives a parameter, by the names that are written there."""
        found: dict[str, Any] = {}
        for selector, values in self.optimizer.overrides.items():
            if not isinstance(selector, str) and array is None:
                raise ValueError(
                    f"{self.call}: overrides has the function {described(selector)}, which is "
                    f"asked of parameters; give these, where names or params are, or use patterns"
                )
            is_meant = (
                fnmatchcase(key, selector) or selector == "*"
                if isinstance(selector, str)
                else selector(key, array)
            )
            found |= values if is_meant else {}
        return found

    def numbers(self, values: Mapping[str, Any], taken: int) -> dict[str, Any]:
        """Return hyperparameters as numbers: those of the step after so many."""
        found: dict[str, Any] = {"t": taken}
        for entry in self.rule.hyperparameters:
            value = values[entry.name]
            if entry.option:
                found[entry.name] = value
                continue
            found[entry.name] = self.number(entry.name, entry, value, taken)
        for name, needed in self.row.needs.items():
            if found[name] != needed:
                raise ValueError(
                    f"{self.call}: {self.rule.name} has {name}={found[name]!r}, and {self.there} "
                    f"has the rule with {name}={needed!r} alone; make the optimizer with that"
                )
        return found

    def number(self, title: str, entry: Any, value: Any, taken: int) -> float:
        """Return a hyperparameter as a number: that of the step after so many."""
        if is_array(value):
            raise ValueError(
                f"{self.call}: {title} is an array, and {self.there} has a number there; set "
                f"{title} to a number"
            )
        if callable(value) and needs_value(value):
            raise ValueError(
                f"{self.call}: {title} is {described(value)}, which sees the value of the "
                f"objective, so that it cannot be told of the next step; set {title} to a number"
            )
        if callable(value) and entry.domain.decays and entry.name != "momentum":
            raise ValueError(
                f"{self.call}: {title} is a schedule, and {self.there} corrects with the power of "
                f"a number; set {title} to a number"
            )
        number: float = entry.at(self.call, entry.validate(self.call, value), taken + 1)
        return number

    @property
    def keys(self) -> list[str]:
        """The keys of the parameters of which there is state."""
        return [*self.state["states"]]

    def taken(self, key: str) -> int:
        """Return how many steps a parameter took."""
        taken: int = self.state["t"] - self.state["states"][key]["missed"]
        return taken

    def values(self, key: str, numbers: Values) -> dict[str, Any]:
        """Return what is kept here of a parameter, decoded."""
        leaf = self.state["states"][key]
        slots = leaf["slots"]
        positive = set(self.rule.positive_slots or ())
        found: dict[str, Any] = {}
        for name in (name for name in slots if name == MASTER or name.startswith(self.prefix)):
            if name == MASTER:
                raise ValueError(
                    f"{self.call}: {key!r} is kept with master=True, and {self.there} has no place "
                    f"for what parameters lack; set master=False and take a step before"
                )
            if not name.endswith(unit_name("")):
                own = name.removeprefix(self.prefix)
                found[own] = as_numbers(name, slots, is_positive=own in positive)
        products = {f"{entry.name}_t" for entry in self.rule.hyperparameters}
        for name, value in leaf["scalars"].items():
            own = name.removeprefix(self.prefix)
            if not name.startswith(self.prefix):
                continue
            if own not in products:
                found[own] = value
            elif not np.isclose(value, numbers[own[:-2]] ** numbers["t"], rtol=1e-12, atol=0):
                raise ValueError(
                    f"{self.call}: {own[:-2]} was another before, and {self.there} corrects as if "
                    f"it had ever been {numbers[own[:-2]]!r}; this state cannot go over"
                )
        return found

    def of_tree(self) -> dict[str, Any]:
        """Return what is kept here of the tree."""
        return {name.removeprefix(self.prefix): x for name, x in self.state["numbers"].items()}

    def written(
        self, what: str, fields: Iterable[Field], values: Values, numbers: Values
    ) -> dict[str, Any]:
        """Return the fields of the other side."""
        fields = tuple(fields)
        if others := sorted(values.keys() - {one.ours for one in fields}):
            raise ValueError(
                f"{self.call}: {self.rule.name} keeps {others[0]!r} of {what}, for which "
                f"{self.there} has no place; leave it out of what goes over, with `forget`"
            )
        for name in (one.divides for one in fields if one.ours in values and one.divides):
            if numbers[name] == 0:
                raise ValueError(
                    f"{self.call}: {name} is 0, by which what {self.there} keeps would be divided; "
                    f"set {name} to another number"
                )
        return {one.theirs: one.write(values, numbers) for one in fields if one.ours in values}


def opened(call: str, there: str, table: Table, optimizer: Any) -> Opened:
    """Return an optimizer with its row of the table, or raise."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"{call}: optimizer must be one of instep, such as Adam(), got {described(optimizer)}"
        )
    if len(optimizer.compositions) > 1:
        raise TypeError(
            f"{call}: {optimizer.name} has several optimizers, and {there} keeps the state of one; "
            f"use one optimizer, with overrides"
        )
    ((prefix, rule),) = (
        (prefix, rule) for prefix, rule in optimizer.parts.items() if isinstance(rule, Optimizer)
    )
    for row in table:
        if row.rule is type(rule):
            return Opened(call, there, optimizer, prefix, rule, row, optimizer.state_dict())
    names = ", ".join(row.rule.__name__ for row in table)
    raise ValueError(
        f"{call}: {there} has no rule that is the same as {rule.name}; the bridge has {names}"
    )

"""What steps change of an optimizer, and what a step may know of one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from instep.choices import Complex, Engine, Overrides, Rounding, Selector, Selectors, StateDtype

if TYPE_CHECKING:
    from instep.rule import Rule


@dataclass
class History:
    """What a parameter has been through. Those that step together share one.

    Attributes
    ----------
    taken
        Number of steps that it took, ``h.t`` of the last. It missed the others of the optimizer,
        in which it had no gradient: nothing is counted for those that are left alone.
    scalars
        The numbers that the rule remembers (`Rule.scalar_slots`).
    leaves
        The most parameters that share it; 0 where nobody has counted.
    missed
        Number of steps of the optimizer that it had missed when it took its last.
    """

    taken: int = 0
    scalars: dict[str, float] = field(default_factory=dict)
    leaves: int = field(default=0, compare=False)
    missed: int = field(default=0, compare=False)

    @property
    def last(self) -> int:
        """Number of the step of the optimizer that was its last."""
        return self.taken + self.missed


@dataclass(eq=False)
class LeafState:
    """State of one parameter.

    Attributes
    ----------
    slots
        The state arrays by name, of the shape of the parameter.
    history
        Its steps, and the numbers that it remembers.
    state_dtype
        The setting with which they are kept.
    """

    slots: dict[str, Any]
    history: History = field(default_factory=History)
    state_dtype: str | None = None


@dataclass(eq=False)
class State:
    """Everything that steps change but the parameters. A new one is that of no steps.

    Attributes
    ----------
    t
        Number of steps taken.
    skipped
        Number of calls of `update` that a guard turned away.
    leaves
        The state of each parameter that a step has changed, by its key.
    numbers
        Those that rules remember of the whole tree (`Rule.tree_numbers`), as arrays of no
        dimensions that steps write to.
    plan
        That of the last step, if the next may use it. It is no part of what is saved.
    plans
        Those of steps before, by what is asked first of trees that they may be for.
    changes
        Number of changes of settings: plans made before one are not used after it.
    last
        What is known of the last step, or of the call that was turned away since; None if nothing
        is: there was none, or an exception came in its midst.
    loaded
        How many steps the parameters had taken that were loaded, by their keys, as long as it
        matters whether the steps after it meet them (`plan.meeting`).
    follow
        Calls in C that a step makes together with its own, when it is taken.
    ranks
        The other processes that take the same steps on other parts of the leaves
        (`plan.ranks.Ranks`), or None.
    """

    t: int = 0
    skipped: int = 0
    leaves: dict[str, LeafState] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=dict)
    plan: Any = None
    plans: dict[Any, Any] = field(default_factory=dict)
    changes: int = 0
    last: Any = None
    loaded: Mapping[str, int] = field(default_factory=dict)
    follow: Sequence[Callable[[], Any]] = ()
    ranks: Any = None

    @property
    def remembered(self) -> set[str]:
        """Names of the numbers that some parameter remembers."""
        return {name for leaf in self.leaves.values() for name in leaf.history.scalars}


class Composed(Protocol):
    """What a step does to a leaf: rules in their order, and the mathematics that composes them."""

    # By their prefixes; one of them has the hyperparameters that `overrides` calls by their names
    # alone.
    @property
    def parts(self) -> "Mapping[str, Rule]": ...
    @property
    def main(self) -> "Rule": ...
    @property
    def rule(self) -> Callable[..., Any]: ...


class Owner(Protocol):
    """What plans, checkpoints and explanations know of an optimizer; its state they are handed."""

    @property
    def name(self) -> str: ...

    # Its settings.
    @property
    def engine(self) -> Engine: ...
    @property
    def threads(self) -> int | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def rounding(self) -> Rounding: ...
    @property
    def state_dtype(self) -> StateDtype: ...
    @property
    def min_float8_size(self) -> int: ...
    @property
    def master(self) -> bool: ...
    @property
    def overrides(self) -> Overrides: ...
    @property
    def frozen(self) -> Selectors: ...
    @property
    def complex(self) -> Complex: ...

    # All rules in it, by their prefixes; and what is done to which leaves: the first that chooses
    # one.
    @property
    def parts(self) -> "Mapping[str, Rule]": ...
    @property
    def compositions(self) -> "Mapping[Selector, Composed]": ...

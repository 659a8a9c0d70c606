"""The last points and gradients of a descent, in turning roles.

For each parameter there are `history + 1` points and as many gradients, arrays like it. Which is
the oldest turns with each step, and no array is copied for that: every turn has rules of its own,
whose slots are the same arrays in other roles.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from instep.optimizer import Optimizer
from instep.state import LeafState, State

#: Slots by the paths of the parameters.
Slots = Mapping[str, dict[str, Any]]


class OnRing(Optimizer):
    """A rule whose slots are arrays of a ring.

    The points, and gradients, 0 to `history - 1` are those before the present one, from the oldest
    on. The last is where the present one is put, or has been put.
    """

    history: ClassVar[int]

    #: Names of the hyperparameters that are the coefficients of a direction.
    coefficients: ClassVar[tuple[str, ...]] = ()

    def take(self, slots: Slots) -> None:
        """Take the arrays of a ring."""
        self._state = State(leaves={key: LeafState(dict(own)) for key, own in slots.items()})

    def own(self) -> dict[str, dict[str, Any]]:
        """Return the arrays that it has."""
        return {key: leaf.slots for key, leaf in self._state.leaves.items()}


def roles(kind: str, history: int) -> list[str]:
    """Return the names of the slots of points, or of gradients."""
    return [f"{kind}{i}" for i in range(history + 1)]


_Rule = TypeVar("_Rule", bound=OnRing)


class Ring:
    """The arrays, and rules that work on them.

    Parameters
    ----------
    history
        Number of points before the present one.
    settings
        What all rules are made with.
    """

    def __init__(self, history: int, settings: Mapping[str, Any]) -> None:
        self._history, self._settings = history, settings
        self._rules: dict[tuple[type[OnRing], int], OnRing] = {}
        self._slots: Slots = {}
        self._turn = 0

    def rule(
        self, kind: type[_Rule], coefficients: Sequence[float] = (), *, ahead: bool = False
    ) -> _Rule:
        """Return a rule of this turn, or of the next, that was given these coefficients.

        It is made when it is asked for first.
        """
        turn = self._next if ahead else self._turn
        found: Any = self._rules.get((kind, turn))
        if found is None:
            self._rules[kind, turn] = found = kind(**self._settings)
            if self._slots:
                named = self._named(turn)
                found.take(
                    {
                        key: {role: own[name] for role, name in named.items()}
                        for key, own in self._slots.items()
                    }
                )
        for name, value in zip(kind.coefficients, coefficients, strict=True):
            setattr(found, name, value)
        rule: _Rule = found
        return rule

    def turn(self) -> None:
        """Make the point that was kept the newest of those before the present one."""
        self._turn = self._next

    @property
    def _next(self) -> int:
        return (self._turn + 1) % (self._history + 1)

    def share(self, rule: OnRing) -> None:
        """Give all rules the arrays that one of this turn has made: the first, or new ones."""
        own = rule.own()
        if not self._slots:
            named = self._named(self._turn)
            self._slots = {
                key: {name: slots[role] for role, name in named.items()}
                for key, slots in own.items()
            }
            return
        for kind in ("point", "gradient"):
            role = f"{kind}{self._history}"
            name = self._named(self._turn)[role]
            for key, slots in own.items():
                if self._slots[key][name] is not slots[role]:
                    self._replace(key, name, slots[role])

    def before(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the points and gradients before the present one, by role and path."""
        named = self._named(self._turn)
        for kind in ("point", "gradient"):
            for role in roles(kind, self._history)[:-1]:
                yield role, {key: own[named[role]] for key, own in self._slots.items()}

    def gradients(self) -> dict[str, Any]:
        """Return the gradients at the point that was kept, by the paths of the parameters."""
        name = self._named(self._turn)[f"gradient{self._history}"]
        return {key: own[name] for key, own in self._slots.items()}

    def _replace(self, key: str, name: str, array: Any) -> None:
        """Put an array in the place of one, in all rules: an engine has not written that."""
        self._slots[key][name] = array
        for (_, turn), rule in self._rules.items():
            slots = rule.own().get(key, {})
            for role, its in self._named(turn).items():
                if its == name and role in slots:
                    slots[role] = array

    def _named(self, turn: int) -> dict[str, str]:
        """Return the names of the arrays that have the roles at a turn."""
        count = self._history + 1
        return {
            role: f"{kind}{(i + turn) % count}"
            for kind in ("point", "gradient")
            for i, role in enumerate(roles(kind, self._history))
        }

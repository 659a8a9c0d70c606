"""The last points and gradients of a descent, in turning roles.

For each parameter there are `history + 1` points and as many gradients, arrays like it. Which is
the oldest turns with each step, and no array is copied for that: slots are given other arrays.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, TypeVar

from instep.interrupts import Call
from instep.minimization.shared import Shared
from instep.optimizer import Optimizer


class OnRing(Optimizer):
    """A rule whose slots are arrays of a ring.

    The points, and gradients, 0 to `history - 1` are those before the present one, from the oldest
    on. The last is where the present one is put, or has been put.
    """

    history: ClassVar[int]

    #: Names of the hyperparameters that are the coefficients of a direction.
    coefficients: ClassVar[tuple[str, ...]] = ()


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
        self._shared = Shared()
        self._rules: dict[tuple[type[OnRing], int], OnRing] = {}
        self._turn = 0

    def rule(
        self, kind: type[_Rule], coefficients: Sequence[float] = (), *, ahead: bool = False
    ) -> _Rule:
        """Return a rule of this turn, or of the next, that was given these coefficients.

        It is made when it is asked for first.
        """
        found: Any = self._rules.get((kind, ahead))
        if found is None:
            self._rules[kind, ahead] = found = kind(**self._settings)
            self._shared.join(found, self._named(self._turn + ahead))
        for name, value in zip(kind.coefficients, coefficients, strict=True):
            setattr(found, name, value)
        rule: _Rule = found
        return rule

    def turning(self) -> list[Call]:
        """Return the calls in C by which the point that was kept is the newest of those before."""
        following = {
            role: after
            for kind in ("point", "gradient")
            for role, after in pairwise([*roles(kind, self._history), f"{kind}0"])
        }
        turn = (self._turn + 1) % (self._history + 1)
        calls = self._shared.turning(following)
        return [*calls, partial(self.__dict__.update, {"_turn": turn})]

    def begin(self, rule: OnRing) -> None:
        """Take over all arrays, which the first rule has made."""
        self._shared.take_over(rule)

    def keep(self, rule: OnRing) -> None:
        """Take over the present point and its gradient, which a rule of this turn has kept."""
        self._shared.take_over(rule, [f"{kind}{self._history}" for kind in ("point", "gradient")])

    def roles_before(self) -> list[str]:
        """Return the roles of the points and gradients before the present one."""
        return [role for kind in ("point", "gradient") for role in roles(kind, self._history)[:-1]]

    def arrays(self, role: str) -> dict[str, Any]:
        """Return the arrays that have a role now, by the paths of the parameters."""
        return self._shared.named(self._named(self._turn)[role])

    def fill(self, role: str, values: Mapping[str, Any]) -> None:
        """Give the arrays that have a role now these elements."""
        self._shared.fill(self._named(self._turn)[role], values)

    def _named(self, turn: int) -> dict[str, str]:
        """Return the names of the arrays that have the roles at a turn."""
        count = self._history + 1
        return {
            role: f"{kind}{(i + turn) % count}"
            for kind in ("point", "gradient")
            for i, role in enumerate(roles(kind, self._history))
        }

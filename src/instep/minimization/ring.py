"""The last points and gradients of a descent, and the passes over them.

For each parameter there are `history + 1` points and as many gradients, arrays like it. Which is
the oldest turns with each step, and no array is copied for that: every turn has rules of its own,
whose slots are the same arrays in other roles.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

from instep.minimization.two_loop import News
from instep.optimizer import Optimizer
from instep.optimizers.momo import inner
from instep.state import LeafState, State

#: Slots by the paths of the parameters.
Slots = Mapping[str, dict[str, Any]]


class OnRing(Optimizer):
    """A rule whose slots are arrays of a ring.

    The points, and gradients, 0 to `history - 1` are those before the present one, from the oldest
    on. The last is where the present one is put, or has been put.
    """

    history: ClassVar[int]

    def take(self, slots: Slots) -> None:
        """Take the arrays of a ring."""
        self._state = State(leaves={key: LeafState(dict(own)) for key, own in slots.items()})

    def own(self) -> dict[str, dict[str, Any]]:
        """Return the arrays that it has."""
        return {key: leaf.slots for key, leaf in self._state.leaves.items()}


def roles(kind: str, history: int) -> list[str]:
    """Return the names of the slots of points, or of gradients."""
    return [f"{kind}{i}" for i in range(history + 1)]


def _on_ring(name: str, history: int, rule: Callable[..., Any], **more: Any) -> type[OnRing]:
    slots = (*roles("point", history), *roles("gradient", history))
    attributes = {
        "__module__": __name__,
        "__doc__": rule.__doc__,
        "history": history,
        "slots": slots,
        "exact_slots": slots,
        "positive_slots": (),
        "rule": staticmethod(rule),
        **more,
    }
    return type(name, (OnRing,), attributes)


def _differences(s: Any, kind: str, last: Any, history: int) -> list[Any]:
    """Return what has changed from each point, or gradient, to the next, the last one included."""
    known = [getattr(s, f"{kind}{i}") for i in range(history)]
    return [b - a for a, b in pairwise([*known, last])]


#: What the pass over all pairs lets be read of the newest one, and of the gradient.
_OF_NEWEST = ("curvature", "step_square", "change_square", "gradient_square")


@cache
def _start(history: int) -> type[OnRing]:
    """Return the rule that measures the first gradient."""

    def rule(xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        return w, {"gradient_square": xp.tree_sum(inner(xp, g, g))}

    return _on_ring("Start", history, rule, tree_readings=("gradient_square",))


@cache
def _products(history: int) -> type[OnRing]:
    """Return the rule that takes the products of all pairs with the gradient, and of the newest."""

    def rule(xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        steps = _differences(s, "point", w, history)
        changes = _differences(s, "gradient", g, history)
        found = {f"step{i}": xp.tree_sum(inner(xp, p, g)) for i, p in enumerate(steps)}
        found |= {f"change{i}": xp.tree_sum(inner(xp, y, g)) for i, y in enumerate(changes)}
        p, y = steps[-1], changes[-1]
        for name, a, b in zip(_OF_NEWEST, (p, p, y, g), (y, p, y, g), strict=True):
            found[name] = xp.tree_sum(inner(xp, a, b))
        return w, found

    names = [f"{kind}{i}" for kind in ("step", "change") for i in range(history)]
    return _on_ring("Products", history, rule, tree_readings=(*names, *_OF_NEWEST))


def _coefficients(history: int) -> list[str]:
    """Return the names of the coefficients of steps, of changes, and of the gradient."""
    return [*(f"{kind}{i}" for kind in ("p", "y") for i in range(history)), "c"]


def _moved(w: Any, g: Any, s: Any, h: Any, history: int) -> Any:
    steps = _differences(s, "point", w, history)
    changes = _differences(s, "gradient", g, history)
    moved = h.c * g
    for kind, vectors in (("p", steps), ("y", changes)):
        for i, vector in enumerate(vectors):
            moved = moved + getattr(h, f"{kind}{i}") * vector
    return w + moved


@cache
def _advance(history: int) -> type[OnRing]:
    """Return the rule that keeps the present point and its gradient, and goes along a direction."""

    def rule(xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        kept = {f"point{history}": w, f"gradient{history}": g}
        return _moved(w, g, s, h, history), kept

    return _with_coefficients("Advance", history, rule)


@cache
def _again(history: int) -> type[OnRing]:
    """Return the rule that goes along a direction from the point that was kept last."""

    def rule(xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        kept = getattr(s, f"point{history}"), getattr(s, f"gradient{history}")
        return _moved(*kept, s, h, history), {}

    return _with_coefficients("Again", history, rule)


@cache
def _back(history: int) -> type[OnRing]:
    """Return the rule that goes back to the point that was kept last."""

    def rule(xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        return getattr(s, f"point{history}"), {}

    return _on_ring("Back", history, rule)


def _with_coefficients(name: str, history: int, rule: Callable[..., Any]) -> type[OnRing]:
    names = _coefficients(history)
    values = dict.fromkeys(names, 0.0)
    return _on_ring(name, history, rule, __annotations__=dict.fromkeys(names, float), **values)


def _told(rule: OnRing, coefficients: Sequence[float]) -> OnRing:
    """Return a rule that was given the coefficients of a direction."""
    for name, value in zip(_coefficients(rule.history), coefficients, strict=True):
        setattr(rule, name, value)
    return rule


class Ring:
    """The rules of all turns, made when they are needed, on the same arrays.

    Parameters
    ----------
    history
        Number of points before the present one.
    settings
        Those of an optimizer.
    """

    def __init__(self, history: int, settings: Mapping[str, Any]) -> None:
        self._history, self._settings = history, settings
        self._rules: dict[tuple[Any, int], OnRing] = {}
        self._slots: Slots = {}
        self._turn = 0

    def start(self) -> OnRing:
        """Return the rule that measures the first gradient."""
        return self._rule(_start)

    def advance(self, coefficients: Sequence[float]) -> OnRing:
        """Return the rule that keeps the present point and goes along a direction."""
        return _told(self._rule(_advance), coefficients)

    def again(self, coefficients: Sequence[float]) -> OnRing:
        """Return the rule that goes along a direction from the point that was kept."""
        return _told(self._rule(_again), coefficients)

    def back(self) -> OnRing:
        """Return the rule that goes back to the point that was kept."""
        return self._rule(_back)

    def products(self) -> OnRing:
        """Return the rule that takes the products where the point that was kept is the newest."""
        return self._rule(_products, ahead=True)

    def news(self, readings: Mapping[str, float]) -> News:
        """Return the products that were taken."""
        steps, changes = (
            [readings[f"{kind}{i}"] for i in range(self._history)] for kind in ("step", "change")
        )
        return News(steps, changes, *(readings[name] for name in _OF_NEWEST))

    def turn(self) -> None:
        """Make the point that was kept the newest of those before the present one."""
        self._turn = self._next

    @property
    def _next(self) -> int:
        return (self._turn + 1) % (self._history + 1)

    def _rule(self, make: Callable[[int], type[OnRing]], *, ahead: bool = False) -> OnRing:
        """Return a rule of this turn, or of the next."""
        turn = self._next if ahead else self._turn
        if (make, turn) not in self._rules:
            self._rules[make, turn] = one = make(self._history)(**self._settings)
            if self._slots:
                named = self._named(turn)
                one.take(
                    {
                        key: {role: own[name] for role, name in named.items()}
                        for key, own in self._slots.items()
                    }
                )
        return self._rules[make, turn]

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

    def kept(self) -> dict[str, Any]:
        """Return the gradients at the point that was kept, by the paths of the parameters."""
        name = self._named(self._turn)[f"gradient{self._history}"]
        return {key: own[name] for key, own in self._slots.items()}

    def before(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the points and gradients before the present one, by role and path."""
        named = self._named(self._turn)
        for kind in ("point", "gradient"):
            for role in roles(kind, self._history)[:-1]:
                yield role, {key: own[named[role]] for key, own in self._slots.items()}

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

"""The passes of methods that go along a line, as rules, and the line.

All have the same slots: the `point` where the line begins, the `gradient` there, and its
`direction`.
"""

from collections.abc import Mapping
from typing import Any

from instep import arrays, tree
from instep.minimization.descent import nothing_moves
from instep.minimization.shared import Pass
from instep.optimizers.momo import inner
from instep.state import LeafState, State

#: Slots by the paths of the parameters.
Slots = Mapping[str, dict[str, Any]]


class OnLine(Pass):
    """A rule whose slots are those of a line."""

    slots = exact_slots = ("point", "gradient", "direction")
    positive_slots = ()

    def take(self, slots: Slots) -> None:
        """Take slots of another: the very dicts, for engines put new arrays into them."""
        self._state = State(leaves={key: LeafState(own) for key, own in slots.items()})

    @property
    def own(self) -> Slots:
        """The slots that it has."""
        return {key: leaf.slots for key, leaf in self._state.leaves.items()}


class Begin(OnLine):
    """Measure the first gradient."""

    tree_readings = ("gradient_square",)

    @staticmethod
    def rule(xp, w, g, s, h):
        return w, {"gradient_square": xp.tree_sum(inner(xp, g, g))}


class Advance(OnLine):
    """Begin a line where the parameters are, and go along it."""

    beta: float = 0.0
    step: float = 0.0

    @staticmethod
    def rule(xp, w, g, s, h):
        direction = h.beta * s.direction - g
        return w + h.step * direction, {"point": w, "gradient": g, "direction": direction}


class Down(OnLine):
    """Turn the line into the direction of steepest descent, and go along it."""

    step: float = 0.0

    @staticmethod
    def rule(xp, w, g, s, h):
        direction = -s.gradient
        return s.point + h.step * direction, {"direction": direction}


class Again(OnLine):
    """Go along the line, from its start."""

    step: float = 0.0

    @staticmethod
    def rule(xp, w, g, s, h):
        return s.point + h.step * s.direction, {}


class Back(OnLine):
    """Go back to the start of the line."""

    @staticmethod
    def rule(xp, w, g, s, h):
        return s.point, {}


class Products(OnLine):
    """Take the inner products of the gradient g, the direction d and the change y of gradients."""

    tree_readings = ("gd", "gg", "gy", "dy", "yy", "dd")

    @staticmethod
    def rule(xp, w, g, s, h):
        vectors = {"g": g, "d": s.direction, "y": g - s.gradient}
        return w, {
            name: xp.tree_sum(inner(xp, *(vectors[one] for one in name)))
            for name in Products.tree_readings
        }


class Line:
    """A line from a point, and the rules that go along it.

    Parameters
    ----------
    name
        That of the method.
    settings
        What the rules are made with.

    Attributes
    ----------
    slots
        Point, gradient and direction by the paths of the parameters.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self._begin, self._back = Begin(**settings).called(name), Back(**settings).called(name)
        self._advance, self._down = Advance(**settings).called(name), Down(**settings).called(name)
        self._again = Again(**settings).called(name)
        self._products = Products(**settings).called(name)
        self.slots: Slots = {}

    @property
    def counts(self) -> tuple[int, int]:
        """How many lines have begun, and how many were turned into steepest descent."""
        return self._advance.t, self._down.t

    def begin(self, params: Any, grads: Any) -> float:
        """Make the arrays; return the square of the norm of the gradients."""
        self._begin.update(params, grads)
        self.slots = self._begin.own
        for rule in (self._back, self._products, self._advance, self._down, self._again):
            rule.take(self.slots)
        found = self._begin.readings
        if not found:
            raise nothing_moves()
        return found["gradient_square"]

    def advance(self, params: Any, grads: Any, beta: float, step: float) -> Any:
        """Begin a line where the parameters are: `beta` times the last one, less the gradient.

        Go a step along it, and return the parameters.
        """
        self._advance.beta, self._advance.step = beta, step
        return self._advance.update(params, grads)

    def down(self, params: Any, like: Any, step: float) -> Any:
        """Turn the line into the direction of steepest descent, and go a step along it.

        Here and below, gradients are only to be `like` those at hand: their values do not matter.
        """
        self._down.step = step
        return self._down.update(params, like)

    def again(self, params: Any, like: Any, step: float) -> Any:
        """Go a step along the line, from where it begins."""
        self._again.step = step
        return self._again.update(params, like)

    def back(self, params: Any, like: Any) -> Any:
        """Go back to where the line begins."""
        return self._back.update(params, like)

    def products(self, params: Any, grads: Any) -> Mapping[str, float]:
        """Return the inner products where the parameters are.

        Raises
        ------
        ValueError
            If the gradients are None for other parameters than at the start.
        """
        self._products.update(params, grads)
        found = self._products.readings
        other = found.leaves.keys() ^ self.slots.keys()
        if other:
            raise ValueError(
                f"minimize: value_and_grad has returned None as the gradient of {min(other)!r} at "
                f"one point and not at another, and a line leads along the same parameters "
                f"everywhere; return zeros, or name it in frozen"
            )
        return found

    def tree(self, slot: str, params: Any) -> Any:
        """Return a tree like the parameters of copies of a slot; None where there is none."""

        def one(path: tree.Path, leaf: Any) -> Any:
            own = self.slots.get(tree.join_path(path))
            if own is None:
                return None
            if arrays.is_number(leaf):
                return arrays.number_of_type(type(leaf), arrays.to_numpy(own[slot]))
            is_parts = arrays.is_complex(leaf) and not arrays.is_complex(own[slot])
            return arrays.converted(arrays.from_parts(own[slot]) if is_parts else own[slot], leaf)

        return tree.mapped(one, params)

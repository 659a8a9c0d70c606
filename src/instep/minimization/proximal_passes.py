"""The passes of proximal gradient methods, as rules.

All have the same slots: the `point` where the gradient was taken, the `gradient` there, and `x`,
the point that was taken last.
"""

from collections.abc import Mapping

from instep.hyperparameters import NonNegative
from instep.minimization.shared import Pass
from instep.optimizers.momo import inner


class _Pass(Pass):
    slots = exact_slots = ("point", "gradient", "x")
    positive_slots = ()


class Extrapolation(_Pass):
    """Keep the point that was taken, and go beyond it."""

    beta: NonNegative = 0.0

    def initial_state(self) -> Mapping[str, float | str]:
        """Return the parameter for the point that was taken before the first."""
        return {"x": "w"}

    @staticmethod
    def rule(xp, w, g, s, h):
        return w + h.beta * (w - s.x), {"x": w}


class Step(_Pass):
    """Keep the point and the gradient, and go down it. What follows in a chain is the prox."""

    lr: NonNegative = 1.0

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.lr * g, {"point": w, "gradient": g}


class Again(_Pass):
    """Go down the gradient that was kept, from the point that was kept."""

    lr: NonNegative = 1.0

    @staticmethod
    def rule(xp, w, g, s, h):
        return s.point - h.lr * s.gradient, {}


class Measure(_Pass):
    """Measure the way to the present point, from where the gradient was taken and from `x`."""

    tree_readings = ("along", "way_square", "turn", "step_square")

    @staticmethod
    def rule(xp, w, g, s, h):
        way, step = w - s.point, w - s.x
        pairs = (s.gradient, way), (way, way), (way, step), (step, step)
        sums = xp.tree_sums(*(inner(xp, a, b) for a, b in pairs))
        return w, dict(zip(Measure.tree_readings, sums, strict=True))


class Back(_Pass):
    """Go back to the point that was taken last."""

    @staticmethod
    def rule(xp, w, g, s, h):
        return s.x, {}


class Return(_Pass):
    """Go back to the point that was taken last, and keep the one beyond it."""

    @staticmethod
    def rule(xp, w, g, s, h):
        return s.x, {"point": w}


class Onward(_Pass):
    """Keep the point that was taken, and go to the one beyond it, which was kept."""

    @staticmethod
    def rule(xp, w, g, s, h):
        return s.point, {"x": w}

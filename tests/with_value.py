"""Rules that ask for the value of the objective."""

from instep import Optimizer
from instep.transform import Transform


class Polyak(Optimizer):
    """Steps as long as the value says, at most `lr`; remembers the least value."""

    lr: float = 1.0

    slots = ("m",)
    tree_numbers = {"least": 1e30}  # noqa: RUF012
    needs_value = True

    @staticmethod
    def rule(xp, w, g, s, h):
        least = xp.minimum(s.least, h.value)
        m = 0.5 * s.m + g
        rate = xp.minimum(h.lr, h.value / xp.tree_sum(xp.abs_sq(m)))
        return w - rate * m + (h.value - least), {"m": m, "least": least}


class Times(Transform):
    """Multiplies gradients by the value."""

    stage = "gradient"
    needs_value = True

    @staticmethod
    def rule(xp, w, g, s, h):
        return h.value * g, {}

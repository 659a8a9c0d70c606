"""How far a schedule has come, and where a curve is then."""

import math

from instep.correctly_rounded import cos


def progress(step: int, steps: int) -> float:
    """Return the share of `steps` that is done before `step`: 0 at step 1, at most 1."""
    return min(step - 1, steps) / steps


def along_line(start: float, end: float, done: float) -> float:
    """Return where a straight line is after the share `done` of its way."""
    return start * (1 - done) + end * done


def along_cosine(start: float, end: float, done: float) -> float:
    """Return where half a cosine is after the share `done` of its way."""
    return end + (start - end) * (1 + cos(math.pi * done)) / 2


def along_root(start: float, end: float, done: float) -> float:
    """Return where one less a square root is after the share `done` of its way."""
    return along_line(start, end, math.sqrt(done))


CURVES = {"linear": along_line, "cosine": along_cosine, "sqrt": along_root}

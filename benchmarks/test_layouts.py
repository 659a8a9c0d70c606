"""How long a step takes on arrays that are not one line, beside the step on those that are.

The two take turns. The gradient, the parameter or both lie as the name says; the arrays of the
other step are contiguous. Extra info has the ratio of the medians.
"""

import statistics
from functools import partial

import numpy as np
import pytest

from instep import SGD, Adam, Momentum
from instep.commands.bench.clocks import REST, WallClock, in_turns
from instep.engines import available

SIDE = 1000
CONVOLUTION = 256, 256, 3, 3


def room(*shape):
    """Return small random numbers: a step on zeros takes other time."""
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def square():
    return room(SIDE, SIDE)


def of_parts(count):
    """Return complex numbers in the memory of so many real ones side by side."""
    return room(SIDE, SIDE, count).view("complex64")


LAYOUTS = {
    "gradient transposed": lambda: (square(), square().T),
    "parameter in Fortran order": lambda: (np.asfortranarray(square()), square()),
    "gradient of half the columns": lambda: (square(), room(SIDE, 2 * SIDE)[:, :SIDE]),
    "half the columns": lambda: (room(SIDE, 2 * SIDE)[:, :SIDE], room(SIDE, 2 * SIDE)[:, :SIDE]),
    "the first 500 columns": lambda: (square()[:, :500], square()[:, :500]),
    "every other row": lambda: (room(2 * SIDE, SIDE)[::2], room(2 * SIDE, SIDE)[::2]),
    "every other column": lambda: (room(SIDE, 2 * SIDE)[:, ::2], room(SIDE, 2 * SIDE)[:, ::2]),
    "reversed": lambda: (square()[::-1, ::-1], square()[::-1, ::-1]),
    "gradient reversed": lambda: (square(), square()[::-1, ::-1]),
    "gradient of one number": lambda: (square(), np.broadcast_to(np.float32(1), (SIDE, SIDE))),
    "complex views of both parts": lambda: (of_parts(2)[..., 0], of_parts(2)[..., 0]),
    "complex views of half the parts": lambda: (of_parts(4)[..., 0], of_parts(4)[..., 0]),
    "convolution, channels last": lambda: (
        room(*CONVOLUTION),
        room(256, 3, 3, 256).transpose(0, 3, 1, 2),
    ),
    "convolution, channels exchanged": lambda: (
        room(*CONVOLUTION),
        room(*CONVOLUTION).transpose(1, 0, 2, 3),
    ),
}


@pytest.mark.parametrize("engine", ["native", "blocked"])
@pytest.mark.parametrize("optimizer", [SGD, Momentum, Adam])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout(layout, optimizer, engine, threads, laboratory, replay):
    reason = available()[engine] or (laboratory.backend != "numpy" and "of NumPy arrays")
    if reason:
        pytest.skip(reason)
    w, g = layout()
    line = w.copy(order="C"), g.copy(order="C")
    steps = {
        name: partial(optimizer(engine=engine, threads=threads).update, *trees)
        for name, trees in (("this", (w, g)), ("contiguous", line))
    }
    rest = REST if threads > 1 else 0.0
    found = in_turns(steps, WallClock(), budget=laboratory.budget, rest=rest)
    ratio = statistics.median(found["this"]) / statistics.median(found["contiguous"])
    replay(found["this"], ratio=round(ratio, 2))

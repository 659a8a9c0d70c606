"""Gradients of another floating dtype than their parameters, on the device."""

import bits
import numpy as np
import pytest

from instep import LAMB, SGD, Adam, chain
from instep.transforms import clip_by_global_norm, skip_nonfinite

DTYPES = ["float16", "float32", "float64"]
PAIRS = [(own, other) for own in DTYPES for other in DTYPES if own != other]

MAKERS = {
    "Adam": Adam,
    "LAMB": LAMB,
    "chain": lambda **settings: chain(clip_by_global_norm(1.0), Adam(0.1), **settings),
    "guarded": lambda **settings: chain(skip_nonfinite(), SGD(0.1), **settings),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("own", "other"), PAIRS)
def test_gradients_are_converted_as_on_numpy(cupy, own, other, name):
    rng = np.random.default_rng(0)
    shapes = {"matrix": (40, 33), "long": (20_003,), "odd": (7,), "empty": (0, 3), "one": ()}
    start = {key: bits.ordinary(rng, shape, own) for key, shape in shapes.items()}
    params = {key: cupy.asarray(w) for key, w in start.items()}
    params["matrix"], start["matrix"] = params["matrix"][:, 1:], start["matrix"][:, 1:]
    optimizer, reference = MAKERS[name](engine="cuda"), MAKERS[name](engine="array_api")
    for step in range(3):
        draw = bits.wild if step and name == "Adam" else bits.ordinary
        grads = {key: draw(rng, w.shape, other) for key, w in start.items()}
        there = {key: cupy.asarray(g) for key, g in grads.items()}
        there["matrix"] = cupy.asfortranarray(there["matrix"])
        optimizer.update(params, there)
        with np.errstate(all="ignore"):
            reference.update(start, grads)
    for key, w in start.items():
        bits.assert_same_bits(params[key].get(), w, key)


def test_gradients_of_several_dtypes_come_by_turns(cupy):
    w, expected = cupy.ones(50, "float32"), np.ones(50, "float32")
    optimizer, reference = Adam(0.1, engine="cuda"), Adam(0.1)
    for dtype in ["float64", "float32", "float32", "float16", "float64"]:
        g = np.linspace(-1, 1, 50).astype(dtype)
        optimizer.update(w, cupy.asarray(g))
        reference.update(expected, g)
    bits.assert_same_bits(w.get(), expected)

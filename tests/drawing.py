"""Rules that draw random numbers, and trees on which they do."""

import numpy as np

from instep import Optimizer


class Noisy(Optimizer):
    """A step on a gradient with noise, of which a second draw is remembered."""

    lr: float = 0.1
    needs_random = True
    slots = ("m",)

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.lr * (g + xp.random(h.t)), {"m": s.m + xp.random(h.t)}


class Summed(Optimizer):
    """A step by what is drawn and summed: a pass that sums draws as well."""

    lr: float = 0.1
    needs_random = True

    @staticmethod
    def rule(xp, w, g, s, h):
        noise = xp.random(h.t) - 0.5
        return w - h.lr * (g + noise) / (1 + xp.norm(noise)), {}


def layouts(dtype):
    """Return arrays of zeros of every layout, by name: more than a tile, and less than a vector."""
    return {
        "line": np.zeros(70_001, dtype),
        "short": np.zeros(3, dtype),
        "Fortran": np.asfortranarray(np.zeros((37, 300), dtype)),
        "reversed": np.zeros((200, 400), dtype)[::2, ::-1],
        "rows": np.zeros((3, 5000), dtype)[:, :4999],
        "transposed": np.zeros((5, 7, 11), dtype).transpose(1, 2, 0),
        "no dimensions": np.zeros((), dtype),
        "empty": np.zeros((0, 3), dtype),
    }


def numbers(params):
    """Return gradients that differ from element to element."""
    return {
        name: (1e-5 * np.arange(w.size).reshape(w.shape)).astype(
            "float32" if w.dtype.itemsize == 2 else w.dtype
        )
        for name, w in params.items()
    }

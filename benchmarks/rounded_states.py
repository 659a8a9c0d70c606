"""Adam whose moments are rounded to a format between steps, for many formats: what each costs.

The formats are simulated: moments are float32 arrays all the time, and hold after every step what
decoding the stored bits would give. Rows of `BLOCK` elements share a scale, where there is one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 256

#: Given an array of rows and random words (uint32), or none for rounding to nearest.
Format = Callable[[np.ndarray, np.ndarray | None], np.ndarray]


@dataclass(frozen=True)
class Minifloat:
    """A float of few bits with subnormals, over a power of two for each row that makes it fit."""

    exponent: int
    mantissa: int
    largest: float
    positive: bool = False  # what is not zero does not become zero, and there is no sign

    def __call__(self, x: np.ndarray, words: np.ndarray | None) -> np.ndarray:
        share, power = np.frexp(np.abs(x).max(axis=1, keepdims=True) / np.float32(self.largest))
        power -= share == 0.5  # the smallest power that the largest, times it, is not below x's
        fitted = x * power_of_two(-power)
        lowest = 2 - 2 ** (self.exponent - 1)
        exponents = (fitted.view(np.int32) >> 23 & 0xFF) - 127
        unit = np.maximum(exponents, lowest) - self.mantissa
        units = fitted * power_of_two(-unit)
        units = np.rint(units) if words is None else np.floor(units + fraction(words))
        if self.positive:
            units = np.where((units == 0) & (x > 0), np.float32(1), units)
        return units * power_of_two(unit) * power_of_two(power)


def power_of_two(k: np.ndarray) -> np.ndarray:
    """Return 2**k as float32, for integers from -126 to 127."""
    return (k + 127 << 23).view(np.float32)


def fraction(words: np.ndarray) -> np.ndarray:
    """Return the lower 16 bits of random words as multiples of 2**-16 below 1."""
    return (words & np.uint32(0xFFFF)).astype(np.float32) * np.float32(2**-16)


@dataclass(frozen=True)
class Root:
    """The root of what is not negative, in a format of its own."""

    of: Format

    def __call__(self, x: np.ndarray, words: np.ndarray | None) -> np.ndarray:
        return np.square(self.of(np.sqrt(x), words))


E4M3, E5M2 = Minifloat(4, 3, 448), Minifloat(5, 2, 57344)
UNSIGNED_E4M4, UNSIGNED_E5M3 = Minifloat(4, 4, 480, True), Minifloat(5, 3, 114688, True)


class RoundedAdam:
    """Adam on rows of float32, its moments kept in two formats between steps.

    Parameters move by the moments as they are before they are rounded. `draw` makes the random
    words of both moments, or nothing: then they are rounded to nearest.
    """

    def __init__(self, lr: Any, formats: tuple[Format, Format], draw: Any = None):
        self.lr, self.formats, self.draw, self.t = lr, formats, draw, 0
        self.moments: list[np.ndarray] = []

    def update(self, w: np.ndarray, g: np.ndarray) -> None:
        """Take a step in place."""
        if not self.moments:
            self.moments = [np.zeros_like(w), np.zeros_like(w)]
        self.t += 1
        m, v = self.moments
        m = np.float32(0.9) * m + np.float32(0.1) * g
        v = np.float32(0.999) * v + np.float32(0.001) * g * g
        root = np.sqrt(v / np.float32(1 - 0.999**self.t)) + np.float32(1e-8)
        w -= np.float32(self.lr(self.t) / (1 - 0.9**self.t)) * m / root
        words = self.draw(w.shape) if self.draw else (None, None)
        self.moments = [
            kept(x, word) for x, kept, word in zip((m, v), self.formats, words, strict=True)
        ]


class Words:
    """Random words for both moments: one, one of each, or eight bits for each of them."""

    def __init__(self, seed: int, shared: str = "one"):
        self.rng, self.shared = np.random.default_rng((seed, 8)), shared

    def __call__(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        word = self.rng.integers(0, 2**32, shape, np.uint32)
        if self.shared == "one":
            return word, word
        if self.shared == "two":
            return word, word >> np.uint32(16)
        return word << np.uint32(8), word & np.uint32(0xFF00)

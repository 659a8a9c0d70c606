"""Words of 32 bits, and what is made of them: random numbers.

All is written in integer arithmetic, modulo 2**32, and so exact on every engine: once for arrays of
NumPy, and once for what a trace records, by the functions of `Words`.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

MASK = 0xFFFFFFFF


class Words(Protocol):
    """What computes with words. Operands are words, or integers of Python that are constants."""

    def operate(self, operation: str, a: Any, b: Any) -> Any:
        """Return a word, or what a comparison gives: `operation` is one of a graph's."""

    def bits(self, x: Any) -> Any:
        """Return the bits of a float32."""

    def from_bits(self, x: Any) -> Any:
        """Return the float32 that has these bits."""

    def as_float(self, x: Any, dtype: str) -> Any:
        """Return words below 2**31 as floats of a dtype, in which they are exact."""

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """Return one of two words."""

    def is_less(self, x: Any, y: Any) -> Any:
        """Return whether a float is less than another; one of them may be a float of Python."""

    def largest(self, x: Any) -> Any:
        """Return for each element the largest word of its block (see `BLOCK`)."""


#: Elements that have what is made for many in common, counted in C order from the first of a
#: tensor: the scale of state in 8 bits, and words for rounding by chance.
BLOCK = 256

#: Multipliers, and what is added to the key after each round (Salmon, Moraes, Dror, Shaw 2011).
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10

#: Words that are made at once.
AT_ONCE = 4

#: From here on are the numbers of the draws with which numbers are rounded; rules draw those below.
ROUNDING = 1 << 31


def philox(counter: Sequence[Any], key: Sequence[Any]) -> list[Any]:
    """Return four random words: Philox-4x32-10 of a counter of four words and a key of two.

    Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
    """
    a, b, c, d = (np.asarray(word, np.uint32) for word in counter)
    keys = [int(word) for word in key]
    for _ in range(ROUNDS):
        first, second = (
            np.multiply(np.uint64(m), x, dtype=np.uint64)
            for m, x in zip(MULTIPLIERS, (a, c), strict=True)
        )
        a, c = (
            (product >> np.uint64(32)).astype(np.uint32) ^ word ^ np.uint32(k)
            for product, word, k in zip((second, first), (b, d), keys, strict=True)
        )
        b, d = second.astype(np.uint32), first.astype(np.uint32)
        keys = [k + w & MASK for k, w in zip(keys, WEYL, strict=True)]
    return [a, b, c, d]


def random(
    first: int, count: int, place: Sequence[int], step: int, draw: int
) -> NDArray[np.uint32]:
    """Return a random word for each element of a tensor from `first` on, so many.

    Elements are counted in C order. Four of them have the words that are made at once. The key is
    the place, two words that are those of the tensor alone; the counter is the number of the four,
    two words, then the step and the draw.
    """
    start, stop = first // AT_ONCE, -(-(first + count) // AT_ONCE)
    found = np.stack(_made(start, stop, place, step, draw), axis=-1).reshape(-1)
    return found[first - AT_ONCE * start :][:count]


def shared(
    first: int, count: int, place: Sequence[int], step: int, draw: int
) -> NDArray[np.uint32]:
    """Return a random word for each element as `random` does, of which a quarter are made.

    A block has 64 words, of 16 counters: the first of each, then the second, and so on. Its first
    64 elements have these words, the next 64 have them turned left by 8 bits, then by 16 and 24.
    Each word is as random by itself as if it were made alone, and so are the upper bytes together.
    """
    start, stop = first // BLOCK, -(-(first + count) // BLOCK)
    counters = BLOCK // AT_ONCE // AT_ONCE
    made = _made(counters * start, counters * stop, place, step, draw)
    own = np.stack([word.reshape(-1, counters) for word in made], axis=1)
    own = own.reshape(stop - start, 1, BLOCK // AT_ONCE)
    turns = np.arange(0, 32, 8, dtype=np.uint32).reshape(-1, 1)
    turned: NDArray[np.uint32] = (own << turns) | (own >> (np.uint32(32) - turns) % np.uint32(32))
    return turned.reshape(-1)[first - BLOCK * start :][:count]


def _made(
    start: int, stop: int, place: Sequence[int], step: int, draw: int
) -> Sequence[NDArray[np.uint32]]:
    """Return the four words of each of these counters."""
    number = np.arange(start, stop, dtype=np.uint64)
    counter = (number & np.uint64(MASK), number >> np.uint64(32), step & MASK, draw)
    return np.broadcast_arrays(*philox(counter, place))


def uniform(words: Words, word: Any, other: Any, dtype: str) -> Any:
    """Return numbers in [0, 1) of one or two random words, all of whose bits are random."""
    if dtype == "float32":
        return words.as_float(words.operate("shift_right", word, 8), dtype) * 2.0**-24
    top = words.as_float(words.operate("shift_right", word, 5), dtype)
    rest = words.as_float(words.operate("shift_right", other, 6), dtype)
    return (top * 2.0**26 + rest) * 2.0**-53


def place_of(seed: int, path: str) -> float:
    """Return the place of a tensor, which is random, as a whole number of 52 bits."""
    digest = blake2b(f"{seed} {path}".encode(), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 12)


def halves(x: float) -> list[int]:
    """Return a whole number of at most 53 bits as two words, the lower one first."""
    return [int(x) & MASK, int(x) >> 32]


class NumpyWords:
    """Words as arrays of NumPy."""

    def operate(self, operation: str, a: Any, b: Any) -> Any:
        function = OF_WORDS.get(operation) or getattr(np, operation)
        return function(np.uint32(a), np.uint32(b))

    def bits(self, x: NDArray[np.float32]) -> Any:
        return np.asarray(x).view(np.uint32)

    def from_bits(self, x: NDArray[np.uint32]) -> Any:
        return np.asarray(x).view(np.float32)

    def as_float(self, x: NDArray[np.uint32], dtype: str) -> Any:
        return x.astype(dtype)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return np.where(condition, np.uint32(a), np.uint32(b))

    def is_less(self, x: Any, y: Any) -> Any:
        return x < y

    def largest(self, x: NDArray[np.uint32]) -> Any:
        return repeated(np.maximum.reduceat(x.reshape(-1), starts(x.size)), x.size).reshape(x.shape)


def starts(size: int) -> NDArray[np.int64]:
    """Return the numbers of the elements with which blocks begin."""
    return np.arange(0, size, BLOCK)


def repeated(x: NDArray[Any], size: int) -> NDArray[Any]:
    """Return for each of so many elements what its block has."""
    return np.repeat(x, BLOCK)[:size]


#: NumPy's functions by the names of operations on words, where these have other names there.
OF_WORDS = {
    "bit_and": np.bitwise_and,
    "bit_or": np.bitwise_or,
    "shift_left": np.left_shift,
    "shift_right": np.right_shift,
}

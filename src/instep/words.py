"""Words of 32 bits, and what is made of them: random numbers, and rounding by chance.

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


#: Multipliers, and what is added to the key after each round (Salmon, Moraes, Dror, Shaw 2011).
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10

#: Words of a block.
BLOCK = 4


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

    Elements are counted in C order. Four of them have the words of one block. Its key is the place,
    two words that are those of the tensor alone; its counter is the number of the block, two words,
    then the step and the draw.
    """
    start, stop = first // BLOCK, -(-(first + count) // BLOCK)
    block = np.arange(start, stop, dtype=np.uint64)
    counter = (block & np.uint64(MASK), block >> np.uint64(32), step & MASK, draw)
    found = np.stack(np.broadcast_arrays(*philox(counter, place)), axis=-1).reshape(-1)
    return found[first - BLOCK * start :][:count]


def uniform(words: Words, word: Any, other: Any, dtype: str) -> Any:
    """Return numbers in [0, 1) of one or two random words, all of whose bits are random."""
    if dtype == "float32":
        return words.as_float(words.operate("shift_right", word, 8), dtype) * 2.0**-24
    top = words.as_float(words.operate("shift_right", word, 5), dtype)
    rest = words.as_float(words.operate("shift_right", other, 6), dtype)
    return (top * 2.0**26 + rest) * 2.0**-53


_SIGN, _INFINITE = 0x80000000, 0x7F800000


def rounded(words: Words, x: Any, chance: Any, dtype: str) -> Any:
    """Return float32 numbers that are rounded up or down by chance to a dtype of 16 bits.

    The chance of each of the two neighbours is as large as the number is near to it, so that what
    is left of many steps is right in the mean. It follows from the random words `chance`. What is
    infinite or NaN stays so. Finite numbers of bfloat16 stay finite, and those of float16 below
    65536; larger ones are left to the conversion, which makes them infinite.
    """
    bits = words.bits(x)
    size = words.operate("bit_and", bits, ~_SIGN & MASK)
    to_dtype = {"bfloat16": _to_bfloat16, "float16": _to_float16}[dtype]
    found, end = to_dtype(words, size, chance)
    found = words.operate("bit_or", found, words.operate("bit_and", bits, _SIGN))
    is_inside = words.operate("less", size, end)
    return words.from_bits(words.where(is_inside, found, bits))


def _to_bfloat16(words: Words, size: Any, chance: Any) -> tuple[Any, int]:
    """Return the bits of what positive numbers become, and of those from which they do not."""
    found = _cut(words, size, chance, 16)
    return _bounded(words, found, 0x7F7F0000), _INFINITE


def _to_float16(words: Words, size: Any, chance: Any) -> tuple[Any, int]:
    """Return the same for float16, of which numbers below 2**-14 are multiples of 2**-24."""
    normal = _bounded(words, _cut(words, size, chance, 13), 0x477FE000)
    exponent = words.operate("shift_right", size, 23)
    is_small = words.operate("less", exponent, 113)
    exponent = words.where(is_small, exponent, 112)
    is_subnormal = words.operate("equal", exponent, 0)
    leading = words.where(is_subnormal, 0, 1 << 23)
    digits = words.operate("bit_or", words.operate("bit_and", size, (1 << 23) - 1), leading)
    # How many digits are below the place of 2**-24. Of more than 31, the last are left out.
    below = words.operate("subtract", 126, words.where(is_subnormal, 1, exponent))
    near = words.where(words.operate("less", below, 32), below, 31)
    far = words.operate("subtract", below, near)
    far = words.where(words.operate("less", far, 32), far, 31)
    last = words.operate("subtract", words.operate("shift_left", 1, near), 1)
    some = words.operate("bit_and", chance, last)
    raised = words.operate("add", words.operate("shift_right", digits, far), some)
    places = words.as_float(words.operate("shift_right", raised, near), "float32")
    small = words.bits(places * 2.0**-24)
    return words.where(is_small, small, normal), 0x47800000


def _cut(words: Words, size: Any, chance: Any, places: int) -> Any:
    """Return numbers without so many of the last binary places, which are rounded by chance."""
    some = words.operate("bit_and", chance, (1 << places) - 1)
    return words.operate("bit_and", words.operate("add", size, some), -(1 << places) & MASK)


def _bounded(words: Words, size: Any, largest: int) -> Any:
    return words.where(words.operate("less", largest, size), largest, size)


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


#: NumPy's functions by the names of operations on words, where these have other names there.
OF_WORDS = {
    "bit_and": np.bitwise_and,
    "bit_or": np.bitwise_or,
    "shift_left": np.left_shift,
    "shift_right": np.right_shift,
}

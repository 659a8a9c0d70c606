"""Numbers in fewer bits: parameters that are rounded by chance, and how state is kept in codes.

Written once, in integer arithmetic on the bits of float32 numbers (see `words.Words`): the same for
arrays of NumPy, of which the specification is made, and for what a trace records.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

from instep.words import MASK, Words

#: Returns so many random bits for each element. None: numbers are rounded to the nearest.
Chance = Callable[[int], Any] | None

_SIGN, _INFINITE, _NAN = 0x80000000, 0x7F800000, 0x7FC00000
_LARGEST = 0x7F7F0000  # of bfloat16
_PLACES = 23  # of the digits of a float32


def bits_of(words: Words, word: Any, half: int) -> Callable[[int], Any]:
    """Return what gives random bits: the upper ones of random words, or the lower (`half` 1)."""

    def chance(count: int) -> Any:
        if half:
            return words.operate("bit_and", word, (1 << count) - 1)
        return words.operate("shift_right", word, 32 - count)

    return chance


# To 16 bits ----------------------------------------------------------------------------------


def to_float16(words: Words, x: Any, chance: Callable[[int], Any]) -> Any:
    """Return float32 numbers that are rounded up or down by chance to those of float16.

    The chance of each of the two neighbours is as large as the number is near to it, so that what
    is left of many steps is right in the mean. What is infinite or NaN stays so. Finite numbers
    below 65536 stay finite; larger ones are left to the conversion, which makes them infinite.
    """
    bits = words.bits(x)
    size = words.operate("bit_and", bits, ~_SIGN & MASK)
    found = _to_float16(words, size, chance)
    found = words.operate("bit_or", found, words.operate("bit_and", bits, _SIGN))
    is_inside = words.operate("less", size, 0x47800000)
    return words.from_bits(words.where(is_inside, found, bits))


def _to_float16(words: Words, size: Any, chance: Callable[[int], Any]) -> Any:
    """Return the bits of what positive numbers become: below 2**-14, multiples of 2**-24."""
    normal = _at_most(words, _cut(words, size, chance, 13), 0x477FE000)
    exponent = words.operate("shift_right", size, _PLACES)
    is_small = words.operate("less", exponent, 113)
    exponent = words.where(is_small, exponent, 112)
    is_subnormal = words.operate("equal", exponent, 0)
    leading = words.where(is_subnormal, 0, 1 << _PLACES)
    digits = words.operate("bit_or", words.operate("bit_and", size, (1 << _PLACES) - 1), leading)
    # How many digits are below the place of 2**-24. Of more than 31, the last are left out.
    below = words.operate("subtract", 126, words.where(is_subnormal, 1, exponent))
    near = words.where(words.operate("less", below, 32), below, 31)
    far = words.operate("subtract", below, near)
    far = words.where(words.operate("less", far, 32), far, 31)
    last = words.operate("subtract", words.operate("shift_left", 1, near), 1)
    some = words.operate("bit_and", chance(31), last)
    raised = words.operate("add", words.operate("shift_right", digits, far), some)
    places = words.as_float(words.operate("shift_right", raised, near), "float32")
    small = words.bits(places * 2.0**-24)
    return words.where(is_small, small, normal)


def _cut(words: Words, size: Any, chance: Callable[[int], Any], places: int) -> Any:
    """Return numbers without so many of the last binary places, which are rounded by chance."""
    return words.operate(
        "bit_and", words.operate("add", size, chance(places)), -(1 << places) & MASK
    )


def _at_most(words: Words, x: Any, largest: Any) -> Any:
    return words.where(words.operate("less", largest, x), largest, x)


def _at_least(words: Words, x: Any, least: Any) -> Any:
    return words.where(words.operate("less", x, least), least, x)


# State in 16 bits, and the lower half of a master ----------------------------------------------


def to_bfloat16(words: Words, x: Any, chance: Chance) -> Any:
    """Return the bits of float32 numbers as bfloat16: rounded by chance, or to the nearest.

    By chance, finite numbers stay finite.
    """
    bits = words.bits(x)
    if chance is None:
        odd = words.operate("bit_and", words.operate("shift_right", bits, 16), 1)
        raised = words.operate("add", words.operate("add", bits, 0x7FFF), odd)
    else:
        size = words.operate("bit_and", bits, ~_SIGN & MASK)
        is_inside = words.operate("less", size, _LARGEST)
        raised = words.where(is_inside, words.operate("add", bits, chance(16)), bits)
    code = words.operate("shift_right", raised, 16)
    return words.where(_is_nan(words, x), _NAN >> 16, code)


def from_bfloat16(words: Words, code: Any) -> Any:
    """Return the float32 numbers that have these codes."""
    return words.from_bits(words.operate("shift_left", code, 16))


def divided(words: Words, x: Any) -> tuple[Any, Any]:
    """Return float32 numbers as the bits of bfloat16 numbers, and what makes them whole again.

    The former are rounded to the nearest, halves away from zero, so that the sign of what is left
    follows from the latter, the lower 16 bits.
    """
    bits = words.bits(x)
    bits = words.where(_is_nan(words, x), _NAN, bits)
    upper = words.operate("shift_right", words.operate("add", bits, 0x8000), 16)
    return upper, words.operate("bit_and", bits, 0xFFFF)


def whole(words: Words, upper: Any, lower: Any) -> Any:
    """Return the float32 numbers of which these are the parts: see `divided`.

    A bfloat16 number that was set since is made whole with what the one before has left, which is
    less than half of its last place; zero, and what is no number, is taken as it is.
    """
    alone = words.operate("shift_left", upper, 16)
    size = words.operate("bit_and", upper, 0x7FFF)
    raised = words.operate("subtract", upper, 1)
    raised = words.operate("bit_or", words.operate("shift_left", raised, 16), lower)
    raised = words.where(words.operate("equal", size, 0), alone, raised)
    kept = words.operate("bit_or", alone, lower)
    kept = words.where(words.operate("less", size, _INFINITE >> 16), kept, alone)
    return words.from_bits(words.where(words.operate("less", 0x7FFF, lower), raised, kept))


def _is_nan(words: Words, x: Any) -> Any:
    size = words.operate("bit_and", words.bits(x), ~_SIGN & MASK)
    return words.operate("less", _INFINITE, size)


# State in 8 bits --------------------------------------------------------------------------------

#: Bits of the digits of a code.
_DIGITS = 3


@dataclass(frozen=True)
class Small:
    """A format of 8 bits: numbers of a block, in units that are a power of two.

    A code is a floating-point number without a sign, of 3 bits of digits: that of the magnitude in
    units, and one more, ``|x| / unit + 1``. So the steps from code to code double with every power
    of two, and numbers near to zero need no rule of their own. The last code is NaN, and also what
    is infinite.

    Attributes
    ----------
    is_signed
        Whether one bit is that of the sign; else there are no negative numbers, which become NaN.
    """

    is_signed: bool

    @property
    def _exponents(self) -> int:
        """How many exponents codes have."""
        return 16 if self.is_signed else 32

    @property
    def nan(self) -> int:
        """The code of NaN."""
        return (self._exponents << _DIGITS) - 1

    def unit(self, words: Words, parts: Sequence[Any]) -> Any:
        """Return the number of the unit of each element: that of its block.

        It is the least power of two of which the last code but NaN is as much as all finite numbers
        of the block, or a little more. That of 2**-126 is 0.
        """
        # Without the bits of what is infinite, those of finite numbers are the largest words.
        ranks = [words.operate("subtract", self._size(words, x), _INFINITE) for x in parts]
        rank = words.largest(reduce(partial(_at_least, words), ranks))
        is_finite = words.operate("less", (-_INFINITE & MASK) - 1, rank)
        largest = words.where(is_finite, words.operate("add", rank, _INFINITE), 0)
        # A little, for one more unit is added to them. Digits of the last code are 1.75.
        raised = words.operate("add", largest, (1 << 21) - 1 + (1 << 13))
        exponent = words.operate("shift_right", raised, _PLACES)
        is_least = words.operate("less", exponent, self._exponents)
        number = words.operate("subtract", exponent, self._exponents)
        return words.where(is_least, 0, number)

    def encoded(self, words: Words, x: Any, unit: Any, chance: Chance) -> Any:
        """Return the codes of float32 numbers, rounded by chance or to the nearest."""
        places = _PLACES - _DIGITS
        one = self._one(words, unit)
        x = x if self.is_signed else x + 0.0  # of both zeros that with the sign + is left
        size = self._size(words, x)
        more = words.from_bits(size) + words.from_bits(one)
        above = words.operate("subtract", words.bits(more), one)
        if chance is None:
            odd = words.operate("bit_and", words.operate("shift_right", above, places), 1)
            some = words.operate("add", odd, (1 << places - 1) - 1)
        else:
            some = chance(places)
        code = words.operate("shift_right", words.operate("add", above, some), places)
        # Where one more step were infinite, it is not taken.
        is_last = words.operate("equal", unit, 255 - self._exponents)
        code = _at_most(words, code, words.where(is_last, self.nan - 8, self.nan - 1))
        if not self.is_signed:  # what is not zero does not become zero: it may be divided by
            code = _at_least(words, code, words.where(words.is_less(0.0, x), 1, 0))
        if self.is_signed:
            sign = words.operate("bit_and", words.operate("shift_right", words.bits(x), 24), 0x80)
            code = words.operate("bit_or", code, sign)
        # Without a sign, for processors differ in that of NaN.
        return words.where(words.operate("less", size, _INFINITE), code, self.nan)

    def decoded(self, words: Words, code: Any, unit: Any) -> Any:
        """Return the float32 numbers that have these codes."""
        size = words.operate("bit_and", code, 0x7F) if self.is_signed else code
        one = self._one(words, unit)
        above = words.operate("shift_left", size, _PLACES - _DIGITS)
        more = words.from_bits(words.operate("add", above, one))
        found = words.bits(more - words.from_bits(one))
        found = words.where(words.operate("equal", size, self.nan), _NAN, found)
        if self.is_signed:
            sign = words.operate("shift_left", words.operate("bit_and", code, 0x80), 24)
            found = words.operate("bit_or", found, sign)
        return words.from_bits(found)

    def _size(self, words: Words, x: Any) -> Any:
        """Return the bits of a magnitude; where there is no sign, those of the number."""
        bits = words.bits(x)
        return words.operate("bit_and", bits, ~_SIGN & MASK) if self.is_signed else bits

    @staticmethod
    def _one(words: Words, unit: Any) -> Any:
        """Return the bits of a unit, given its number."""
        return words.operate("shift_left", words.operate("add", unit, 1), _PLACES)


#: The format of numbers with a sign, and that of numbers without.
SIGNED, UNSIGNED = Small(is_signed=True), Small(is_signed=False)

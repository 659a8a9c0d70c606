"""Enclosures of real numbers in integers, and how two agreeing ones become a double.

An enclosure ``(low, high, exponent)`` says that a positive number lies between ``low`` and ``high``
times ``2**exponent``. In fixed point with `width` bits, an integer ``a`` stands for
``a / 2**width``; where its error is bounded, the bound is in units of its last place. All
divisions and shifts round down, so that of positive numbers errors have one sign.
"""

import math
from collections.abc import Callable
from functools import lru_cache

Enclosure = tuple[int, int, int]

#: Bits that the first attempt knows. A double has 53, so one in some 2**25 is not the last.
FIRST_PRECISION = 80

#: The argument of the exponential is divided by 2**8, and the series squared 8 times: of 4, 8
#: and 16, the quickest at the width of the first attempt.
_SQUARINGS = 8


def nearest(mantissa: int, exponent: int) -> float:
    """Return the double nearest to ``mantissa * 2**exponent``, ties to even; inf beyond all."""
    top = mantissa.bit_length() + exponent
    if top > 1024:
        return math.inf
    if top < -1080:
        return 0.0
    try:
        if top > -1022 and mantissa.bit_length() <= 1024:  # the conversion rounds, scaling does not
            return math.ldexp(float(mantissa), exponent)
        return mantissa / (1 << -exponent)  # Python rounds a quotient of integers once
    except OverflowError:
        return math.inf


def rounded(enclose: Callable[[int], Enclosure]) -> float:
    """Return the double nearest to what `enclose` encloses at any precision that it is asked for.

    Parameters
    ----------
    enclose
        The function from a precision in bits to an enclosure. Its bounds must agree where the
        true value is a tie between two doubles, or there is no end.
    """
    precision = FIRST_PRECISION
    while True:
        low, high, exponent = enclose(precision)
        result = nearest(low, exponent)
        if low == high or result == nearest(high, exponent):
            return result
        precision *= 2


def integer_power(mantissa: int, exponent: int, n: int, precision: int) -> Enclosure:
    """Enclose ``(mantissa * 2**exponent)**n`` for positive integers `mantissa` and `n`.

    Exact where the digits fit, so for everything that could be a tie between doubles.
    """
    # From the first bit of n on: square, and multiply where the bit is 1. Cutting to `width` bits
    # loses a part below u = 2**(1 - width). If the part that is lost so far is below k u, it is
    # below 2 k u after a square and (2 k + 1) u after cutting it; so k < 4 n at the end.
    width = precision + n.bit_length() + 4
    power, scale, lost = mantissa, exponent, 0
    for bit in bin(n)[3:]:
        power, scale, lost = power * power, 2 * scale, 2 * lost
        if bit == "1":
            power, scale = power * mantissa, scale + exponent
        if (excess := power.bit_length() - width) > 0:
            power, scale, lost = power >> excess, scale + excess, lost + 1
    # The true value is below power / (1 - k u), and that below power (1 + 2 k u).
    return power, power + (power * lost >> width - 2) + (lost > 0), scale


def reciprocal(enclosure: Enclosure, precision: int) -> Enclosure:
    """Enclose one divided by what is enclosed."""
    low, high, exponent = enclosure
    width = precision + high.bit_length()
    return (1 << width) // high, (1 << width) // low + 1, -exponent - width


def exponential(argument: int, error: int, width: int) -> Enclosure:
    """Enclose e to an argument in fixed point that is off by at most `error` units."""
    log2 = logarithm_of_2(width)
    halvings, rest = divmod(argument, log2)
    low, lost = _exponential_series(rest, width)
    # log(2) is off by at most 2 units. e**x < 2 changes by less than 4 d where x does by d < 1/2.
    off = 4 * (error + 2 * abs(halvings))
    return low - off, low + lost + off, halvings - width


def logarithm(mantissa: int, exponent: int, width: int) -> tuple[int, int]:
    """Return the natural logarithm of ``mantissa * 2**exponent`` in fixed point, and its error."""
    bits = mantissa.bit_length() - 1
    value, error = _logarithm_from_1_to_2(mantissa, bits, width)
    halvings = exponent + bits
    if halvings == 0:
        return value, error
    return value + halvings * logarithm_of_2(width), error + 2 * abs(halvings)


@lru_cache(maxsize=16)
def logarithm_of_2(width: int) -> int:
    """Return the natural logarithm of 2 in fixed point, off by at most 2 units."""
    value, error = _logarithm_from_1_to_2(2, 0, width + 32)
    assert error < 1 << 32
    return value >> 32


@lru_cache(maxsize=16)
def half_of_pi(width: int) -> int:
    """Return half of pi in fixed point, off by at most 2 units."""
    # Machin: pi / 4 = 4 arctan(1/5) - arctan(1/239). 32 more bits hold the errors of the terms.
    one = 1 << width + 32
    return 8 * _arctangent_of_inverse(5, one) - 2 * _arctangent_of_inverse(239, one) >> 32


def cosine(argument: int, error: int, width: int) -> tuple[int, int]:
    """Return the cosine of an argument in fixed point that is off by `error`, and its error."""
    right_angle = half_of_pi(width)
    quadrant, angle = divmod(argument, right_angle)
    if quadrant % 2:
        angle = right_angle - angle  # cos(q + a) = -sin(a) = -cos(q - a)
    value, lost = _cosine_series(angle, width)
    # The cosine changes by at most as much as the angle does.
    lost += error + 2 * (abs(quadrant) + 1)
    return (-value if quadrant % 4 in (1, 2) else value), lost


def _exponential_series(x: int, width: int) -> tuple[int, int]:
    """Return e to the power of x, 0 <= x < 0.7, in fixed point, and how much may be missing."""
    guard = width + 2 * _SQUARINGS
    x <<= _SQUARINGS  # x / 2**_SQUARINGS in the larger width
    term, total, count = 1 << guard, 0, 0
    while term:
        total += term
        count += 1
        term = (term * x >> guard) // count
    # A term lacks less than 2 units: x < 1/256 of what the one before lacks, and twice rounding
    # down. The terms that are left out are together below 3 units. A square of 1 <= y lacks
    # 2 y times what y does, and one unit; the y multiply to less than e**x < 2 in all.
    lost = 2 * count + 3
    for _ in range(_SQUARINGS):
        total = total * total >> guard
    lost = lost + _SQUARINGS << _SQUARINGS + 1
    return total >> 2 * _SQUARINGS, (lost >> 2 * _SQUARINGS) + 2


@lru_cache(maxsize=64)  # the base of a power is often the same at the next step
def _logarithm_from_1_to_2(mantissa: int, bits: int, width: int) -> tuple[int, int]:
    """Return log(z), z = mantissa / 2**bits in [1, 2], in fixed point, and its error."""
    guard = width + 16
    # The C library's logarithm is a guess y: a worse one costs more terms of the series for
    # log(z) = y + log(1 + d), 1 + d = z / e**y, and does not change the result.
    guess = int(math.log(mantissa / (1 << bits)) * 2.0**53) << guard >> 53
    base, lost = _exponential_series(guess, guard)
    z = mantissa << guard >> bits if bits <= guard else mantissa >> bits - guard
    d = ((z - base) << guard) // base
    # d is off by at most two units of rounding and `lost`, for z / e**y is about 1 and e**y >= 1.
    power, total, count = d, 0, 0
    while not -1 <= power <= 0:
        count += 1
        total += power // count
        power = -(power * d) >> guard
    error = 2 * (lost + 4) + 3 * count + 3
    return (guess + total) >> 16, (error >> 16) + 2


def _cosine_series(x: int, width: int) -> tuple[int, int]:
    """Return the cosine of x, 0 <= x <= pi / 2, in fixed point, and its error."""
    square = x * x >> width
    term, total, count = 1 << width, 0, 0
    while term:
        total += -term if count % 2 else term
        count += 1
        term = (term * square >> width) // ((2 * count - 1) * (2 * count))
    # A term lacks at most 3 units: 2.5 / 2 of the 0 that the first lacks, 2.5 / 12 and less of
    # what the others do, the rounding of the square, and two of its own. Those that are left out
    # are together smaller than the first of them, which is at most 3.
    return total, 3 * count + 3


def _arctangent_of_inverse(n: int, one: int) -> int:
    power, total, count = one // n, 0, 0
    while power:
        total += (-power if count % 2 else power) // (2 * count + 1)
        power //= n * n
        count += 1
    return total

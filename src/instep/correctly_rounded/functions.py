"""The functions, of one number each, and of two."""

import math

from instep.correctly_rounded.enclosures import (
    Enclosure,
    cosine,
    exponential,
    integer_power,
    logarithm,
    nearest,
    reciprocal,
    rounded,
)

#: A finite number but 0 and 1 differs from 1 by at least 2**-53, so that a power of it with a
#: larger exponent than this is beyond all doubles, or below them.
_LARGEST_EXPONENT = 2**64


def exp(x: float) -> float:
    """Return e to the power of x, rounded to nearest.

    Raises
    ------
    OverflowError
        If it is larger than the largest float.
    """
    if x == 0 or not math.isfinite(x) or abs(x) > 1e4:
        return math.exp(x)  # decided by IEEE 754, or far beyond the range of floats
    mantissa, exponent = integer_and_exponent(abs(x))
    sign = -1 if x < 0 else 1

    def enclose(precision: int) -> Enclosure:
        width = precision + 16
        return exponential(sign * _fixed(mantissa, exponent, width), 1, width)

    return _within_range(rounded(enclose), "exp({!r})", x)


def log(x: float) -> float:
    """Return the natural logarithm of x, rounded to nearest.

    Raises
    ------
    ValueError
        If x is not positive.
    """
    if x <= 0 or x == 1 or not math.isfinite(x):
        return math.log(x)  # decided by IEEE 754, or an error
    mantissa, exponent = integer_and_exponent(x)

    def enclose(precision: int) -> Enclosure:
        width = precision + 64  # near 1, where the logarithm is small
        value, error = logarithm(mantissa, exponent, width)
        return abs(value) - error, abs(value) + error, -width

    return math.copysign(rounded(enclose), x - 1)


def cos(x: float) -> float:
    """Return the cosine of x radians, rounded to nearest.

    Raises
    ------
    ValueError
        If x is infinite.
    """
    if x == 0 or not math.isfinite(x):
        return math.cos(x)  # decided by IEEE 754, or an error
    mantissa, exponent = integer_and_exponent(abs(x))
    sign = 1.0

    def enclose(precision: int) -> Enclosure:
        nonlocal sign
        width = precision + 16 + max(0, mantissa.bit_length() + exponent)
        value, error = cosine(_fixed(mantissa, exponent, width), 1, width)
        sign = -1.0 if value < 0 else 1.0
        return abs(value) - error, abs(value) + error, -width

    return math.copysign(rounded(enclose), sign)


def computed_power(base: float, exponent: float) -> float:
    """Return ``base**exponent``, as `power` does, without looking it up."""
    if type(base) is int and type(exponent) is int and exponent >= 0:
        return int(base**exponent)
    if base == 1 or exponent == 1:
        return float(base)
    if base == 0 or exponent == 0 or not (_is_finite(base) and _is_finite(exponent)):
        return float(base**exponent)  # decided by IEEE 754, or an error
    if exponent == 0.5 and type(base) is float and base > 0:
        return math.sqrt(base)  # IEEE 754 asks for it to be correctly rounded
    whole = exponent == int(exponent)
    if base < 0:
        if not whole:
            raise ValueError(
                f"({base!r}) ** {exponent!r} is not a real number; only numbers that are not "
                f"negative have powers with fractional exponents"
            )
        magnitude = computed_power(-base, exponent)
        return -magnitude if int(exponent) % 2 else magnitude
    mantissa, scale = integer_and_exponent(base)
    if whole:
        result = _whole_power(mantissa, scale, int(exponent))
    else:
        result = _fractional_power(mantissa, scale, exponent)
    return _within_range(result, "{!r} ** {!r}", base, exponent)


def _is_finite(x: float) -> bool:
    return isinstance(x, int) or math.isfinite(x)


def _whole_power(mantissa: int, scale: int, n: int) -> float:
    if mantissa == 1:
        return nearest(1, scale * n)
    if abs(n) > _LARGEST_EXPONENT:
        grows = (mantissa.bit_length() + scale > 0) == (n > 0)
        return math.inf if grows else 0.0
    if n > 0:
        return rounded(lambda precision: integer_power(mantissa, scale, n, precision))
    # One divided by an odd integer that is not 1 is no tie.
    return rounded(
        lambda precision: reciprocal(integer_power(mantissa, scale, -n, precision), precision)
    )


def _fractional_power(mantissa: int, scale: int, exponent: float) -> float:
    # A rational number to a power with the denominator 2**j is irrational, and so no tie, unless
    # the number is the 2**j-th power of a rational one.
    numerator, denominator = exponent.as_integer_ratio()
    while denominator > 1 and scale % 2 == 0 and math.isqrt(mantissa) ** 2 == mantissa:
        mantissa, scale, denominator = math.isqrt(mantissa), scale // 2, denominator // 2
    if denominator == 1:
        return _whole_power(mantissa, scale, numerator)
    shift = denominator.bit_length() - 1

    def enclose(precision: int) -> Enclosure:
        width = precision + 16
        more = max(0, numerator.bit_length() - shift)
        value, error = logarithm(mantissa, scale, width + more)
        argument = numerator * value >> shift + more
        return exponential(argument, (abs(numerator) * error >> shift + more) + 2, width)

    return rounded(enclose)


def integer_and_exponent(x: float) -> tuple[int, int]:
    """Return the odd integer and the power of two that multiply to x > 0."""
    numerator, denominator = x.as_integer_ratio()
    zeros = (numerator & -numerator).bit_length() - 1
    return numerator >> zeros, zeros + 1 - denominator.bit_length()


def _fixed(mantissa: int, exponent: int, width: int) -> int:
    """Return ``mantissa * 2**exponent`` in fixed point, rounded down."""
    shift = exponent + width
    return mantissa << shift if shift >= 0 else mantissa >> -shift


def _within_range(result: float, text: str, *numbers: float) -> float:
    if result == math.inf:
        raise OverflowError(f"{text.format(*numbers)} is larger than the largest float")
    return result

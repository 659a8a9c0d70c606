"""Many consecutive powers of one base at once, in NumPy, as unevaluated sums of two doubles.

``base**(first + 128 i + j)`` is a product of three powers, of which only the first is new in a
block. With sums of two doubles (Dekker 1971, Numer. Math. 18:224) its error is so small that
almost always both ends of the interval that it lies in are rounded to the same double; where they
are not, it is left to the exact way. In a block a power takes 0.1 us, alone 5 us.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instep.correctly_rounded.enclosures import integer_power
from instep.correctly_rounded.functions import integer_and_exponent

#: Powers of a block, a power of two: 16 rows of 128, for NumPy's loops are over rows.
_ROWS, _COLUMNS = 16, 128
BLOCK = _ROWS * _COLUMNS

#: What a product of three may be off by, relative. In truth it is less than 2**-101: each factor
#: is off by 2**-104, and a product adds 2**-103, as `_product` says.
_ERROR = 2.0**-96

#: Splits a double into two of 26 bits, whose products are exact (Veltkamp).
_SPLITTER = 2.0**27 + 1

#: Exponents are cut here, beyond all doubles, for the first power may have any.
_BEYOND = 5000


class Pairs(NamedTuple):
    """Numbers ``(high + low) * 2**exponent``; `high` is from 1 on, and nearest to the sum."""

    high: NDArray[Any]
    low: NDArray[Any]
    exponent: NDArray[Any]  # of C's int, as NumPy's ldexp takes it


class Blocks:
    """Blocks of powers of a positive base."""

    def __init__(self, base: float) -> None:
        self._base = integer_and_exponent(base)
        self._rows = self._powers(0, _COLUMNS, _ROWS)
        self._columns = self._powers(0, 1, _COLUMNS)

    def block(self, first: int) -> tuple[list[float], list[bool] | None]:
        """Return the powers from the exponent `first` on.

        Beside them stands which are right for sure, or None if all are.
        """
        rows = _product(self._powers(first, 1, 1), self._rows)
        rows = Pairs(*(x.reshape(_ROWS, 1) for x in rows))
        high, low, exponent = _product(rows, self._columns)
        error = high * _ERROR
        below, above = high + (low - error), high + (low + error)
        # Subnormal numbers would be rounded twice; what is still smaller is 0.
        fits = (exponent < 1020) & ((exponent >= -1022) | (exponent < -1080))
        with np.errstate(under="ignore", over="ignore"):
            values = np.ldexp(above, exponent)
        sure = (below == above) & fits
        return values.ravel().tolist(), None if sure.all() else sure.ravel().tolist()

    def _powers(self, first: int, step: int, count: int) -> Pairs:
        """Return the powers with the exponents `first`, `first` + `step` and so on."""
        value, _, exponent = integer_power(*self._base, first, 120) if first else (1, 1, 0)
        factor, _, more = integer_power(*self._base, step, 120)
        found = []
        for _ in range(count):
            bits = value.bit_length()
            significand = value >> bits - 106 if bits > 106 else value << 106 - bits
            high = float(significand)
            low = float(significand - int(high))
            top = max(-_BEYOND, min(exponent + bits - 1, _BEYOND))
            found.append((high * 2.0**-105, low * 2.0**-105, top))
            value, exponent = value * factor, exponent + more
            excess = value.bit_length() - 128
            if excess > 0:
                value, exponent = value >> excess, exponent + excess
        highs, lows, tops = zip(*found, strict=True)
        return Pairs(np.array(highs), np.array(lows), np.array(tops, dtype=np.intc))


def _product(a: Pairs, b: Pairs) -> Pairs:
    """Return the product: what is left out and rounded away is below 2**-103 of it.

    Relative to it, the product of the lows is 2**-106, the roundings of the other three small
    terms 2**-106 each at most, and those of their two sums 2**-105 and 2**-104.4.
    """
    a1, b1 = _upper_half(a.high), _upper_half(b.high)
    a2, b2 = a.high - a1, b.high - b1
    high = a.high * b.high
    rest = ((a1 * b1 - high) + a1 * b2 + a2 * b1) + a2 * b2  # without any error
    rest += a.high * b.low + a.low * b.high
    total = high + rest
    return Pairs(total, rest - (total - high), a.exponent + b.exponent)


def _upper_half(x: NDArray[Any]) -> NDArray[Any]:
    scaled = x * _SPLITTER
    upper: NDArray[Any] = scaled - (scaled - x)
    return upper

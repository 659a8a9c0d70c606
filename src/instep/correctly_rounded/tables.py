"""Powers that are kept: consecutive steps ask for consecutive powers of the same base.

As they are correctly rounded, it does not matter how they were computed, nor what is kept. The
power with a whole exponent n is ``powers[base][n >> ROW_BITS][n & ROW_MASK]``, which takes twice
as long as the C library's power; computing one alone takes fifty times as long.
"""

import math
from itertools import compress
from typing import Any

from instep.correctly_rounded.blocks import BLOCK, Blocks
from instep.correctly_rounded.functions import computed_power

ROW_BITS = BLOCK.bit_length() - 1
ROW_MASK = BLOCK - 1

#: So many powers of a row are computed one by one before all of them are worth their while.
_PATIENCE = 16

#: Most rows of one base: optimizers that have come differently far may share it.
MOST_ROWS = 8
#: Most powers of one base with fractional exponents.
MOST_FRACTIONAL = 1024
#: Most bases. Those that are asked for once, as by a schedule, are forgotten sooner.
MOST_BASES = 32


class PowersOfBase(dict[int, Any]):
    """Rows of powers of one base, by their numbers. Missing ones are begun, or computed.

    A row is a list, or a dictionary where some powers are not known yet, or have none, as they
    are too large.
    """

    def __init__(self, base: float) -> None:
        self.base = base
        self._fractional: dict[float, float] = {}
        self._blocks: Blocks | None = None

    def __missing__(self, number: int) -> Any:
        goes_on = type(self.get(number - 1)) is list  # the steps that have begun
        row = PartOfRow(self, number)
        _keep(self, MOST_ROWS, number, row)
        return row.filled() if goes_on else row

    def block(self, number: int) -> tuple[list[float], list[bool] | None]:
        """Return the powers of a row, and which of them are right for sure, if not all are."""
        if self._blocks is None:
            self._blocks = Blocks(self.base)
        return self._blocks.block(number << ROW_BITS)

    def fractional(self, exponent: float) -> float:
        """Return the power with an exponent that is a float."""
        value = self._fractional.get(exponent)
        if value is None:
            value = computed_power(self.base, exponent)
            if exponent == exponent:  # not NaN, which would never be found again
                _keep(self._fractional, MOST_FRACTIONAL, exponent, value)
        return value


class PartOfRow(dict[int, float]):
    """Those powers of a row that are known, by their places. Missing ones are computed."""

    def __init__(self, table: PowersOfBase, number: int) -> None:
        self._table, self._number = table, number
        self._fills = number >= 0 and 0 < table.base < math.inf
        self._misses = 0

    def __missing__(self, place: int) -> float:
        self._misses += 1
        if self._misses == _PATIENCE:
            row = self.filled()
            if row is not self:
                known: float = row[place]
                return known
        if place not in self:
            exponent = (self._number << ROW_BITS) + place
            self[place] = computed_power(self._table.base, exponent)
        return self[place]

    def filled(self) -> Any:
        """Return the row with all its powers, but those that are doubtful."""
        if not self._fills:
            return self
        values, sure = self._table.block(self._number)
        if sure is None:
            self._table[self._number] = values
            return values
        self.update(compress(enumerate(values), sure))
        return self


class Powers(dict[float, PowersOfBase]):
    """Tables of powers by their bases. Missing ones are begun.

    Integers and floats that are equal share a key but not their powers: ``3**40`` is an exact
    integer, ``3.0**40`` is not, and 0.0 and -0.0 differ. So tables of whole numbers are kept
    elsewhere, and those of integers, such as the number of the step, not at all.
    """

    def __init__(self) -> None:
        self._whole: dict[str, PowersOfBase] = {}
        self._recent: dict[float, PowersOfBase] = {}

    def __missing__(self, base: float) -> PowersOfBase:
        if type(base) is not float or base != base:
            return PowersOfBase(base)
        if base.is_integer():
            key = repr(base)
            table = self._whole.get(key)
            if table is None:
                table = PowersOfBase(base)
                _keep(self._whole, MOST_BASES, key, table)
            return table
        # Kept for good when it is asked for a second time.
        table = self._recent.pop(base, None)
        if table is None:
            table = PowersOfBase(base)
            _keep(self._recent, MOST_BASES, base, table)
        else:
            _keep(self, MOST_BASES, base, table)
        return table


def _keep(values: dict[Any, Any], most: int, key: Any, value: Any) -> None:
    if len(values) >= most:
        values.clear()
    values[key] = value


powers = Powers()


def power(base: float, exponent: float) -> float:
    """Return ``base**exponent``, rounded to nearest.

    Special values and errors are those of Python's operator, and so is the integer that two
    integers give.

    Parameters
    ----------
    base, exponent
        Floats or integers. Integers are taken as they are, however large.

    Raises
    ------
    OverflowError
        If it is larger than the largest float.
    ValueError
        If a negative number is to be raised to a fractional power, which for Python is complex.
    ZeroDivisionError
        If zero is to be raised to a negative power.
    """
    table = powers[base]
    if type(exponent) is int:
        value: float = table[exponent >> ROW_BITS][exponent & ROW_MASK]
        return value
    return table.fractional(exponent)

"""Powers that are kept: consecutive steps ask for consecutive powers of the same base.

As they are correctly rounded, it does not matter how they were computed, nor what is kept. A look
at two dictionaries, ``powers[base][exponent]``, takes as long as the C library's power; computing
one takes some hundred times as long.
"""

import math
from typing import Any

from instep.correctly_rounded.blocks import BLOCK, Blocks
from instep.correctly_rounded.functions import computed_power

#: So many consecutive powers are computed one by one before a block is worth its while.
_PATIENCE = 16

#: Most powers of one base, four blocks: optimizers that have come differently far may share one.
MOST_POWERS = 4 * BLOCK
#: Most bases. Those that are asked for once, as by a schedule, are forgotten sooner.
MOST_BASES = 32


class PowersOfBase(dict[float, float]):
    """Powers of one base by their exponents. Missing ones are computed."""

    def __init__(self, base: float) -> None:
        self._base = base
        self._missed: dict[float, int] = {}  # by the exponent after a run, the length of the run
        self._block = range(0)
        self._blocks: Blocks | None = None

    def __missing__(self, exponent: float) -> float:
        if type(exponent) is int and exponent > 0 and exponent not in self._block:
            run = self._missed.pop(exponent, 0) + 1
            if run < _PATIENCE or not 0 < self._base < math.inf:
                self._missed[exponent + 1] = run
            else:
                self._fill(exponent)
                if exponent in self:
                    return self[exponent]
        value = computed_power(self._base, exponent)
        if exponent == exponent:  # not NaN, which would never be found again
            self._make_room(1)
            self[exponent] = value
        return value

    def _make_room(self, count: int) -> None:
        if len(self) + count > MOST_POWERS or len(self._missed) > MOST_POWERS:
            self.clear()
            self._missed.clear()
            self._block = range(0)

    def _fill(self, first: int) -> None:
        """Compute the powers from the exponent `first` on, but for the few that are doubtful."""
        if self._blocks is None:
            self._blocks = Blocks(self._base)
        found = self._blocks.block(first)
        self._make_room(BLOCK)
        self.update(found)
        self._block = range(first, first + BLOCK)
        self._missed[first + BLOCK] = _PATIENCE  # so that the next block follows at once


class Powers(dict[float, PowersOfBase]):
    """Tables of powers by their bases. Missing ones are begun.

    Integers and floats that are equal share a key but not their powers: ``3**40`` is an exact
    integer, ``3.0**40`` is not, and 0.0 and -0.0 differ. So tables of whole numbers are kept
    elsewhere, and those of integers, such as the number of the step, not at all.
    """

    def __init__(self) -> None:
        self._whole: dict[str, PowersOfBase] = {}
        self._recent: dict[float, PowersOfBase] = {}

    def __missing__(self, base: float) -> Any:
        if type(base) is not float or base != base:
            return _Unkept(base)
        if base.is_integer():
            key = repr(base)
            table = self._whole.get(key)
            return _keep(self._whole, key, PowersOfBase(base)) if table is None else table
        # Kept for good when it is asked for a second time.
        table = self._recent.pop(base, None)
        if table is None:
            return _keep(self._recent, base, PowersOfBase(base))
        return _keep(self, base, table)


class _Unkept:
    """Powers of a base that is not worth a table."""

    __slots__ = ("_base",)

    def __init__(self, base: float) -> None:
        self._base = base

    def __getitem__(self, exponent: float) -> float:
        return computed_power(self._base, exponent)


def _keep(tables: dict[Any, PowersOfBase], key: Any, table: PowersOfBase) -> PowersOfBase:
    if len(tables) >= MOST_BASES:
        tables.clear()
    tables[key] = table
    return table


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
    value: float = powers[base][exponent]
    return value

"""Numbers for the formulas of others, in which ``**`` is to be correctly rounded."""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from instep.correctly_rounded.tables import power


class Number(float):
    """A float whose powers are correctly rounded.

    What is computed from it and other numbers is such a number again, so that this holds for all
    powers in an expression. The rest is Python's arithmetic.
    """

    __slots__ = ()

    def __reduce__(self) -> Any:
        return Number, (float(self),)

    def __round__(self, digits: int | None = None) -> Any:  # type: ignore[override]
        return _numbered(round(float(self), digits))

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __pow__(self, other: Any) -> Any:  # type: ignore[override]
        return _power(float(self), plain(other))

    def __rpow__(self, other: Any) -> Any:  # type: ignore[override]
        return _power(other, float(self))


class WholeNumber(Number):
    """The same of an integer, which is exact however large, and stays one as in Python.

    It is a float only to be asked before one: ``0.9**t`` would else be the float's affair.
    """

    __slots__ = ("plain",)
    plain: int

    def __reduce__(self) -> Any:
        return _numbered, (self.plain,)

    def __hash__(self) -> int:
        return hash(self.plain)

    def __repr__(self) -> str:
        return repr(self.plain)

    __str__ = __repr__

    def __format__(self, specification: str) -> str:
        return format(self.plain, specification)

    def __int__(self) -> int:
        return self.plain

    __index__ = __int__

    def __round__(self, digits: int | None = None) -> Any:  # type: ignore[override]
        return _numbered(round(self.plain, digits))

    def __pow__(self, other: Any) -> Any:  # type: ignore[override]
        return _power(self.plain, plain(other))

    def __rpow__(self, other: Any) -> Any:  # type: ignore[override]
        return _power(plain(other), self.plain)


def numbers_for(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by name, floats and integers as numbers, and options as they are."""
    return {
        name: Number(value) if value.__class__ is float else _numbered(value)
        for name, value in values.items()
    }


def plain(value: Any) -> Any:
    """Return the float or integer that a number is; anything else as it is."""
    if type(value) is Number:
        return float(value)
    return value.plain if type(value) is WholeNumber else value


def _numbered(value: Any) -> Any:
    if type(value) is float:
        return Number(value)
    if type(value) is int:
        number = WholeNumber(value)
        number.plain = value
        return number
    return value


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, float | int) and isinstance(exponent, float | int):
        return _numbered(power(base, exponent))
    return NotImplemented


def _unary(function: Callable[[float], Any]) -> Callable[[Any], Any]:
    return lambda self: _numbered(function(self))


def _binary(function: Callable[[float, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a method of floats so that it gives a number; written out, as it is often called."""

    def method(self: Number, other: Any) -> Any:
        value = function(self, other)
        return Number(value) if value.__class__ is float else value

    return method


def _of_integer(function: Callable[..., Any], reflected: bool = False) -> Callable[..., Any]:
    """Return what an operator does with integers as a method."""

    def method(self: WholeNumber, *others: Any) -> Any:
        values = (self.plain, *map(plain, others))
        return _numbered(function(*(reversed(values) if reflected else values)))

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod"):
    for _method in (f"__{_name}__", f"__r{_name}__"):
        setattr(Number, _method, _binary(getattr(float, _method)))
    setattr(WholeNumber, f"__{_name}__", _of_integer(getattr(operator, _name)))
    setattr(WholeNumber, f"__r{_name}__", _of_integer(getattr(operator, _name), reflected=True))
for _name in ("neg", "pos", "abs"):
    setattr(Number, f"__{_name}__", _unary(getattr(float, f"__{_name}__")))
    setattr(WholeNumber, f"__{_name}__", _of_integer(getattr(operator, _name)))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(WholeNumber, f"__{_name}__", _of_integer(getattr(operator, _name)))
for _function in (math.floor, math.ceil, math.trunc):
    _name = f"__{_function.__name__}__"
    setattr(Number, _name, _unary(getattr(float, _name)))
    setattr(WholeNumber, _name, _of_integer(_function))

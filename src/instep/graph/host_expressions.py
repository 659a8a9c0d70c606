"""Arithmetic on hyperparameters alone: done in Python's floats, with one meaning on every engine.

A trace writes such arithmetic down as Python source, which is evaluated once a step (`symbols`);
the `array_api` engine does it at once (`HostNumber`). Both call the functions of this module, and
the definitions of `numerics`, so that the numbers are the same.
"""

import math
import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from instep import arrays, correctly_rounded, numerics


def power(base: Any, exponent: Any) -> Any:
    """Return a power: of numbers, the correctly rounded one; of an array, its library's."""
    if is_number(base) and is_number(exponent):
        return correctly_rounded.power(base, exponent)
    return base**exponent


def _rounded(function: Callable[[Any], Any]) -> Callable[[float], float]:
    """Return one of NumPy's exact functions on numbers; math.floor loses -0.0, and refuses NaN."""

    def rounded(x: float) -> float:
        with np.errstate(all="ignore"):
            return float(function(float(x)))

    return rounded


def _sqrt(x: float) -> float:
    """Return the square root, as NumPy does in ten times the time."""
    return math.sqrt(x) if x >= 0 else _sqrt_of_others(x)


_sqrt_of_others = _rounded(np.sqrt)


class _Numbers:
    """The namespace in which the definitions of `numerics` are evaluated on numbers."""

    @staticmethod
    def where(condition: bool, a: float, b: float) -> float:
        if not isinstance(condition, bool):
            raise TypeError(f"the condition of xp.where is {condition!r}; compare, as in x > 0")
        return a if condition else b

    @staticmethod
    def copysign(a: float, b: float) -> float:
        return math.copysign(a, b)

    @staticmethod
    def logical_not(x: bool) -> bool:
        return not x

    sqrt = staticmethod(_sqrt)
    floor = staticmethod(_rounded(np.floor))
    ceil = staticmethod(_rounded(np.ceil))
    trunc = staticmethod(_rounded(np.trunc))
    round = staticmethod(_rounded(np.rint))


def _canonical(name: str) -> Callable[..., Any]:
    definition = numerics.CANONICAL[name]
    return lambda *values, **keywords: definition(_Numbers, *values, **keywords)


#: Functions of the array namespace that are operators of Python.
OPERATORS: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "equal": operator.eq,
    "not_equal": operator.ne,
    "logical_and": operator.and_,
    "logical_or": operator.or_,
    "logical_xor": operator.xor,
    "negative": operator.neg,
    "positive": operator.pos,
    "abs": abs,
}

#: Its other functions that take numbers, and give a number or a boolean.
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **{
        name: getattr(_Numbers, name)
        for name in ("where", "logical_not", "sqrt", "floor", "ceil", "trunc", "round")
    },
    **{name: _canonical(name) for name in numerics.ELEMENTWISE},
    "copysign": lambda a, b: numerics.copysign(_Numbers, a, b),
}

#: Those of them that give booleans.
PREDICATES = frozenset({"logical_not", "isfinite", "isnan", "isinf"})

#: What the source of a host expression may call, under the name by which it does.
CALLABLE: Mapping[str, Callable[..., Any]] = {
    "abs": abs,
    "float": float,
    "round": round,
    "power": power,
    "math.floor": math.floor,
    "math.ceil": math.ceil,
    "math.trunc": math.trunc,
    **{f"xp.{name}": function for name, function in FUNCTIONS.items()},
}

#: The operators of Python: name of the method without underscores -> symbol and function.
BINARY: Mapping[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "add": ("+", operator.add),
    "sub": ("-", operator.sub),
    "mul": ("*", operator.mul),
    "truediv": ("/", operator.truediv),
    "floordiv": ("//", operator.floordiv),
    "mod": ("%", operator.mod),
    "pow": ("**", power),
    "and": ("&", operator.and_),
    "or": ("|", operator.or_),
    "xor": ("^", operator.xor),
}
COMPARISONS: Mapping[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "lt": ("<", operator.lt),
    "le": ("<=", operator.le),
    "gt": (">", operator.gt),
    "ge": (">=", operator.ge),
    "eq": ("==", operator.eq),
    "ne": ("!=", operator.ne),
}


def is_number(x: Any) -> bool:
    """Return whether `x` is a number of Python, and none of NumPy's, which have a dtype."""
    return isinstance(x, bool | int | float) and not isinstance(x, np.generic)


def shown(value: Any) -> str:
    """Return a number as text for a message: Python writes no int of more than 4,300 digits."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"an int of {value.bit_length()} bits"
    return repr(value)


def no_value(owner: str, what: str, problem: object) -> ValueError:
    """Return the error for arithmetic on hyperparameters that has no result."""
    return ValueError(
        f"{owner}.rule: {what} has no value: {problem}; change the hyperparameters, or the rule, "
        f"so that it is a number that a float can hold"
    )


def checked(owner: str, what: str, function: Callable[..., Any], *values: Any) -> Any:
    """Return what `function` makes of numbers, or raise a ValueError that says who and what."""
    try:
        result = function(*values)
        float(result)
    except (ArithmeticError, ValueError, TypeError) as error:
        raise no_value(owner, what, error) from error
    return result


class HostNumber:
    """A hyperparameter as a rule sees it that is called with arrays: a number of Python.

    Beside an array it is a plain float (or the int that the step number is), so the array's dtype
    decides. Beside other numbers it means what `CALLABLE` and `BINARY` say.
    """

    __slots__ = ()  # see `number_beside`
    owner: str
    value: float

    def __init__(self, owner: str, value: float) -> None:
        self.owner, self.value = owner, value  # type: ignore[misc]  # slots of derived classes

    def evaluate(self, what: str, function: Callable[..., Any], *values: Any) -> Any:
        """Return what `function` makes of numbers, as one that goes on meaning the same."""
        result = checked(self.owner, what, function, *map(plain, values))
        return result if isinstance(result, bool) else type(self)(self.owner, result)

    def __neg__(self) -> "HostNumber":
        return type(self)(self.owner, -self.value)

    def __pos__(self) -> "HostNumber":
        return self

    def __abs__(self) -> "HostNumber":
        return type(self)(self.owner, abs(self.value))

    def __round__(self, digits: int | None = None) -> Any:
        return self.evaluate(f"round({self.value!r})", round, self.value, digits)

    def __floor__(self) -> Any:
        return self.evaluate(f"math.floor({self.value!r})", math.floor, self.value)

    def __ceil__(self) -> Any:
        return self.evaluate(f"math.ceil({self.value!r})", math.ceil, self.value)

    def __trunc__(self) -> Any:
        return self.evaluate(f"math.trunc({self.value!r})", math.trunc, self.value)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __index__(self) -> int:
        return operator.index(self.value)  # type: ignore[arg-type]  # its TypeError is meant

    def __bool__(self) -> bool:
        return bool(self.value)

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return repr(self.value)

    def __format__(self, form: str) -> str:
        return format(self.value, form)

    # The methods of a number, such as `is_integer`.
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.value, name)

    # NumPy's own functions, which a rule may call that runs on NumPy arrays alone.
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        return getattr(ufunc, method)(*map(plain, inputs), **keywords)

    def __array_function__(self, function: Any, types: Any, inputs: Any, keywords: Any) -> Any:
        return function(*map(plain, inputs), **{k: plain(v) for k, v in keywords.items()})

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(self.value, dtype=dtype)


@cache
def beside(kind: Any, array_type: Any, slots: tuple[str, ...]) -> type[Any]:
    """Return the class of the values of a kind that meet arrays of a library.

    array-api-strict refuses all but its arrays and Python's numbers on the right of an array. But
    if the class of the right operand is derived from that of the left one, Python asks the right
    one first.
    """
    members: dict[str, Any] = {"__slots__": slots}
    if not array_type.__module__.startswith("array_api_strict"):
        return type(kind.__name__, (kind,), members)
    members["__new__"] = lambda cls, *_: object.__new__(cls)  # an array's refuses to be called
    # No value is changed in place, and an array has operators that would.
    members |= {f"__i{name}__": getattr(kind, f"__{name}__") for name in BINARY}
    return type(kind.__name__, (kind, array_type), members)


def number_beside(array_type: type) -> type[HostNumber]:
    """Return the class of the numbers that meet arrays of a library."""
    return beside(HostNumber, array_type, ("owner", "value"))


def plain(x: Any) -> Any:
    """Return a host number as the number of Python that it is, and all else as it is."""
    return x.value if isinstance(x, HostNumber) else x


def _binary(symbol: str, function: Callable[[Any, Any], Any], reverse: bool) -> Callable[..., Any]:
    def method(self: HostNumber, other: Any) -> Any:
        other = plain(other)
        left, right = (other, self.value) if reverse else (self.value, other)
        if is_number(other):
            return self.evaluate(f"{shown(left)} {symbol} {shown(right)}", function, left, right)
        if not hasattr(other, "dtype"):
            return NotImplemented
        if symbol == "/" and not reverse and arrays.library(other) == "torch":
            left = other.new_tensor(left)  # it multiplies a number by the reciprocal of a tensor
        return function(left, right)

    return method


for _name, (_symbol, _function) in BINARY.items():
    setattr(HostNumber, f"__{_name}__", _binary(_symbol, _function, reverse=False))
    setattr(HostNumber, f"__r{_name}__", _binary(_symbol, _function, reverse=True))
for _name, (_symbol, _function) in COMPARISONS.items():
    setattr(HostNumber, f"__{_name}__", _binary(_symbol, _function, reverse=False))

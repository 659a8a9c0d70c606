"""Numbers that sums leave, as a rule sees them that is called with arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np

from instep.graph.host_expressions import BINARY, COMPARISONS, is_number, plain


class Number:
    """A float64, or a boolean, that is the same for all elements of a tensor.

    Its arithmetic with numbers has the results of float64 where that of Python raises an error.
    Beside an array it is rounded to the dtype of the array.
    """

    __slots__ = ()  # see `host_expressions.beside`
    owner: Any  # the namespace of the arrays that it meets
    value: Any

    def __init__(self, namespace: Any, value: Any) -> None:
        is_boolean = isinstance(value, bool | np.bool_)
        self.owner, self.value = namespace, np.bool_(value) if is_boolean else np.float64(value)

    def of(self, value: Any) -> "Number":
        """Return another number."""
        return type(self)(self.owner, value)

    def beside(self, array: Any) -> Any:
        """Return the number of Python that stands for it beside an array."""
        is_narrow = array.dtype == self.owner.float32
        return (np.float32(self.value) if is_narrow and self.is_real else self.value).item()

    @property
    def is_real(self) -> bool:
        """Whether it is no boolean."""
        return isinstance(self.value, np.float64)

    @property
    def dtype(self) -> Any:
        """The dtype that it has in the library."""
        dtype = self.owner.float64 if self.is_real else self.owner.bool
        return self.owner.asarray(self.value.item(), dtype=dtype).dtype

    shape, ndim, size = (), 0, 1

    def __neg__(self) -> "Number":
        return self.of(-self.value)

    def __pos__(self) -> "Number":
        return self

    def __abs__(self) -> "Number":
        return self.of(abs(self.value))

    def __invert__(self) -> "Number":
        return self.of(~self.value)

    def __bool__(self) -> bool:
        return bool(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __repr__(self) -> str:
        return repr(self.value.item())

    # NumPy's own functions, which a rule may call that runs on NumPy arrays alone.
    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        arrays = [x for x in inputs if hasattr(x, "dtype") and not isinstance(x, Number)]
        values = [
            x if not isinstance(x, Number) else x.beside(arrays[0]) if arrays else x.value
            for x in map(plain, inputs)
        ]
        result = getattr(ufunc, method)(*values, **keywords)
        is_one = not arrays and isinstance(result, np.float64 | np.bool_)
        return self.of(result) if is_one else result

    def __array_function__(self, function: Any, types: Any, inputs: Any, keywords: Any) -> Any:
        return function(*map(value_of, inputs), **{k: value_of(v) for k, v in keywords.items()})

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(self.value, dtype=dtype)

    __hash__ = None  # type: ignore[assignment]


def value_of(x: Any) -> Any:
    """Return a number as one of Python, and all else as it is."""
    return x.value.item() if isinstance(x, Number) else plain(x)


def _operator(function: Callable[[Any, Any], Any], *, reverse: bool) -> Callable[..., Any]:
    def method(self: Number, other: Any) -> Any:
        other = plain(other)
        if is_number(other):
            other = self.of(other)
        if isinstance(other, Number):
            a, b = self.value, other.value
        elif hasattr(other, "dtype"):
            a, b = self.beside(other), other
        else:
            return NotImplemented
        with np.errstate(all="ignore"):
            result = function(b, a) if reverse else function(a, b)
        return self.of(result) if isinstance(other, Number) else result

    return method


def _power(base: Any, exponent: Any) -> Any:
    # The square is a product, as in a trace.
    return base * base if isinstance(exponent, np.float64) and exponent == 2 else base**exponent


for _name, (_, _function) in {**BINARY, "pow": ("**", _power)}.items():
    setattr(Number, f"__{_name}__", _operator(_function, reverse=False))
    setattr(Number, f"__r{_name}__", _operator(_function, reverse=True))
for _name, (_, _function) in COMPARISONS.items():
    setattr(Number, f"__{_name}__", _operator(_function, reverse=False))

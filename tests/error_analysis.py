"""Running error analysis: numbers that carry a bound on the error of floating-point arithmetic.

A `Rounded` holds a value in extended precision and a bound on how far the same expression can be
from it when it is evaluated in a narrower format, each operation being rounded to nearest (Higham
2002, Accuracy and Stability of Numerical Algorithms, sections 2.2 and 3.3). So the bound of a
test is derived from the textbook loop itself, element by element, and not chosen.
"""

import numpy as np


class Rounded:
    """An array with a bound on its error in arithmetic of the format `dtype`."""

    def __init__(self, value, dtype, error=0.0):
        self.value = np.asarray(value, dtype=np.longdouble)
        self.error = np.broadcast_to(np.asarray(error, dtype=np.longdouble), self.value.shape)
        self.dtype = dtype
        info = np.finfo(dtype)
        self.unit = np.longdouble(info.eps) / 2  # |fl(x) - x| <= unit * |fl(x)|, or
        self.underflow = np.longdouble(info.smallest_subnormal) / 2  # this, below the normal range

    @property
    def ndim(self):
        return self.value.ndim

    @property
    def size(self):
        return self.value.size

    def rounded(self, value, error):
        """Return the result of one operation: `error` inherited, and a rounding added."""
        rounding = self.unit * (abs(value) + error) + self.underflow
        exact = (value == 0) & (error == 0)
        return Rounded(value, self.dtype, np.where(exact, 0.0, error + rounding))

    def operand(self, other):
        """Return `other` as an operand; a Python float is rounded to the format first."""
        if isinstance(other, Rounded):
            return other
        exact = isinstance(other, int) or float(other).is_integer()
        return Rounded(other, self.dtype) if exact else self.rounded(np.longdouble(other), 0.0)

    def __neg__(self):
        return Rounded(-self.value, self.dtype, self.error)

    def __add__(self, other):
        other = self.operand(other)
        return self.rounded(self.value + other.value, self.error + other.error)

    def __sub__(self, other):
        return self + -self.operand(other)

    def __rsub__(self, other):
        return self.operand(other) - self

    def __mul__(self, other):
        other = self.operand(other)
        error = (
            abs(self.value) * other.error + abs(other.value) * self.error + self.error * other.error
        )
        return self.rounded(self.value * other.value, error)

    def __truediv__(self, other):
        other = self.operand(other)
        smallest = abs(other.value) - other.error
        with np.errstate(divide="ignore", invalid="ignore"):
            value = self.value / other.value
            error = (self.error + abs(value) * other.error) / smallest
        return self.rounded(value, np.where(smallest > 0, error, np.inf))

    __radd__ = __add__
    __rmul__ = __mul__

    def __rtruediv__(self, other):
        return self.operand(other) / self

    # Comparisons are of the values: for numbers that are far from what they are compared with.
    def __gt__(self, other):
        return self.value > other

    def __lt__(self, other):
        return self.value < other

    def __array_function__(self, function, types, operands, keywords):
        return {np.where: _where, np.sum: _sum}[function](
            *(x if isinstance(x, np.ndarray) else self.operand(x) for x in operands)
        )

    def __array_ufunc__(self, ufunc, method, *operands, **keywords):
        assert method == "__call__"
        assert not keywords
        return _FUNCTIONS[ufunc](*(self.operand(operand) for operand in operands))


def _sqrt(x):
    value = np.sqrt(x.value)
    below = value - np.sqrt(np.maximum(x.value - x.error, 0.0))
    above = np.sqrt(x.value + x.error) - value
    return x.rounded(value, np.maximum(below, above))


def _sign(x):
    certain = (abs(x.value) > x.error) | (x.error == 0)
    return Rounded(np.sign(x.value), x.dtype, np.where(certain, 0.0, 2.0))


def _maximum(x, y):
    return Rounded(np.maximum(x.value, y.value), x.dtype, np.maximum(x.error, y.error))


def _minimum(x, y):
    return Rounded(np.minimum(x.value, y.value), x.dtype, np.maximum(x.error, y.error))


def _absolute(x):
    return Rounded(abs(x.value), x.dtype, x.error)


def _where(condition, x, y):
    value, error = np.where(condition, x.value, y.value), np.where(condition, x.error, y.error)
    return Rounded(value, x.dtype, error)


def _sum(x):
    # A canonical sum, in float64, of one tile: a lane adds 16 numbers, 10 folds add the lanes.
    adding = 26 * np.finfo("float64").eps / 2 * np.sum(abs(x.value) + x.error)
    return x.rounded(np.sum(x.value), np.sum(x.error) + adding)


_FUNCTIONS = {
    np.sqrt: _sqrt,
    np.absolute: _absolute,
    np.sign: _sign,
    np.maximum: _maximum,
    np.minimum: _minimum,
    # A NumPy number on the left of an operator comes this way.
    np.multiply: lambda x, y: x * y,
    np.subtract: lambda x, y: x - y,
    np.add: lambda x, y: x + y,
    np.true_divide: lambda x, y: x / y,
}

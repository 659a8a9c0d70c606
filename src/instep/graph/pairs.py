"""Complex numbers as pairs of real ones: what a rule is called with for complex parameters.

Products, quotients and roots are written on real and imaginary parts, in one order, so that a
graph stays real, and every engine computes the same bits. Libraries do not: NumPy's product of
complex64 is fused on some machines, and its quotient scaled in another way than CuPy's.
"""

from collections.abc import Callable
from typing import Any, Never, Self

from instep import numerics
from instep.graph.errors import RuleError
from instep.graph.functions import Functions
from instep.graph.host_expressions import beside


class PairNamespace:
    """The array namespace `xp` of a rule for complex parameters.

    Parameters
    ----------
    rule
        Its name, for messages.
    parts
        The namespace of real and imaginary parts, and of all that is real.
    """

    def __init__(self, rule: str, parts: Functions) -> None:
        self.rule, self.parts = rule, parts

    def __getattr__(self, name: str) -> Any:
        function, of_parts = _FUNCTIONS.get(name), getattr(self.parts, name)
        if not callable(of_parts) or isinstance(of_parts, type):
            return of_parts  # a dtype or a constant

        def chosen(*values: Any, **keywords: Any) -> Any:
            given = (*values, *keywords.values())
            if not any(isinstance(x, Pair | complex) for x in given):
                return of_parts(*values, **keywords)
            if function is None:
                self.refuse(f"xp.{name} is given complex numbers, for which it has no meaning")
            return function(self, *values, **keywords)

        return chosen

    def apply(self, function: Callable[..., Any], x: Any, *slots: Any, **numbers: Any) -> Any:
        """Apply a function of the array library to the whole of `x`."""
        x = self.parts.join(x.re, x.im) if isinstance(x, Pair) else x
        result = self.parts.apply(function, x, *slots, **numbers)
        return tuple(map(self._from_whole, result)) if slots else self._from_whole(result)

    def _from_whole(self, x: Any) -> Any:
        return x if self.parts.split(x) is None else self.pair(x)

    def complex(self, re: Any, im: Any) -> "Pair":
        """Return the complex numbers with these parts."""
        like = im if isinstance(re, int | float) else re
        re, im = (
            self.parts.full_like(like, x) if isinstance(x, int | float) else x for x in (re, im)
        )
        return Pair(self, re, im)

    def pair(self, x: Any) -> "Pair":
        """Return `x` as a pair: an array of complex numbers, or what is real."""
        if isinstance(x, Pair):
            return x
        if isinstance(x, complex):
            return Pair(self, x.real, x.imag)
        parts = self.parts.split(x)
        return Pair(self, *((x, self.parts.imag(x)) if parts is None else parts))

    def refuse(self, what: str) -> Never:
        """Raise a RuleError."""
        raise RuleError(
            f"{self.rule}.rule: {what}; take their magnitudes, xp.abs(x), or set "
            f'complex="pairs", by which real and imaginary parts are numbers of their own'
        )


def _refusing(what: str) -> Callable[..., Never]:
    def method(self: "Pair", *_: Any) -> Never:
        self.xp.refuse(what)

    return method


class Pair:
    """Complex numbers: a real and an imaginary part, with the operators of an array."""

    __slots__ = ()  # see `beside`
    xp: PairNamespace
    re: Any
    im: Any

    #: NumPy leaves its own numbers and arrays beside one to the operators here.
    __array_ufunc__ = None

    def __new__(cls, xp: PairNamespace, re: Any, im: Any) -> Self:
        types: tuple[Any, Any] = cls, type(re)
        new: Self = object.__new__(beside(*types, ("im", "re", "xp")))
        return new

    def __init__(self, xp: PairNamespace, re: Any, im: Any) -> None:
        self.xp, self.re, self.im = xp, re, im  # type: ignore[misc]  # slots of derived classes

    @property
    def dtype(self) -> Any:
        """The dtype of the parts."""
        return self.re.dtype

    @property
    def shape(self) -> Any:
        """The shape of an array of such numbers."""
        return self.re.shape

    def map(self, function: Callable[[Any], Any]) -> "Pair":
        """Return the pair of what a function makes of the parts."""
        return Pair(self.xp, function(self.re), function(self.im))

    def __neg__(self) -> "Pair":
        return Pair(self.xp, -self.re, -self.im)

    def __pos__(self) -> "Pair":
        return self

    def __add__(self, other: Any) -> "Pair":
        if not isinstance(other, Pair | complex):
            return Pair(self.xp, self.re + other, self.im)
        other = self.xp.pair(other)
        return Pair(self.xp, self.re + other.re, self.im + other.im)

    def __radd__(self, other: Any) -> "Pair":
        if isinstance(other, complex):
            return self.xp.pair(other) + self
        return Pair(self.xp, other + self.re, self.im)

    def __sub__(self, other: Any) -> "Pair":
        if not isinstance(other, Pair | complex):
            return Pair(self.xp, self.re - other, self.im)
        other = self.xp.pair(other)
        return Pair(self.xp, self.re - other.re, self.im - other.im)

    def __rsub__(self, other: Any) -> "Pair":
        if isinstance(other, complex):
            return self.xp.pair(other) - self
        return Pair(self.xp, other - self.re, -self.im)

    def __mul__(self, other: Any) -> "Pair":
        if not isinstance(other, Pair | complex):
            return Pair(self.xp, self.re * other, self.im * other)
        other = self.xp.pair(other)
        return Pair(
            self.xp,
            self.re * other.re - self.im * other.im,
            self.re * other.im + self.im * other.re,
        )

    def __rmul__(self, other: Any) -> "Pair":
        if isinstance(other, complex):
            return self.xp.pair(other) * self
        return Pair(self.xp, other * self.re, other * self.im)

    def __truediv__(self, other: Any) -> "Pair":
        if not isinstance(other, Pair | complex):
            return Pair(self.xp, self.re / other, self.im / other)
        if isinstance(other, complex):
            other = _filled(self.xp, self, other)
        return _quotient(self, other)

    def __rtruediv__(self, other: Any) -> "Pair":
        return _quotient(self.xp.pair(other) if isinstance(other, complex) else other, self)

    def __pow__(self, exponent: Any) -> "Pair":
        if isinstance(exponent, int | float) and exponent == 2:
            return self * self
        self.xp.refuse("complex numbers are raised to a power; write it out as a product")

    def __abs__(self) -> Any:
        return _abs(self.xp, self)

    def __eq__(self, other: object) -> Any:
        other = self.xp.pair(other)
        return (self.re == other.re) & (self.im == other.im)

    def __ne__(self, other: object) -> Any:
        other = self.xp.pair(other)
        return (self.re != other.re) | (self.im != other.im)

    __hash__ = None  # type: ignore[assignment]

    __lt__ = __le__ = __gt__ = __ge__ = _refusing(
        "it compares complex numbers, which have no order"
    )
    __bool__ = _refusing("it branches on the value of a complex number; use xp.where")
    __float__ = __int__ = __complex__ = __index__ = __bool__
    __rpow__ = __mod__ = __floordiv__ = __matmul__ = __and__ = __or__ = __xor__ = __invert__ = (
        _refusing("it applies an operator to complex numbers that has no meaning for each of them")
    )
    __getitem__ = __iter__ = __len__ = _refusing("it needs the elements of an array one by one")


# What the names of the array API mean for pairs -------------------------------------------


def _abs_sq(xp: PairNamespace, z: Pair) -> Any:
    return z.re * z.re + z.im * z.im


def _scaled(z: Pair) -> tuple[Pair, Any, Any]:
    """Return a pair in float64 whose squares are in its range, its factor, and what undoes that.

    All of float32 are; of float64 they are made so by a power of two, which rounds nothing.
    """
    xp = z.xp.parts
    wide = _widen(xp)
    if z.dtype != xp.float64:
        return z.map(wide), 1.0, 1.0
    largest = xp.maximum(abs(z.re), abs(z.im))
    is_large, is_small = largest > 2.0**500, largest < 2.0**-500
    one, up, down = (wide(x) for x in (1.0, 2.0**600, 2.0**-600))
    factor = xp.where(is_large, down, xp.where(is_small, up, one))
    undo = xp.where(is_large, up, xp.where(is_small, down, one))
    return z.map(lambda part: part * factor), factor, undo


def _times(x: Any, factor: Any) -> Any:
    return x if isinstance(factor, float) else x * factor


def _abs(xp: PairNamespace, z: Pair) -> Any:
    scaled, _, undo = _scaled(z)
    return xp.parts.astype(_times(xp.parts.sqrt(_abs_sq(xp, scaled)), undo), z.dtype)


def _sign(xp: PairNamespace, z: Pair) -> Pair:
    """Return ``z / abs(z)``, and 0 for 0: NaN where a part is infinite or NaN."""
    scaled, _, _ = _scaled(z)
    size = xp.parts.sqrt(_abs_sq(xp, scaled))
    return scaled.map(
        lambda part: xp.parts.astype(xp.parts.where(size == 0, 0.0, part / size), z.dtype)
    )


def _quotient(a: Any, b: Pair) -> Pair:
    """Return ``(a / abs(b)) * (conj(b) / abs(b))``, computed in float64; `a` may be real."""
    xp = b.xp.parts
    scaled, factor, _ = _scaled(b)
    size = xp.sqrt(_abs_sq(b.xp, scaled))
    wide = a.map(_widen(xp)) if isinstance(a, Pair) else _widen(xp)(a)
    quotient: Pair = _times(wide, factor) / size * Pair(b.xp, scaled.re / size, -scaled.im / size)
    narrow = xp.float64 if xp.float64 in (b.dtype, getattr(a, "dtype", b.dtype)) else b.dtype
    return quotient.map(lambda part: xp.astype(part, narrow))


def _widen(xp: Functions) -> Callable[[Any], Any]:
    return lambda x: xp.astype(x, xp.float64)


def _sqrt(xp: PairNamespace, z: Pair) -> Pair:
    """Return the principal root: its real part is not negative."""
    parts = xp.parts
    wide = z.map(_widen(parts))
    root = parts.sqrt(0.5 * _abs(xp, wide) + 0.5 * abs(wide.re))
    other = parts.where(root == 0, 0.0, wide.im / (2 * root))
    is_right = wide.re >= 0
    re = parts.where(is_right, root, abs(other))
    im = parts.where(is_right, other, parts.copysign(root, wide.im))
    return Pair(xp, parts.astype(re, z.dtype), parts.astype(im, z.dtype))


def _where(xp: PairNamespace, condition: Any, a: Any, b: Any) -> Pair:
    if isinstance(condition, Pair):
        xp.refuse("the condition of xp.where is a complex number; compare, as in xp.abs(x) > 0")
    a, b, where = xp.pair(a), xp.pair(b), xp.parts.where
    return Pair(xp, where(condition, a.re, b.re), where(condition, a.im, b.im))


def _clip_abs(xp: PairNamespace, z: Pair, limit: Any) -> Pair:
    return _where(xp, _abs(xp, z) > limit, _sign(xp, z) * limit, z)


def _either(name: str) -> Callable[..., Any]:
    def function(xp: PairNamespace, z: Pair) -> Any:
        predicate = getattr(xp.parts, name)
        return predicate(z.re) | predicate(z.im)

    return function


def _each(name: str) -> Callable[..., Any]:
    def function(xp: PairNamespace, z: Pair, **keywords: Any) -> Pair:
        return z.map(lambda part: getattr(xp.parts, name)(part, **keywords))

    return function


def _filled(xp: PairNamespace, x: Any, value: Any, **keywords: Any) -> Any:
    like, filling = (x.re if isinstance(x, Pair) else x), xp.pair(value)
    return filling.map(lambda part: xp.parts.full_like(like, part, **keywords))


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": lambda xp, a, b: a + b,
    "subtract": lambda xp, a, b: a - b,
    "multiply": lambda xp, a, b: a * b,
    "divide": lambda xp, a, b: a / b,
    "equal": lambda xp, a, b: a == b,
    "not_equal": lambda xp, a, b: a != b,
    "negative": lambda xp, z: -z,
    "positive": lambda xp, z: z,
    "square": lambda xp, z: z * z,
    "conj": lambda xp, z: Pair(xp, z.re, -z.im),
    "real": lambda xp, z: z.re,
    "imag": lambda xp, z: z.im,
    "abs": _abs,
    "abs_sq": _abs_sq,
    "sign": _sign,
    "sqrt": _sqrt,
    "where": _where,
    "clip_abs": _clip_abs,
    "constrained": lambda xp, z: z,
    "isnan": _either("isnan"),
    "isinf": _either("isinf"),
    "isfinite": lambda xp, z: xp.parts.isfinite(z.re) & xp.parts.isfinite(z.im),
    "astype": lambda xp, z, dtype, **keywords: z.map(
        lambda part: xp.parts.astype(part, dtype, **keywords)
    ),
    "sum": _each("sum"),
    "tree_sum": _each("tree_sum"),
    "norm": lambda xp, z: numerics.norm(xp.parts, z.re, z.im),
    "tree_norm": lambda xp, z: numerics.tree_norm(xp.parts, z.re, z.im),
    "zeros_like": lambda xp, z, **keywords: _filled(xp, z, 0j, **keywords),
    "ones_like": lambda xp, z, **keywords: _filled(xp, z, 1 + 0j, **keywords),
    "full_like": _filled,
}

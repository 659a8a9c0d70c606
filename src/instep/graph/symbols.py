"""What a rule is called with when it is traced: symbols that record what is done with them."""

import enum
from collections.abc import Callable
from typing import Any, Never, Protocol

from instep import numerics
from instep.graph import nodes
from instep.graph.host_expressions import BINARY, COMPARISONS, FUNCTIONS, OPERATORS, is_number
from instep.graph.pairs import Pair

#: NumPy's functions that stand for an operator, which NumPy calls for its numbers and arrays.
_UFUNCS = {*nodes.ARITHMETIC, *nodes.COMPARISONS} - {"copysign"}


class Recorder(Protocol):
    """What symbols ask of the recorder of their trace."""

    def binary(self, operation: str, a: Any, b: Any) -> "TracedArray": ...
    def unary(self, operation: str, x: Any) -> "TracedArray": ...
    def source(self, x: Any) -> str: ...
    def fail(self, what: str, remedy: str) -> Never: ...
    def refuse(self, what: str, remedy: str) -> Never: ...


#: Functions of xp that every engine has: NumPy's are not called in their place.
_OF_XP = frozenset(
    {
        *(*FUNCTIONS, *OPERATORS, *numerics.CANONICAL, "sum", "max"),
        *("zeros_like", "ones_like", "full_like", "conj", "real", "imag"),
    }
)

#: What NumPy's functions are called in xp, where that is another name.
_OTHER_NAMES = {
    "absolute": "abs",
    "amax": "max",
    "conjugate": "conj",
    "fabs": "abs",
    "rint": "round",
}


class _Traced:
    """What becomes of a symbol in the hands of NumPy."""

    __slots__ = ("recorder",)

    recorder: Recorder

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        if ufunc.__name__ in _UFUNCS and method == "__call__" and not keywords:
            return self.recorder.binary(ufunc.__name__, *inputs)
        self._refuse(f"np.{ufunc.__name__}")

    def __array_function__(self, function: Any, types: Any, inputs: Any, keywords: Any) -> Never:
        self._refuse(f"{function.__module__}.{function.__name__}".replace("numpy", "np", 1))

    def _refuse(self, function: str) -> Never:
        name = function.rpartition(".")[2]
        name = _OTHER_NAMES.get(name, name)
        if name in _OF_XP:
            self.recorder.refuse(
                f"calls {function}, which means something else for each array library",
                f"call xp.{name}",
            )
        self.recorder.fail(
            f"it calls {function}, which is given a stand-in for an array or hyperparameter",
            f"call the functions of xp, as in xp.{name}",
        )


class WholeSlot:
    """A slot of another shape than the parameter's: it may only be handed to `xp.apply`."""

    __slots__ = ("call", "name", "recorder")

    def __init__(self, recorder: Recorder, name: str, call: int | None = None) -> None:
        self.recorder, self.name, self.call = recorder, name, call

    def refuse(self, *_: Any) -> Never:
        """Raise a FusionError that says what such a slot is for."""
        self.recorder.fail(
            f"it works on the slot {self.name!r}, which has another shape than the parameter",
            "hand such a slot to the function of xp.apply only",
        )

    __getattr__ = __getitem__ = __neg__ = __abs__ = refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __pow__ = refuse
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rpow__ = refuse


class TracedScalar(_Traced):
    """Arithmetic on hyperparameters: Python source, evaluated on the host at every step."""

    __slots__ = ("boolean", "source")

    def __init__(self, recorder: Recorder, source: str, boolean: bool = False) -> None:
        self.recorder, self.source, self.boolean = recorder, source, boolean

    def __neg__(self) -> "TracedScalar":
        return TracedScalar(self.recorder, f"(-{self.source})")

    def __pos__(self) -> "TracedScalar":
        return self

    def __abs__(self) -> "TracedScalar":
        return self._call("abs")

    def __round__(self, digits: int | None = None) -> "TracedScalar":
        return self._call("round", *(() if digits is None else (digits,)))

    def __floor__(self) -> "TracedScalar":
        return self._call("math.floor")

    def __ceil__(self) -> "TracedScalar":
        return self._call("math.ceil")

    def __trunc__(self) -> "TracedScalar":
        return self._call("math.trunc")

    def _call(self, function: str, *others: Any) -> "TracedScalar":
        texts = [self.source, *(self.recorder.source(other) for other in others)]
        return TracedScalar(self.recorder, f"{function}({', '.join(texts)})")

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __invert__(self) -> Never:
        self.recorder.fail(f"it inverts {self.source}", "call xp.logical_not")

    def _decide(self, *_: Any) -> Never:
        self.recorder.fail(
            f"it needs the value of the hyperparameter expression {self.source}",
            "compute what depends on the value in the method `scalars`, which runs once a step",
        )

    __bool__ = __float__ = __int__ = __index__ = __complex__ = __array__ = _decide
    __hash__ = None  # type: ignore[assignment]


def _expression(name: str, symbol: str, reverse: bool = False) -> Callable[..., Any]:
    """Return the method that writes an operator on numbers alone into a host expression."""
    compares = name in COMPARISONS

    def method(self: TracedScalar, other: Any) -> Any:
        if isinstance(other, TracedScalar):
            both_boolean = self.boolean and other.boolean
        elif is_number(other):
            both_boolean = self.boolean and isinstance(other, bool)
        else:
            return NotImplemented
        texts = [self.source, self.recorder.source(other)]
        left, right = reversed(texts) if reverse else texts
        boolean = compares or (symbol in "&|^" and both_boolean)
        return TracedScalar(self.recorder, f"({left} {symbol} {right})", boolean)

    return method


for _name, (_symbol, _) in BINARY.items():
    setattr(TracedScalar, f"__{_name}__", _expression(_name, _symbol))
    setattr(TracedScalar, f"__r{_name}__", _expression(_name, _symbol, reverse=True))
for _name, (_symbol, _) in COMPARISONS.items():
    setattr(TracedScalar, f"__{_name}__", _expression(_name, _symbol))


def _arithmetic(operation: str, reverse: bool = False) -> Callable[..., Any]:
    def method(self: "TracedArray", other: Any) -> Any:
        if isinstance(other, Pair):
            return NotImplemented
        operands = (other, self) if reverse else (self, other)
        return self.recorder.binary(operation, *operands)

    return method


class Extent(enum.IntEnum):
    """What a value is one of. What is made of several is as their widest."""

    NUMBER = 0  # float64, as sums leave it: beside an array it is rounded to the dtype of that
    TYPED = 1  # without dimensions, but with a dtype of its own, as an array has
    FULL = 2  # the values of an array of the shape of the parameter


class TracedArray(_Traced):
    """A value of one element, or a number, with the operators of an array-API array."""

    __slots__ = ("dtype", "extent", "position")

    def __init__(self, recorder: Recorder, position: int, dtype: str, extent: Extent) -> None:
        self.recorder, self.position, self.dtype, self.extent = recorder, position, dtype, extent

    @property
    def full(self) -> bool:
        """Whether it has the shape of the parameter; otherwise it has no dimensions."""
        return self.extent is Extent.FULL

    @property
    def number(self) -> bool:
        """Whether it is a number, which has no dtype of its own."""
        return self.extent is Extent.NUMBER

    def widened(self, extent: Extent = Extent.FULL) -> "TracedArray":
        """Return the same value as one of this extent, if its own is not wider."""
        return TracedArray(self.recorder, self.position, self.dtype, max(extent, self.extent))

    __add__ = _arithmetic("add")
    __radd__ = _arithmetic("add", reverse=True)
    __sub__ = _arithmetic("subtract")
    __rsub__ = _arithmetic("subtract", reverse=True)
    __mul__ = _arithmetic("multiply")
    __rmul__ = _arithmetic("multiply", reverse=True)
    __truediv__ = _arithmetic("divide")
    __rtruediv__ = _arithmetic("divide", reverse=True)
    __lt__ = _arithmetic("less")
    __le__ = _arithmetic("less_equal")
    __gt__ = _arithmetic("greater")
    __ge__ = _arithmetic("greater_equal")
    __eq__ = _arithmetic("equal")
    __ne__ = _arithmetic("not_equal")
    __and__ = __rand__ = _arithmetic("logical_and")
    __or__ = __ror__ = _arithmetic("logical_or")
    __xor__ = __rxor__ = _arithmetic("logical_xor")
    __hash__ = None  # type: ignore[assignment]

    def __neg__(self) -> "TracedArray":
        return self.recorder.unary("negative", self)

    def __pos__(self) -> "TracedArray":
        return self

    def __abs__(self) -> "TracedArray":
        return self.recorder.unary("abs", self)

    def __invert__(self) -> "TracedArray":
        return self.recorder.unary("logical_not", self)

    def __pow__(self, exponent: Any) -> "TracedArray":
        # NumPy's x**3 and x*x*x differ in a quarter of cases; only the square is safe.
        if is_number(exponent) and exponent == 2:
            return self.recorder.binary("multiply", self, self)
        self.recorder.fail(
            f"it raises an array to the power {getattr(exponent, 'source', exponent)}",
            "write powers out as multiplications (x*x*x)",
        )

    def __rpow__(self, base: Any) -> Never:
        self.recorder.fail(
            "it raises a number to the power of an array",
            "use exactly rounded operations only",
        )

    def _decide(self) -> Never:
        if self.full:
            self.recorder.refuse(
                "branches on the value of an array, which has one for each element",
                "choose by xp.where, xp.minimum or xp.maximum, and join conditions by & | ~",
            )
        self.recorder.fail("it branches on the value of an array", "use xp.where")

    def _convert(self, *_: Any) -> Never:
        if self.full:
            self.recorder.refuse(
                "makes one number of an array, which has one for each element",
                "call the functions of xp, as in xp.sqrt, in place of float() and of those of math",
            )
        self.recorder.fail(
            "it makes a number of Python of one that is known in the midst of a step",
            "call the functions of xp",
        )

    __bool__ = _decide
    __float__ = __int__ = __index__ = __complex__ = __round__ = _convert
    __floor__ = __ceil__ = __trunc__ = _convert

    def _list(self, *_: Any) -> Never:
        self.recorder.fail(
            "it needs the elements of an array one by one",
            "a rule computes each element from the same element of every array",
        )

    __iter__ = __len__ = __contains__ = __array__ = _list

    def _in_place(self, _: Any) -> Never:
        self.recorder.fail("it changes an array in place", "write x = x + y for x += y")

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = _in_place
    __iand__ = __ior__ = __ixor__ = _in_place

    def __setitem__(self, key: Any, value: Any) -> Never:
        self._in_place(value)

    def __getattr__(self, name: str) -> Never:
        self.recorder.fail(
            f"it uses the attribute {name!r} of an array",
            "a rule computes each element from the same element of every array",
        )

    def __getitem__(self, key: Any) -> Never:
        self.recorder.fail(
            "it indexes an array",
            "a rule computes each element from the same element of every array",
        )

"""What a rule is called with when it is traced: symbols that record what is done with them."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Never

from instep.graph.nodes import Array, Call, Node, Sum, sum_number

_WIDTH = {"bool": 0, "float32": 1, "float64": 2}


class FusionError(TypeError):
    """A rule uses an operation that cannot be compiled into a fused kernel."""


class Recorder:
    """The growing list of nodes of one trace."""

    def __init__(self, rule: str, compute: str) -> None:
        self.rule = rule
        self.compute = compute
        self.nodes: list[Node] = []
        self.scalars: list[str] = []
        self.sums: list[Sum] = []
        self.calls: list[Call] = []
        self.between: list[Array] = []
        self.guards: list[int] = []
        self._positions: dict[Node, int] = {}

    def fail(self, what: str, remedy: str) -> Never:
        """Raise a FusionError that names the rule, the operation, and the way out."""
        raise FusionError(
            f"{self.rule}.rule cannot be fused: {what}; {remedy}, or run the rule as it is "
            f'with engine="array_api"'
        )

    def next_sum(self, scope: str) -> int:
        """Return the number of the sum that is recorded next, if it is over `scope`."""
        return sum_number(sum(entry.scope == scope for entry in self.sums), scope)

    def check_whole(self, returned: Mapping[str, Any]) -> None:
        """Raise unless every slot of another shape is returned as `xp.apply` has left it."""
        for name, value in returned.items():
            calls = [number for number, call in enumerate(self.calls) if name in call.slots]
            expected = (name, calls[-1] if calls else None)
            if not isinstance(value, WholeSlot) or (value.name, value.call) != expected:
                self.fail(
                    f"it does not return the slot {name!r} as xp.apply has left it",
                    f"return what xp.apply gives for it under the name {name!r}",
                )

    def add(
        self,
        operation: str,
        operands: tuple["TracedArray", ...],
        dtype: str,
        value: str | float | None = None,
    ) -> "TracedArray":
        """Record one operation, or find the equal one that was recorded before."""
        node = Node(operation, tuple(operand.position for operand in operands), dtype, value)
        # A constant is told apart by its bits: 0.0 and -0.0 are equal and hash equally.
        key = node if operation != "constant" else Node(operation, (), dtype, repr(value))
        position = self._positions.get(key)
        if position is None:
            position = self._positions[key] = len(self.nodes)
            self.nodes.append(node)
        return TracedArray(self, position, dtype)

    def load(self, array: Array) -> "TracedArray":
        """Record the load of an array, as a value of the compute dtype."""
        return self.cast(self.add("load", (), array.dtype, array.name), self.compute)

    def cast(self, x: "TracedArray", dtype: str) -> "TracedArray":
        """Record a conversion, where one is needed."""
        return x if x.dtype == dtype else self.add("cast", (x,), dtype)

    def array(self, x: Any, dtype: str | None = None) -> "TracedArray":
        """Return `x`, a traced array, traced scalar or number, as a traced array."""
        if isinstance(x, TracedArray):
            return x
        if isinstance(x, WholeSlot):
            x.refuse()
        dtype = dtype or self.compute
        if isinstance(x, TracedScalar):
            if x.source not in self.scalars:
                self.scalars.append(x.source)
            return self.add("scalar", (), dtype, self.scalars.index(x.source))
        if isinstance(x, bool):
            return self.add("constant", (), "bool", x)
        if isinstance(x, int | float):
            return self.add("constant", (), dtype, float(x))
        self.fail(f"a {type(x).__name__} stands among its operands", "use arrays and numbers only")

    def promote(self, *values: Any) -> tuple["TracedArray", ...]:
        """Return the values as traced arrays of one dtype: the widest among the arrays."""
        dtypes = [x.dtype for x in values if isinstance(x, TracedArray) and x.dtype != "bool"]
        dtype = max(dtypes, key=_WIDTH.__getitem__, default=self.compute)
        arrays = [self.array(x, dtype) for x in values]
        if all(x.dtype == "bool" for x in arrays):
            return tuple(arrays)
        if any(x.dtype == "bool" for x in arrays):
            self.fail(
                "it mixes a boolean and a real array in one operation",
                "write xp.where(condition, 1.0, 0.0)",
            )
        return tuple(self.cast(x, dtype) for x in arrays)


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


class TracedScalar:
    """Arithmetic on hyperparameters: Python source, evaluated on the host at every step."""

    __slots__ = ("recorder", "source")
    __array_ufunc__ = None

    def __init__(self, recorder: Recorder, source: str) -> None:
        self.recorder, self.source = recorder, source

    def _binary(self, other: Any, symbol: str, reverse: bool = False) -> Any:
        if isinstance(other, TracedScalar):
            text = other.source
        elif isinstance(other, int | float) and math.isfinite(other):
            text = repr(other) if other >= 0 else f"({other!r})"
        else:
            return NotImplemented
        left, right = (text, self.source) if reverse else (self.source, text)
        return TracedScalar(self.recorder, f"({left} {symbol} {right})")

    def __add__(self, other: Any) -> Any:
        return self._binary(other, "+")

    def __radd__(self, other: Any) -> Any:
        return self._binary(other, "+", reverse=True)

    def __sub__(self, other: Any) -> Any:
        return self._binary(other, "-")

    def __rsub__(self, other: Any) -> Any:
        return self._binary(other, "-", reverse=True)

    def __mul__(self, other: Any) -> Any:
        return self._binary(other, "*")

    def __rmul__(self, other: Any) -> Any:
        return self._binary(other, "*", reverse=True)

    def __truediv__(self, other: Any) -> Any:
        return self._binary(other, "/")

    def __rtruediv__(self, other: Any) -> Any:
        return self._binary(other, "/", reverse=True)

    def __pow__(self, other: Any) -> Any:
        return self._binary(other, "**")

    def __rpow__(self, other: Any) -> Any:
        return self._binary(other, "**", reverse=True)

    def __neg__(self) -> "TracedScalar":
        return TracedScalar(self.recorder, f"(-{self.source})")

    def __pos__(self) -> "TracedScalar":
        return self

    def __abs__(self) -> "TracedScalar":
        return TracedScalar(self.recorder, f"abs({self.source})")

    def _decide(self, *_: Any) -> Never:
        self.recorder.fail(
            f"it needs the value of the hyperparameter expression {self.source}",
            "compute what depends on the value in the method `scalars`, which runs once a step",
        )

    __bool__ = __float__ = __int__ = __index__ = _decide
    __lt__ = __le__ = __gt__ = __ge__ = _decide
    __eq__ = __ne__ = _decide
    __hash__ = None  # type: ignore[assignment]


def _arithmetic(operation: str, reverse: bool = False) -> Callable[..., Any]:
    def method(self: "TracedArray", other: Any) -> Any:
        return (
            self.binary(operation, other, self) if reverse else self.binary(operation, self, other)
        )

    return method


class TracedArray:
    """A value of one element, with the operators of an array-API array."""

    __slots__ = ("dtype", "position", "recorder")
    __array_ufunc__ = None

    def __init__(self, recorder: Recorder, position: int, dtype: str) -> None:
        self.recorder, self.position, self.dtype = recorder, position, dtype

    def binary(self, operation: str, a: Any, b: Any) -> "TracedArray":
        """Record an operation on two values."""
        recorder = self.recorder
        x, y = recorder.promote(a, b)
        logical = operation.startswith("logical_")
        if logical != (x.dtype == "bool") and operation not in ("equal", "not_equal"):
            recorder.fail(
                f"{operation} is applied to {x.dtype} values",
                "use comparisons to make booleans, and xp.where to use them",
            )
        compares = operation.startswith(("less", "greater", "equal", "not_equal"))
        if compares and x.dtype == "bool":
            recorder.fail(f"{operation} compares booleans", "use & | ^ ~")
        return recorder.add(operation, (x, y), "bool" if compares else x.dtype)

    def unary(self, operation: str) -> "TracedArray":
        """Record an operation on this value."""
        if (operation == "logical_not") != (self.dtype == "bool"):
            self.recorder.fail(
                f"{operation} is applied to a {self.dtype} value", "use & | ^ ~ on booleans only"
            )
        return self.recorder.add(operation, (self,), self.dtype)

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
        return self.unary("negative")

    def __pos__(self) -> "TracedArray":
        return self

    def __abs__(self) -> "TracedArray":
        return self.unary("abs")

    def __invert__(self) -> "TracedArray":
        return self.unary("logical_not")

    def __pow__(self, exponent: Any) -> "TracedArray":
        # NumPy's x**3 and x*x*x differ in a quarter of cases; only the square is safe.
        if isinstance(exponent, int | float) and exponent == 2:
            return self.binary("multiply", self, self)
        self.recorder.fail(
            f"it raises an array to the power {getattr(exponent, 'source', exponent)}",
            "write powers out as multiplications (x*x*x)",
        )

    def __rpow__(self, base: Any) -> Never:
        self.recorder.fail(
            "it raises a number to the power of an array",
            "use exactly rounded operations only",
        )

    def _decide(self, *_: Any) -> Never:
        self.recorder.fail("it branches on the value of an array", "use xp.where")

    __bool__ = __float__ = __int__ = __index__ = __iter__ = __len__ = _decide

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

"""The growing list of nodes of one trace."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import CodeType
from typing import Any

import numpy as np

from instep.graph import host_expressions
from instep.graph.counting import Counting
from instep.graph.dtypes import BOUNDS, DTYPES, is_complex
from instep.graph.errors import Complaints
from instep.graph.nodes import Array, Call, Graph, Node, Reading, Remembered, Scalar, Store, Sum
from instep.graph.pairs import Pair
from instep.graph.symbols import Extent, TracedArray, TracedScalar, WholeSlot


class Recorder(Complaints):
    """The growing list of nodes of one trace.

    Parameters
    ----------
    name
        Name of the rule, for messages.
    compute
        The dtype of the arithmetic.
    rule, entry
        The rule, and the code of the function that calls it: for the lines in messages.
    """

    def __init__(self, name: str, compute: str, rule: Callable[..., Any], entry: CodeType) -> None:
        super().__init__(name, rule, entry)
        self.compute = compute
        self.nodes: list[Node] = []
        self.scalars: list[Scalar] = []
        self.sums: list[Sum] = []
        self.calls: list[Call] = []
        self.between: list[Array] = []
        self.guards: list[int] = []
        self.remembered: list[Remembered] = []
        self.readings: list[Reading] = []
        self.numbers: list[int] = []  # of sums, and of what is remembered
        self.counting = Counting()
        self.place: TracedArray | None = None  # of the tensor, where a rule draws random numbers
        self._positions: dict[Node, int] = {}
        self._repeats = False

    def begin_again(self) -> None:
        """Record the same rule once more: what it does is known, and what is new is refused."""
        self._repeats = True
        self.counting = Counting()
        made = self.sums, self.calls, self.guards, self.remembered, self.readings
        for entries in made:
            entries.clear()

    def next_sum(self, scope: str, kind: str) -> int:
        """Return the number of the sum over `scope` that the rule has come to."""
        self.numbers.append(self.counting.next(scope, kind))
        return self.numbers[-1]

    def check_whole(self, whole: Iterable[str], returned: Mapping[str, Any]) -> None:
        """Raise unless every slot of another shape is returned as `xp.apply` has left it."""
        for name in whole:
            value = returned.get(name, WholeSlot(self, name))
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
        operands: tuple[TracedArray, ...],
        dtype: str,
        value: str | float | None = None,
    ) -> TracedArray:
        """Record one operation, or find the equal one that was recorded before."""
        node = Node(operation, tuple(operand.position for operand in operands), dtype, value)
        # A constant is told apart by its bits: 0.0 and -0.0 are equal and hash equally.
        key = node if operation != "constant" else Node(operation, (), dtype, repr(value))
        position = self._positions.get(key)
        if position is None:
            if self._repeats:
                self.refuse_change(f"it {_described(node, self.scalars)}")
            position = self._positions[key] = len(self.nodes)
            self.nodes.append(node)
        extent = max((operand.extent for operand in operands), default=Extent.NUMBER)
        if operation in ("load", "random"):
            extent = Extent.FULL
        return TracedArray(self, position, dtype, extent)

    def load(self, array: Array) -> TracedArray:
        """Record the load of an array, as a value of the compute dtype, or of complex numbers."""
        x = self.add("load", (), array.dtype, array.name)
        if is_complex(array.dtype):
            return x
        # A gradient of 16 bits goes to float64 by way of float32: no engine has to do it at once.
        return self.cast(self.cast(x, DTYPES[array.dtype].compute), self.compute)

    def split(self, x: TracedArray) -> tuple[TracedArray, TracedArray]:
        """Record real and imaginary parts, as values of the compute dtype."""
        part = DTYPES[x.dtype].part
        re, im = (self.add(name, (x,), part) for name in ("real", "imag"))
        return self.cast(re, self.compute), self.cast(im, self.compute)

    def join(self, re: TracedArray, im: TracedArray, dtype: str) -> TracedArray:
        """Record the complex number of two parts."""
        part = DTYPES[dtype].part
        re, im = (self.cast(self.cast(x, self.compute), part) for x in (re, im))
        a, b = self.nodes[re.position], self.nodes[im.position]
        if (a.operation, b.operation, a.operands) == ("real", "imag", b.operands):
            (whole,) = a.operands
            if self.nodes[whole].dtype == dtype:  # as it was loaded
                return TracedArray(self, whole, dtype, Extent.FULL)
        return self.add("complex", (re, im), dtype)

    def cast(self, x: TracedArray, dtype: str) -> TracedArray:
        """Record a conversion, where one is needed."""
        return x if x.dtype == dtype else self.add("cast", (x,), dtype)

    def number(self, x: TracedArray) -> TracedArray:
        """Return what has no dimensions as a number."""
        return TracedArray(self, self.cast(x, "float64").position, "float64", Extent.NUMBER)

    def array(self, x: Any, dtype: str | None = None) -> TracedArray:
        """Return `x`, a traced array, traced scalar or number, as a traced array.

        A scalar or number takes `dtype`, to which it is rounded once.
        """
        if isinstance(x, TracedArray):
            return x
        if isinstance(x, WholeSlot):
            x.refuse()
        if isinstance(x, Pair):
            x.xp.refuse("a complex number stands where a real one must")
        dtype = dtype or self.compute
        if isinstance(x, TracedScalar):
            return self._scalar(x, dtype)
        if isinstance(x, bool | np.bool_):
            return self.add("constant", (), "bool", bool(x))
        if isinstance(x, np.generic):  # it has a dtype of its own, as an array has
            if x.dtype.name not in BOUNDS:
                self.fail(f"a {type(x).__name__} stands among its operands", "use a Python number")
            return self.add("constant", (), x.dtype.name, float(x)).widened(Extent.TYPED)
        if isinstance(x, int | float):
            return self.add("constant", (), dtype, self._float(x))
        self.fail(f"a {type(x).__name__} stands among its operands", "use arrays and numbers only")

    def _scalar(self, x: TracedScalar, dtype: str) -> TracedArray:
        if x.boolean:  # engines are handed numbers
            number = TracedScalar(self, f"xp.where({x.source}, 1.0, 0.0)")
            return self.add("not_equal", (self.array(number), self.array(0.0)), "bool")
        entry = Scalar(x.source, dtype)
        if entry not in self.scalars:
            self.scalars.append(entry)
        return self.add("scalar", (), dtype, self.scalars.index(entry))

    def _float(self, x: float) -> float:
        try:
            return float(x)
        except OverflowError:
            self.fail("an integer in it is beyond the largest float", "use a smaller number")

    def promote(self, *values: Any, beside: TracedArray | None = None) -> tuple[TracedArray, ...]:
        """Return the values as traced arrays of one dtype: the widest among the arrays.

        Where all are numbers it is float64, unless they are to stand `beside` an array.
        """
        values = tuple(self.array(x) if isinstance(x, np.generic) else x for x in values)
        typed = [x for x in (*values, beside) if isinstance(x, TracedArray) and not x.number]
        dtypes = [x.dtype for x in typed if x.dtype != "bool"] or [self.compute]
        dtype = max(dtypes, key=lambda name: DTYPES[name].itemsize) if typed else "float64"
        arrays = [self.array(x, dtype) for x in values]
        if all(x.dtype == "bool" for x in arrays):
            return tuple(arrays)
        if any(x.dtype == "bool" for x in arrays):
            self.fail(
                "it mixes a boolean and a real array in one operation",
                "write xp.where(condition, 1.0, 0.0)",
            )
        extent = Extent.TYPED if typed else Extent.NUMBER
        return tuple(self.cast(x, dtype).widened(extent) for x in arrays)

    def binary(self, operation: str, a: Any, b: Any) -> TracedArray:
        """Record an operation on two values."""
        x, y = self.promote(a, b)
        logical = operation.startswith("logical_")
        if logical != (x.dtype == "bool") and operation not in ("equal", "not_equal"):
            self.fail(
                f"{operation} is applied to {x.dtype} values",
                "use comparisons to make booleans, and xp.where to use them",
            )
        compares = operation.startswith(("less", "greater", "equal", "not_equal"))
        if compares and x.dtype == "bool":
            self.fail(f"{operation} compares booleans", "use & | ^ ~")
        return self.add(operation, (x, y), "bool" if compares else x.dtype)

    def unary(self, operation: str, x: Any) -> TracedArray:
        """Record an operation on a value."""
        x = self.array(x)
        if (operation == "logical_not") != (x.dtype == "bool"):
            self.fail(
                f"{operation} is applied to a {x.dtype} value", "use & | ^ ~ on booleans only"
            )
        return self.add(operation, (x,), x.dtype)

    def source(self, x: Any) -> str:
        """Return the Python source of a traced scalar or a number."""
        if isinstance(x, TracedScalar):
            return x.source
        if not isinstance(x, bool):
            number = host_expressions.checked(self.rule, "an integer in it", float, x)
            if not math.isfinite(number):
                return f"float('{x}')"
            if repr(x).startswith("-"):  # binds less than a power
                return f"({x!r})"
        return repr(x)

    def on_host(self, name: str, values: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """Return what a function of the namespace makes of numbers alone: a host expression."""
        if name in host_expressions.OPERATORS:
            return host_expressions.OPERATORS[name](*values, **keywords)
        if not any(isinstance(x, TracedScalar) for x in (*values, *keywords.values())):
            function = host_expressions.FUNCTIONS[name]
            return host_expressions.checked(
                self.rule, f"xp.{name}", lambda: function(*values, **keywords)
            )
        texts = ["None" if x is None else self.source(x) for x in values]
        texts += [f"{key}={self.source(x)}" for key, x in keywords.items() if x is not None]
        chosen = values[1:] if name == "where" else ()
        boolean = name in host_expressions.PREDICATES or (
            bool(chosen) and all(is_boolean(x) for x in chosen)
        )
        return TracedScalar(self, f"xp.{name}({', '.join(texts)})", boolean)

    def graph(self, name: str, arrays: Iterable[Array], stores: Iterable[Store]) -> Graph:
        """Return all that was recorded as a graph on these arrays, and those between passes."""
        return Graph(
            name=name,
            compute=self.compute,
            arrays=(*arrays, *self.between),
            scalars=tuple(self.scalars),
            nodes=tuple(self.nodes),
            stores=tuple(stores),
            sums=tuple(self.sums),
            sum_count=1 + max(self.numbers, default=-1),
            calls=tuple(self.calls),
            guards=tuple(self.guards),
            remembered=tuple(self.remembered),
            readings=tuple(self.readings),
        )


def _described(node: Node, scalars: Sequence[Scalar]) -> str:
    """Return what a rule does that has just made a node, the last of the scalars with it."""
    if node.operation == "constant":
        return f"computes with {node.value!r}"
    if node.operation == "scalar":
        return f"computes {scalars[-1].source}"
    return f"comes to another {node.operation}"


def is_boolean(x: Any) -> bool:
    """Return whether a number or traced scalar is a boolean."""
    return x.boolean if isinstance(x, TracedScalar) else isinstance(x, bool)


def is_host(x: Any) -> bool:
    """Return whether `x` is known to the host before the step: a traced scalar or a number."""
    return isinstance(x, TracedScalar) or host_expressions.is_number(x)

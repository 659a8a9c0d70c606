"""The array namespace of a trace: what `xp` offers is what every engine can emit."""

from collections.abc import Callable, Mapping
from typing import Any

from instep import numerics
from instep.graph.nodes import ARITHMETIC, COMPARISONS, LOGICAL, UNARY, Call, Sum
from instep.graph.symbols import Recorder, TracedArray, WholeSlot


class TracedNamespace:
    """The array namespace `xp` that a rule is traced with."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    float32 = "float32"
    float64 = "float64"

    def __getattr__(self, name: str) -> Any:
        recorder = self._recorder
        if name in numerics.CANONICAL:
            function: Callable[..., Any] = numerics.CANONICAL[name]

            def canonical(*values: Any, **keywords: Any) -> Any:
                arrays = iter(recorder.promote(*(x for x in values if x is not None)))
                values = tuple(None if x is None else next(arrays) for x in values)
                return function(self, *values, **keywords)

            return canonical
        if name in (*ARITHMETIC, *COMPARISONS, *LOGICAL):
            return lambda a, b: recorder.array(a).binary(name, a, b)
        if name in (*UNARY, "logical_not"):
            return lambda x: recorder.array(x).unary(name)
        recorder.fail(
            f"it calls xp.{name}, which is not among the operations that are rounded exactly "
            f"on every engine",
            "write it with + - * /, sqrt, abs, where, comparisons and the like",
        )

    def positive(self, x: Any) -> TracedArray:
        return self._recorder.array(x)

    def where(self, condition: Any, a: Any, b: Any) -> TracedArray:
        recorder = self._recorder
        condition = recorder.array(condition)
        if condition.dtype != "bool":
            recorder.fail("the condition of xp.where is not boolean", "compare, as in x > 0")
        x, y = recorder.promote(a, b)
        return recorder.add("where", (condition, x, y), x.dtype)

    def astype(self, x: Any, dtype: str) -> TracedArray:
        recorder = self._recorder
        x = recorder.array(x)
        if dtype not in ("float32", "float64"):
            recorder.fail(f"it converts to {dtype}", "convert to xp.float32 or xp.float64")
        if x.dtype == "bool":
            return self.where(x, recorder.array(1.0, dtype), recorder.array(0.0, dtype))
        return recorder.cast(x, dtype)

    def zeros_like(self, x: Any) -> TracedArray:
        return self._recorder.array(0.0)

    def ones_like(self, x: Any) -> TracedArray:
        return self._recorder.array(1.0)

    def full_like(self, x: Any, value: Any) -> TracedArray:
        return self._recorder.array(value)

    def apply(self, function: Callable[..., Any], x: Any, *slots: Any, **numbers: Any) -> Any:
        """Record that a function of the array library is applied to the whole of `x`."""
        recorder, number = self._recorder, len(self._recorder.calls)
        if number == len(recorder.between):
            recorder.fail(
                f"it applies functions to more than {number} arrays",
                "name one more array in `between` of the Form that the method `form` returns",
            )
        for slot in slots:
            if not isinstance(slot, WholeSlot) or slot.call is not None:
                recorder.fail(
                    "xp.apply is given more than one array",
                    "give it one, then slots that the method `form` calls whole",
                )
        array = recorder.between[number]
        draft = recorder.cast(recorder.array(x), recorder.compute)
        recorder.calls.append(
            Call(
                array.name,
                draft.position,
                function,
                tuple(slot.name for slot in slots),
                tuple(
                    (key, getattr(value, "source", repr(value))) for key, value in numbers.items()
                ),
            )
        )
        result = recorder.load(array)
        renewed = (WholeSlot(recorder, slot.name, number) for slot in slots)
        return (result, *renewed) if slots else result

    def sum(self, x: Any, **keywords: Any) -> TracedArray:
        """Record the canonical sum over the tensor."""
        return self._reduce(x, "tensor", keywords)

    def tree_sum(self, x: Any) -> TracedArray:
        """Record the canonical sum over all tensors of the tree."""
        return self._reduce(x, "tree", {})

    def require(self, condition: Any) -> None:
        """Record that the step happens only if the condition holds everywhere in the tree."""
        self._recorder.guards.append(self._recorder.next_sum("tree"))
        self.tree_sum(self.where(condition, 0.0, 1.0))

    def _reduce(self, x: Any, scope: str, keywords: Mapping[str, Any]) -> TracedArray:
        recorder = self._recorder
        if any(value is not None for value in keywords.values()):
            recorder.fail("xp.sum is given an axis or a dtype", "sum over the whole array")
        x = recorder.array(x)
        if x.dtype == "bool":
            x = self.where(x, 1.0, 0.0)
        number = recorder.next_sum(scope)
        recorder.sums.append(Sum(number, x.position, scope))
        return recorder.cast(recorder.add("reduced", (), "float64", number), x.dtype)

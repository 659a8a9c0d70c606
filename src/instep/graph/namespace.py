"""The array namespace of a trace: what `xp` offers is what every engine can emit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from instep import numerics
from instep.graph.dtypes import BOUNDS, COMPLEX, DTYPES, is_complex
from instep.graph.errors import random_of_array, random_without_place, refuse_booleans
from instep.graph.functions import Functions
from instep.graph.host_expressions import is_number
from instep.graph.nodes import ARITHMETIC, COMPARISONS, LOGICAL, UNARY, Array, Call, Sum
from instep.graph.recorder import Recorder, is_boolean, is_host
from instep.graph.symbols import Extent, TracedArray, TracedScalar, WholeSlot
from instep.graph.words import uniform

#: Functions of elements that each library rounds in its own way.
_INEXACT = frozenset(
    {
        *("exp", "expm1", "log", "log1p", "log2", "log10", "pow", "logaddexp"),
        *("sin", "cos", "tan", "asin", "acos", "atan", "atan2"),
        *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
    }
)


class TracedNamespace(Functions):
    """The array namespace `xp` that a rule is traced with."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._rule = recorder, recorder.rule

    float32 = "float32"
    float64 = "float64"

    _is_host = staticmethod(is_host)

    def _on_host(self, name: str, values: Any, keywords: Mapping[str, Any]) -> Any:
        return self._recorder.on_host(name, values, keywords)

    def _arrays(self, *values: Any) -> Sequence[TracedArray]:
        return self._recorder.promote(*values)

    def _operation(self, name: str) -> Callable[..., Any]:
        recorder = self._recorder
        if name in (*ARITHMETIC, *COMPARISONS, *LOGICAL):
            return lambda a, b: recorder.binary(name, a, b)
        if name in (*UNARY, "logical_not"):
            return lambda x: recorder.unary(name, x)
        refuse = recorder.postpone if name in _INEXACT else recorder.fail
        refuse(
            f"it calls xp.{name}, which is not among the operations that are rounded exactly "
            f"on every engine",
            "write it with + - * /, sqrt, abs, where, comparisons and the like",
        )
        return lambda *values: self._inexact(name, recorder.promote(*values))

    def _inexact(self, name: str, operands: tuple[TracedArray, ...]) -> TracedArray:
        """Record what no graph can have: the error was postponed."""
        return self._recorder.add(name, operands, operands[0].dtype)

    def positive(self, x: Any) -> Any:
        return x if is_host(x) else self._recorder.array(x)

    def copysign(self, a: Any, b: Any) -> Any:
        recorder = self._recorder
        if is_host(a) and is_host(b):
            return recorder.on_host("copysign", (a, b), {})
        return numerics.copysign(_Signs(recorder, self.where), *recorder.promote(a, b))

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        recorder = self._recorder
        if is_host(condition) and not is_boolean(condition):
            recorder.fail("the condition of xp.where is a number", "compare, as in x > 0")
        if is_host(condition) and is_host(a) and is_host(b):
            return recorder.on_host("where", (condition, a, b), {})
        condition = recorder.array(condition)
        if condition.dtype != "bool":
            recorder.fail("the condition of xp.where is not boolean", "compare, as in x > 0")
        x, y = recorder.promote(a, b, beside=condition)
        return recorder.add("where", (condition, x, y), x.dtype)

    def astype(self, x: Any, dtype: str) -> Any:
        recorder = self._recorder
        if dtype not in BOUNDS:
            recorder.fail(f"it converts to {dtype}", "convert to xp.float32 or xp.float64")
        x = recorder.array(x, dtype)
        if x.dtype == "bool":
            one, zero = (recorder.array(number, dtype) for number in (1.0, 0.0))
            x = recorder.add("where", (x, one, zero), dtype)
        return recorder.cast(x, dtype).widened(Extent.TYPED)

    def zeros_like(self, x: Any) -> TracedArray:
        return self._filled("zeros_like", x, 0.0)

    def ones_like(self, x: Any) -> TracedArray:
        return self._filled("ones_like", x, 1.0)

    def full_like(self, x: Any, value: Any) -> TracedArray:
        return self._filled("full_like", x, value)

    def _filled(self, name: str, x: Any, value: Any) -> TracedArray:
        recorder = self._recorder
        self._refuse_numbers(name, x)
        x = recorder.array(x)
        if x.dtype == "bool" and is_number(value):
            value = bool(value)
        filling = recorder.array(value, x.dtype)
        if (filling.dtype == "bool") != (x.dtype == "bool"):
            recorder.fail(
                f"it fills a {x.dtype} array with a {filling.dtype} value", "use xp.where"
            )
        return recorder.cast(filling, x.dtype).widened(x.extent)

    def apply(self, function: Callable[..., Any], x: Any, *slots: Any, **numbers: Any) -> Any:
        """Record that a function of the array library is applied to the whole of `x`."""
        recorder, number = self._recorder, len(self._recorder.calls)
        if number == len(recorder.between):
            recorder.fail(
                f"it applies functions to more than {number} arrays",
                "name one more array in `between` of the Form that the method `form_for` returns",
            )
        for slot in slots:
            if not isinstance(slot, WholeSlot) or slot.call is not None:
                recorder.fail(
                    "xp.apply is given more than one array",
                    "give it one, then slots that the method `form_for` calls whole",
                )
        array = recorder.between[number]
        draft = self._draft(array, x)
        sources = tuple((key, self._argument(value)) for key, value in numbers.items())
        names = tuple(slot.name for slot in slots)
        recorder.calls.append(Call(array.name, draft.position, function, names, sources))
        result = recorder.load(array)
        renewed = (WholeSlot(recorder, slot.name, number) for slot in slots)
        return (result, *renewed) if slots else result

    def _draft(self, array: Array, x: Any) -> TracedArray:
        """Return what is stored between two passes."""
        recorder = self._recorder
        x = recorder.array(x)
        if not is_complex(array.dtype):
            if x.dtype in DTYPES and is_complex(x.dtype):
                recorder.fail(
                    f"it applies a function to complex numbers, and {array.name!r} is one of its "
                    f"`real_slots`",
                    "leave it out of them",
                )
            return recorder.cast(x, recorder.compute)
        re, im = self.split(x) or (x, recorder.array(0.0))
        return recorder.join(re, im, array.dtype)

    def split(self, x: Any) -> tuple[TracedArray, TracedArray] | None:
        if isinstance(x, TracedArray) and x.dtype in DTYPES and is_complex(x.dtype):
            return self._recorder.split(x)
        return None

    def join(self, re: Any, im: Any) -> TracedArray:
        recorder = self._recorder
        return recorder.join(recorder.array(re), recorder.array(im), COMPLEX[recorder.compute])

    def _argument(self, value: Any) -> str:
        """Return the source of a keyword argument of the function of `apply`."""
        if isinstance(value, str) or value is None:
            return repr(value)
        if isinstance(value, TracedScalar) or is_number(value):
            return self._recorder.source(value)
        self._recorder.fail(
            f"xp.apply is given a {type(value).__name__} by name",
            "give it hyperparameters, numbers and strings by name",
        )

    def sum(self, x: Any, **keywords: Any) -> TracedArray:
        """Record the canonical sum over the tensor."""
        self._check_keywords("sum", keywords)
        return self._over_tensor(self._summand("sum", x), "sum")

    def tree_sum(self, x: Any) -> TracedArray:
        """Record the canonical sum over all tensors of the tree."""
        return self._over_tree(self._summand("tree_sum", x), "sum")

    def max(self, x: Any, **keywords: Any) -> TracedArray:
        """Record the maximum over the tensor."""
        self._check_keywords("max", keywords)
        return self._over_tensor(self._candidate("max", x), "maximum")

    def tree_max(self, x: Any) -> TracedArray:
        """Record the maximum over all tensors of the tree."""
        return self._over_tree(self._candidate("tree_max", x), "maximum")

    def tree_sums(self, *summands: Any) -> list[TracedArray]:
        """Record several sums over the tree; for None, what others may add to it."""
        return [
            self._recorder.add("reduced", (), "float64", self._recorder.next_sum("tree", "sum"))
            if x is None
            else self.tree_sum(x)
            for x in summands
        ]

    def random(self, step: Any) -> TracedArray:
        """Record numbers in [0, 1), one for each element."""
        place = self._recorder.place
        if place is None:
            raise random_without_place(self._rule)
        if not is_host(step):
            raise random_of_array(self._rule)
        return uniform(self._recorder, place, step)

    def require(self, condition: Any) -> TracedArray:
        """Record that the step happens only if the condition holds everywhere in the tree."""
        failures = self.where(self._recorder.array(condition), 0.0, 1.0)
        count = self._reduce(failures.widened(), "tree", "sum")
        self._recorder.guards.append(self._recorder.sums[-1].number)
        return count

    def branch_off(self, branch: int, branches: int) -> None:
        """Take note that the rules of one branch begin, of so many."""
        self._recorder.counting.branch_off(branch, branches)

    def _summand(self, name: str, x: Any) -> TracedArray:
        self._refuse_numbers(name, x)
        array = self._recorder.array(x)
        if array.dtype != "bool":
            return array
        one, zero = self._recorder.array(1.0), self._recorder.array(0.0)
        return self._recorder.add("where", (array, one, zero), one.dtype)

    def _candidate(self, name: str, x: Any) -> TracedArray:
        """Return what is compared: +0.0 for -0.0, so that the order does not matter."""
        self._refuse_numbers(name, x)
        array = self._recorder.array(x)
        if array.dtype == "bool":
            raise refuse_booleans(self._rule, name)
        return self._recorder.binary("add", array, 0.0)

    def _check_keywords(self, name: str, keywords: Mapping[str, Any]) -> None:
        if any(value is not None for value in keywords.values()):
            self._recorder.fail(
                f"xp.{name} is given an axis or a dtype",
                f"{'sum' if name == 'sum' else 'take it'} over the whole array",
            )

    def _over_tensor(self, x: TracedArray, kind: str) -> TracedArray:
        if x.full:
            return self._reduce(x, "tensor", kind)
        # Of one element; the canonical sum starts from +0.0.
        return self._recorder.binary("add", self._recorder.number(x), 0.0)

    def _over_tree(self, x: TracedArray, kind: str) -> TracedArray:
        if not x.full:
            verb = "sums" if kind == "sum" else "takes the maximum"
            self._recorder.fail(
                f"it {verb} over the tree what is one number for each tensor", "give it an array"
            )
        return self._reduce(x, "tree", kind)

    def _reduce(self, x: TracedArray, scope: str, kind: str) -> TracedArray:
        recorder = self._recorder
        number = recorder.next_sum(scope, kind)
        recorder.sums.append(Sum(number, x.position, scope))
        return recorder.add("reduced", (), "float64", number)


class _Signs:
    """The namespace in which `numerics.copysign` finds the operation that it refines."""

    def __init__(self, recorder: Recorder, where: Callable[..., Any]) -> None:
        self._recorder, self.where = recorder, where

    def copysign(self, a: Any, b: Any) -> TracedArray:
        return self._recorder.binary("copysign", a, b)

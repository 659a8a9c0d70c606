"""The namespace that a rule is called with on arrays of any library."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from instep import arrays, numerics, words
from instep.engines import calls
from instep.engines.numbers import Number, value_of
from instep.engines.sums import SumTable
from instep.graph.counting import Counting
from instep.graph.dtypes import DTYPES
from instep.graph.errors import (
    RuleError,
    random_of_array,
    random_without_place,
    refuse_booleans,
)
from instep.graph.functions import Functions
from instep.graph.host_expressions import (
    FUNCTIONS,
    OPERATORS,
    HostNumber,
    beside,
    checked,
    is_number,
    number_beside,
    plain,
)
from instep.graph.nodes import ARITHMETIC, COMPARISONS
from instep.graph.pairs import Pair
from instep.graph.remembered import array_for_number


class TreeSumError(Exception):
    """A rule has come to sums over the tree, to which every leaf must contribute first."""

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__(numbers)
        self.numbers = numbers


class ElementFunctions(Functions):
    """An array namespace in which the operations that libraries disagree on are the kit's own.

    Everything else is the library's function of that name.
    """

    def __init__(self, rule: str, namespace: Any, like: Any, compute: Any) -> None:
        self._rule = rule
        self._namespace = namespace
        self._like = like
        self._compute = compute

    def host_number(self, value: float) -> Any:
        """Return a hyperparameter as the rule is to see it."""
        array_type: Any = type(self._like)
        return number_beside(array_type)(self._rule, value)

    def number(self, value: Any) -> Any:
        """Return a number that a sum has left, or one beside such, as the rule is to see it."""
        array_type: Any = type(self._like)
        return beside(Number, array_type, ("owner", "value"))(self._namespace, value_of(value))

    def _are_numbers(self, *values: Any) -> bool:
        """Return whether no value is an array."""
        return all(isinstance(x, Number) or self._is_host(x) for x in values)

    @staticmethod
    def _is_host(x: Any) -> bool:
        return isinstance(x, HostNumber) or is_number(x)

    def _operation(self, name: str) -> Any:
        # Operators where there are some: libraries want arrays here, the standard allows numbers.
        own = name in (*ARITHMETIC, *COMPARISONS)
        operation: Any = OPERATORS[name] if own else getattr(self._namespace, name, None)
        if operation is None:
            raise RuleError(
                f"{self._rule}.rule: xp.{name} is no function of the array API standard, nor of "
                f"this library"
            )
        if not callable(operation) or isinstance(operation, type):
            return operation

        def function(*values: Any, **keywords: Any) -> Any:
            keywords = {key: plain(x) for key, x in keywords.items()}
            if own or not any(isinstance(x, Number) for x in values):
                return operation(*map(plain, values), **keywords)
            if self._are_numbers(*values):
                return self._of_numbers(operation, *values, **keywords)
            return operation(*self._arrays(*values), **keywords)

        return function

    def _of_numbers(self, operation: Any, *values: Any, **keywords: Any) -> Any:
        """Return what a function of the library makes of numbers alone: a number."""
        dtype = self._namespace.float64
        result = operation(*(self._array(x, dtype) for x in values), **keywords)
        is_boolean = self._namespace.isdtype(result.dtype, "bool")
        return self.number(bool(result) if is_boolean else float(result))

    def _on_host(self, name: str, values: Any, keywords: Mapping[str, Any]) -> Any:
        if name in OPERATORS:
            return OPERATORS[name](*values, **keywords)
        numbers = {key: plain(x) for key, x in keywords.items()}
        function, values = FUNCTIONS[name], tuple(map(plain, values))
        result = checked(self._rule, f"xp.{name}", lambda: function(*values, **numbers))
        return result if isinstance(result, bool) else self.host_number(result)

    def _arrays(self, *values: Any, met: Any = 0.0) -> list[Any]:
        if self._are_numbers(*values, met):
            return [self.number(x) for x in values]
        isdtype = self._namespace.isdtype
        dtypes = [x.dtype for x in values if not self._are_numbers(x)]
        dtypes = [dtype for dtype in dtypes if isdtype(dtype, "real floating")]
        dtype = self._namespace.result_type(*dtypes) if dtypes else self._compute
        return [self._array(x, dtype) for x in values]

    def _array(self, x: Any, dtype: Any = None) -> Any:
        x = value_of(x)
        if is_number(x):
            device = arrays.namespace_device(self._like)
            dtype = self._namespace.bool if isinstance(x, bool) else dtype or self._compute
            return self._namespace.asarray(x, dtype=dtype, device=device)
        return x

    def positive(self, x: Any) -> Any:
        """Return `x`."""
        return x if self._are_numbers(x) else self._namespace.positive(x)

    def astype(self, x: Any, dtype: Any, **keywords: Any) -> Any:
        """Convert to a dtype; a number is rounded to it once."""
        if self._are_numbers(x) and not isinstance(x, bool):
            return self._namespace.astype(self._array(x, dtype), dtype)  # from a boolean, too
        return self._namespace.astype(self._array(x), dtype, **keywords)

    def copysign(self, a: Any, b: Any) -> Any:
        """Return `a` with the sign of `b`."""
        if self._is_host(a) and self._is_host(b):
            return self._on_host("copysign", (a, b), {})
        a, b = self._arrays(a, b)
        b = self.where(b != b, 0.0, b)
        function = self._namespace.copysign
        return self._of_numbers(function, a, b) if self._are_numbers(a, b) else function(a, b)

    def sqrt(self, x: Any) -> Any:
        """Return the root, rounded exactly: PyTorch's on CPUs is one unit off in 17 % of cases."""
        if self._is_host(x):
            return self._on_host("sqrt", (x,), {})
        if isinstance(x, Number):
            return self.number(np.sqrt(x.value))
        if arrays.library(x) == "torch" and x.device.type == "cpu":
            return self._namespace.asarray(np.sqrt(x.numpy()))
        return self._namespace.sqrt(x)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """Choose by element; a number takes the dtype of the other operand."""
        if self._is_host(condition):
            if not isinstance(condition, bool):
                raise RuleError(
                    f"{self._rule}.rule: the condition of xp.where is a number, {condition!r}; "
                    f"compare, as in x > 0"
                )
            if self._is_host(a) and self._is_host(b):
                return a if condition else b
        if self._are_numbers(condition, a, b):
            return self.number(a if condition else b)
        a, b = self._arrays(a, b, met=condition)
        return self._namespace.where(self._array(condition), a, b)

    def zeros_like(self, x: Any, **keywords: Any) -> Any:
        """Return zeros like an array."""
        return self._filled("zeros_like", x, **keywords)

    def ones_like(self, x: Any, **keywords: Any) -> Any:
        """Return ones like an array."""
        return self._filled("ones_like", x, **keywords)

    def full_like(self, x: Any, value: Any, **keywords: Any) -> Any:
        """Return an array like another, filled with a number."""
        return self._filled("full_like", x, value_of(value), **keywords)

    def _filled(self, name: str, x: Any, *value: Any, **keywords: Any) -> Any:
        self._refuse_numbers(name, x)
        if isinstance(x, Number):
            return self._of_numbers(getattr(self._namespace, name), x, *value, **keywords)
        return getattr(self._namespace, name)(x, *value, **keywords)

    def computable(self, x: Any) -> Any:
        """Return a copy of an array in the dtype of the arithmetic; a complex one stays itself."""
        if self.is_complex(x):
            return x
        return self._namespace.astype(x, self._compute, copy=True)

    def copied(self, x: Any) -> Any:
        """Return a copy of an array as it is."""
        return self._namespace.asarray(x, copy=True)

    def is_complex(self, x: Any) -> bool:
        """Return whether `x` is an array of complex numbers."""
        return not self._are_numbers(x) and arrays.is_complex(x)

    def split(self, x: Any) -> tuple[Any, Any] | None:
        """Return copies of real and imaginary parts of an array of complex numbers, else None."""
        if not self.is_complex(x):
            return None
        re, im = map(self.computable, arrays.parts(x))
        return re, im

    def join(self, re: Any, im: Any) -> Any:
        """Return the array of complex numbers with these parts."""
        shape = self._like.shape
        return arrays.joined(
            *(
                self._namespace.broadcast_to(
                    self._namespace.astype(self._array(part), self._compute), shape
                )
                for part in (re, im)
            )
        )


class RuleNamespace(ElementFunctions):
    """What a rule is called with: functions of elements, and those of whole arrays and trees."""

    def __init__(
        self,
        rule: str,
        namespace: Any,
        like: Any,
        compute: Any,
        position: int,
        sums: SumTable,
        added: set[int],
        place: float | None,
    ) -> None:
        super().__init__(rule, namespace, like, compute)
        self._position, self._sums, self._added = position, sums, added
        self._counting = Counting()
        self._place = place
        self.guards: frozenset[int] = frozenset()

    def sum(self, x: Any, **keywords: Any) -> Any:
        """Return the canonical sum over the tensor; of booleans, the count."""
        self._refuse_numbers("sum", x)
        if any(value is not None for value in keywords.values()):
            return self._namespace.sum(x, **keywords)
        return self.number(self._total(x))

    def max(self, x: Any, **keywords: Any) -> Any:
        """Return the maximum over the tensor."""
        self._refuse_numbers("max", x)
        if any(value is not None for value in keywords.values()):
            return self._namespace.max(x, **keywords)
        return self.number(self._largest("max", x))

    def _total(self, x: Any) -> float:
        if x is None:
            return 0.0
        array = self._array(x, self._namespace.float64)
        return float(numerics.canonical_sum(self._namespace, array))

    def _largest(self, name: str, x: Any) -> float:
        array = self._array(x, self._namespace.float64)
        if self._namespace.isdtype(array.dtype, "bool"):
            raise refuse_booleans(self._rule, name)
        return numerics.canonical_maximum(self._namespace, array)

    def tree_sum(self, x: Any) -> Any:
        """Return the canonical sum over all tensors of the tree."""
        self._refuse_numbers("tree_sum", x)
        return self.tree_sums(x)[0]

    def tree_sums(self, *summands: Any) -> list[Any]:
        """Return several sums over the tree; for None, what other tensors add to it."""
        return self._over_tree("sum", [partial(self._total, x) for x in summands])

    def tree_max(self, x: Any) -> Any:
        """Return the maximum over all tensors of the tree."""
        self._refuse_numbers("tree_max", x)
        return self._over_tree("maximum", [partial(self._largest, "tree_max", x)])[0]

    def _over_tree(self, kind: str, own: Sequence[Callable[[], float]]) -> list[Any]:
        """Return what all tensors make of a sum or maximum, each with its own."""
        numbers = [self._counting.next("tree", kind) for _ in own]
        if not (self._added.issuperset(numbers) and self._sums.known.issuperset(numbers)):
            for number, make in zip(numbers, own, strict=True):
                self._sums.row(number)[self._position] = found = make()
                if self._sums.tiles is not None:
                    self._sums.tiles[number, self._position] = np.array([found])
            self._added.update(numbers)
            raise TreeSumError(numbers)
        return [self.number(float(self._sums.row(number)[-1])) for number in numbers]

    def apply(self, function: Callable[..., Any], x: Any, *slots: Any, **numbers: Any) -> Any:
        """Apply a function to whole arrays."""
        xp = self._namespace
        x = self._array(x)
        if not self.is_complex(x):
            x = xp.astype(x, self._compute, copy=False)
        if tuple(x.shape) == ():  # a number for all elements
            x = xp.broadcast_to(x, self._like.shape)
        numbers = {name: value_of(value) for name, value in numbers.items()}
        results = calls.apply(self._rule, function, xp, x, list(slots), numbers)
        return tuple(results) if slots else results[0]

    def random(self, step: Any) -> Any:
        """Return numbers in [0, 1), one for each element."""
        if self._place is None:
            raise random_without_place(self._rule)
        if not self._is_host(step):
            raise random_of_array(self._rule)
        dtype = DTYPES[arrays.dtype_name(self._like)].compute
        number = int(plain(step))
        drawn = [
            self.drawn(words.random, number, self._counting.draw())
            for _ in range(1 + (dtype == "float64"))
        ]
        return self.there(words.uniform(words.NumpyWords(), drawn[0], drawn[-1], dtype))

    def drawn(self, make: Callable[..., Any], step: int, draw: int) -> Any:
        """Return random words, one for each element, as an array of NumPy."""
        assert self._place is not None
        shape, place = tuple(self._like.shape), words.halves(self._place)
        return make(0, math.prod(shape), place, step, draw).reshape(shape)

    def there(self, x: Any) -> Any:
        """Return an array of NumPy as one of the library, where the parameter is."""
        return self._namespace.asarray(x, device=arrays.namespace_device(self._like))

    def require(self, condition: Any) -> Any:
        """Turn the step away unless the condition holds everywhere; return how often it fails."""
        self.guards |= {self._counting.following("tree", "sum")}
        failures = self.where(self._array(condition), 0.0, 1.0)
        return self.tree_sum(self._namespace.broadcast_to(failures, self._like.shape))

    def branch_off(self, branch: int, branches: int) -> None:
        """Take note that the rules of one branch begin, of so many."""
        self._counting.branch_off(branch, branches)

    def remembered(self, rule: str, name: str, value: Any) -> float:
        """Return what a rule has returned for a number."""
        self._check_returned(rule, name, value)
        if isinstance(value, Pair) or not (self._are_numbers(value) or value.shape == ()):
            raise array_for_number(rule, name)
        if str(getattr(value, "dtype", type(value))).rpartition(".")[2].startswith("bool"):
            raise TypeError(f"{rule}.rule returned a boolean for {name!r}; return real numbers")
        return float(value)

    def _check_returned(self, rule: str, name: str, value: Any) -> None:
        """Raise if a rule has returned what is neither an array nor a number."""
        if not (isinstance(value, Pair) or self._are_numbers(value) or hasattr(value, "dtype")):
            raise RuleError(
                f"{rule}.rule returned {value!r} for {name!r}; return an array, or a number"
            )

    def stored(self, rule: str, name: str, value: Any, like: Any) -> Any:
        """Return `value` as a new array of the shape and dtype of `like`."""
        xp, is_complex = self._namespace, arrays.is_complex(like)
        dtype = arrays.parts(like)[0].dtype if is_complex else like.dtype
        parts = self.parts(rule, name, value, is_complex=is_complex, shape=like.shape)
        made = [xp.asarray(xp.astype(x, dtype, copy=True)) for x in parts]
        return arrays.joined(*made) if is_complex else made[0]

    def parts(
        self, rule: str, name: str, value: Any, *, is_complex: bool, shape: tuple[int, ...]
    ) -> list[Any]:
        """Return what a rule returned for an array, in the dtype of the arithmetic: both parts.

        By way of that dtype, as in a graph.
        """
        values: Sequence[Any] = [value]
        if is_complex:
            values = (value.re, value.im) if isinstance(value, Pair) else (value, 0.0)
        elif isinstance(value, Pair):
            raise RuleError(
                f"{rule}.rule returns complex numbers for {name!r}, which is real; leave it out of "
                f"`real_slots`, or return xp.real(x)"
            )
        return [self._computed(rule, name, x, tuple(shape)) for x in values]

    def _computed(self, rule: str, name: str, value: Any, shape: tuple[int, ...]) -> Any:
        xp = self._namespace
        value = self._array(value)
        self._check_returned(rule, name, value)
        if self.is_complex(value):
            raise RuleError(
                f"{rule}.rule returned an array of complex numbers for {name!r}, which is not made "
                f"by xp; for complex parameters, make it with xp.complex(re, im)"
            )
        if xp.isdtype(value.dtype, "bool"):
            raise TypeError(f"{rule}.rule returned a boolean for {name!r}; return real numbers")
        if tuple(value.shape) != shape:
            if value.shape != ():
                raise ValueError(
                    f"{rule}.rule returned {name!r} of shape {tuple(value.shape)} for an array of "
                    f"shape {shape}; a rule must keep shapes"
                )
            value = xp.broadcast_to(value, shape)
        value = xp.astype(value, self._compute, copy=False)
        if arrays.is_traced(value):  # though the arrays of the step are not, where jax.jit runs
            raise TypeError(
                f"{rule}.rule returned {name!r} without values, because the step runs inside of a "
                f"function that is being compiled or transformed; call update outside of it"
            )
        return value

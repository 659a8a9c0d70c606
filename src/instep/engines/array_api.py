"""The specification: call the rule itself, with the arrays' own namespace.

Slow on NumPy and CuPy, where every operation is a sweep over memory, but it serves every library
that follows the array API standard, and the other engines are tested against it to the bit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from instep import arrays, numerics
from instep.engines import calls
from instep.engines.base import Bucket, Engine, Fit, Member
from instep.engines.ranges import Range
from instep.engines.sums import SumTable
from instep.graph import Graph, sum_number
from instep.graph.dtypes import DTYPES
from instep.graph.errors import RuleError, refuse_number
from instep.graph.host_expressions import (
    FUNCTIONS,
    OPERATORS,
    HostNumber,
    checked,
    is_number,
    number_beside,
    plain,
)
from instep.graph.nodes import ARITHMETIC, COMPARISONS
from instep.graph.program import Program, Row
from instep.graph.trace import Values, check_result


class ArrayAPIEngine(Engine):
    """Calls rules with arrays."""

    name = "array_api"
    fuses = False

    def unavailable(self) -> str | None:
        return None

    def refuses(self, w: Any) -> str | None:
        return None

    def allocate(self, parameters: Sequence[Any], dtypes: Sequence[str]) -> list[list[Any]]:
        allocated = []
        for w in parameters:
            xp = arrays.namespace(w)
            allocated.append([xp.zeros_like(w, dtype=getattr(xp, dtype)) for dtype in dtypes])
        return allocated

    def bucket(self, program: Program, members: Sequence[Member], threads: int | None) -> Bucket:
        return ArrayAPIBucket(program, members)

    def emit(self, graph: Graph) -> str:
        return "(the rule is called as it is, one array operation at a time)"


class ArrayAPIBucket(Bucket):
    """Leaves of one library, each updated by a call of the rule."""

    def __init__(self, program: Program, members: Sequence[Member]) -> None:
        self.positions = tuple(member.position for member in members)
        self._program = program
        self._slots = [member.slots for member in members]
        self._rows = [member.row for member in members]
        self._signatures = [
            (arrays.signature(member.parameter), arrays.signature(member.gradient))
            for member in members
        ]
        self._params: list[Any] = []
        self._grads: list[Any] = []
        self._rows_now: list[Row] = []
        self._results: list[tuple[Any, dict[str, Any]] | None] = []

    def fit(self, params: Sequence[Any], grads: Sequence[Any]) -> Fit:
        for position, expected in zip(self.positions, self._signatures, strict=True):
            found = arrays.signature(params[position]), arrays.signature(grads[position])
            if found != expected or None in found:
                return Fit.DIFFERENT
        self._params = [params[position] for position in self.positions]
        self._grads = [grads[position] for position in self.positions]
        return Fit.MOVED

    def bounds(self) -> tuple[Range, Range]:
        return _ranges(self._params), _ranges(self._grads)

    def stage(self, candidates: Sequence[Sequence[Row]], sums: SumTable) -> None:
        (rows,) = candidates
        # A leaf whose flags have changed may have no part in a sum in which it had one.
        if [row.flags for row in self._rows_now] != [rows[row].flags for row in self._rows]:
            sums.clear()  # first: an exception now leaves the rows as they were
        self._rows_now = [rows[row] for row in self._rows]
        self._results = [None] * len(self.positions)
        self.guards = frozenset()
        for w, row in zip(self._params, self._rows_now, strict=True):
            self._program.check_rounding(row, DTYPES[arrays.dtype_name(w)].compute)

    def reduce(self, sums: SumTable) -> set[int]:
        # The rule runs from its start again whenever it has met a sum over the tree: what it
        # computed before is computed again, which only costs time.
        missing: set[int] = set()
        evaluate = self._evaluate
        if self._params:
            evaluate = arrays.left_by_compilers(evaluate, self._params[0])
        for i, result in enumerate(self._results):
            if result is None:
                try:
                    self._results[i] = evaluate(i, sums)
                except _TreeSumError as need:
                    missing.add(need.number)
        return missing

    def _evaluate(self, i: int, sums: SumTable) -> tuple[Any, dict[str, Any]]:
        program, w = self._program, self._params[i]
        namespace = arrays.namespace(w)
        compute = getattr(namespace, DTYPES[arrays.dtype_name(w)].compute)
        xp = RuleNamespace(program.name, namespace, w, compute, self.positions[i], sums)
        slots = {name: self._slots[i][name] for name in (*program.slots, *program.whole)}
        # The rule gets copies, for it may be written with operations in place.
        copies = {name: namespace.asarray(slot, copy=True) for name, slot in slots.items()}
        with np.errstate(all="ignore"):
            new, new_slots = check_result(
                program.name,
                program.rule(
                    xp,
                    namespace.astype(w, compute, copy=True),
                    namespace.astype(self._grads[i], compute, copy=True),
                    Values(program.name, "slot", copies),
                    program.hyperparameters(self._rows_now[i], xp.host_number),
                ),
                tuple(slots),
            )
            self.guards |= xp.guards
            return xp.stored(program.name, "w", new, w), {
                name: xp.stored(program.name, name, value, slots[name])
                for name, value in new_slots.items()
            }

    def commit(self, sums: SumTable) -> Mapping[int, Any]:
        replaced = {}
        for i, result in enumerate(self._results):
            assert result is not None
            new, new_slots = result
            w = self._params[i]
            if arrays.is_immutable(w):
                replaced[self.positions[i]] = new
            else:
                w[...] = new
            self._slots[i].update(new_slots)
        return replaced

    def release(self) -> None:
        self._results, self._params, self._grads = [], [], []


class _TreeSumError(Exception):
    """A rule has come to a sum over the tree, to which every leaf must contribute first."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class RuleNamespace:
    """An array namespace in which the operations that libraries disagree on are the kit's own.

    Functions of hyperparameters and numbers alone are host expressions, as in a trace. Everything
    else is the library's function of that name.
    """

    def __init__(
        self, rule: str, namespace: Any, like: Any, compute: Any, position: int, sums: SumTable
    ) -> None:
        self._rule = rule
        self._namespace = namespace
        self._like = like
        self._compute = compute
        self._position = position
        self._sums = sums
        self._count = 0  # sums over the tree met so far
        self.guards: frozenset[int] = frozenset()

    def host_number(self, value: float) -> Any:
        """Return a hyperparameter as the rule is to see it."""
        array_type: Any = type(self._like)
        return number_beside(array_type)(self._rule, value)

    def __getattr__(self, name: str) -> Any:
        operation = self._operation(name)
        if not callable(operation) or isinstance(operation, type):
            return operation  # a dtype or a constant

        def function(*values: Any, **keywords: Any) -> Any:
            if name in FUNCTIONS or name in OPERATORS:
                given = [x for x in (*values, *keywords.values()) if x is not None]
                if given and all(map(_is_host, given)):
                    return self._on_host(name, values, keywords)
            values = tuple(map(plain, values))
            return operation(*values, **{key: plain(x) for key, x in keywords.items()})

        return function

    def _operation(self, name: str) -> Any:
        """Return what a function of the namespace does with arrays."""
        if name in numerics.CANONICAL:
            return self._canonical(name)
        if name in (*ARITHMETIC, *COMPARISONS):
            return OPERATORS[name]  # as libraries want arrays here, and the standard allows numbers
        return getattr(self._namespace, name)

    def _on_host(self, name: str, values: Any, keywords: Mapping[str, Any]) -> Any:
        """Return what a function of the namespace makes of numbers alone."""
        if name in OPERATORS:
            return OPERATORS[name](*values, **keywords)
        numbers = {key: plain(x) for key, x in keywords.items()}
        function, values = FUNCTIONS[name], tuple(map(plain, values))
        result = checked(self._rule, f"xp.{name}", lambda: function(*values, **numbers))
        return result if isinstance(result, bool) else self.host_number(result)

    def _canonical(self, name: str) -> Callable[..., Any]:
        function = numerics.CANONICAL[name]

        def canonical(*values: Any, **keywords: Any) -> Any:
            if name in ("norm", "tree_norm") and any(map(_is_host, values)):
                raise refuse_number(self._rule, name)
            given = iter(self._arrays(*(x for x in (*values, *keywords.values()) if x is not None)))
            values = tuple(None if x is None else next(given) for x in values)
            keywords = {k: None if x is None else next(given) for k, x in keywords.items()}
            return function(self, *values, **keywords)

        return canonical

    def _arrays(self, *values: Any) -> list[Any]:
        """Return the values as arrays; a number takes the widest dtype of the arrays beside it."""
        isdtype = self._namespace.isdtype
        dtypes = [x.dtype for x in values if not _is_host(x)]
        dtypes = [dtype for dtype in dtypes if isdtype(dtype, "real floating")]
        dtype = self._namespace.result_type(*dtypes) if dtypes else self._compute
        return [self._array(x, dtype) for x in values]

    def _array(self, x: Any, dtype: Any = None) -> Any:
        x = plain(x)
        if is_number(x):
            device = arrays.namespace_device(self._like)
            dtype = self._namespace.bool if isinstance(x, bool) else dtype or self._compute
            return self._namespace.asarray(x, dtype=dtype, device=device)
        return x

    def positive(self, x: Any) -> Any:
        """Return `x`."""
        return x if _is_host(x) else self._namespace.positive(x)

    def astype(self, x: Any, dtype: Any, **keywords: Any) -> Any:
        """Convert to a dtype; a number is rounded to it once."""
        if _is_host(x) and not isinstance(x, bool):
            return self._array(x, dtype)
        return self._namespace.astype(self._array(x), dtype, **keywords)

    def copysign(self, a: Any, b: Any) -> Any:
        """Return `a` with the sign of `b`."""
        if _is_host(a) and _is_host(b):
            return self._on_host("copysign", (a, b), {})
        a, b = self._arrays(a, b)
        b = self.where(b != b, 0.0, b)
        return self._namespace.copysign(a, b)

    def sqrt(self, x: Any) -> Any:
        """Return the root, rounded exactly: PyTorch's on CPUs is one unit off in 17 % of cases."""
        if _is_host(x):
            return self._on_host("sqrt", (x,), {})
        if arrays.library(x) == "torch" and x.device.type == "cpu":
            return self._namespace.asarray(np.sqrt(x.numpy()))
        return self._namespace.sqrt(x)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        """Choose by element; a number takes the dtype of the other operand."""
        if _is_host(condition):
            if not isinstance(condition, bool):
                raise RuleError(
                    f"{self._rule}.rule: the condition of xp.where is a number, {condition!r}; "
                    f"compare, as in x > 0"
                )
            if _is_host(a) and _is_host(b):
                return a if condition else b
        return self._namespace.where(self._array(condition), *self._arrays(a, b))

    def zeros_like(self, x: Any, **keywords: Any) -> Any:
        """Return zeros like an array."""
        return self._filled("zeros_like", x, **keywords)

    def ones_like(self, x: Any, **keywords: Any) -> Any:
        """Return ones like an array."""
        return self._filled("ones_like", x, **keywords)

    def full_like(self, x: Any, value: Any, **keywords: Any) -> Any:
        """Return an array like another, filled with a number."""
        return self._filled("full_like", x, plain(value), **keywords)

    def _filled(self, name: str, x: Any, *value: Any, **keywords: Any) -> Any:
        if _is_host(x):
            raise refuse_number(self._rule, name)
        return getattr(self._namespace, name)(x, *value, **keywords)

    def sum(self, x: Any, **keywords: Any) -> Any:
        """Return the canonical sum over the tensor, in the dtype of `x`; of booleans, the count."""
        if _is_host(x):
            raise refuse_number(self._rule, "sum")
        if any(value is not None for value in keywords.values()):
            return self._namespace.sum(x, **keywords)
        total = numerics.canonical_sum(self._namespace, x)
        return self._namespace.astype(total, self._dtype_of_sum(x))

    def tree_sum(self, x: Any) -> Any:
        """Return the canonical sum over all tensors of the tree."""
        if _is_host(x):
            raise refuse_number(self._rule, "tree_sum")
        number = sum_number(self._count, "tree")
        self._count += 1
        if number not in self._sums.known:
            total = numerics.canonical_sum(self._namespace, x)
            self._sums.row(number)[self._position] = float(total)
            raise _TreeSumError(number)
        return self._array(float(self._sums.row(number)[-1]), self._dtype_of_sum(x))

    def apply(self, function: Callable[..., Any], x: Any, *slots: Any, **numbers: Any) -> Any:
        """Apply a function to whole arrays."""
        xp = self._namespace
        x = xp.astype(self._array(x), self._compute, copy=False)
        if tuple(x.shape) == ():  # a number for all elements
            x = xp.broadcast_to(x, self._like.shape)
        numbers = {name: plain(value) for name, value in numbers.items()}
        results = calls.apply(self._rule, function, xp, x, list(slots), numbers)
        return tuple(results) if slots else results[0]

    def _dtype_of_sum(self, x: Any) -> Any:
        return self._compute if self._namespace.isdtype(x.dtype, "bool") else x.dtype

    def require(self, condition: Any) -> None:
        """Turn the step away unless the condition holds everywhere in the tree."""
        self.guards |= {sum_number(self._count, "tree")}
        failures = self.where(self._array(condition), 0.0, 1.0)
        self.tree_sum(self._namespace.broadcast_to(failures, self._like.shape))

    def stored(self, rule: str, name: str, value: Any, like: Any) -> Any:
        """Return `value` as a new array of the shape and dtype of `like`."""
        xp = self._namespace
        value = self._array(value)
        if xp.isdtype(value.dtype, "bool"):
            raise TypeError(f"{rule}.rule returned a boolean for {name!r}; return real numbers")
        if tuple(value.shape) != tuple(like.shape):
            if value.shape != ():
                raise ValueError(
                    f"{rule}.rule returned {name!r} of shape {tuple(value.shape)} for an array of "
                    f"shape {tuple(like.shape)}; a rule must keep shapes"
                )
            value = xp.broadcast_to(value, like.shape)
        # By way of the compute dtype, as in a graph; a copy always: a rule may return its gradient.
        value = xp.astype(value, self._compute, copy=False)
        value = xp.asarray(xp.astype(value, like.dtype, copy=True))
        if arrays.is_traced(value):  # though the arrays of the step are not, where jax.jit runs
            raise TypeError(
                f"{rule}.rule returned {name!r} without values, because the step runs inside of a "
                f"function that is being compiled or transformed; call update outside of it"
            )
        return value


def _is_host(x: Any) -> bool:
    return isinstance(x, HostNumber) or is_number(x)


def _ranges(leaves: Sequence[Any]) -> Range:
    found = [arrays.memory_bounds(array) or (0, 0) for array in leaves]
    starts, stops = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return starts, stops


ENGINE = ArrayAPIEngine()

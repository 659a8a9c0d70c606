"""The parts of a graph. All are frozen, so that graphs can be compared, hashed and cached."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from instep.graph.dtypes import itemsize

ARITHMETIC = ("add", "subtract", "multiply", "divide", "copysign")
UNARY = ("negative", "abs", "sqrt", "floor", "ceil", "trunc", "round")
COMPARISONS = ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal")
LOGICAL = ("logical_and", "logical_or", "logical_xor")
LEAVES = ("load", "scalar", "constant", "reduced")
#: To another dtype; to the parts of complex numbers that were loaded, and to such, to be stored; to
#: the bits of a number, and from them.
CONVERSIONS = ("cast", "real", "imag", "complex", "bits")
#: That give each element a word of 32 bits: as `words.random` and `words.shared` say.
DRAWS = ("random", "shared")
#: On words without a sign, uint32. They can also be added, subtracted and multiplied, modulo 2**32,
#: compared and chosen. `largest` is that of the block of an element (`words.BLOCK`).
OF_WORDS = (*DRAWS, "bit_and", "bit_or", "shift_left", "shift_right", "largest")

#: Every operation that an engine must be able to emit. All are exactly rounded by IEEE 754, and
#: those on words are exact.
OPERATIONS = frozenset(
    (
        *(*ARITHMETIC, *UNARY, *COMPARISONS, *LOGICAL, "logical_not", "where"),
        *(*LEAVES, *CONVERSIONS, *OF_WORDS),
    )
)


@dataclass(frozen=True, slots=True)
class Array:
    """One array that a rule works on: the parameter `w`, its gradient `g`, or a slot of state.

    `per` elements, in C order, have an item of it.
    """

    name: str
    dtype: str
    per: int = 1


@dataclass(frozen=True, slots=True)
class Node:
    """One operation on the values of one element.

    `operands` are positions in `Graph.nodes`. `value` is the name of the array that a `load`
    reads, the number of a `constant`, the position of a `scalar` in `Graph.scalars`, the
    number of the sum that is `reduced`, or that of the draw of random words.
    """

    operation: str
    operands: tuple[int, ...]
    dtype: str
    value: str | int | float | None = None


@dataclass(frozen=True, slots=True)
class Scalar:
    """A host expression: Python source over the hyperparameters and the step number `t`.

    It is evaluated once a step in Python floats, and rounded once to `dtype`, which is that of
    the nodes that use it. A rule may use one expression in two dtypes: these are two scalars.
    """

    source: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Store:
    """Node `node` is written to array `array`."""

    array: str
    node: int


@dataclass(frozen=True, slots=True)
class Sum:
    """The canonical sum of node `node` over one tensor, or over all tensors of the tree.

    Or its maximum, which is taken in the same way. `number` is that of `sum_number`: the one a
    `reduced` node names.
    """

    number: int
    node: int
    scope: str  # "tensor" or "tree"

    @property
    def kind(self) -> str:
        """Whether it is a sum or a maximum."""
        return sum_kind(self.number)


#: What numbers are that `reduced` nodes read: the sums and the maxima of a step, and what was
#: remembered of the step before.
KINDS = ("sum", "maximum", "remembered")

#: Sum and maximum of nothing, from which a reduction begins.
FIRST = {"sum": 0.0, "maximum": -math.inf, "remembered": 0.0}


def sum_number(count: int, scope: str, kind: str = "sum") -> int:
    """Return the number of a sum before which the rule has met `count` of this scope and kind.

    Sums over the tree have even numbers, those over a tensor odd ones. So leaves agree on which
    sum over the tree is which, where the rule takes other sums over the tensor for some of them.
    """
    return 2 * (len(KINDS) * count + KINDS.index(kind)) + (scope == "tensor")


def sum_scope(number: int) -> str:
    """Return what the sum of this number is over."""
    return "tensor" if number % 2 else "tree"


def sum_kind(number: int) -> str:
    """Return which of `KINDS` the sum of this number is."""
    return KINDS[number // 2 % len(KINDS)]


def numbers_of(of_tensors: Iterable[str], of_tree: Iterable[str]) -> dict[str, int]:
    """Return the numbers by which graphs know what is remembered, by name."""
    return {
        name: sum_number(count, scope, "remembered")
        for scope, names in (("tensor", of_tensors), ("tree", of_tree))
        for count, name in enumerate(names)
    }


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the step makes of a number that is remembered: node `node`, the same for all elements.

    `number` is that of `sum_number`, by which `reduced` nodes read what it was before. One that
    `lasts` is made in a step that is turned away, too.
    """

    name: str
    number: int
    node: int
    lasts: bool = False

    @property
    def scope(self) -> str:
        """Whether it is a number of each tensor, or of the tree."""
        return sum_scope(self.number)


@dataclass(frozen=True, slots=True)
class Reading:
    """A number that can be read after the step: node `node`, the same for all elements."""

    name: str
    node: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the array library, applied to a whole array between two passes.

    The pass writes its operand, node `node`, to the array `array`; the function is given that
    array, and what it returns takes the place of it, for later passes to load.

    Attributes
    ----------
    function
        ``function(xp, x, *slots, **numbers)`` returns an array like `x`, or a tuple of one and a
        new array for every slot.
    slots
        Names of slots that no pass touches, which the function is given and renews.
    numbers
        Keyword arguments: names with host expressions, as in `Graph.scalars`.
    """

    array: str
    node: int
    function: Callable[..., Any]
    slots: tuple[str, ...]
    numbers: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """Name of the function."""
        return getattr(self.function, "__name__", repr(self.function))


@dataclass(frozen=True)
class Graph:
    """A rule, or one pass of it, as a list of operations in the order in which Python ran them.

    Attributes
    ----------
    name
        The rule that was traced, with its dtype: the name of the kernel.
    compute
        The dtype of the arithmetic: ``"float32"`` or ``"float64"``. Complex numbers are loaded and
        stored; what is computed is their parts.
    arrays
        All arrays of the rule, whether this pass touches them or not: `w`, `g`, the slots, then
        those between two passes.
    scalars
        Host expressions, evaluated once a step.
    nodes
        Operations; every operand stands before its use.
    stores, sums
        What this pass writes and reduces.
    sum_count
        Numbers of sums that the whole rule takes: those of its sums are all below it.
    calls
        The functions that follow this pass.
    guards
        Numbers of sums over the tree that count elements which forbid the step: the last pass
        is run only if all of them are zero.
    remembered
        New values of numbers. They are made when all sums are known, by a graph of their own,
        `remembers` of the last pass, and take the place of the old ones when that has run.
    readings
        What can be read after the step. It is made when it is read, by a graph of its own, `reads`
        of the last pass.
    """

    name: str
    compute: str
    arrays: tuple[Array, ...]
    scalars: tuple[Scalar, ...]
    nodes: tuple[Node, ...]
    stores: tuple[Store, ...] = ()
    sums: tuple[Sum, ...] = ()
    sum_count: int = 0
    calls: tuple[Call, ...] = ()
    guards: tuple[int, ...] = ()
    remembered: tuple[Remembered, ...] = ()
    remembers: "Graph | None" = None
    readings: tuple[Reading, ...] = ()
    reads: "Graph | None" = None

    @cached_property
    def loaded(self) -> tuple[Array, ...]:
        """The arrays that this pass reads."""
        names = {node.value for node in self.nodes if node.operation == "load"}
        return tuple(array for array in self.arrays if array.name in names)

    @cached_property
    def stored(self) -> tuple[Array, ...]:
        """The arrays that this pass writes."""
        names = {store.array for store in self.stores}
        return tuple(array for array in self.arrays if array.name in names)

    @cached_property
    def lasting(self) -> tuple[Remembered, ...]:
        """The numbers that it makes in a step that is turned away, too."""
        return tuple(entry for entry in self.remembered if entry.lasts)

    @cached_property
    def adds(self) -> frozenset[int]:
        """Numbers of the sums over the tree in which this pass has a part."""
        return frozenset(entry.number for entry in self.sums if entry.scope == "tree")

    @cached_property
    def awaits(self) -> frozenset[int]:
        """Numbers of those that it reads: by then all leaves must have had their part in them."""
        read = {int(str(node.value)) for node in self.nodes if node.operation == "reduced"}
        return frozenset(n for n in read if sum_scope(n) == "tree" and sum_kind(n) != "remembered")

    @cached_property
    def in_order(self) -> bool:
        """Whether elements have to be walked in C order: for sums, and where they are counted."""
        return bool(self.sums) or self.draws or self.has_blocks

    @property
    def draws(self) -> bool:
        """Whether elements get random words."""
        return any(node.operation in DRAWS for node in self.nodes)

    @cached_property
    def has_blocks(self) -> bool:
        """Whether elements have something in common with those of their block."""
        of_blocks = any(node.operation in ("shared", "largest") for node in self.nodes)
        return of_blocks or any(array.per > 1 for array in (*self.loaded, *self.stored))

    @property
    def bytes_per_element(self) -> float:
        """Memory traffic of this pass, in bytes for an element."""
        found = sum(itemsize(x.dtype) / x.per for x in (*self.loaded, *self.stored))
        return int(found) if found == int(found) else found

    @cached_property
    def of_blocks(self) -> frozenset[int]:
        """The nodes whose value is the same for all elements of a block, and not of a tensor."""
        arrays = {array.name for array in self.arrays if array.per > 1}
        found: set[int] = set()
        for position, node in enumerate(self.nodes):
            if node.operation in ("load", *DRAWS):
                is_of_block = node.value in arrays
            else:
                varies = node.operation != "complex" and position not in self.uniform
                is_of_block = varies and (found | self.uniform).issuperset(node.operands)
            if is_of_block or node.operation == "largest":
                found.add(position)
        return frozenset(found)

    @cached_property
    def uniform(self) -> frozenset[int]:
        """The nodes whose value is the same for all elements of a tensor."""
        found: set[int] = set()
        for position, node in enumerate(self.nodes):
            varies = node.operation in ("load", "complex", *DRAWS)
            if not varies and found.issuperset(node.operands):
                found.add(position)
        return frozenset(found)

    def __str__(self) -> str:
        """Readable listing, one operation a line."""
        lines = [f"{self.name} (computes in {self.compute})"]
        lines += [f"  h{i} = {scalar.source}" for i, scalar in enumerate(self.scalars)]
        for position, node in enumerate(self.nodes):
            operands = [f"%{operand}" for operand in node.operands]
            match node.operation:
                case "scalar":
                    operands = [f"h{node.value}"]
                case operation if operation in DRAWS:
                    operands.append(f"draw {node.value}")
                case "load" | "constant" | "reduced":
                    operands = [str(node.value)]
            lines.append(f"  %{position}: {node.dtype} = {node.operation} {', '.join(operands)}")
        lines += [f"  {s.kind} {s.number} over the {s.scope} of %{s.node}" for s in self.sums]
        lines += [f"  store {store.array} = %{store.node}" for store in self.stores]
        lines += [f"  remember {entry.name} = %{entry.node}" for entry in self.remembered]
        lines += [f"  read {entry.name} = %{entry.node}" for entry in self.readings]
        lines += [f"  then {call.array} = {call.name}({call.array})" for call in self.calls]
        return "\n".join(lines)

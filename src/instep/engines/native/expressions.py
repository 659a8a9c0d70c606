"""What a pass computes, as LLVM IR: of one element, or of a vector of them.

Arithmetic carries no fast-math flag, so LLVM neither contracts, reassociates nor approximates
it.
"""

import struct
from collections.abc import Collection, Iterable, Sequence

from instep.engines.native.cast import TYPES, cast, repeated, splat, vector
from instep.engines.native.joining import BOTH, TURNED
from instep.engines.native.random import random_words
from instep.engines.native.target import Traits
from instep.graph import Graph, Node, sum_scope
from instep.graph.dtypes import DTYPES, is_complex, itemsize
from instep.graph.nodes import CONVERSIONS

_BINARY = {
    "add": "fadd",
    "subtract": "fsub",
    "multiply": "fmul",
    "divide": "fdiv",
    "logical_and": "and",
    "logical_or": "or",
    "logical_xor": "xor",
    "less": "fcmp olt",
    "less_equal": "fcmp ole",
    "greater": "fcmp ogt",
    "greater_equal": "fcmp oge",
    "equal": "fcmp oeq",
    "not_equal": "fcmp une",
}
#: The same of words.
_OF_WORDS = {
    "add": "add",
    "subtract": "sub",
    "multiply": "mul",
    "bit_and": "and",
    "bit_or": "or",
    "shift_left": "shl",
    "shift_right": "lshr",
    "less": "icmp ult",
    "less_equal": "icmp ule",
    "greater": "icmp ugt",
    "greater_equal": "icmp uge",
    "equal": "icmp eq",
    "not_equal": "icmp ne",
}
_ORDERED = ("less", "less_equal", "greater", "greater_equal")
_INTRINSICS = {
    "abs": "fabs",
    "sqrt": "sqrt",
    "floor": "floor",
    "ceil": "ceil",
    "trunc": "trunc",
    "round": "rint",
    "copysign": "copysign",
}


class Expressions:
    """Writes the operations of a pass.

    Values of one loop have names with a prefix of their own, and numbers of nodes; those of uniform
    nodes begin with `u`, and with `s` where a vector repeats them.

    Parameters
    ----------
    offsets
        Where each scalar stands in a row of them.
    sparse
        Positions of arrays that have a gap as large as an element after each.
    """

    def __init__(
        self,
        graph: Graph,
        traits: Traits,
        offsets: Sequence[int],
        sparse: Collection[int] = (),
    ) -> None:
        self.graph, self._traits, self._offsets = graph, traits, offsets
        self._sparse = sparse
        self.blocks: frozenset[int] = frozenset()  # nodes that are computed once for a block
        self.declarations: set[str] = set()
        self.position = {array.name: i for i, array in enumerate(graph.arrays)}

    def uniform(self, position: int, node: Node, width: int) -> list[str]:
        """Return the value of a uniform node, and the vector of so many that repeats it."""
        name, kind = f"%u{position}", TYPES[node.dtype]
        match node.operation:
            case "scalar":
                i = int(str(node.value))
                offset = self._offsets[i]
                lines = [
                    f"{name}_at = getelementptr i8, ptr %scalars, i64 {offset}",
                    f"{name} = load {kind}, ptr {name}_at ; {self.graph.scalars[i].source}",
                ]
            case "constant":
                lines = [f"{name} = select i1 true, {kind} {literal(node)}, {kind} {literal(node)}"]
            case "reduced":
                scope = sum_scope(int(str(node.value)))
                column = "%column" if scope == "tensor" else "%tree_column"
                lines = [
                    f"{name}_row = mul i64 %stride, {node.value}",
                    f"{name}_index = add i64 {name}_row, {column}",
                    f"{name}_at = getelementptr double, ptr %sums, i64 {name}_index",
                    f"{name} = load double, ptr {name}_at ; sum {node.value} over the {scope}",
                ]
            case operation if operation == BOTH:
                (i,) = node.operands
                one = self.operation(name, node, [f"%u{i}"], 1)
                return one + self.operation(f"%s{position}", node, [f"%s{i}"], width)
            case _:
                operands = [f"%u{i}" for i in node.operands]
                lines = self.operation(name, node, operands, 1)
        return [*lines, *repeated(f"%s{position}", name, kind, width)]

    def body(self, prefix: str, width: int, index: str) -> list[str]:
        """Return the operations of the pass on `width` elements from `index`, but no stores."""
        chosen = (i for i in range(len(self.graph.nodes)) if i not in self.graph.uniform)
        return [line for i in chosen for line in self.node(i, prefix, width, index)]

    def node(self, position: int, prefix: str, width: int, index: str) -> list[str]:
        """Return the operation of a node on `width` elements from `index`."""
        node, name = self.graph.nodes[position], f"%{prefix}{position}"
        if node.operation == "load":
            return self.load(name, node, width, index)
        if node.operation == "random":
            return random_words(name, position, width, index)
        operands = [self.value(prefix, width, i) for i in node.operands]
        if node.operation in ("shift_left", "shift_right"):
            operands[1] = _in_place(self.graph.nodes[node.operands[1]], width) or operands[1]
        return self.operation(name, node, operands, width)

    def value(self, prefix: str, width: int, position: int) -> str:
        """Return the name of the value of a node."""
        if position in self.graph.uniform:
            return f"%u{position}" if width == 1 else f"%s{position}"
        if position in self.blocks:
            return f"%k{position}" if width == 1 else f"%ks{position}"
        return f"%{prefix}{position}"

    def load(self, name: str, node: Node, width: int, index: str) -> list[str]:
        position, kind = self.position[str(node.value)], elements(node.dtype, width)
        if self.graph.arrays[position].per > 1:
            return self.load_of_block(name, node, width, index)
        source = f"{self.element(position)}, ptr %array{position}, i64 {index}"
        lines = [f"{name}_at = getelementptr {source}"]
        if width == 1 or position not in self._sparse:
            lines.append(f"{name} = load {kind}, ptr {name}_at, {_align(node)} ; {node.value}")
            return lines
        # The second vector ends with the last element: what comes after may be no memory at all.
        chosen = [*range(0, width, 2), *range(width + 1, 2 * width, 2)]
        return [
            *lines,
            f"{name}_then = getelementptr {TYPES[node.dtype]}, ptr {name}_at, i64 {width - 1}",
            f"{name}_low = load {kind}, ptr {name}_at, {_align(node)} ; {node.value}",
            f"{name}_high = load {kind}, ptr {name}_then, {_align(node)}",
            _shuffle(name, kind, [f"{name}_low", f"{name}_high"], _lanes(node.dtype, chosen)),
        ]

    def load_of_block(self, name: str, node: Node, width: int, index: str) -> list[str]:
        """Return the load of what the block of these elements has, repeated for each."""
        one = name if width == 1 else f"{name}_one"
        kind, at = TYPES[node.dtype], self.place_of_block(name, str(node.value), index)
        lines = [*at, f"{one} = load {kind}, ptr {name}_of_block ; {node.value}"]
        return lines if width == 1 else [*lines, *repeated(name, one, kind, width)]

    def place_of_block(self, name: str, array: str, index: str) -> list[str]:
        """Return what makes ``{name}_of_block``, the address of what the block of an element has.

        Elements are counted from the first of the tensor, wherever copies of them are.
        """
        position = self.position[array]
        spec = self.graph.arrays[position]
        item = f"{TYPES[spec.dtype]}, ptr %array{position}, i64 {name}_block"
        return [
            f"{name}_number = add i64 %first_element, {index}",
            f"{name}_block = udiv i64 {name}_number, {spec.per}",
            f"{name}_of_block = getelementptr {item}",
        ]

    def stores(
        self, prefix: str, width: int, index: str, chosen: Sequence[int] | None = None
    ) -> list[str]:
        """Return the stores of the pass, or those of these numbers."""
        lines = []
        for number, store in enumerate(self.graph.stores):
            if chosen is not None and number not in chosen:
                continue
            node, position = self.graph.nodes[store.node], self.position[store.array]
            kind, value = elements(node.dtype, width), self.value(prefix, width, store.node)
            name, element = f"%{prefix}_store{number}", self.element(position)
            lines.append(f"{name} = getelementptr {element}, ptr %array{position}, i64 {index}")
            if width == 1 or position not in self._sparse:
                lines.append(f"store {kind} {value}, ptr {name}, {_align(node)} ; {store.array}")
                continue
            part, parts = _parts(node.dtype, 1)
            for i in range(width):
                one = f"{name}_{i}"
                lines += [
                    f"{one} = getelementptr {element}, ptr {name}, i64 {i}",
                    _shuffle(f"{one}_value", kind, [value], _lanes(node.dtype, [i])),
                    f"store <{parts} x {TYPES[part]}> {one}_value, ptr {one}, {_align(node)}",
                ]
        return lines

    def element(self, position: int) -> str:
        """Return the type of an element of an array, with the gap after it."""
        kind = TYPES[self.graph.arrays[position].dtype]
        return f"[2 x {kind}]" if position in self._sparse else kind

    def operation(self, name: str, node: Node, operands: list[str], width: int) -> list[str]:
        """Return the instructions of one operation."""
        source = self.graph.nodes[node.operands[-1]].dtype
        if node.operation in (*CONVERSIONS, BOTH, TURNED):
            return self.conversion(name, node, operands, source, width)
        source, width = _parts(source, width)
        kind = vector(TYPES[source], width)
        match node.operation:
            case operation if operation in _BINARY or operation in _OF_WORDS:
                return self.binary(name, operation, source, operands, width)
            case operation if operation in _INTRINSICS:
                return [f"{name} = {self.call(_INTRINSICS[operation], source, width, operands)}"]
            case "negative":
                return [f"{name} = fneg {kind} {operands[0]}"]
            case "logical_not":
                return [f"{name} = xor {kind} {operands[0]}, {splat('i1', 'true', width)}"]
            case "where":
                condition = f"{vector('i1', width)} {operands[0]}"
                return [f"{name} = select {condition}, {kind} {operands[1]}, {kind} {operands[2]}"]
        raise NotImplementedError(f"LLVM IR for {node.operation}")

    def conversion(
        self, name: str, node: Node, operands: list[str], source: str, width: int
    ) -> list[str]:
        """Return a conversion to another dtype, to a part of complex numbers, or to such."""
        kind, order = elements(source, width), self._order(width)
        match node.operation:
            case "cast":
                source, width = _parts(source, width)
                return self.cast(name, operands[0], source, _parts(node.dtype, 1)[0], width)
            case "bits":
                return [f"{name} = bitcast {kind} {operands[0]} to {elements(node.dtype, width)}"]
            case "complex":
                return _whole(name, operands, kind, order)
            case operation if operation == BOTH:
                return _whole(name, operands * 2, kind, order)
            case operation if operation == TURNED:
                return [_turned(name, operands[0], kind, order)]
        return _part(name, operands[0], kind, order, ("real", "imag").index(node.operation))

    def _order(self, width: int) -> list[int]:
        """Return which element has the parts, or the real value, in each place of a vector.

        The parts of the first four elements are in two registers of AVX2. Taken from both
        registers at once, half by half, those of the second stand before those of the third: in
        their order it would take twice as many instructions.
        """
        if width == 1 or self.graph.sums or self.graph.has_blocks:
            return list(range(width))
        piece = width // 8
        return [piece * i + j for i in (0, 2, 1, 3, 4, 6, 5, 7) for j in range(piece)]

    def cast(self, name: str, value: str, source: str, target: str, width: int) -> list[str]:
        """Return a conversion between floating-point types."""
        converts_half = self._traits.converts_half
        return cast(name, value, source, target, width, converts_half=converts_half)

    def binary(
        self, name: str, operation: str, dtype: str, operands: list[str], width: int
    ) -> list[str]:
        """Return an operation on two values."""
        lines: list[str] = []
        kind = vector(TYPES[dtype], width)
        if dtype == "uint32":
            return [f"{name} = {_OF_WORDS[operation]} {kind} {operands[0]}, {operands[1]}"]
        if operation in _ORDERED and not self._traits.orders_signaling:
            # LLVM makes `max(a, b) > c` of `a > c or b > c`, also where the maximum of a signaling
            # NaN and a number is a NaN (aarch64: fmaxnm). A canonical NaN is quiet.
            for side, operand in zip(("a", "b"), operands, strict=True):
                lines.append(
                    f"{name}_{side} = {self.call('canonicalize', dtype, width, [operand])}"
                )
            operands = [f"{name}_a", f"{name}_b"]
        return [*lines, f"{name} = {_BINARY[operation]} {kind} {operands[0]}, {operands[1]}"]

    def call(self, intrinsic: str, dtype: str, width: int, operands: Iterable[str]) -> str:
        """Return the call of an intrinsic, and declare it."""
        kind = vector(TYPES[dtype], width)
        bits = f"f{8 * DTYPES[dtype].itemsize}"
        function = f"@llvm.{intrinsic}.{bits if width == 1 else f'v{width}{bits}'}"
        operands = list(operands)
        self.declarations.add(f"declare {kind} {function}({', '.join([kind] * len(operands))})")
        return f"call {kind} {function}({', '.join(f'{kind} {operand}' for operand in operands)})"


def _align(node: Node) -> str:
    # A complex number begins where its parts may.
    dtype = DTYPES[node.dtype].part if is_complex(node.dtype) else node.dtype
    return f"align {itemsize(dtype)}"


def elements(dtype: str, width: int) -> str:
    """Return the type of `width` elements of an array; of complex ones, of their parts in turn."""
    part, count = _parts(dtype, width)
    return vector(TYPES[part], count)


def _parts(dtype: str, width: int) -> tuple[str, int]:
    """Return dtype and number of the parts of `width` elements, or of these where they are real."""
    part = DTYPES[dtype].part if dtype in DTYPES else ""
    return (part, 2 * width) if part else (dtype, width)


def _lanes(dtype: str, chosen: Iterable[int]) -> list[int]:
    """Return the places of elements in a vector, those of both parts where they are complex."""
    _, parts = _parts(dtype, 1)
    return [parts * i + part for i in chosen for part in range(parts)]


def _part(name: str, value: str, kind: str, order: Sequence[int], which: int) -> list[str]:
    """Return the instructions that take the real or the imaginary parts."""
    if len(order) == 1:
        return [f"{name} = extractelement {kind} {value}, i64 {which}"]
    return [_shuffle(name, kind, [value], [2 * i + which for i in order])]


def _whole(name: str, parts: Sequence[str], kind: str, order: Sequence[int]) -> list[str]:
    """Return the instructions that put real and imaginary parts in turn."""
    if len(order) == 1:
        pair, (re, im) = f"<2 x {kind}>", parts
        return [
            f"{name}_re = insertelement {pair} poison, {kind} {re}, i64 0",
            f"{name} = insertelement {pair} {name}_re, {kind} {im}, i64 1",
        ]
    width = len(order)
    places = [
        place + part for i in range(width) for place in [order.index(i)] for part in (0, width)
    ]
    return [_shuffle(name, kind, parts, places)]


def _turned(name: str, value: str, kind: str, order: Sequence[int]) -> str:
    """Return the instruction that puts real values in this order."""
    if len(order) == 1:
        return f"{name} = select i1 true, {kind} {value}, {kind} {value}"
    return _shuffle(name, kind, [value], order)


def _shuffle(name: str, kind: str, values: Sequence[str], places: Sequence[int]) -> str:
    """Return the instruction that chooses from one vector or two."""
    first, second = (f"{kind} {value}" for value in (*values, "poison")[:2])
    chosen = ", ".join(f"i32 {place}" for place in places)
    return f"{name} = shufflevector {first}, {second}, <{len(places)} x i32> <{chosen}>"


def _in_place(node: Node, width: int) -> str | None:
    """Return a constant as it stands in an instruction: shifts by one are cheaper."""
    return splat("i32", literal(node), width) if node.operation == "constant" else None


def literal(node: Node) -> str:
    """Return a constant as LLVM writes it: the bits of a double, or a truth value."""
    if node.dtype == "bool":
        return str(bool(node.value)).lower()
    if node.dtype == "uint32":
        return str(int(node.value))  # type: ignore[arg-type]
    number = float(node.value)  # type: ignore[arg-type]
    if node.dtype == "float32":
        (number,) = struct.unpack("f", struct.pack("f", number))
    (bits,) = struct.unpack("Q", struct.pack("d", number))
    return f"0x{bits:016X}"

"""Operations of a graph as C++ expressions: exact, and as readable as the rule.

Operators mean what they say because of how the text is compiled (`compile.OPTIONS`): nothing is
contracted, reassociated, flushed or approximated. Values used once stand where they are used;
others get a name.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from instep.graph import Graph, Node
from instep.graph.nodes import CONVERSIONS, DRAWS, LEAVES, OF_WORDS

#: How C++ spells a dtype.
TYPES = {
    "bool": "bool",
    "uint8": "unsigned char",
    "uint16": "unsigned short",
    "uint32": "unsigned",
    "float16": "__half",
    "bfloat16": "__nv_bfloat16",
    "float32": "float",
    "float64": "double",
    "complex64": "float2",
    "complex128": "double2",
}


class NarrowType(NamedTuple):
    """What CUDA brings for a type that C++ has not."""

    header: str
    widen: str  # the function that makes a float of it
    round: str  # and the one that rounds a float to it


NARROW_TYPES = {
    "float16": NarrowType("cuda_fp16.h", "__half2float", "__float2half_rn"),
    "bfloat16": NarrowType("cuda_bf16.h", "__bfloat162float", "__float2bfloat16_rn"),
}

#: What takes the bits of a number, and makes one of them, by the dtype of the result.
_BITS = {
    "uint32": "__float_as_uint",
    "float32": "__uint_as_float",
    "uint16": "__bfloat16_as_ushort",
    "bfloat16": "__ushort_as_bfloat16",
}

_KEYWORDS = """
    char8_t char16_t char32_t co_await co_return co_yield concept consteval constinit requires
    typeof
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const
    const_cast constexpr continue decltype default delete do double dynamic_cast else enum
    explicit export extern false final float for friend goto half if inline int long main mutable
    namespace new noexcept not not_eq nullptr operator or or_eq override private protected public
    register reinterpret_cast return short signed sizeof static static_assert static_cast struct
    switch template this thread_local throw true try typedef typeid typename union unsigned using
    virtual void volatile wchar_t while xor xor_eq
"""

#: What the text around the rule calls its own (see `emit`), and what it calls of others.
_TAKEN = """
    size first_block row position layout h i k step leaf number start count whole chunk aligned
    lanes mine last is_last tile tiles total rest axis index length at first update accumulate
    uniform word bits pack Pack Leaf Step Uniform Offsets V THREADS LANES TILE NEAR GLOBAL fold
    canonical_sum add_up larger max_fold max_canonical_sum max_add_up
    pointer locate min abs sqrt sqrtf fabs fabsf floor floorf ceil ceilf
    trunc truncf rint rintf copysign copysignf warpSize threadIdx blockIdx blockDim gridDim
    candidate allowed linux unix assert
    Box Staged box staged turned pitch parts rows columns down along r c a b next
    width high tall apart here there mine r_turned c_turned mine_staged turned_staged
    lane kept stage line lines begin begun end places row j room many passed ahead all left most
    over part p load store put take values step
    Words philox chosen round draw d words early late element at_step
    before after is_there block shares turned_words largest_of warp
"""

_RESERVED = frozenset(f"{_KEYWORDS} {_TAKEN}".split())

#: Names that the text makes up, by number: of values (`t0`), sums, scalars and what is uniform.
#: And names in capitals: these are macros, of C and of what the text includes.
_GENERATED = re.compile(r"(draw|h|kept|largest|number|partial|sum|t|u|words)[0-9]+|[A-Z][A-Z0-9_]*")

#: Names that the text makes of the name of an array.
_FORMS = (
    *("{}", "new_{}", "{}_i", "{}_pack"),
    *("{}_at", "{}_step", "{}_there", "{}_kept", "{}_along"),
)


def _is_free(name: str) -> bool:
    """Return whether a name of the user's has no meaning in the text around it."""
    return name not in _RESERVED and not _GENERATED.fullmatch(name)


# How tightly an expression binds.
_CHOICE, _LOGICAL, _COMPARISON, _SUM, _PRODUCT, _SIGN, _ATOM = range(7)

_OF_WORDS = {
    "bit_and": "&",
    "bit_or": "|",
    "shift_left": "<<",
    "shift_right": ">>",
}

_INFIX = {
    "add": ("+", _SUM),
    "subtract": ("-", _SUM),
    "multiply": ("*", _PRODUCT),
    "divide": ("/", _PRODUCT),
    "less": ("<", _COMPARISON),
    "less_equal": ("<=", _COMPARISON),
    "greater": (">", _COMPARISON),
    "greater_equal": (">=", _COMPARISON),
    "equal": ("==", _COMPARISON),
    "not_equal": ("!=", _COMPARISON),
    "logical_and": ("&&", _LOGICAL),
    "logical_or": ("||", _LOGICAL),
    "logical_xor": ("!=", _COMPARISON),
}

_FUNCTIONS = {
    "abs": "fabs",
    "sqrt": "sqrt",
    "floor": "floor",
    "ceil": "ceil",
    "trunc": "trunc",
    "round": "rint",  # halves to even
    "copysign": "copysign",
}

#: What the code around computes, where that is nothing.
NOTHING: Mapping[int, str] = MappingProxyType({})

#: An expression that grows beyond this many characters gets a name.
_WIDTH = 64


class Names:
    """C++ names for the arrays and scalars of a graph, each once."""

    def __init__(self, graph: Graph) -> None:
        self._used: set[str] = set()
        self.arrays = {array.name: self._array(array.name) for array in graph.arrays}
        self.scalars: list[str] = []
        for i, scalar in enumerate(graph.scalars):
            name = self._scalar(i, scalar.source)
            # The same expression in another dtype is another number.
            self.scalars.append(f"h{i}" if name in self.scalars else name)

    def _array(self, name: str) -> str:
        name = re.sub(r"[^0-9A-Za-z_]", "x", re.sub(r"\.unit$", "_unit", name))
        # Names that begin or end so, or hold two underscores, belong to the compiler.
        name = re.sub(r"_+", "_", name).strip("_") or "slot"
        while not _is_free(name) or any(form.format(name) in self._used for form in _FORMS):
            name += "x"
        self._used.update(form.format(name) for form in _FORMS)
        return name

    @staticmethod
    def _scalar(position: int, source: str) -> str:
        plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*", source)
        if plain and _is_free(source):
            return source
        return f"h{position}"


#: Zeros that ptxas does not know: there is one block along y. Of ``condition ? 1.0f : -0.0f``, also
#: where that is a negated ``condition ? -1.0f : 0.0f``, it makes an instruction that gives 1 or 0,
#: and loses the sign (that of CUDA 12.9 and 13.5, for all architectures).
_UNKNOWN_ZERO = {
    "0.0f": "__uint_as_float(gridDim.y - 1u)",
    "(-0.0f)": "__uint_as_float(0x80000000u + gridDim.y - 1u)",
}


class Expressions:
    """Statements that compute values of a graph.

    Parameters
    ----------
    graph
        The pass.
    names
        Names of its arrays and scalars.
    of
        Positions of the nodes to compute: those whose value is the same for all elements of a
        tensor, or the others.
    wanted
        What each node that is stored or summed shall be called.
    given
        What those are called that the code around computes.
    """

    def __init__(
        self,
        graph: Graph,
        names: Names,
        of: Iterable[int],
        wanted: Mapping[int, str],
        given: Mapping[int, str] = NOTHING,
    ) -> None:
        self._graph, self._names, self._wanted = graph, names, wanted
        self._of = set(of)
        self._text = {position: (name, _ATOM) for position, name in given.items()}
        self._count = 0
        self._uses = Counter(
            operand
            for position, node in enumerate(graph.nodes)
            if position in self._of
            for operand in node.operands
        )
        self.statements: list[str] = []
        for position in sorted(self._of):
            self._compute(position, graph.nodes[position])

    def __getitem__(self, position: int) -> str:
        return self._operand(position, _CHOICE)

    def _operand(self, position: int, binding: int) -> str:
        if position not in self._text:  # a value that is the same for all elements
            node = self._graph.nodes[position]
            self._text[position] = (outside(node, position, self._names), _ATOM)
        text, tightness = self._text[position]
        return text if tightness >= binding else f"({text})"

    def _compute(self, position: int, node: Node) -> None:
        text, binding = self._expression(node)
        self._text[position] = (text, binding)
        leaf = node.operation in (*LEAVES, "real", "imag", *DRAWS)
        name = self._wanted.get(position)
        if name is None and not leaf and (self._uses[position] > 1 or len(text) > _WIDTH):
            name = f"t{self._count}"
            self._count += 1
        if name is not None:
            self.statements.append(f"const {TYPES[node.dtype]} {name} = {text};")
            self._text[position] = (name, _ATOM)

    def _expression(self, node: Node) -> tuple[str, int]:
        operation, operands = node.operation, node.operands
        if operation in _INFIX:
            symbol, binding = _INFIX[operation]
            # Operands of equal binding are grouped from the left, as in Python.
            tight = binding <= _COMPARISON
            left = self._operand(operands[0], _SUM if tight else binding)
            right = self._operand(operands[1], _SUM if tight else binding + 1)
            return f"{left} {symbol} {right}", binding
        if operation in _FUNCTIONS:
            suffix = "f" if node.dtype == "float32" else ""
            arguments = ", ".join(self._operand(i, _CHOICE) for i in operands)
            return f"{_FUNCTIONS[operation]}{suffix}({arguments})", _ATOM
        binding = _ATOM
        match operation:
            case operation if operation in OF_WORDS:
                text = self._word(node)
            case "negative" | "logical_not":
                sign = "-" if operation == "negative" else "!"
                text, binding = f"{sign}{self._operand(operands[0], _ATOM)}", _SIGN
            case "where":
                condition, a, b = (self._operand(i, _LOGICAL) for i in operands)
                if self._are_one_and_other_zero(*operands[1:]):
                    a, b = (_UNKNOWN_ZERO.get(text, text) for text in (a, b))
                text, binding = f"{condition} ? {a} : {b}", _CHOICE
            case operation if operation in CONVERSIONS:
                text = self._conversion(node)
            case "load":
                text = self._names.arrays[str(node.value)]
            case "reduced":
                text = f"sum{node.value}"
            case "scalar" | "constant":
                text = outside(node, -1, self._names)
            case _:
                raise NotImplementedError(f"CUDA C++ for {operation}")
        return text, binding

    def _are_one_and_other_zero(self, *positions: int) -> bool:
        """Return whether these are the constants 1 and -0, or -1 and 0, in float32."""
        nodes = [self._graph.nodes[i] for i in positions]
        if any(node.operation != "constant" or node.dtype != "float32" for node in nodes):
            return False
        a, b = (float(str(node.value)) for node in nodes)
        return {abs(a), abs(b)} == {0.0, 1.0} and math.copysign(1.0, a) != math.copysign(1.0, b)

    def _word(self, node: Node) -> str:
        """Return the text of a random word, or of an operation on words."""
        if node.operation in DRAWS:
            return f"draw{node.value}"
        if node.operation == "largest":  # of words that are all the same
            return self._operand(node.operands[0], _ATOM)
        left, right = (self._operand(i, _SIGN) for i in node.operands)
        return f"({left} {_OF_WORDS[node.operation]} {right})"

    def _conversion(self, node: Node) -> str:
        """Return the text of a conversion."""
        match node.operation:
            case "real" | "imag":
                member = "x" if node.operation == "real" else "y"
                return f"{self._operand(node.operands[0], _ATOM)}.{member}"
            case "complex":
                re, im = (self._operand(i, _CHOICE) for i in node.operands)
                return f"make_{TYPES[node.dtype]}({re}, {im})"
            case "bits":
                return f"{_BITS[node.dtype]}({self._operand(node.operands[0], _CHOICE)})"
        return self._cast(node)

    def _cast(self, node: Node) -> str:
        source = self._graph.nodes[node.operands[0]].dtype
        if source in NARROW_TYPES:
            function = NARROW_TYPES[source].widen
        elif node.dtype in NARROW_TYPES:
            function = NARROW_TYPES[node.dtype].round
        else:
            return f"({TYPES[node.dtype]}){self._operand(node.operands[0], _ATOM)}"
        return f"{function}({self._operand(node.operands[0], _CHOICE)})"


def outside(node: Node, position: int, names: Names) -> str:
    """Return the text of a value that is the same for all elements of a tensor."""
    match node.operation:
        case "scalar":
            assert isinstance(node.value, int)
            return f"h.{names.scalars[node.value]}"
        case "constant":
            assert node.value is not None
            return literal(node.value, node.dtype)
        case _:
            return f"h.u{position}"


def literal(value: str | float, dtype: str) -> str:
    """Return a constant as a C++ literal of exactly this value, rounded to `dtype`."""
    if dtype == "bool":
        return "true" if value else "false"
    if dtype == "uint32":
        return f"{int(value)}u"
    with np.errstate(over="ignore"):
        number = float(np.float32(value)) if dtype == "float32" else float(value)
    suffix = "f" if dtype == "float32" else ""
    if math.isinf(number) or math.isnan(number):
        if dtype == "float32":
            bits = np.float32(number).view(np.uint32)
            return f"__uint_as_float(0x{bits:08x}u)"
        return f"__longlong_as_double(0x{np.float64(number).view(np.uint64):016x}ll)"
    if number.is_integer() and abs(number) < 2**24:
        text = f"{abs(number):.1f}{suffix}"
    else:
        text = f"{abs(number).hex()}{suffix}"
    return f"(-{text})" if math.copysign(1.0, number) < 0 else text

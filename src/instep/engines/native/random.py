"""Random words as LLVM IR: Philox-4x32-10 for vectors, as `words.random` and `shared` say it.

Words stand in the lower halves of 64-bit integers, where they are multiplied; whatever is in the
upper halves is left there until a product asks for it to be cleared, which costs no instruction.
"""

from collections.abc import Sequence

from instep.engines.native.cast import repeated, splat, vector
from instep.graph import Node
from instep.words import AT_ONCE, BLOCK, MASK, MULTIPLIERS, ROUNDS, WEYL


def before_loops(position: int, node: Node, width: int) -> list[str]:
    """Return what is the same for all elements: the keys of the rounds, the step and the draw.

    Of a node at this position, for one element and for vectors of so many.
    """
    low, high, step = (f"%u{i}" for i in node.operands)
    lines = [f"%c_{position}_w1 = zext i32 {step} to i64"]
    lines.append(f"%d_{position}_w1 = add i64 {node.value}, 0")
    names = [f"c_{position}", f"d_{position}"]
    for key, value, weyl in zip("kl", (low, high), WEYL, strict=True):
        for i in range(ROUNDS):
            names.append(f"{key}{i}_{position}")
            lines += [
                f"%{names[-1]}_sum = add i32 {value}, {weyl * i & MASK}",
                f"%{names[-1]}_w1 = zext i32 %{names[-1]}_sum to i64",
            ]
    return lines + [line for name in names for line in _repeated(f"%{name}", width)]


def random_words(name: str, position: int, width: int, index: str) -> list[str]:
    """Return what gives the words of so many elements from `index` on, a multiple of them.

    Four elements have the words of a block. Of one element alone, the others are not used.
    """
    blocks = _blocks(width)
    lines = [
        f"{name}_first = add i64 %first_element, {index}",
        f"{name}_block_w1 = udiv i64 {name}_first, {AT_ONCE}",
    ]
    made, words = _philox(name, position, blocks)
    if width == 1:
        return lines + made + _of_one(name, words)
    return lines + made + _in_turn(name, words, blocks)


#: Counters of a block, and how many are taken at once: their words fill the registers of AVX2.
_COUNTERS, _TAKEN = BLOCK // AT_ONCE // AT_ONCE, 8

#: What `before_loops` is to repeat for the words of blocks.
SHARED_WIDTH = _TAKEN * AT_ONCE


def shared_words(name: str, position: int, buffer: str, index: str) -> list[str]:
    """Return what writes the words of the block that begins with the element `index`."""
    lines = [
        f"{name}_begin = add i64 %first_element, {index}",
        f"{name}_counter = udiv i64 {name}_begin, {BLOCK // _COUNTERS}",
    ]
    for first in range(0, _COUNTERS, _TAKEN):
        part = f"{name}_{first}"
        lines.append(f"{part}_block_w1 = add i64 {name}_counter, {first}")
        made, words = _philox(part, position, _TAKEN)
        lines += made
        for i, word in enumerate(words):
            kind = vector("i32", _TAKEN)
            lines += [
                f"{part}_word{i} = trunc {vector('i64', _TAKEN)} {word} to {kind}",
                f"{part}_at{i} = getelementptr i32, ptr {buffer}, i64 {_COUNTERS * i + first}",
                f"store {kind} {part}_word{i}, ptr {part}_at{i}, align {4 * _TAKEN}",
            ]
    return lines


def turned_words(name: str, buffer: str, place: str, width: int) -> list[str]:
    """Return what gives elements, of which the first has this place in its block, their words."""
    kind, word = vector("i32", width), f"{name}_word"
    return [
        f"{name}_place = and i64 {place}, {BLOCK // AT_ONCE - 1}",
        f"{name}_at = getelementptr i32, ptr {buffer}, i64 {name}_place",
        f"{word} = load {kind}, ptr {name}_at, align 4",
        f"{name}_round = udiv i64 {place}, {BLOCK // AT_ONCE}",
        f"{name}_wide = trunc i64 {name}_round to i32",
        f"{name}_left_one = mul i32 {name}_wide, 8",
        f"{name}_back_one = sub i32 0, {name}_left_one",
        f"{name}_right_one = and i32 {name}_back_one, 31",
        *repeated(f"{name}_left", f"{name}_left_one", "i32", width),
        *repeated(f"{name}_right", f"{name}_right_one", "i32", width),
        f"{name}_upper = shl {kind} {word}, {name}_left",
        f"{name}_lower = lshr {kind} {word}, {name}_right",
        f"{name} = or {kind} {name}_upper, {name}_lower",
    ]


def _philox(name: str, position: int, blocks: int) -> tuple[list[str], tuple[str, ...]]:
    """Return what makes four words of each of so many counters, from ``{name}_block_w1`` on."""
    kind, suffix = vector("i64", blocks), f"{position}_w{blocks}"
    half, mask = splat("i64", "32", blocks), splat("i64", str(MASK), blocks)
    counted = "0" if blocks == 1 else f"<{', '.join(f'i64 {i}' for i in range(blocks))}>"
    lines = [
        *_repeated(f"{name}_block", blocks * AT_ONCE),
        f"{name}_a = add {kind} {name}_block_w{blocks}, {counted}",
        f"{name}_b = lshr {kind} {name}_a, {half}",
    ]
    a, b, c, d = f"{name}_a", f"{name}_b", f"%c_{suffix}", f"%d_{suffix}"
    for i in range(ROUNDS):
        x, y = f"{name}_x{i}", f"{name}_y{i}"
        for product, word, multiplier in zip((x, y), (a, c), MULTIPLIERS, strict=True):
            lines += [
                f"{product}_word = and {kind} {word}, {mask}",
                f"{product} = mul {kind} {product}_word, {splat('i64', str(multiplier), blocks)}",
                f"{product}_high = lshr {kind} {product}, {half}",
            ]
        for product, word, key in ((y, b, "k"), (x, d, "l")):
            lines += [
                f"{product}_mixed = xor {kind} {product}_high, {word}",
                f"{product}_new = xor {kind} {product}_mixed, %{key}{i}_{suffix}",
            ]
        a, b, c, d = f"{y}_new", y, f"{x}_new", x
    return lines, (a, b, c, d)


def _blocks(width: int) -> int:
    return max(1, width // AT_ONCE)


def _of_one(name: str, words: Sequence[str]) -> list[str]:
    """Return what chooses the word of the first element."""
    a, b, c, d = words
    return [
        f"{name}_own = urem i64 {name}_first, {AT_ONCE}",
        f"{name}_is_odd = trunc i64 {name}_own to i1",
        f"{name}_is_late = icmp uge i64 {name}_own, 2",
        f"{name}_early = select i1 {name}_is_odd, i64 {b}, i64 {a}",
        f"{name}_late = select i1 {name}_is_odd, i64 {d}, i64 {c}",
        f"{name}_chosen = select i1 {name}_is_late, i64 {name}_late, i64 {name}_early",
        f"{name} = trunc i64 {name}_chosen to i32",
    ]


def _in_turn(name: str, words: Sequence[str], blocks: int) -> list[str]:
    """Return what puts the words of each block behind one another."""
    kind, lines = vector("i64", blocks), []
    for pair, (low, high) in (("early", words[:2]), ("late", words[2:])):
        one = f"{name}_{pair}"
        lines += [
            f"{one}_low = and {kind} {low}, {splat('i64', str(MASK), blocks)}",
            f"{one}_high = shl {kind} {high}, {splat('i64', '32', blocks)}",
            f"{one} = or {kind} {one}_low, {one}_high",
        ]
    places = ", ".join(f"i32 {i}, i32 {i + blocks}" for i in range(blocks))
    lanes = f"<{2 * blocks} x i32>"
    return [
        *lines,
        f"{name}_all = shufflevector {kind} {name}_early, {kind} {name}_late, {lanes} <{places}>",
        f"{name} = bitcast <{2 * blocks} x i64> {name}_all to <{AT_ONCE * blocks} x i32>",
    ]


def _repeated(name: str, width: int) -> list[str]:
    """Return what makes a vector, a number for each block of `width` elements, of one number."""
    blocks = _blocks(width)
    if blocks == 1:
        return []
    many, one, zeros = (
        vector("i64", blocks),
        f"{name}_i{blocks}",
        f"<{blocks} x i32> zeroinitializer",
    )
    return [
        f"{one} = insertelement {many} poison, i64 {name}_w1, i64 0",
        f"{name}_w{blocks} = shufflevector {many} {one}, {many} poison, {zeros}",
    ]

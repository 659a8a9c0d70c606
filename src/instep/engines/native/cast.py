"""Conversions between floating-point types as LLVM IR, rounded to nearest even."""

from instep.graph.dtypes import DTYPES

#: How LLVM spells a dtype. Arrays of 16 bits are loaded and stored as integers.
TYPES = {
    "bool": "i1",
    "float16": "i16",
    "bfloat16": "i16",
    "float32": "float",
    "float64": "double",
}


def vector(kind: str, width: int) -> str:
    """Return the type of `width` elements."""
    return kind if width == 1 else f"<{width} x {kind}>"


def splat(kind: str, value: str, width: int) -> str:
    """Return `width` times a value."""
    return value if width == 1 else f"<{', '.join([f'{kind} {value}'] * width)}>"


def cast(
    name: str, value: str, source: str, target: str, width: int, *, converts_half: bool
) -> list[str]:
    """Return the instructions that convert a value; `name` is that of the result.

    Where the processor does not convert float16, LLVM calls functions of a compiler's library that
    a process does not have: there it is converted in integer arithmetic.
    """
    if source in ("float16", "bfloat16"):
        wide = f"{name}_float" if target == "float64" else name
        if source == "bfloat16":
            lines = _from_bfloat16(wide, value, width)
        elif converts_half:
            lines = _from_half(wide, value, width)
        else:
            lines = _from_half_bits(wide, value, width)
        if target == "float32":
            return lines
        return [*lines, *_resize(name, wide, "float32", target, width)]
    if target not in ("float16", "bfloat16"):
        return _resize(name, value, source, target, width)
    assert source == "float32"
    if target == "bfloat16":
        return _to_bfloat16(name, value, width)
    if converts_half:
        return _to_half(name, value, width)
    return _to_half_bits(name, value, width)


def _resize(name: str, value: str, source: str, target: str, width: int) -> list[str]:
    kinds = [vector(TYPES[dtype], width) for dtype in (source, target)]
    instruction = "fpext" if DTYPES[source].itemsize < DTYPES[target].itemsize else "fptrunc"
    return [f"{name} = {instruction} {kinds[0]} {value} to {kinds[1]}"]


def _from_half(name: str, value: str, width: int) -> list[str]:
    half = vector("half", width)
    return [
        f"{name}_half = bitcast {vector('i16', width)} {value} to {half}",
        f"{name} = fpext {half} {name}_half to {vector('float', width)}",
    ]


def _to_half(name: str, value: str, width: int) -> list[str]:
    half = vector("half", width)
    return [
        f"{name}_half = fptrunc {vector('float', width)} {value} to {half}",
        f"{name} = bitcast {half} {name}_half to {vector('i16', width)}",
    ]


def _from_bfloat16(name: str, value: str, width: int) -> list[str]:
    bits = vector("i32", width)
    return [
        f"{name}_wide = zext {vector('i16', width)} {value} to {bits}",
        f"{name}_bits = shl {bits} {name}_wide, {splat('i32', '16', width)}",
        f"{name} = bitcast {bits} {name}_bits to {vector('float', width)}",
    ]


def _to_bfloat16(name: str, value: str, width: int) -> list[str]:
    """Round in integer arithmetic: x86 has no instruction before AVX-512."""
    wide, bits, mask = (vector(kind, width) for kind in ("float", "i32", "i1"))

    def number(text: str) -> str:
        return splat("i32", text, width)

    return [
        f"{name}_bits = bitcast {wide} {value} to {bits}",
        f"{name}_high = lshr {bits} {name}_bits, {number('16')}",
        f"{name}_odd = and {bits} {name}_high, {number('1')}",
        f"{name}_half = add {bits} {name}_odd, {number('32767')}",
        f"{name}_sum = add {bits} {name}_bits, {name}_half",
        f"{name}_round = lshr {bits} {name}_sum, {number('16')}",
        f"{name}_quiet = or {bits} {name}_high, {number('64')}",
        f"{name}_nan = fcmp uno {wide} {value}, {value}",
        f"{name}_chosen = select {mask} {name}_nan, {bits} {name}_quiet, {bits} {name}_round",
        f"{name} = trunc {bits} {name}_chosen to {vector('i16', width)}",
    ]


def _from_half_bits(name: str, value: str, width: int) -> list[str]:
    """Widen float16 without an instruction for it; exact, and a NaN becomes quiet."""
    wide, bits, mask = (vector(kind, width) for kind in ("float", "i32", "i1"))

    def number(value: int) -> str:
        return splat("i32", str(value), width)

    # 2**-14, the smallest normal float16, as a float32: what a subnormal one lacks once its
    # exponent has been moved by 112 and raised by one.
    smallest = splat("float", "0x3F10000000000000", width)
    return [
        f"{name}_all = zext {vector('i16', width)} {value} to {bits}",
        f"{name}_sign = and {bits} {name}_all, {number(0x8000)}",
        f"{name}_top = shl {bits} {name}_sign, {number(16)}",
        f"{name}_size = and {bits} {name}_all, {number(0x7FFF)}",
        f"{name}_moved = shl {bits} {name}_size, {number(13)}",
        f"{name}_normal = add {bits} {name}_moved, {number(112 << 23)}",
        # Infinities and NaNs: the exponent of 31 becomes 255.
        f"{name}_special = add {bits} {name}_moved, {number(224 << 23)}",
        f"{name}_quiet = or {bits} {name}_special, {number(0x400000)}",
        f"{name}_raised = add {bits} {name}_moved, {number(113 << 23)}",
        f"{name}_over = bitcast {bits} {name}_raised to {wide}",
        f"{name}_under = fsub {wide} {name}_over, {smallest}",
        f"{name}_small = bitcast {wide} {name}_under to {bits}",
        f"{name}_is_small = icmp slt {bits} {name}_size, {number(0x0400)}",
        f"{name}_is_special = icmp sgt {bits} {name}_size, {number(0x7BFF)}",
        f"{name}_is_nan = icmp sgt {bits} {name}_size, {number(0x7C00)}",
        f"{name}_a = select {mask} {name}_is_small, {bits} {name}_small, {bits} {name}_normal",
        f"{name}_b = select {mask} {name}_is_special, {bits} {name}_special, {bits} {name}_a",
        f"{name}_c = select {mask} {name}_is_nan, {bits} {name}_quiet, {bits} {name}_b",
        f"{name}_bits = or {bits} {name}_c, {name}_top",
        f"{name} = bitcast {bits} {name}_bits to {wide}",
    ]


def _to_half_bits(name: str, value: str, width: int) -> list[str]:
    """Round float32 to float16 without an instruction for it."""
    wide, bits, mask = (vector(kind, width) for kind in ("float", "i32", "i1"))

    def number(value: int) -> str:
        return splat("i32", str(value), width)

    # The last place of 0.5 is 2**-24, that of a subnormal float16: the sum is rounded there.
    one_half = splat("float", "0x3FE0000000000000", width)
    return [
        f"{name}_all = bitcast {wide} {value} to {bits}",
        f"{name}_high = lshr {bits} {name}_all, {number(16)}",
        f"{name}_sign = and {bits} {name}_high, {number(0x8000)}",
        f"{name}_size = and {bits} {name}_all, {number(0x7FFFFFFF)}",
        f"{name}_positive = bitcast {bits} {name}_size to {wide}",
        f"{name}_sum = fadd {wide} {name}_positive, {one_half}",
        f"{name}_sum_bits = bitcast {wide} {name}_sum to {bits}",
        f"{name}_small = sub {bits} {name}_sum_bits, {number(0x3F000000)}",
        # As bfloat16: to nearest, and halfway to even. What is beyond 65504 becomes infinite.
        f"{name}_kept = lshr {bits} {name}_size, {number(13)}",
        f"{name}_odd = and {bits} {name}_kept, {number(1)}",
        f"{name}_up = add {bits} {name}_odd, {number(0xFFF - (112 << 23))}",
        f"{name}_rounded = add {bits} {name}_size, {name}_up",
        f"{name}_normal = lshr {bits} {name}_rounded, {number(13)}",
        f"{name}_payload = and {bits} {name}_kept, {number(0x3FF)}",
        f"{name}_quiet = or {bits} {name}_payload, {number(0x7E00)}",
        f"{name}_is_small = icmp slt {bits} {name}_size, {number(113 << 23)}",
        f"{name}_is_large = icmp sgt {bits} {name}_size, {number((143 << 23) - 1)}",
        f"{name}_is_nan = icmp sgt {bits} {name}_size, {number(255 << 23)}",
        f"{name}_a = select {mask} {name}_is_small, {bits} {name}_small, {bits} {name}_normal",
        f"{name}_b = select {mask} {name}_is_large, {bits} {number(0x7C00)}, {bits} {name}_a",
        f"{name}_c = select {mask} {name}_is_nan, {bits} {name}_quiet, {bits} {name}_b",
        f"{name}_d = or {bits} {name}_c, {name}_sign",
        f"{name} = trunc {bits} {name}_d to {vector('i16', width)}",
    ]

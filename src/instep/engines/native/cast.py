"""Conversions between floating-point types as LLVM IR, rounded to nearest even.

They are written as the conversion of one value; `cast` makes them that of a vector.
"""

import re
from collections.abc import Mapping

#: How LLVM spells a dtype. Arrays of 16 bits are loaded and stored as integers.
TYPES = {
    "bool": "i1",
    "uint8": "i8",
    "uint16": "i16",
    "uint32": "i32",
    "float16": "i16",
    "bfloat16": "i16",
    "float32": "float",
    "float64": "double",
    "complex64": "[2 x float]",  # in memory; for values see `vector_of`
    "complex128": "[2 x double]",
}

#: The instructions that make ``%result`` of ``%value``. Words are below 2**31, where processors
#: convert in one instruction.
_CONVERSIONS: Mapping[tuple[str, str], str] = {
    ("uint32", "float32"): "%result = sitofp i32 %value to float",
    ("uint32", "float64"): "%result = sitofp i32 %value to double",
    ("float64", "uint32"): "%result = fptoui double %value to i32",
    ("uint8", "uint32"): "%result = zext i8 %value to i32",
    ("uint16", "uint32"): "%result = zext i16 %value to i32",
    ("uint32", "uint8"): "%result = trunc i32 %value to i8",
    ("uint32", "uint16"): "%result = trunc i32 %value to i16",
    ("float32", "float64"): "%result = fpext float %value to double",
    ("float64", "float32"): "%result = fptrunc double %value to float",
    ("float16", "float32"): """
        %half = bitcast i16 %value to half
        %result = fpext half %half to float
    """,
    ("float32", "float16"): """
        %half = fptrunc float %value to half
        %result = bitcast half %half to i16
    """,
    ("bfloat16", "float32"): """
        %wide = zext i16 %value to i32
        %bits = shl i32 %wide, 16
        %result = bitcast i32 %bits to float
    """,
    # In integer arithmetic: x86 has no instruction before AVX-512.
    ("float32", "bfloat16"): """
        %bits = bitcast float %value to i32
        %high = lshr i32 %bits, 16
        %odd = and i32 %high, 1
        %half = add i32 %odd, 32767
        %sum = add i32 %bits, %half
        %round = lshr i32 %sum, 16
        %quiet = or i32 %high, 64
        %nan = fcmp uno float %value, %value
        %chosen = select i1 %nan, i32 %quiet, i32 %round
        %result = trunc i32 %chosen to i16
    """,
}

#: The same where the processor does not convert float16, and LLVM calls functions of a compiler's
#: library that a process does not have. A NaN becomes quiet.
_WITHOUT_HALF: Mapping[tuple[str, str], str] = {
    # What is subtracted is 2**-14, the smallest normal float16: what a subnormal one lacks once its
    # exponent has been moved by 112 and raised by one. The exponent of 31, of infinities and NaNs,
    # becomes 255.
    ("float16", "float32"): f"""
        %all = zext i16 %value to i32
        %sign = and i32 %all, {0x8000}
        %top = shl i32 %sign, 16
        %size = and i32 %all, {0x7FFF}
        %moved = shl i32 %size, 13
        %normal = add i32 %moved, {112 << 23}
        %special = add i32 %moved, {224 << 23}
        %quiet = or i32 %special, {0x400000}
        %raised = add i32 %moved, {113 << 23}
        %over = bitcast i32 %raised to float
        %under = fsub float %over, 0x3F10000000000000
        %small = bitcast float %under to i32
        %is_small = icmp slt i32 %size, {0x0400}
        %is_special = icmp sgt i32 %size, {0x7BFF}
        %is_nan = icmp sgt i32 %size, {0x7C00}
        %a = select i1 %is_small, i32 %small, i32 %normal
        %b = select i1 %is_special, i32 %special, i32 %a
        %c = select i1 %is_nan, i32 %quiet, i32 %b
        %bits = or i32 %c, %top
        %result = bitcast i32 %bits to float
    """,
    # What is added is 0.5, whose last place is 2**-24, that of a subnormal float16: the sum is
    # rounded there. Else as bfloat16. What is beyond 65504 becomes infinite.
    ("float32", "float16"): f"""
        %all = bitcast float %value to i32
        %high = lshr i32 %all, 16
        %sign = and i32 %high, {0x8000}
        %size = and i32 %all, {0x7FFFFFFF}
        %positive = bitcast i32 %size to float
        %sum = fadd float %positive, 0x3FE0000000000000
        %sum_bits = bitcast float %sum to i32
        %small = sub i32 %sum_bits, {0x3F000000}
        %kept = lshr i32 %size, 13
        %odd = and i32 %kept, 1
        %up = add i32 %odd, {0xFFF - (112 << 23)}
        %rounded = add i32 %size, %up
        %normal = lshr i32 %rounded, 13
        %payload = and i32 %kept, {0x3FF}
        %quiet = or i32 %payload, {0x7E00}
        %is_small = icmp slt i32 %size, {113 << 23}
        %is_large = icmp sgt i32 %size, {(143 << 23) - 1}
        %is_nan = icmp sgt i32 %size, {255 << 23}
        %a = select i1 %is_small, i32 %small, i32 %normal
        %b = select i1 %is_large, i32 {0x7C00}, i32 %a
        %c = select i1 %is_nan, i32 %quiet, i32 %b
        %d = or i32 %c, %sign
        %result = trunc i32 %d to i16
    """,
}

_WORD = re.compile(r"%(?P<name>\w+)|\b(?P<kind>i\d+|half|float|double)\b|(?P<number>-?\b\d\w*)")


def vector(kind: str, width: int) -> str:
    """Return the type of `width` elements."""
    return kind if width == 1 else f"<{width} x {kind}>"


def splat(kind: str, value: str, width: int) -> str:
    """Return `width` times a value."""
    return value if width == 1 else f"<{', '.join([f'{kind} {value}'] * width)}>"


def repeated(name: str, value: str, kind: str, width: int) -> list[str]:
    """Return what repeats a value in a vector."""
    if width == 1:
        return [f"{name} = select i1 true, {kind} {value}, {kind} {value}"]
    many, zeros = vector(kind, width), f"<{width} x i32> zeroinitializer"
    return [
        f"{name}_first = insertelement {many} poison, {kind} {value}, i64 0",
        f"{name} = shufflevector {many} {name}_first, {many} poison, {zeros}",
    ]


def cast(
    name: str, value: str, source: str, target: str, width: int, *, converts_half: bool
) -> list[str]:
    """Return the instructions that convert a value; `name` is that of the result."""
    texts = _CONVERSIONS if converts_half else {**_CONVERSIONS, **_WITHOUT_HALF}
    if (source, target) not in texts:
        assert target == "float64"  # to a narrow one it would be rounded twice
        wide, half = f"{name}_float", converts_half
        lines = cast(wide, value, source, "float32", width, converts_half=half)
        return [*lines, *cast(name, wide, "float32", target, width, converts_half=half)]
    kind = ""

    def word(found: re.Match[str]) -> str:
        nonlocal kind
        match found.lastgroup:
            case "kind":
                kind = found[0]
                return vector(kind, width)
            case "number":  # of the type to its left
                return splat(kind, found[0], width)
        return {"value": value, "result": name}.get(found["name"], f"{name}_{found['name']}")

    return [_WORD.sub(word, line.strip()) for line in texts[source, target].strip().splitlines()]

"""The dtypes of arrays, a row each. How a dtype is spelled in a language, its emitter says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from instep.hyperparameters import MASKS


@dataclass(frozen=True, slots=True)
class DType:
    """What is known of a dtype that parameters may have.

    Attributes
    ----------
    itemsize
        Bytes of an element.
    compute
        The dtype of the arithmetic: all values are exact in it, and rounded once when stored.
    state
        The dtype of the state, where it is real.
    part
        Of complex numbers, the dtype of their real and imaginary parts; the state that is complex
        has the dtype of the parameter.
    """

    itemsize: int
    compute: str
    state: str
    part: str = ""


#: State of 16-bit parameters is kept in float32: a running mean with a decay rate of 0.999 cannot
#: move in 11 bits.
DTYPES: Mapping[str, DType] = {
    "float16": DType(2, compute="float32", state="float32"),
    "bfloat16": DType(2, compute="float32", state="float32"),
    "float32": DType(4, compute="float32", state="float32"),
    "float64": DType(8, compute="float64", state="float64"),
    "complex64": DType(8, compute="float32", state="float32", part="float32"),
    "complex128": DType(16, compute="float64", state="float64", part="float64"),
}

#: Bytes of the words in which state is kept as codes, and as which masks are loaded.
WORDS: Mapping[str, int] = {"uint8": 1, "uint16": 2, "uint32": 4}


def itemsize(dtype: str) -> int:
    """Return the bytes of an element of an array of numbers, of codes, or of a mask."""
    if dtype in MASKS:
        return 1
    return WORDS[dtype] if dtype in WORDS else DTYPES[dtype].itemsize


def loaded_as(dtype: str, *, in_parts: bool) -> str:
    """Return the dtype by which graphs know an array that is read: of a mask, that of its bits.

    Of complex numbers it is that of their parts where these are numbers of their own.
    """
    if in_parts and is_complex(dtype):
        return DTYPES[dtype].part
    return "uint8" if dtype in MASKS else dtype


#: The dtypes of 16 bits, in which nothing is computed.
NARROW = frozenset({"float16", "bfloat16"})

#: The dtype of complex numbers whose parts have this one.
COMPLEX: Mapping[str, str] = {dtype.part: name for name, dtype in DTYPES.items() if dtype.part}


def is_complex(dtype: str) -> bool:
    """Return whether a dtype, of those that parameters may have, is one of complex numbers."""
    return dtype in DTYPES and bool(DTYPES[dtype].part)


def state_dtype(dtype: str, *, is_real: bool) -> str:
    """Return the dtype of an array of state, for parameters of `dtype`."""
    return DTYPES[dtype].state if is_real or not is_complex(dtype) else dtype


#: The dtypes of arithmetic, from the narrowest to the widest. What is not larger than the first
#: number, half of the smallest subnormal one, rounds to zero; what is not smaller than the second,
#: half-way from the largest one to the next power of two, is infinite.
BOUNDS: Mapping[str, tuple[float, float]] = {
    "float32": (2.0**-150, 2.0**128 - 2.0**103),
    "float64": (2.0**-1075, math.inf),
}

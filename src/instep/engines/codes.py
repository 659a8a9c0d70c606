"""State in codes, as arrays of NumPy: what the specification computes, and what moves state."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep import arrays, words
from instep.encodings import Chance, bits_of
from instep.graph.dtypes import DTYPES, is_complex, state_dtype
from instep.graph.kept import MASTER, Keeping, Kept, kept_in, unit_name
from instep.state import LeafState

_WORDS = words.NumpyWords()

#: Returns random words for each element, those of the draw of this number.
Draw = Callable[[int], NDArray[np.uint32]]


def blocks_of(shape: Iterable[int]) -> tuple[int]:
    """Return the shape of what is kept for each block of an array of this shape."""
    return (-(-int(np.prod(tuple(shape), dtype=np.int64)) // words.BLOCK),)


def decoded(kept: Kept, slots: Mapping[str, Any], dtype: str) -> list[NDArray[Any]]:
    """Return the numbers of a slot as a dtype, from arrays of any library: of both parts, or one.

    The dtype is that of the arithmetic.
    """
    code, *units = (arrays.to_numpy(slots[array.name]) for array in kept.arrays)
    if not kept.code:
        parts = [code.real, code.imag] if is_complex(kept.dtype) else [code]
        return [np.asarray(part, dtype) for part in parts]
    found = [words.repeated(unit.astype(np.uint32), code.size) for unit in units]
    unit = found[0].reshape(code.shape) if found else None
    with np.errstate(all="ignore"):
        parts = kept.decoded(_WORDS, code.astype(np.uint32), unit)
        return [np.asarray(x, dtype) for x in parts]


def encoded(
    kept: Kept, parts: Sequence[NDArray[Any]], draw: Draw | None = None
) -> dict[str, NDArray[Any]]:
    """Return the arrays that keep numbers: rounded by chance, or to the nearest without draws."""
    shape = parts[0].shape
    with np.errstate(all="ignore"):
        parts = [np.ascontiguousarray(part, np.float32).reshape(shape) for part in parts]
        chances = [chance_of(kept.chance, i, draw) for i in range(len(parts))]
        found = kept.encoded(_WORDS, parts, chances)
    made = {}
    for array, code in zip(kept.arrays, found, strict=True):
        own = np.asarray(code).reshape(-1)[:: array.per] if array.per > 1 else code
        made[array.name] = np.asarray(own).astype(array.dtype)
    return made


def chance_of(number: int | None, part: int, draw: Draw | None) -> Chance:
    """Return what gives random bits for what has this number, if it is rounded by chance."""
    if number is None or draw is None:
        return None
    number += part
    return bits_of(_WORDS, draw(words.ROUNDING + number // 2), number % 2)


def whole(parts: Sequence[NDArray[Any]], dtype: str) -> NDArray[Any]:
    """Return an array of a dtype: real, or of complex numbers with these parts."""
    if len(parts) == 1:
        return parts[0].astype(dtype)
    found = np.empty(parts[0].shape, dtype)
    found.real, found.imag = parts
    return found


def kept_now(name: str, slots: Mapping[str, Any], *, is_positive: bool) -> Kept:
    """Return how a slot among the arrays of a parameter is kept."""
    names = [key for key in (name, unit_name(name)) if key in slots]
    dtypes = {key: arrays.dtype_name(slots[key]) for key in names}
    return kept_in(name, dtypes, is_positive=is_positive)


def as_numbers(name: str, slots: Mapping[str, Any], *, is_positive: bool) -> Any:
    """Return a slot as it is, or what its codes stand for as an array of NumPy."""
    kept = kept_now(name, slots, is_positive=is_positive)
    return whole(decoded(kept, slots, "float32"), kept.dtype) if kept.code else slots[name]


def kept_as(
    keeping: Keeping, positive: AbstractSet[str], shape: Sequence[int], state: LeafState
) -> dict[str, Any]:
    """Return the slots of a parameter of a shape, those made anew that were kept in another way.

    What fits in no way is left as it is, and what has another dtype though nobody asked for it:
    then the parameter is another.
    """
    slots, found = state.slots, dict(state.slots)
    for kept in (kept for kept in keeping.slots if kept.name in slots):
        now = kept_now(kept.name, slots, is_positive=kept.name in positive)
        if now.arrays == kept.arrays:
            continue
        is_real = not is_complex(kept.dtype)
        is_asked = kept.dtype != state_dtype(keeping.dtype, is_real=is_real) or state.state_dtype
        is_alike = is_real != is_complex(now.dtype) and (kept.code or now.code or is_asked)
        if is_alike and tuple(slots[kept.name].shape) == tuple(shape):
            for array in now.arrays:
                del found[array.name]
            parts = decoded(now, slots, DTYPES[keeping.dtype].compute)
            found |= encoded(kept, parts) if kept.code else {kept.name: whole(parts, kept.dtype)}
    if not keeping.has_master:
        found.pop(MASTER, None)
    return found

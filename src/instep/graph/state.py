"""What a trace loads and stores of parameters and state, however they are kept."""

from collections.abc import Mapping, Sequence
from typing import Any

from instep import encodings
from instep.graph.dtypes import is_complex
from instep.graph.errors import RuleError
from instep.graph.kept import Keeping, Kept
from instep.graph.nodes import Array, Store
from instep.graph.pairs import Pair, PairNamespace
from instep.graph.recorder import Recorder
from instep.graph.symbols import TracedArray
from instep.graph.words import TracedWords, bits_for_rounding


def parameter(recorder: Recorder, keeping: Keeping, pairs: PairNamespace | None) -> Any:
    """Record the load of the parameter, which a rule sees whole where it is kept so."""
    array = Array("w", keeping.dtype)
    if not keeping.has_master:
        w = recorder.load(array)
        return w if pairs is None else pairs.pair(w)
    words, (beside,) = TracedWords(recorder), keeping.master
    if keeping.dtype == "bfloat16":
        upper, lower = words.upper(_load(recorder, array)), words.word(_load(recorder, beside))
        return encodings.whole(words, upper, lower)
    w, master = recorder.load(array), _load(recorder, beside)
    narrow = recorder.cast(recorder.cast(master, keeping.dtype), recorder.compute)
    is_same = recorder.binary("equal", narrow, w)
    return recorder.add("where", (is_same, master, w), w.dtype)


def loaded(recorder: Recorder, kept: Kept, pairs: PairNamespace | None) -> Any:
    """Record the load of a slot."""
    if not kept.code:
        x = recorder.load(Array(kept.name, kept.dtype))
        return pairs.pair(x) if pairs and is_complex(kept.dtype) else x
    words = TracedWords(recorder)
    code, *units = [words.word(_load(recorder, array)) for array in kept.arrays]
    parts = kept.decoded(words, code, units[0] if units else None)
    parts = [recorder.cast(x, recorder.compute) for x in parts]
    return Pair(pairs, *parts) if pairs and len(parts) > 1 else parts[0]


def mask(recorder: Recorder, array: Array) -> TracedArray:
    """Record the load of a mask, as zeros and ones of the arithmetic."""
    words = TracedWords(recorder)
    is_set = words.operate("not_equal", words.word(_load(recorder, array)), 0)
    one, zero = recorder.array(1.0), recorder.array(0.0)
    return recorder.add("where", (is_set, one, zero), recorder.compute)


def _load(recorder: Recorder, array: Array) -> TracedArray:
    return recorder.add("load", (), array.dtype, array.name)


def stored(
    recorder: Recorder, keeping: Keeping, new: Any, new_slots: Mapping[str, Any]
) -> list[Store]:
    """Record the rounding of what a rule returns for the parameter and its slots."""
    stores = _parameter_stored(recorder, keeping, new)
    for kept in keeping.slots:
        if kept.name in new_slots:
            stores += _slot_stored(recorder, keeping, kept, new_slots[kept.name])
    return stores


def _parameter_stored(recorder: Recorder, keeping: Keeping, new: Any) -> list[Store]:
    w = Array("w", keeping.dtype)
    if is_complex(w.dtype):
        return [_joined(recorder, w, new)]
    (x,) = _parts(recorder, w, new)
    words = TracedWords(recorder)
    if keeping.has_master:
        (master,) = keeping.master
        if w.dtype != "bfloat16":
            return [_store(recorder, w, x), _store(recorder, master, x)]
        upper, lower = encodings.divided(words, x.widened())
        return [_store(recorder, w, words.from_upper(upper)), _store(recorder, master, lower)]
    if keeping.chance is not None:
        chance = bits_for_rounding(recorder, keeping.rounds_at, keeping.chance)
        if w.dtype == "bfloat16":
            x = words.from_upper(encodings.to_bfloat16(words, x.widened(), chance))
        else:
            x = encodings.to_float16(words, x.widened(), chance)
    return [_store(recorder, w, x)]


def _slot_stored(recorder: Recorder, keeping: Keeping, kept: Kept, value: Any) -> list[Store]:
    array = Array(kept.name, kept.dtype)
    if not kept.code:
        if is_complex(kept.dtype):
            return [_joined(recorder, array, value)]
        return [_store(recorder, array, *_parts(recorder, array, value))]
    parts = _parts(recorder, array, value)
    parts = [recorder.cast(x, "float32").widened() for x in parts]
    chances = [
        None
        if kept.chance is None
        else bits_for_rounding(recorder, keeping.rounds_at, kept.chance + i)
        for i in range(len(parts))
    ]
    found = kept.encoded(TracedWords(recorder), parts, chances)
    return [_store(recorder, *one) for one in zip(kept.arrays, found, strict=True)]


def _store(recorder: Recorder, array: Array, x: TracedArray) -> Store:
    return Store(array.name, recorder.cast(x, array.dtype).position)


def _joined(recorder: Recorder, array: Array, value: Any) -> Store:
    re, im = _parts(recorder, array, value)
    return Store(array.name, recorder.join(re, im, array.dtype).position)


def _parts(recorder: Recorder, array: Array, value: Any) -> list[TracedArray]:
    """Return what a rule returns for an array, in the dtype of the arithmetic: its parts.

    By way of that dtype, so that no engine has to round float64 to 16 bits.
    """
    values: Sequence[Any] = [value]
    if is_complex(array.dtype):
        values = (value.re, value.im) if isinstance(value, Pair) else (value, 0.0)
    elif isinstance(value, Pair):
        raise RuleError(
            f"{recorder.rule}.rule returns complex numbers for {array.name!r}, which is real; "
            f"leave it out of `real_slots`, or return xp.real(x)"
        )
    return [recorder.cast(_real(recorder, array, x), recorder.compute) for x in values]


def _real(recorder: Recorder, array: Array, value: Any) -> TracedArray:
    x = recorder.array(value)
    if x.dtype == "bool":
        recorder.fail(f"it returns a boolean for {array.name!r}", "return real numbers")
    return x

"""What the specification hands to a rule of parameters and state, and keeps of what it returns."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from instep import arrays, encodings, words
from instep.engines.codes import Draw, chance_of, decoded, encoded
from instep.engines.rule_namespace import RuleNamespace
from instep.graph.dtypes import DTYPES, is_complex
from instep.graph.kept import MASTER, Keeping
from instep.graph.pairs import Pair, PairNamespace

_WORDS = words.NumpyWords()


class KeptArrays:
    """The parameter of a leaf and its state, however they are kept.

    Parameters
    ----------
    keeping
        How that is.
    xp, pairs
        What the rule is called with; the latter for complex parameters.
    w, slots
        The arrays that are kept.
    step
        Its number.
    """

    def __init__(
        self,
        keeping: Keeping,
        xp: RuleNamespace,
        pairs: PairNamespace | None,
        w: Any,
        slots: Mapping[str, Any],
        step: int,
    ) -> None:
        self._keeping, self._xp, self._pairs, self._w, self._slots = keeping, xp, pairs, w, slots
        self._compute = DTYPES[keeping.dtype].compute
        self._draw: Draw = partial(xp.drawn, words.shared, step)
        self._kept = {kept.name: kept for kept in keeping.slots}

    def parameter(self) -> Any:
        """Return the parameter as the rule sees it: a copy, whole where it is kept so."""
        w = self._xp.computable(self._w)
        if not self._keeping.has_master:
            return w if self._pairs is None else self._pairs.pair(w)
        found = arrays.to_numpy(w)
        kept = arrays.to_numpy(self._slots[MASTER])
        if self._keeping.dtype == "bfloat16":
            upper = found.view(np.uint32) >> np.uint32(16)
            return self._xp.there(encodings.whole(_WORDS, upper, kept.astype(np.uint32)))
        with np.errstate(all="ignore"):
            narrow = kept.astype(self._keeping.dtype).astype(np.float32)
        return self._xp.there(np.where(narrow == found, kept, found))

    def slot(self, name: str) -> Any:
        """Return a slot as the rule sees it: a copy."""
        kept = self._kept.get(name)
        if kept is None:
            return self._xp.copied(self._slots[name])
        if not kept.code:
            x = self._xp.computable(self._slots[name])
            return x if self._pairs is None or not arrays.is_complex(x) else self._pairs.pair(x)
        parts = [self._xp.there(x) for x in decoded(kept, self._slots, self._compute)]
        return Pair(self._pairs, *parts) if self._pairs and len(parts) > 1 else parts[0]

    def new_parameter(self, rule: str, value: Any) -> tuple[Any, dict[str, Any]]:
        """Return a new array of the parameter, and what is kept beside it."""
        keeping, w = self._keeping, self._w
        if not (keeping.has_master or keeping.chance is not None):
            return self._xp.stored(rule, "w", value, w), {}
        (x,) = self._xp.parts(rule, "w", value, is_complex=False, shape=w.shape)
        numbers, beside = arrays.to_numpy(x), {}
        if keeping.has_master and keeping.dtype == "bfloat16":
            upper, lower = encodings.divided(_WORDS, numbers)
            numbers = encodings.from_bfloat16(_WORDS, upper)
            beside = {MASTER: self._xp.there(np.asarray(lower).astype(np.uint16))}
        elif keeping.has_master:
            beside = {MASTER: self._xp.there(numbers)}
        else:
            chance = chance_of(keeping.chance, 0, self._draw)
            assert chance is not None
            if keeping.dtype == "bfloat16":
                codes = encodings.to_bfloat16(_WORDS, numbers, chance)
                numbers = encodings.from_bfloat16(_WORDS, codes)
            else:
                numbers = encodings.to_float16(_WORDS, numbers, chance)
        return self._xp.stored(rule, "w", self._xp.there(numbers), w), beside

    def new_slot(self, rule: str, name: str, value: Any) -> dict[str, Any]:
        """Return new arrays of a slot."""
        kept = self._kept.get(name)
        if kept is None or not kept.code:
            return {name: self._xp.stored(rule, name, value, self._slots[name])}
        own = {"is_complex": is_complex(kept.dtype), "shape": self._w.shape}
        parts = [arrays.to_numpy(x) for x in self._xp.parts(rule, name, value, **own)]
        made = encoded(kept, parts, self._draw)
        return {key: self._xp.there(array) for key, array in made.items()}

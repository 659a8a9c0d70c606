"""Words of 32 bits in a graph, and the random numbers that are made of them."""

from collections.abc import Callable
from typing import Any

from instep import encodings, words
from instep.graph.recorder import Recorder
from instep.graph.symbols import TracedArray, TracedScalar

_WORD = "uint32"


class TracedWords:
    """Records what is computed with words; see `words.Words`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def word(self, x: Any) -> TracedArray:
        """Return a word, or an integer of Python as one."""
        if isinstance(x, TracedArray):
            return self._recorder.cast(x, _WORD)
        return self._recorder.add("constant", (), _WORD, x & words.MASK)

    def operate(self, operation: str, a: Any, b: Any) -> TracedArray:
        compares = operation.startswith(("less", "greater", "equal", "not_equal"))
        operands = self.word(a), self.word(b)
        return self._recorder.add(operation, operands, "bool" if compares else _WORD)

    def bits(self, x: TracedArray) -> TracedArray:
        return self._recorder.add("bits", (self._recorder.cast(x, "float32"),), _WORD)

    def from_bits(self, x: TracedArray) -> TracedArray:
        return self._recorder.add("bits", (x,), "float32")

    def where(self, condition: TracedArray, a: Any, b: Any) -> TracedArray:
        return self._recorder.add("where", (condition, self.word(a), self.word(b)), _WORD)

    def upper(self, x: TracedArray) -> TracedArray:
        """Return the bits of bfloat16 numbers, as they were loaded."""
        return self.word(self._recorder.add("bits", (x,), "uint16"))

    def from_upper(self, x: TracedArray) -> TracedArray:
        """Return the bfloat16 numbers that have these bits."""
        return self._recorder.add("bits", (self._recorder.cast(x, "uint16"),), "bfloat16")

    def as_float(self, x: TracedArray, dtype: str) -> TracedArray:
        return self._recorder.cast(x, dtype)

    def is_less(self, x: Any, y: Any) -> TracedArray:
        return self._recorder.binary("less", x, y)

    def largest(self, x: TracedArray) -> TracedArray:
        return self._recorder.add("largest", (x,), _WORD)


def uniform(recorder: Recorder, place: TracedArray, step: Any) -> TracedArray:
    """Record numbers in [0, 1), one for each element: see `words.uniform`."""
    drawn = [random(recorder, place, step) for _ in range(1 + (recorder.compute == "float64"))]
    own = TracedWords(recorder)
    found: TracedArray = words.uniform(own, drawn[0], drawn[-1], recorder.compute)
    return found


def random(recorder: Recorder, place: TracedArray, step: Any) -> TracedArray:
    """Record random words, one for each element: see `words.random`."""
    return _drawn(recorder, "random", place, step, recorder.counting.draw())


def bits_for_rounding(recorder: Recorder, step: str, number: int) -> Callable[[int], TracedArray]:
    """Return what records random bits for what is rounded under this number: two share a word."""
    assert recorder.place is not None
    at, draw = TracedScalar(recorder, step), words.ROUNDING + number // 2
    word = _drawn(recorder, "shared", recorder.place, at, draw)
    return encodings.bits_of(TracedWords(recorder), word, number % 2)


def _drawn(
    recorder: Recorder, operation: str, place: TracedArray, step: Any, draw: int
) -> TracedArray:
    low, high = _halves(recorder, place)
    at, _ = _halves(recorder, recorder.array(step, "float64"))
    return recorder.add(operation, (low, high, at), _WORD, draw)


def _halves(recorder: Recorder, x: TracedArray) -> list[TracedArray]:
    """Return a whole number of at most 53 bits as two words."""
    high = recorder.unary("floor", x * 2.0**-32)
    return [recorder.cast(half, _WORD) for half in (x - high * 2.0**32, high)]

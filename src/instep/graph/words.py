"""Words of 32 bits in a graph, and the random numbers that are made of them."""

from typing import Any

from instep import words
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

    def as_float(self, x: TracedArray, dtype: str) -> TracedArray:
        return self._recorder.cast(x, dtype)


def rounded(recorder: Recorder, x: TracedArray, dtype: str) -> TracedArray:
    """Record that float32 numbers are rounded by chance to 16 bits: see `words.rounded`."""
    assert recorder.place is not None
    step = TracedScalar(recorder, recorder.rounds_at)
    chance = random(recorder, recorder.place, step)
    found: TracedArray = words.rounded(TracedWords(recorder), x, chance, dtype)
    return found


def uniform(recorder: Recorder, place: TracedArray, step: Any) -> TracedArray:
    """Record numbers in [0, 1), one for each element: see `words.uniform`."""
    drawn = [random(recorder, place, step) for _ in range(1 + (recorder.compute == "float64"))]
    own = TracedWords(recorder)
    found: TracedArray = words.uniform(own, drawn[0], drawn[-1], recorder.compute)
    return found


def random(recorder: Recorder, place: TracedArray, step: Any) -> TracedArray:
    """Record random words, one for each element: see `words.random`."""
    low, high = _halves(recorder, place)
    at, _ = _halves(recorder, recorder.array(step, "float64"))
    draw = recorder.counting.draw()
    return recorder.add("random", (low, high, at), _WORD, draw)


def _halves(recorder: Recorder, x: TracedArray) -> list[TracedArray]:
    """Return a whole number of at most 53 bits as two words."""
    high = recorder.unary("floor", x * 2.0**-32)
    return [recorder.cast(half, _WORD) for half in (x - high * 2.0**32, high)]

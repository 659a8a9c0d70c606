"""A step that is one like the last, as one call of compiled code.

What Python does between `update` and the passes of a small step takes longer than they do. Here
the same is done through Python's C API: look whether anything has changed, read the trees, have
their arrays checked, make the scalars of the step, run the passes, and note that it was taken.
Where something is not as it was, nothing is done, and Python goes its own way.

No handler of a signal runs in between, but in what Python computes of it - some trees are read so,
and scalars made - before anything changes.
"""

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from instep.engines.native.functions import Block, compile_method
from instep.engines.native.whole_step_code import (
    DICT,
    LEAF,
    OTHER,
    SEQUENCE,
    TEXT,
    Word,
)
from instep.engines.whole import Attribute, Like, Numbers, Result, Unkept, Whole
from instep.graph.evaluation import known_but_steps
from instep.tree import LeafReader

LEVEL = 2


class WholeStep(Whole):
    """Steps like the last, for trees of one structure.

    Parameters
    ----------
    run
        What runs the passes: compiled code, a function of the scalars.
    make, is_alone
        What makes scalars of all rows, or, where it is alone, of the numbers of the first.
    """

    def __init__(
        self, run: Callable[..., bool], make: Callable[..., Any], *, is_alone: bool, like: Like
    ) -> None:
        objects = {
            Word.TRUE: True,
            Word.FALSE: False,
            Word.IS_OWNED: like.lock._is_owned,  # noqa: SLF001  (as in `threading`)
            Word.ACQUIRE: like.lock.acquire,
            Word.RELEASE: like.lock.release,
            Word.STATE: like.state,
            Word.COUNTER: like.counter,
            Word.EMPTY: like.empty,
            Word.FITS: like.fits,
            Word.RUN: run,
        }
        self._block = Block([0] * len(Word), objects=objects, like=like)
        for word, thing in objects.items():
            self._block.put(word, id(thing))
        self._make, self._is_alone = make, is_alone
        self._block.put(Word.IS_ALONE, is_alone)
        if like.asked is not None:
            self._block.put(Word.ASK, id(like.asked))
        kept = self._block.kept["trees"] = list[Any]()
        for word, reader in ((Word.PARAMS, like.params), (Word.GRADS, like.grads)):
            self._block.put(word, _address(_tree(reader, kept), kept))
        self.step = compile_method(TEXT, "step", level=0)(self._block)

    def renew(
        self, checks: Sequence[Attribute], rows: Sequence[Numbers], notes: Sequence[Attribute]
    ) -> None:
        make = known_but_steps(self._make, rows[0].values) if self._is_alone else self._make
        self._block.put(Word.MAKE, id(make))
        kept: list[Any] = [checks, rows, notes, make]
        found = []
        for row in rows:
            numbers = [0 if x is None else id(x) for x in row.values]
            found.append([_address(numbers, kept), len(numbers), row.missed])
        self._put(Word.CHECKS, Word.CHECK_COUNT, [_attribute(check) for check in checks], kept)
        self._put(Word.ROWS, Word.ROW_COUNT, found, kept)
        self._put(Word.NOTES, Word.NOTE_COUNT, [_attribute(note) for note in notes], kept)
        self._block.kept["renewed"] = kept

    def _put(
        self, where: Word, count: Word, records: Sequence[Sequence[int]], kept: list[Any]
    ) -> None:
        """Write the address of records, and their number."""
        words = [word for record in records for word in record]
        self._block.put(where, _address(words, kept))
        self._block.put(count, len(records))


def _attribute(one: Attribute) -> tuple[int, int, int]:
    """Return the words of a check, or of what is noted."""
    value = one.value
    thing = value[0] if isinstance(value, Result | Unkept) else id(value)
    return 0 if one.of is None else id(one.of), id(one.name), thing


def _tree(reader: LeafReader, kept: list[Any]) -> list[int]:
    """Return how a tree is read."""
    kind, keys = reader.kind, reader.keys
    if kind is None:
        return [LEAF, 0, 1, 0]
    if kind is dict and all(type(key) is str for key in keys):
        return [DICT, id(kind), len(keys), _address([*map(id, keys)], kept)]
    if kind in (list, tuple):
        return [SEQUENCE, id(kind), len(keys), 0]
    kept.append(reader.read)
    return [OTHER, id(tuple), 0, id(reader.read)]


def _address(words: Sequence[int], kept: list[Any]) -> int:
    """Return the address of words, which are kept."""
    memory = array("q", words or [0])
    kept.append(memory)
    return memory.buffer_info()[0]

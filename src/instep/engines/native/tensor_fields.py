"""Where the fields of PyTorch's tensors are: found by trying, for no header says it to Python.

Tensors that differ in one thing differ in one word. Where that is not so, or a field is not where
it should be, nothing is known: then tensors are asked through Python.
"""

import ctypes
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

_WORD = 8

#: Words of a tensor and of its storage that are looked at: no version of PyTorch has had fewer.
_WORDS, _STORAGE_WORDS = 22, 8

#: Those from the lengths of axes on, which come after one more in PyTorch 2.11 than in 2.13. What
#: is behind them is another's memory.
_FROM_LENGTHS = 14

#: What was in memory before may look like a field: then there is no only one.
_ATTEMPTS = 8

#: Axes whose lengths and strides a tensor holds in its own fields.
INLINE_AXES = 5


@dataclass(frozen=True)
class Fields:
    """Byte offsets of fields.

    Attributes
    ----------
    tensor
        Of the tensor, in the object of Python.
    storage, autograd, version
        Of what a tensor refers to: its storage; what a graph knows of it, if it knows anything;
        the counter of its changes.
    keys
        Of what it is: its device, layout and transformations, whether it is negated or of
        inference.
    kind, offset, axes, lengths, strides
        Of its dtype and device, in four bytes; where it begins in its storage, in elements; the
        number of axes, and of each axis length and stride.
    data, deleter, context, size
        In the storage: its address, with what frees it, and its bytes.
    count
        In the counter: the number of changes, in four bytes.
    """

    tensor: int
    storage: int
    autograd: int
    version: int
    keys: int
    kind: int
    offset: int
    axes: int
    lengths: int
    strides: int
    data: int
    deleter: int
    context: int
    size: int
    count: int


class _UnknownError(Exception):
    """A field was not found, or in several places."""


def _read(address: int, words: int) -> list[int]:
    return [ctypes.c_uint64.from_address(address + _WORD * i).value for i in range(words)]


def _words(tensor: Any, count: int = _WORDS) -> list[int]:
    return _read(tensor._cdata, count)  # noqa: SLF001  (nothing public says where it is)


def _only(places: Iterable[int]) -> int:
    found = list(places)
    if len(found) != 1:
        raise _UnknownError
    return found[0]


def _where(words: list[int], *values: int) -> int:
    """Return the offset of the only place where these values follow each other."""
    length = len(values)
    return _WORD * _only(i for i in range(len(words)) if (*words[i : i + length],) == values)


def _differing(count: int, a: Any, b: Any, shift: int = 0) -> set[int]:
    """Return the offsets of the words that differ in 32 bits, the low ones unless shifted.

    Whole words have bits that no field has: these hold what was in memory before.
    """
    pairs = enumerate(zip(_words(a, count), _words(b, count), strict=True))
    return {_WORD * i for i, (x, y) in pairs if (x ^ y) >> shift & 0xFFFFFFFF}


@cache
def fields() -> Fields | None:
    """Return where the fields are, or None where it is not known."""
    is_locked = getattr(sys, "_is_gil_enabled", lambda: True)()
    if sys.implementation.name != "cpython" or sys.byteorder != "little" or not is_locked:
        return None
    for _ in range(_ATTEMPTS):
        with suppress(_UnknownError, AttributeError, IndexError):
            return _found(sys.modules["torch"])
    return None


def _found(torch: Any) -> Fields:
    with torch.inference_mode(mode=False), torch.device("cpu"):
        x = torch.zeros(3, 5, 7)
        line, same = x.view(-1), x.detach()
        words = _words(x)
        storage = _where(words, x.untyped_storage()._cdata)  # noqa: SLF001
        lengths = _where(words, 3, 3, 5, 7) + _WORD
        differing = partial(_differing, lengths // _WORD + _FROM_LENGTHS)
        strides = _where(words, 35, 7, 1)
        if strides != lengths + _WORD * INLINE_AXES:
            raise _UnknownError
        # What each tensor has of its own: counts of references, room for axes, and more.
        room = set(range(lengths, lengths + 2 * _WORD * INLINE_AXES, _WORD))
        apart = differing(x, same) | room
        fresh = differing(x, torch.zeros(3, 5, 7)) | apart
        kind = _only(differing(torch.zeros(7), torch.zeros(7, dtype=torch.int32)) - fresh)
        if kind not in differing(_on_device(torch, 0), _on_device(torch, 1)):
            raise _UnknownError
        negated = differing(same, torch._neg_view(x).detach(), shift=32)  # noqa: SLF001
        version = _only(fresh - apart - {storage})
        return Fields(
            tensor=_where(_read(id(x), torch.Tensor.__basicsize__ // _WORD), x._cdata),  # noqa: SLF001
            storage=storage,
            autograd=_only(differing(torch.zeros(7), torch.zeros(7).requires_grad_()) - fresh),
            version=version,
            keys=_only(negated - fresh - {kind}),
            kind=kind,
            offset=_only(differing(line[3:10].detach(), line[4:11].detach()) - apart),
            axes=lengths - _WORD,
            lengths=lengths,
            strides=strides,
            **_in_storage(torch),
            count=_count(x, version),
        )


def _on_device(torch: Any, number: int) -> Any:
    """Return a tensor that says it is on a CUDA device, be there one or not."""
    own = type("OnDevice", (torch.Tensor,), {"__torch_dispatch__": None})
    place = torch.device("cuda", number)
    return torch.Tensor._make_wrapper_subclass(own, (7,), device=place)  # noqa: SLF001


def _in_storage(torch: Any) -> dict[str, int]:
    """Return where the fields of storages are, seen in two of them."""
    found = []
    for length in (1001, 2003):
        storage = torch.zeros(length).untyped_storage()
        words = _read(storage._cdata, _STORAGE_WORDS)  # noqa: SLF001
        # What PyTorch allocates, it frees by its address: that is the context as well.
        places = [_WORD * i for i, word in enumerate(words) if word == storage.data_ptr()]
        data, deleter, context = (places[0] + _WORD * i for i in range(3))
        if places != [data, context]:
            raise _UnknownError
        size = _where(words, storage.nbytes())
        found.append({"data": data, "deleter": deleter, "context": context, "size": size})
    if found[0] != found[1]:
        raise _UnknownError
    return found[0]


def _count(x: Any, version: int) -> int:
    """Return where the changes are counted, seen after some of them."""
    counter = ctypes.c_uint64.from_address(x._cdata + version).value  # noqa: SLF001
    found = set(range(8, 24, 4))
    for _ in range(40):
        x.zero_()
        for i in list(found):
            if ctypes.c_uint32.from_address(counter + i).value != x._version:  # noqa: SLF001
                found.remove(i)
    return _only(found)

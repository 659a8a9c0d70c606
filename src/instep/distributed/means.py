"""Means of gradients that do not depend on how many processes share the work.

Microbatches are numbered through all processes. Their sum is a binary tree: blocks of 2, 4, 8, ...
that begin at multiples of their length are added, the left one first. A process adds up those
blocks that are its own, and whoever has the others goes on from there: the same additions, wherever
they are made.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from instep.arrays import numpy_dtype


class Block(NamedTuple):
    """Microbatches `begin` to ``begin + length``: a power of two, and a multiple of it."""

    begin: int
    length: int


def blocks_of(begin: int, end: int) -> list[Block]:
    """Return the largest blocks of which these microbatches are made, in their order."""
    found = []
    while begin < end:
        length = begin & -begin or 1 << (end - begin).bit_length()
        while begin + length > end:
            length //= 2
        found.append(Block(begin, length))
        begin += length
    return found


def added(terms: Iterable[tuple[Block, NDArray[Any]]]) -> NDArray[Any]:
    """Return the sum of blocks that follow each other. Terms may be written to.

    Those that are no block together are added from the last to the first.
    """
    stack: list[tuple[Block, NDArray[Any]]] = []
    with np.errstate(all="ignore"):
        for block, term in terms:
            stack.append((block, term))
            while len(stack) > 1 and _are_one(stack[-2][0], stack[-1][0]):
                right, left = stack.pop(), stack.pop()
                joined = Block(left[0].begin, 2 * left[0].length)
                stack.append((joined, np.add(left[1], right[1], out=left[1])))
        total = stack.pop()[1]
        while stack:
            total = np.add(stack[-1][1], total, out=stack.pop()[1])
    return total


def _are_one(left: Block, right: Block) -> bool:
    return left.length == right.length and left.begin % (2 * left.length) == 0


def divided(total: NDArray[Any], count: int) -> NDArray[Any]:
    """Return a sum of so many as a mean, in place."""
    if count > 1:
        parts = total.view(total.real.dtype)  # a complex division would do more than divide both
        with np.errstate(all="ignore"):
            np.divide(parts, parts.dtype.type(count), out=parts)
    return total


def mean_of_numbers(numbers: Sequence[float]) -> float:
    """Return the mean of a number of each process."""
    terms = [(Block(i, 1), np.array([x], dtype=np.float64)) for i, x in enumerate(numbers)]
    return float(divided(added(terms), len(numbers))[0])


def summed_as(dtype: str) -> str:
    """Return the dtype in which gradients of a dtype are added: that of arithmetic."""
    return "float32" if numpy_dtype(dtype).itemsize == 2 else dtype


def partial_sums(
    blocks: Sequence[Block], terms: Sequence[NDArray[Any]], dtype: str
) -> list[NDArray[Any]]:
    """Return the sums of some blocks, of which these are the terms, one a microbatch.

    Terms may be written to.
    """
    found, first = [], blocks[0].begin
    for block in blocks:
        own = range(block.begin - first, block.begin - first + block.length)
        found.append(added((Block(first + i, 1), terms[i].astype(dtype, copy=False)) for i in own))
    return found

"""How arrays lie in memory: which can be walked as one line of elements, and where state goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from instep.engines.base import Member
from instep.graph import Graph

Axes = tuple[int, ...]


@dataclass(eq=False)
class Placement:
    """How the arrays of one leaf lie: its parameter, its gradient, and those beside them.

    Attributes
    ----------
    line
        Whether all of them can be walked as one line of elements together.
    c_order
        Whether that line is in C order, which sums need.
    axes
        Those of the parameter, from the slowest to the fastest, if it is a line; else in C order.
    strides
        Of every array.
    aligned
        Whether the elements of each array begin at multiples of their size.
    contiguous
        Whether each array is a line in C order by itself, and aligned.
    """

    position: int
    row: int
    slots: dict[str, Any]
    size: int
    shape: tuple[int, ...]
    axes: Axes
    line: bool
    c_order: bool
    strides: list[tuple[int, ...]]
    aligned: list[bool]
    contiguous: list[bool]

    @classmethod
    def of(cls, member: Member, names: Sequence[str]) -> "Placement":
        """Look at the arrays of a member: its slots are taken in the order of `names`."""
        w, shape = member.parameter, member.parameter.shape
        arrays = [w, member.gradient, *(_of_elements(member.slots[name], w) for name in names)]
        aligned = [is_aligned(array) for array in arrays]
        axes = dense_axes(shape, w.strides, w.itemsize)
        line = axes is not None and all(
            is_so and same_walk(shape, array.strides, dense_strides(shape, axes, array.itemsize))
            for is_so, array in zip(aligned, arrays, strict=True)
            if not isinstance(array, _OfBlocks)
        )
        return cls(
            member.position,
            member.row,
            member.slots,
            w.size,
            shape,
            tuple(range(len(shape))) if axes is None else axes,
            line,
            line and is_c_order(shape, w.strides, w.itemsize),
            [array.strides for array in arrays],
            aligned,
            [
                isinstance(array, _OfBlocks)
                or (is_so and is_c_order(shape, array.strides, array.itemsize))
                for is_so, array in zip(aligned, arrays, strict=True)
            ],
        )

    def are_alike(self, places: Sequence[int]) -> bool:
        """Return whether arrays at these places, in the order of all, lie in one way."""
        looks = {(self.strides[i], self.aligned[i], self.contiguous[i]) for i in places}
        return len(looks) < 2

    def is_walked(self, graph: Graph) -> bool:
        """Return whether a pass can walk the arrays where they lie."""
        # A sum takes the elements in C order; without one, or their numbers, any is as good.
        return self.c_order or (self.line and not graph.in_order)


def _of_elements(array: Any, w: Any) -> Any:
    """Return an array as one item for each element of `w`: those of a block are one in memory."""
    return array if array.shape == w.shape else _OfBlocks(array, w)


class _OfBlocks:
    """How what is kept for blocks of a parameter lies, whatever its shape."""

    def __init__(self, array: Any, w: Any) -> None:
        self.flags, self.itemsize = array.flags, array.itemsize
        self.strides = (0,) * w.ndim


def is_aligned(array: Any) -> bool:
    """Return whether the elements of an array begin at multiples of their size.

    CuPy does not tell, and no GPU reads arrays that do not: its engine turns them away.
    """
    return getattr(array.flags, "aligned", True)


def is_line(w: Any, *beside: Any) -> bool:
    """Return whether a parameter and the arrays beside it can be walked as one line together."""
    axes = dense_axes(w.shape, w.strides, w.itemsize)
    return axes is not None and all(
        is_aligned(x) and same_walk(w.shape, x.strides, dense_strides(w.shape, axes, x.itemsize))
        for x in (w, *beside)
    )


def described(x: Any) -> str:
    """Say how an array lies in memory."""
    axes = dense_axes(x.shape, x.strides, x.itemsize)
    moved = [stride for n, stride in zip(x.shape, x.strides, strict=True) if n > 1]
    if not is_aligned(x):
        return "misaligned"
    if 0 in moved:
        return "broadcast"
    if axes is None:
        return "reversed" if min(moved) < 0 else "with gaps"
    if is_c_order(x.shape, x.strides, x.itemsize):
        return "in C order"
    if is_c_order(x.shape[::-1], x.strides[::-1], x.itemsize):
        return "in Fortran order"
    return f"with axes in order {axes}"


def state_strides(w: Any, itemsize: int) -> tuple[int, ...]:
    """Return the strides of state for `w`: its walk where it is dense, else C order."""
    axes = dense_axes(w.shape, w.strides, w.itemsize)
    return dense_strides(w.shape, tuple(range(w.ndim)) if axes is None else axes, itemsize)


def lies_as_state(slot: Any, w: Any) -> bool:
    """Return whether an array lies as state for `w` does, so that both are walked alike."""
    return same_walk(w.shape, slot.strides, state_strides(w, slot.itemsize))


def dense_axes(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> Axes | None:
    """Return the axes from the slowest to the fastest, if the elements lie without gaps.

    C order gives ``(0, 1, ...)``, Fortran order ``(..., 1, 0)``; None: the elements are no line
    in memory (a strided or reversed view). Axes of one element have no meaningful stride; they
    come first.
    """
    axes = sorted(range(len(shape)), key=lambda axis: (shape[axis] > 1, -strides[axis]))
    expected = itemsize
    for axis in reversed(axes):
        if shape[axis] > 1:
            if strides[axis] != expected:
                return None
            expected *= shape[axis]
    return tuple(axes)


def same_walk(shape: Sequence[int], a: Sequence[int], b: Sequence[int]) -> bool:
    """Return whether arrays of one shape with strides `a` and `b` are walked alike."""
    return all(x == y for n, x, y in zip(shape, a, b, strict=True) if n > 1)


def is_c_order(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> bool:
    """Return whether the elements lie in C order, the order of canonical sums."""
    expected = itemsize
    for n, stride in zip(reversed(shape), reversed(strides), strict=True):
        if n > 1 and stride != expected:
            return False
        expected *= n
    return True


def dense_strides(shape: Sequence[int], axes: Axes, itemsize: int) -> tuple[int, ...]:
    """Return the strides of a dense array whose axes are in the order `axes`."""
    strides = [0] * len(shape)
    expected = itemsize
    for axis in reversed(axes):
        strides[axis] = expected
        expected *= max(1, shape[axis])
    return tuple(strides)

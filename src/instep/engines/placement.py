"""Memory layouts: which arrays can be walked as one line of elements."""

from collections.abc import Sequence

Axes = tuple[int, ...]


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

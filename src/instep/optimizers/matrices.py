"""What rules for matrices share: which arrays are some, and their adjoints."""

import math
from typing import Any


def matrix_shape(shape: tuple[int, ...], beyond_2d: str) -> tuple[int, ...]:
    """Return the shape of an array as a matrix, or as a stack of some; empty where it is none."""
    if len(shape) < 2 or 0 in shape:
        return ()
    if len(shape) > 2 and beyond_2d == "flatten":
        return shape[0], math.prod(shape[1:])
    return shape if len(shape) == 2 or beyond_2d == "batch" else ()


def sides(shape: tuple[int, ...], beyond_2d: str, longest: float) -> dict[str, tuple[int, ...]]:
    """Return the shapes of square matrices for rows, `L`, and columns, `R`, where not too long."""
    matrix = matrix_shape(shape, beyond_2d)
    lengths = zip("LR", matrix[-2:], strict=False)
    return {side: (*matrix[:-2], n, n) for side, n in lengths if n <= longest}


def conjugate(xp: Any, x: Any) -> Any:
    """Return the complex conjugate of an array, which may be real."""
    return xp.conj(x) if xp.isdtype(x.dtype, "complex floating") else x


def adjoint(xp: Any, x: Any) -> Any:
    """Return the conjugate transpose of a matrix, as a copy.

    NumPy takes a shorter way (BLAS's syrk) for a matrix and a view of its transpose, and OpenBLAS's
    kernel of it for ARM's SME reads memory that it has not written: NaN, or other bits at every
    call. A copy is no view. In `Muon` it costs 9 % at 1024 x 1024 (Zen 3).
    """
    return xp.asarray(xp.matrix_transpose(conjugate(xp, x)), copy=True)


def outer(xp: Any, side: str, x: Any) -> Any:
    """Return the products of the rows of a matrix with each other, or of its columns."""
    return xp.matmul(x, adjoint(xp, x)) if side == "L" else xp.matmul(adjoint(xp, x), x)


def eigen(xp: Any, x: Any) -> Any:
    """Return the eigenvalues and eigenvectors of a Hermitian matrix, NaN for what is not finite.

    Of that a library may say that it did not converge.
    """
    finite = xp.all(xp.isfinite(x), axis=(-2, -1), keepdims=True)
    values, vectors = xp.linalg.eigh(xp.where(finite, x, xp.zeros_like(x)))
    return xp.where(finite[..., 0], values, xp.full_like(values, xp.nan)), vectors

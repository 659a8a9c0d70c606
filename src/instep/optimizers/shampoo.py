"""AdaGrad for matrices, whose rows and columns each have a matrix of sums."""

from typing import Annotated, Any, Literal

from instep.hyperparameters import Domain, NonNegative, Positive, Schedule
from instep.optimizer import Optimizer
from instep.optimizers.matrices import adjoint, eigen, matrix_shape, outer, sides
from instep.rule import Form


class Shampoo(Optimizer):
    r"""Shampoo (Gupta, Koren & Singer 2018, arXiv:1802.09568, algorithm 1).

    For matrices, arrays of two dimensions:

    .. math::
        L &\leftarrow L + g g^* \\
        R &\leftarrow R + g^* g \\
        w &\leftarrow w - \eta\, (L + \epsilon I)^{-1/4}\, g\, (R + \epsilon I)^{-1/4}

    Of sides longer than `longest` only the diagonal of `L` or `R` is kept, as the paper does. So it
    is for all other arrays, unless `beyond_2d` makes matrices of them:

    .. math::
        h &\leftarrow h + g \odot g \\
        w &\leftarrow w - \eta\, g / \sqrt{h + \epsilon}

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    eps
        Term :math:`\epsilon` that keeps the roots finite.
    every
        Number of steps from which on the roots are computed anew: with 10, at the first step, the
        eleventh, and so on.
    longest
        Longest side of a matrix of which all of `L` or `R` is kept.
    beyond_2d
        What an array of more than two dimensions is: ``"adagrad"``, no matrix; ``"flatten"``, one
        whose rows lie along the first axis, as kernels of convolutions do; ``"batch"``, several, in
        the last two axes, each by itself.

    Notes
    -----
    The state of an n by m matrix is 2n² + 2m² numbers: `L`, `R` and their roots. The roots are made
    of eigenvectors in float64, for one of a small eigenvalue is large. No eigenvalue counts as less
    than 16 units in the last place of the largest, in the dtype of the sums: it would be an error
    of rounding, to which a step in its direction is most sensitive. Products and eigenvectors are
    the array library's own: on NumPy all engines give the same bits as long as its BLAS and LAPACK
    do, other libraries and machines equal them to rounding.

    The paper has a matrix for every axis of an array, and for a vector, one of its full length.
    pytorch_optimizer has the same rule, and with `every` no step before the first roots, which it
    computes at the step of that number. PyTorch, optax and Keras have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Shampoo
    >>> Shampoo(lr=0.5).update(np.zeros((2, 2)), np.diag([3.0, -4.0])).round(3) + 0.0
    array([[-0.5,  0. ],
           [ 0. ,  0.5]])
    """

    lr: NonNegative = 0.01
    eps: Positive = 1e-6
    every: Annotated[float | Schedule, Domain(lower=1, integer=True)] = 1
    longest: Annotated[float, Domain(lower=1, integer=True, fixed=True)] = 10_000
    beyond_2d: Literal["adagrad", "flatten", "batch"] = "adagrad"

    slots = ("h", "L", "R", "rootL", "rootR")
    real_slots = positive_slots = ("h",)

    def form_for(self, shape: tuple[int, ...]) -> Form:
        """Return sums for rows and columns of a matrix, with their roots."""
        matrix = matrix_shape(shape, self.beyond_2d)
        if not matrix:
            return Form(slots=("h",))
        diagonals = {"L": matrix[:-1], "R": (*matrix[:-2], matrix[-1])}
        sums = diagonals | sides(shape, self.beyond_2d, self.longest)
        roots = {f"root{side}": size for side, size in sums.items()}
        return Form(slots=(), whole=sums | roots, between=("direction",), kind="matrix")

    @staticmethod
    def rule(xp, w, g, s, h):
        if h.kind != "matrix":
            total = s.h + xp.abs_sq(g)
            return w - h.lr * (g / xp.sqrt(total + h.eps)), {"h": total}
        names = ("L", "R", "rootL", "rootR")
        direction, *renewed = xp.apply(
            preconditioned,
            g,
            *(getattr(s, name) for name in names),
            eps=h.eps,
            renews=(h.t - 1) % h.every == 0,
            beyond_2d=h.beyond_2d,
        )
        return w - h.lr * direction, dict(zip(names, renewed, strict=True))


def preconditioned(
    xp: Any,
    g: Any,
    L: Any,
    R: Any,
    rootL: Any,
    rootR: Any,
    *,
    eps: float,
    renews: bool,
    beyond_2d: str,
) -> tuple[Any, ...]:
    """Return a gradient between its roots, the sums, and the roots."""
    x = xp.reshape(g, matrix_shape(g.shape, beyond_2d))
    L, R = (total + _products(xp, side, x, total) for side, total in (("L", L), ("R", R)))
    if renews:
        rootL, rootR = (_inverse_root(xp, total, x, eps) for total in (L, R))
    x = xp.matmul(rootL, x) if rootL.ndim == x.ndim else rootL[..., None] * x
    x = xp.matmul(x, rootR) if rootR.ndim == x.ndim else x * rootR[..., None, :]
    return xp.reshape(x, g.shape), L, R, rootL, rootR


def _products(xp: Any, side: str, x: Any, total: Any) -> Any:
    """Return what a step adds to a total, of which all or the diagonal is kept."""
    if total.ndim == x.ndim:
        return outer(xp, side, x)
    size = xp.abs(x)
    return xp.sum(size * size, axis=-1 if side == "L" else -2)


def _inverse_root(xp: Any, total: Any, x: Any, eps: float) -> Any:
    """Return the fourth root of the inverse of a total, or of its diagonal."""
    if total.ndim < x.ndim:
        return 1 / xp.sqrt(xp.sqrt(xp.abs(total) + eps))
    is_complex = xp.isdtype(total.dtype, "complex floating")
    values, vectors = eigen(xp, xp.astype(total, xp.complex128 if is_complex else xp.float64))
    least = 16 * xp.finfo(total.dtype).eps * values[..., -1:]  # what is below is rounding
    values = xp.where(values < least, least, values) + eps
    scaled = vectors / xp.sqrt(xp.sqrt(values))[..., None, :]
    return xp.astype(xp.matmul(scaled, adjoint(xp, vectors)), total.dtype)

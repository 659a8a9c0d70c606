"""Adam without momentum, whose mean squares of a matrix are a row and a column."""

from typing import Any

from instep.hyperparameters import Epsilon, NonNegative, Positive
from instep.optimizer import Optimizer
from instep.rule import Form


class Adafactor(Optimizer):
    r"""Adafactor (Shazeer & Stern 2018, arXiv:1804.04235, algorithms 4 and 5).

    With :math:`\beta = 1 - t^{-c}` and :math:`\rho = \min(\eta, 1 / \sqrt{t})`, for arrays of two
    and more dimensions, whose last two are rows and columns:

    .. math::
        R &\leftarrow \beta R + (1 - \beta)\, \mathrm{mean}_\text{row}(g \odot g + \epsilon_1) \\
        C &\leftarrow \beta C + (1 - \beta)\, \mathrm{mean}_\text{column}(g \odot g + \epsilon_1) \\
        v &= R\, C / \mathrm{mean}(R) \\
        u &= g / \sqrt{v} \\
        w &\leftarrow w - \max(\epsilon_2, \mathrm{rms}(w))\, \rho\,
            \frac{u}{\max(1, \mathrm{rms}(u) / d)}

    Other arrays keep :math:`v \leftarrow \beta v + (1 - \beta) (g \odot g + \epsilon_1)` itself.
    The state holds roots, of `R`, `C` and `v`, since the square of 1e20 is beyond float32.

    Parameters
    ----------
    lr
        Largest learning rate :math:`\eta`: the share of its root mean square by which an array
        changes in a step.
    decay
        Power :math:`c` of the step number in the decay rate.
    d
        Largest root mean square of a step before it is scaled.
    eps1
        Term :math:`\epsilon_1` in the mean squares.
    eps2
        Least scale :math:`\epsilon_2` of an array.
    relative_step
        Whether :math:`\rho` falls with the step number; else it is `lr`.

    Notes
    -----
    The state of an n by m matrix is n + m numbers. The means over rows and columns, in float64, and
    their product are the array library's own; on NumPy all engines give the same bits, other
    libraries equal them to rounding. All else is fused, the root mean squares being canonical sums.
    An array of the size of each matrix is kept between the passes, for the root of `v`.

    Keras has the same rule with lr 0.001. PyTorch has eps1 as a bound of the means instead of a
    term. optax has a given lr, ``relative_step=False``, and factors the two largest dimensions
    if they are 128 and more.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Adafactor
    >>> w = np.array([[1.0, -1.0], [1.0, 1.0]])
    >>> Adafactor(lr=0.5).update(w, np.outer([1.0, 2.0], [3.0, 4.0]))
    array([[ 0.5, -1.5],
           [ 0.5,  0.5]])
    """

    lr: NonNegative = 0.01
    decay: Positive = 0.8
    d: Positive = 1.0
    eps1: Epsilon = 1e-30
    eps2: Epsilon = 1e-3
    relative_step: bool = True

    slots = ("root", "rows", "columns")
    real_slots = ("root", "rows", "columns", "factored")

    def form(self, shape: tuple[int, ...]) -> Form:
        """Return row and column means for a matrix, or for a stack of them."""
        if len(shape) < 2 or 0 in shape:
            return Form(slots=("root",))
        means = {"rows": shape[:-1], "columns": (*shape[:-2], shape[-1])}
        return Form(slots=(), whole=means, between=("factored",), kind="factored")

    @staticmethod
    def scalars(h):
        """Return the decay rate and the learning rate of this step."""
        rate = min(h.lr, h.t**-0.5) if h.relative_step else h.lr
        return {"beta": 1 - h.t**-h.decay, "rate": rate}

    @staticmethod
    def rule(xp, w, g, s, h):
        if h.kind == "factored":
            root, rows, columns = xp.apply(
                factored_root, abs(g), s.rows, s.columns, beta=h.beta, eps1=h.eps1
            )
            slots = {"rows": rows, "columns": columns}
        else:
            square, v = (xp.abs_sq(xp.astype(x, xp.float64)) for x in (g, s.root))
            v = h.beta * v + (1 - h.beta) * (square + h.eps1)
            root = xp.astype(xp.sqrt(v), s.root.dtype)
            slots = {"root": root}
        root_of_count = xp.sqrt(xp.sum(xp.ones_like(root)))
        u = g / root
        clipped = u / xp.maximum(1.0, xp.norm(u) / root_of_count / h.d)
        scale = xp.maximum(h.eps2, xp.norm(w) / root_of_count)
        return w - h.rate * scale * clipped, slots


def factored_root(xp: Any, size: Any, rows: Any, columns: Any, *, beta: float, eps1: float) -> Any:
    """Return the root mean squares that rows and columns stand for, and those of them."""
    dtype = size.dtype
    square, R, C = (xp.astype(x, xp.float64) for x in (size, rows, columns))
    square *= square  # in place where it can be, for its memory is most of the cost
    R = beta * R * R + (1 - beta) * (xp.mean(square, axis=-1) + eps1)
    C = beta * C * C + (1 - beta) * (xp.mean(square, axis=-2) + eps1)
    rows, columns = xp.sqrt(R), xp.sqrt(C)
    share = rows / xp.sqrt(xp.mean(R, axis=-1, keepdims=True))
    share, column = (xp.astype(x, dtype) for x in (share, columns))
    return share[..., None] * column[..., None, :], rows, columns

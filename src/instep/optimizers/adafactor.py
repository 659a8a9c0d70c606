"""Adam without momentum, whose mean squares of a matrix are a row and a column."""

from typing import Any, Literal

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
        Term :math:`\epsilon_1` in the mean squares, or their bound.
    eps2
        Least scale :math:`\epsilon_2` of an array.
    relative_step
        Whether :math:`\rho` falls with the step number; else it is `lr`.
    eps1_as
        ``"term"``, or ``"bound"``, as PyTorch has it: no term is added, but
        :math:`u = g / \max(\sqrt{v}, \epsilon_1)` and
        :math:`v = R\, C / \max(\mathrm{mean}(R), \epsilon_1)`.

    Notes
    -----
    The state of an n by m matrix is n + m numbers. The means over rows and columns, in float64, and
    their product are the array library's own; on NumPy all engines give the same bits, other
    libraries equal them to rounding. All else is fused, the root mean squares being canonical sums.
    An array of the size of each matrix is kept between the passes, for the root of `v`.

    Keras has the same rule with lr 0.001. PyTorch's is that with ``eps1_as="bound"``, and eps1 is
    ``np.finfo(w.dtype).eps`` there; its decay is `instep.transforms.decoupled_weight_decay`. optax
    has a given lr, ``relative_step=False``, and factors the two largest dimensions if they are 128
    and more.

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
    eps1_as: Literal["term", "bound"] = "term"

    slots = ("root", "rows", "columns")
    real_slots = ("root", "rows", "columns", "factored")
    positive_slots = ("root",)

    def form_for(self, shape: tuple[int, ...]) -> Form:
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
            numbers = {"beta": h.beta, "eps1": h.eps1, "eps1_as": h.eps1_as}
            root, rows, columns = xp.apply(factored_root, abs(g), s.rows, s.columns, **numbers)
            slots = {"rows": rows, "columns": columns}
        else:
            square, v = (xp.abs_sq(xp.astype(x, xp.float64)) for x in (g, s.root))
            if h.eps1_as == "term":
                square = square + h.eps1
            v = h.beta * v + (1 - h.beta) * square
            root = xp.astype(xp.sqrt(v), s.root.dtype)
            slots = {"root": root}
        root_of_count = xp.sqrt(xp.sum(xp.ones_like(root)))
        u = g / (xp.maximum(root, h.eps1) if h.eps1_as == "bound" else root)
        clipped = u / xp.maximum(1.0, xp.norm(u) / root_of_count / h.d)
        scale = xp.maximum(h.eps2, xp.norm(w) / root_of_count)
        return w - h.rate * scale * clipped, slots


def factored_root(
    xp: Any, size: Any, rows: Any, columns: Any, *, beta: float, eps1: float, eps1_as: str
) -> Any:
    """Return the root mean squares that rows and columns stand for, and those of them."""
    dtype = size.dtype
    square, R, C = (xp.astype(x, xp.float64) for x in (size, rows, columns))
    square *= square  # in place where it can be, for its memory is most of the cost
    term, bound = (eps1, 0.0) if eps1_as == "term" else (0.0, eps1)
    R = beta * R * R + (1 - beta) * (xp.mean(square, axis=-1) + term)
    C = beta * C * C + (1 - beta) * (xp.mean(square, axis=-2) + term)
    rows, columns = xp.sqrt(R), xp.sqrt(C)
    mean = xp.mean(R, axis=-1, keepdims=True)
    share = rows / xp.sqrt(xp.where(mean < bound, bound * xp.ones_like(mean), mean))
    share, column = (xp.astype(x, dtype) for x in (share, columns))
    return share[..., None] * column[..., None, :], rows, columns

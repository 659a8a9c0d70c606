"""Adam in the basis in which the gradients of a matrix are least correlated."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal

from instep.hyperparameters import DecayRate, Domain, Epsilon, NonNegative, Schedule
from instep.optimizer import Optimizer
from instep.optimizers.adam import AdamW
from instep.optimizers.matrices import adjoint, conjugate, eigen, matrix_shape, outer, sides
from instep.rule import Form


class SOAP(Optimizer):
    r"""SOAP, Adam in the eigenbasis of Shampoo (Vyas et al. 2024, arXiv:2409.11321, algorithm 3).

    For matrices, arrays of two dimensions, with :math:`g' = Q_L^* g\, Q_R`:

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1)\, g' \\
        v &\leftarrow \beta_2 v + (1 - \beta_2)\, g' \odot g' \\
        w &\leftarrow (1 - \eta \lambda)\, w - \eta\, Q_L \left(
            \frac{m / (1 - \beta_1^{t - 1})}{\sqrt{v / (1 - \beta_2^{t - 1})} + \epsilon}
            \right) Q_R^* \\
        L &\leftarrow \beta_2 L + (1 - \beta_2)\, g g^* \\
        R &\leftarrow \beta_2 R + (1 - \beta_2)\, g^* g

    The first step only makes `L` and `R`, and :math:`Q_L` and :math:`Q_R` of their eigenvectors.
    Every `every` steps after it these are made orthogonal anew: :math:`Q_L` becomes the `Q` of the
    QR decomposition of :math:`L Q_L`, its columns in the order of their eigenvalues; `v` is sorted
    with them, and `m` turned into the new basis. All other arrays are updated as by `AdamW`, unless
    `beyond_2d` makes matrices of them.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`.
    beta1
        Decay rate of the mean gradient.
    beta2
        Decay rate of the mean squared gradient, and of `L` and `R`.
    eps
        Term :math:`\epsilon` that keeps the division finite.
    weight_decay
        Strength :math:`\lambda` of the decay, in units of the learning rate.
    every
        Number of steps between two changes of the basis.
    longest
        Longest side of a matrix that has a basis: rows or columns that are more stay as they are.
    beyond_2d
        What an array of more than two dimensions is: ``"adamw"``, no matrix; ``"flatten"``, one
        whose rows lie along the first axis, as kernels of convolutions do; ``"batch"``, several, in
        the last two axes, each with bases of its own.

    Notes
    -----
    The state of an n by m matrix is 2nm + 2n² + 2m² numbers, and a step takes six products. They
    and the decompositions are the array library's own, in the dtype of the arithmetic: on NumPy all
    engines give the same bits as long as its BLAS and LAPACK do, other libraries and machines equal
    them to rounding. Directions that no gradient has had yet, as a tall matrix has some after one,
    are given by QR of zeros in their place: the same in all libraries. Among eigenvectors of equal
    eigenvalues the library chooses.

    The authors' code adds :math:`\epsilon` to :math:`\sqrt{v}` itself, decays by 0.01 and after the
    step, has bases for every axis of an array, and skips the first step of all other arrays, too;
    so does pytorch_optimizer, which decomposes in float32. PyTorch, optax and Keras have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SOAP
    >>> optimizer, w = SOAP(lr=0.5), np.zeros((2, 2))
    >>> for _ in range(2):
    ...     w = optimizer.update(w, np.array([[1.0, 2.0], [0.0, 1.0]]))
    >>> np.linalg.svd(w, compute_uv=False).round(6)  # Adam's step along singular vectors
    array([0.5, 0.5])
    """

    lr: NonNegative = 0.003
    beta1: DecayRate = 0.95
    beta2: DecayRate = 0.95
    eps: Epsilon = 1e-8
    weight_decay: NonNegative = 0.0
    every: Annotated[float | Schedule, Domain(lower=1, integer=True)] = 10
    longest: Annotated[float, Domain(lower=1, integer=True, fixed=True)] = 10_000
    beyond_2d: Literal["adamw", "flatten", "batch"] = "adamw"

    slots = ("m", "v", "L", "R", "QL", "QR")
    real_slots = positive_slots = ("v",)
    scalar_slots: ClassVar[Mapping[str, float]] = {"product1": 1.0, "product2": 1.0}

    def form_for(self, shape: tuple[int, ...]) -> Form:
        """Return bases and what they are of for a matrix, beside the means of Adam."""
        squares = sides(shape, self.beyond_2d, self.longest)
        if not squares:
            return Form(slots=("m", "v"))
        bases = {f"Q{side}": square for side, square in squares.items()}
        whole = {"m": shape, "v": shape, **squares, **bases}
        return Form(slots=(), whole=whole, between=("direction",), kind="".join(squares))

    @staticmethod
    def scalars(h):
        """Return whether this is the first step, and the products of the decay rates after it."""
        first = h.t == 1
        beta1, beta2 = (1.0, 1.0) if first else (h.beta1, h.beta2)
        return {"first": first, "product1": h.product1 * beta1, "product2": h.product2 * beta2}

    @staticmethod
    def rule(xp, w, g, s, h):
        if not h.kind:
            numbers = ("lr", "beta1", "beta2", "beta1_t", "beta2_t", "eps", "weight_decay")
            others = {name: getattr(h, name) for name in numbers}
            return AdamW.rule(xp, w, g, s, SimpleNamespace(**others, form="epsilon"))
        names = ["m", "v", *h.kind, *(f"Q{side}" for side in h.kind)]
        direction, *renewed = xp.apply(
            in_eigenbasis,
            g,
            *(getattr(s, name) for name in names),
            **{name: getattr(h, name) for name in ("beta1", "beta2", "product1", "product2")},
            **{name: getattr(h, name) for name in ("eps", "beyond_2d", "kind", "first")},
            renews=(h.t - 1) % h.every == 0,
        )
        slots = dict(zip(names, renewed, strict=True))
        if h.first:
            return w, slots
        return (1 - h.lr * h.weight_decay) * w - h.lr * direction, slots


def in_eigenbasis(
    xp: Any,
    g: Any,
    m: Any,
    v: Any,
    *squares: Any,
    beta1: float,
    beta2: float,
    product1: float,
    product2: float,
    eps: float,
    beyond_2d: str,
    kind: str,
    first: bool,
    renews: bool,
) -> tuple[Any, ...]:
    """Return the direction of Adam in the bases, its means, and what bases are of, and these."""
    shape = g.shape
    g, m, v = (xp.reshape(x, matrix_shape(shape, beyond_2d)) for x in (g, m, v))
    correlations, bases = (
        dict(zip(kind, given, strict=True))
        for given in (squares[: len(kind)], squares[len(kind) :])
    )
    direction = g
    if not first:
        turned = _into(xp, g, bases)
        m = beta1 * m + (1 - beta1) * turned
        size = xp.abs(turned)
        v = beta2 * v + (1 - beta2) * (size * size)
        step = m / (1 - product1) / (xp.sqrt(v / (1 - product2)) + eps)
        direction = _out_of(xp, step, bases)
    for side, x in correlations.items():
        correlations[side] = beta2 * x + (1 - beta2) * outer(xp, side, g)
    if first or renews:
        m = _out_of(xp, m, bases)
        for side, x in correlations.items():
            basis = eigen(xp, x)[1] if first else bases[side]
            bases[side], v = _renewed(xp, side, x, basis, v)
        m = _into(xp, m, bases)
    direction, m, v = (xp.reshape(x, shape) for x in (direction, m, v))
    return direction, m, v, *correlations.values(), *bases.values()


def _into(xp: Any, x: Any, bases: Mapping[str, Any]) -> Any:
    """Return the coordinates of a matrix in the bases of its sides."""
    x = xp.matmul(adjoint(xp, bases["L"]), x) if "L" in bases else x
    return xp.matmul(x, bases["R"]) if "R" in bases else x


def _out_of(xp: Any, x: Any, bases: Mapping[str, Any]) -> Any:
    """Return the matrix that has these coordinates."""
    x = xp.matmul(bases["L"], x) if "L" in bases else x
    return xp.matmul(x, adjoint(xp, bases["R"])) if "R" in bases else x


def _renewed(xp: Any, side: str, correlation: Any, basis: Any, v: Any) -> tuple[Any, Any]:
    """Return a basis nearer to the eigenvectors, by falling eigenvalues, and `v` in their order."""
    product = xp.matmul(correlation, basis)
    values = xp.abs(xp.sum(conjugate(xp, basis) * product, axis=-2))
    order = xp.argsort(values, axis=-1, descending=True)
    columns = order[..., None, :]
    places, axis = (order[..., None], -2) if side == "L" else (columns, -1)
    product = xp.take_along_axis(product, columns, axis=-1)
    return _orthogonal(xp, product), xp.take_along_axis(v, places, axis=axis)


def _orthogonal(xp: Any, vectors: Any) -> Any:
    """Return vectors made orthogonal to those before them.

    One that depends on those before it would become a direction of errors of rounding. Zeros take
    its place, of which QR makes directions that are the same in all libraries.
    """
    basis, upper = xp.linalg.qr(vectors)
    size = xp.abs(xp.linalg.diagonal(upper))
    least = 16 * xp.finfo(vectors.dtype).eps * xp.max(size, axis=-1, keepdims=True)
    depends = (size <= least)[..., None, :]
    if xp.any(depends):
        basis, _ = xp.linalg.qr(xp.where(depends, xp.zeros_like(vectors), vectors))
    return basis

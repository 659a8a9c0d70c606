"""Momentum that is made orthogonal, for matrices."""

import math
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from instep.hyperparameters import DecayRate, Domain, Epsilon, NonNegative, Schedule
from instep.optimizer import Optimizer
from instep.optimizers.adam import AdamW
from instep.optimizers.matrices import adjoint
from instep.rule import Form


class Muon(Optimizer):
    r"""Muon, momentum orthogonalized by Newton and Schulz (Jordan et al. 2024).

    For matrices, arrays of two dimensions:

    .. math::
        m &\leftarrow \alpha m + g \\
        O &= \mathrm{orthogonal}(g + \alpha m) \\
        w &\leftarrow (1 - \eta \lambda)\, w - \eta \sqrt{\max(1, \text{rows} / \text{columns})}\, O

    :math:`\mathrm{orthogonal}(X)` has the singular vectors of `X`, and singular values near 1: it
    is :math:`X / \lVert X \rVert`, then five times
    :math:`X \leftarrow a X + (b A + c A A)\, X` with :math:`A = X X^\top` and
    :math:`(a, b, c) = (3.4445, -4.775, 2.0315)`. All other arrays are updated as by `AdamW`,
    unless `beyond_2d` makes matrices of them.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta` of matrices: the size of a step in the spectral norm.
    momentum
        Share :math:`\alpha` of the momentum that a step keeps.
    weight_decay
        Strength :math:`\lambda` of the decay, in units of the learning rate, of all arrays.
    adamw_lr, beta1, beta2, eps
        Hyperparameters of `AdamW` for other arrays.
    nesterov
        Whether `O` is made of :math:`g + \alpha m`; else it is made of `m`.
    ns_steps
        How often Newton and Schulz's step is taken.
    ns_a, ns_b, ns_c
        Coefficients :math:`a`, :math:`b` and :math:`c` of that step.
    adjust_lr
        The factor of `O`: ``"original"``, :math:`\sqrt{\max(1, \text{rows} / \text{columns})}`, or
        ``"match_rms_adamw"``, :math:`0.2 \sqrt{\max(\text{rows}, \text{columns})}`, with which
        learning rates and decays of `AdamW` are right for all arrays (arXiv:2502.16982).
    form
        Where `eps` stands for other arrays, as in `AdamW`.
    beyond_2d
        What an array of more than two dimensions is: ``"adamw"``, no matrix; ``"flatten"``, one
        whose rows lie along the first axis, as kernels of convolutions do; ``"batch"``, several, in
        the last two axes, each orthogonalized by itself.

    Notes
    -----
    The source is https://kellerjordan.github.io/posts/muon. Embeddings and output layers are
    matrices that are better left to `AdamW`, with its own decay and rates: `partition` gives each
    part of a tree an optimizer of its own, and all take one step together.

    Momentum, decay and step are fused. The five products are the array library's own, in the dtype
    of the arithmetic: on NumPy all engines give the same bits as long as its BLAS does, other
    libraries and machines equal them to rounding. An array of the size of each matrix is kept
    between the passes.

    PyTorch has the same rule and options, for matrices alone, with weight_decay 0.1 and products in
    bfloat16. Keras has the factor
    0.2 times the root of the larger of rows and columns, decays by 0.004, and has
    ``form="epsilon_hat"``. optax corrects the
    biases of the momentum, which turns the first directions.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import Muon
    >>> params = {"w": np.zeros((2, 2)), "b": np.zeros(2)}
    >>> grads = {"w": np.diag([3.0, -1.0]), "b": np.array([3.0, -1.0])}
    >>> params = Muon(lr=0.5, adamw_lr=0.25).update(params, grads)
    >>> params["w"].round(1)
    array([[-0.4,  0. ],
           [ 0. ,  0.6]])
    >>> params["b"]
    array([-0.25,  0.25])

    Hidden matrices alone, with one bound for the norm of all gradients:

    >>> from instep import AdamW, chain, partition
    >>> from instep.transforms import clip_by_global_norm
    >>> optimizer = chain(
    ...     clip_by_global_norm(1.0),
    ...     partition({"hidden/*": Muon(lr=0.02), "*": AdamW(lr=3e-4)}),
    ... )
    >>> params = {"hidden": [np.zeros((2, 2))], "embedding": np.zeros((5, 2))}
    >>> params = optimizer.update(params, {"hidden": [np.eye(2)], "embedding": np.ones((5, 2))})
    >>> params["hidden"][0].round(2)
    array([[-0.02,  0.  ],
           [ 0.  , -0.02]])
    """

    lr: NonNegative = 0.02
    momentum: DecayRate = 0.95
    weight_decay: NonNegative = 0.0
    adamw_lr: NonNegative = 3e-4
    beta1: DecayRate = 0.9
    beta2: DecayRate = 0.95
    eps: Epsilon = 1e-10
    nesterov: bool = True
    ns_steps: Annotated[float | Schedule, Domain(lower=1, integer=True)] = 5
    ns_a: float = 3.4445
    ns_b: float = -4.775
    ns_c: float = 2.0315
    adjust_lr: Literal["original", "match_rms_adamw"] = "original"
    beyond_2d: Literal["adamw", "flatten", "batch"] = "adamw"
    form: Literal["epsilon", "epsilon_hat"] = "epsilon"

    slots = ("m", "v")
    real_slots = positive_slots = ("v",)

    def form_for(self, shape: tuple[int, ...]) -> Form:
        """Return one slot for matrices, and two for another array."""
        is_matrix = len(shape) == 2 or (len(shape) > 2 and self.beyond_2d != "adamw")
        if is_matrix and 0 not in shape:
            return Form(slots=("m",), between=("direction",), kind="matrix")
        return Form(slots=("m", "v"))

    @staticmethod
    def rule(xp, w, g, s, h):
        if h.kind == "matrix":
            m = h.momentum * s.m + g
            direction = xp.apply(
                orthogonalized,
                g + h.momentum * m if h.nesterov else m,
                **{name: getattr(h, name) for name in ("ns_steps", "ns_a", "ns_b", "ns_c")},
                **{name: getattr(h, name) for name in ("adjust_lr", "beyond_2d")},
            )
            return (1 - h.lr * h.weight_decay) * w - h.lr * direction, {"m": m}
        names = ("beta1", "beta2", "beta1_t", "beta2_t", "eps", "weight_decay", "form")
        others = {name: getattr(h, name) for name in names}
        return AdamW.rule(xp, w, g, s, SimpleNamespace(lr=h.adamw_lr, **others))


def orthogonalized(
    xp: Any,
    x: Any,
    *,
    ns_steps: float,
    ns_a: float,
    ns_b: float,
    ns_c: float,
    adjust_lr: str,
    beyond_2d: str,
) -> Any:
    """Return matrices with the singular vectors of `x` and singular values near Muon's factor."""
    shape = x.shape
    if beyond_2d == "flatten":
        x = xp.reshape(x, (shape[0], -1))
    rows, columns = x.shape[-2:]
    is_complex = xp.isdtype(x.dtype, "complex floating")
    if rows > columns:
        x = xp.matrix_transpose(x)
    # By the largest element first, whose square alone may overflow or vanish.
    x = _over(xp, x, xp.max(xp.abs(x), axis=(-2, -1), keepdims=True))
    square = xp.real(x) * xp.real(x) + xp.imag(x) * xp.imag(x) if is_complex else x * x
    x = _over(xp, x, xp.sqrt(xp.sum(square, axis=(-2, -1), keepdims=True)))
    for _ in range(int(ns_steps)):
        product = xp.matmul(x, adjoint(xp, x))
        x = ns_a * x + xp.matmul(ns_b * product + ns_c * xp.matmul(product, product), x)
    if rows > columns:
        x = xp.matrix_transpose(x)
    return xp.reshape(_factor(adjust_lr, rows, columns) * x, shape)


def _factor(adjust_lr: str, rows: int, columns: int) -> float:
    """Return what the size of a step of a matrix is multiplied by."""
    if adjust_lr == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))


def _over(xp: Any, x: Any, size: Any) -> Any:
    """Return ``x / size``, and zeros for zeros."""
    return x / xp.where(size > 0, size, xp.ones_like(size))

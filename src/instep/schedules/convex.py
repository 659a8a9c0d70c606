"""What theory gives for convex problems."""

import math
from dataclasses import dataclass
from typing import Annotated

from instep.correctly_rounded import cos
from instep.hyperparameters import Domain
from instep.schedules.arguments import Positive
from instep.schedules.base import Schedule


@dataclass(frozen=True)
class NesterovMomentum(Schedule):
    r"""The momentum of accelerated methods: :math:`(t - 1) / (t - 1 + r)`.

    For a convex function whose gradient has the Lipschitz constant :math:`L`, gradient descent with
    momentum :math:`(t - 1) / (t + 2)` in the form of Nesterov (1983) and a learning rate of at most
    :math:`1 / L` comes down with the square of the number of steps, without momentum only with the
    number (Beck & Teboulle 2009, FISTA). Under a larger friction the iterates themselves converge
    (Chambolle & Dossal 2015).

    Parameters
    ----------
    friction
        The number :math:`r`: :math:`r / t` is the friction in the differential equation that the
        path follows (Su, Boyd & Candes 2014, arXiv:1503.01243). The theory asks for at least 3.

    Notes
    -----
    It is made for the momentum of `Nesterov`. That uses one momentum for its velocity and its
    look-ahead, as torch and Keras do; in FISTA the velocity has the momentum of the step before.

    Examples
    --------
    >>> from instep import Nesterov
    >>> from instep.schedules import NesterovMomentum
    >>> schedule = NesterovMomentum()
    >>> [schedule(step) for step in (1, 2, 4, 10)]
    [0.0, 0.25, 0.5, 0.75]
    >>> optimizer = Nesterov(lr=0.01, momentum=schedule)
    """

    friction: Positive = 3.0

    def at(self, step: int, value: float | None = None) -> float:
        return (step - 1) / (step - 1 + self.friction)


@dataclass(frozen=True)
class Chebyshev(Schedule):
    r"""The learning rates that solve a quadratic problem best (Young 1953, J. Math. Phys. 32:243).

    If the eigenvalues of the Hessian lie in :math:`[a, b]`, gradient descent with the rates

    .. math::
        1 / \left(a + (b - a) \cos^2 \frac{\pi (2 k + 1)}{4 n}\right), \quad k = 0, \dots, n - 1

    multiplies the error in :math:`n` steps by at most :math:`2 q^n / (1 + q^{2 n})`, where
    :math:`q = (\sqrt{b} - \sqrt{a}) / (\sqrt{b} + \sqrt{a})`. No other rates bound it by less, and
    conjugate gradients, which need inner products, are not surer. The error is that small after
    every :math:`n` steps, when the rates start again, and not in between.

    Their order decides how far it grows in between, errors of rounding included: where they rise or
    fall by many powers of ten, here by no more than :math:`b / a`.

    Parameters
    ----------
    smallest, largest
        Bounds :math:`a` and :math:`b` of the eigenvalues, in units of the loss over the square of
        those of the parameters. The rates have the inverse units.
    steps
        Number of steps :math:`n`.

    Raises
    ------
    ValueError
        If `smallest` is larger than `largest`.

    Notes
    -----
    The order is that of Lebedev & Finogenov (1971, USSR Comput. Math. Math. Phys. 11(2):155) if
    `steps` is a power of 2; otherwise that in which the next power of 2 has its first `steps`.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD
    >>> from instep.schedules import Chebyshev
    >>> eigenvalues, w = np.array([1.0, 3.0, 10.0]), np.ones(3)
    >>> optimizer = SGD(lr=Chebyshev(1.0, 10.0, steps=8))
    >>> for _ in range(8):
    ...     w = optimizer.update(w, eigenvalues * w)  # of sum(eigenvalues * w**2) / 2
    >>> bool(abs(w).max() < 0.011)
    True
    """

    smallest: Positive
    largest: Positive
    steps: Annotated[int, Domain(lower=1, upper=2**53)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smallest > self.largest:
            raise ValueError(
                f"Chebyshev: smallest must not be larger than largest={self.largest!r}, got "
                f"{self.smallest!r}"
            )

    def at(self, step: int, value: float | None = None) -> float:
        n = self.steps
        size = 1 << (n - 1).bit_length()
        entry = _entry(int(step - 1) % n, size)
        k = _count_below(entry, n, size)
        root = cos(math.pi * ((2 * k + 1) / (4 * n)))
        return 1 / (self.smallest + (self.largest - self.smallest) * (root * root))

    @property
    def span(self) -> int:
        return self.steps


def _entry(place: int, size: int) -> int:
    """Return an entry of the order of so many, a power of 2: 0 1; 0 3 1 2; 0 7 3 4 1 6 2 5.

    Each entry is followed by what mirrors it, so that a step that lets errors grow comes between
    others that let the same ones shrink.
    """
    if size == 1:
        return 0
    entry = _entry(place // 2, size // 2)
    return size - 1 - entry if place % 2 else entry


def _count_below(bound: int, places: int, size: int) -> int:
    """Return how many of the first entries are smaller than a number from 0 to `size`."""
    if size == 1:
        return min(bound, places)
    if 2 * bound <= size:  # none of those that mirror another
        return _count_below(bound, (places + 1) // 2, size // 2)
    return places - _count_below(size - bound, places // 2, size // 2)

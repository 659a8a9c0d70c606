"""Parameters kept in a set: constraints of inverse problems."""

from collections.abc import Mapping
from typing import Annotated, Any

from instep.hyperparameters import (
    Domain,
    NonNegative,
    Positive,
    RealArray,
    Schedule,
)
from instep.transform import Transform
from instep.transforms.bounds import Bound, check_step, check_values, within_bounds
from instep.transforms.clipping import within

_Modulus = Annotated[float | Schedule | RealArray, Domain(lower=0.0, infinite=True)]
_Mask = Annotated[
    float | Schedule | RealArray, Domain(lower=0.0, upper=1.0, integer=True, booleans=True)
]


class project(Transform):
    r"""Keep every element of the parameter between two bounds, after the step.

    .. math:: w \leftarrow \min(\max(w, a), b)

    Parameters
    ----------
    lower, upper
        The bounds :math:`a` and :math:`b`, which must not cross: numbers, or arrays of the shape
        of the parameter, of a bound for each element. One that is infinite, or beyond the dtype of
        the arithmetic, as 1e39 is beyond float32, is none. To move both, set first the one that
        gives way.

    Notes
    -----
    With lower 0 and `SGD`, this is the projected Landweber iteration of tomography.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import project
    >>> chain(SGD(lr=1.0), project(lower=0.0)).update(np.ones(2), np.array([3.0, 0.5]))
    array([0. , 0.5])
    >>> walls = project(lower=np.array([0.0, 0.7]))
    >>> chain(SGD(lr=1.0), walls).update(np.ones(2), np.array([3.0, 0.5]))
    array([0. , 0.7])
    """

    stage = "parameter"
    constrains = True

    lower: Bound = float("-inf")
    upper: Bound = float("inf")

    def check_values(self, values: Mapping[str, Any]) -> None:
        """Raise if the bounds cross."""
        check_values(self.name, values)

    @staticmethod
    def scalars(h):
        """Return nothing; raise if bounds of this step cross, as schedules may."""
        return check_step("project", h)

    @staticmethod
    def rule(xp, w, g, s, h):
        return within_bounds(xp, w, h), {}


class project_norm(Transform):
    r"""Scale each parameter tensor to a norm of at most `radius`, after the step.

    .. math:: w \leftarrow \frac{r}{\max(\lVert w \rVert, r)}\, w

    Parameters
    ----------
    radius
        Largest Euclidean norm :math:`r` of a tensor. A parameter within it is not changed. It
        must be neither 0 nor infinite in the dtype of the arithmetic.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import project_norm
    >>> chain(SGD(lr=1.0), project_norm(1.0)).update(np.zeros(2), np.array([-3.0, -4.0]))
    array([0.6, 0.8])
    """

    stage = "parameter"
    constrains = True

    radius: Positive = 1.0

    @staticmethod
    def rule(xp, w, g, s, h):
        return within(xp, w, xp.norm(w), h.radius), {}


class project_modulus(Transform):
    r"""Keep the modulus of every element between two bounds, and its phase, after the step.

    .. math:: w \leftarrow \min(\max(|w|, a), b)\, \frac{w}{|w|}

    Parameters
    ----------
    lower, upper
        The bounds :math:`a` and :math:`b`, which must not cross: numbers, or arrays of the shape of
        the parameter. An infinite `upper` is none.

    Notes
    -----
    With both bounds 1 a field has only its phase left, as of an object that absorbs nothing. 0,
    which has no phase, goes to `lower` on the positive real axis. A real element keeps its sign.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import project_modulus
    >>> optimizer = chain(SGD(lr=1.0), project_modulus(upper=1.0))
    >>> optimizer.update(np.zeros(2, complex), np.array([-3 - 4j, 0.5j]))
    array([0.6+0.8j, 0. -0.5j])
    """

    stage = "parameter"
    constrains = True

    lower: NonNegative = 0.0
    upper: _Modulus = float("inf")

    def check_values(self, values: Mapping[str, Any]) -> None:
        """Raise if the bounds cross."""
        check_values(self.name, values)

    @staticmethod
    def scalars(h):
        """Return nothing; raise if bounds of this step cross, as schedules may."""
        return check_step("project_modulus", h)

    @staticmethod
    def rule(xp, w, g, s, h):
        size = abs(w)
        phase = xp.where(size == 0, 1.0, xp.sign(w))
        w = xp.where(size < h.lower, h.lower * phase, w)
        return xp.where(size > h.upper, h.upper * phase, w), {}


class project_real(Transform):
    r"""Keep the imaginary part of every element at zero, after the step.

    .. math:: w \leftarrow \mathrm{Re}(w)

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import project_real
    >>> chain(SGD(lr=1.0), project_real()).update(np.zeros(1, complex), np.array([3 - 4j]))
    array([-3.+0.j])
    """

    stage = "parameter"
    constrains = True

    @staticmethod
    def rule(xp, w, g, s, h):
        return xp.real(w), {}


class support(Transform):
    r"""Keep elements at zero where a mask is zero, after the step.

    .. math:: w \leftarrow m \odot w, \qquad m \in \{0, 1\}

    Parameters
    ----------
    mask
        The mask :math:`m`, an array of the shape of the parameter: of booleans, of integers of 8
        bits, or of floats, 0 or 1. In a tree, give each parameter its own by `overrides`; a number,
        1 or 0, is the mask of all elements.

    Notes
    -----
    It is the projection on the arrays that vanish outside of the support, complex ones too. What is
    infinite or NaN outside becomes 0. A mask of booleans is read at one byte an element.

    The mask is read at every step: a shrinking support is one that you write into.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import support
    >>> optimizer = chain(SGD(lr=1.0), support(np.array([True, False])))
    >>> optimizer.update(np.zeros(2, complex), np.array([-3 - 4j, 0.5j]))
    array([3.+4.j, 0.+0.j])
    """

    stage = "parameter"
    constrains = True

    mask: _Mask = 1.0

    @staticmethod
    def rule(xp, w, g, s, h):
        return xp.where(h.mask != 0, w, 0.0), {}

"""Parameters kept on one side of a plane."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from instep.hyperparameters import Domain, RealArray, Schedule, elements, is_array, source
from instep.transform import Transform

_Normal = Annotated[float | Schedule | RealArray, Domain(complex_numbers=True)]
_Number = Annotated[float | Schedule, Domain()]


class project_halfspace(Transform):
    r"""Keep each parameter tensor on one side of a plane, after the step.

    .. math::
        w \leftarrow
            w - \frac{\max(\mathrm{Re} \langle a, w \rangle - b,\, 0)}{\lVert a \rVert^2}\, a

    It is the point nearest to :math:`w` of those with
    :math:`\mathrm{Re} \langle a, w \rangle \le b`, where
    :math:`\langle a, w \rangle = \sum_i \bar{a}_i w_i`.

    Parameters
    ----------
    normal
        The direction :math:`a`, which points out of the set and is not zero: an array of the shape
        of the parameter, complex for one that is complex, or a number, which all elements have: 1
        bounds their sum.
    offset
        The bound :math:`b`.

    Notes
    -----
    Bauschke & Combettes 2017, doi:10.1007/978-3-319-48311-5, chapter 29. A parameter within is not
    changed, not in the last bit. Another is computed in float64 and rounded once, so that it keeps
    the bound to rounding. One with NaN, or with an infinity beyond the plane, is infinite or NaN
    everywhere afterwards. Two of them, one after the other, do not project on the intersection, but
    come nearer to it.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import project_halfspace
    >>> chain(SGD(lr=1.0), project_halfspace(offset=1.0)).update(np.zeros(2), -np.array([3.0, 2.0]))
    array([1., 0.])
    >>> below = project_halfspace(normal=np.array([3.0, 4.0]), offset=0.0)
    >>> chain(SGD(lr=1.0), below).update(np.zeros(2), -np.array([3.0, 4.0]))
    array([0., 0.])
    """

    stage = "parameter"
    constrains = True

    normal: _Normal = 1.0
    offset: _Number = 0.0

    def check_values(self, values: Mapping[str, Any]) -> None:
        """Raise if the direction is zero, or its square is none in float64."""
        normal = values["normal"]
        if not callable(normal):
            _check_normal(self.name, normal)

    @staticmethod
    def scalars(h):
        """Return nothing; raise if the direction of this step is zero, as a schedule may be."""
        if "normal" in h:
            _check_normal(f"project_halfspace, step {h.t:.0f}", h.normal)
        return {}

    @staticmethod
    def rule(xp, w, g, s, h):
        a = xp.astype(h.normal * xp.ones_like(xp.real(w)), xp.float64)
        wide = xp.astype(w, xp.float64)
        product = xp.sum(xp.real(xp.conj(a) * wide))
        nearest = wide - (product - h.offset) / xp.sum(xp.abs_sq(a)) * a
        return xp.where(product <= h.offset, wide, nearest), {}


def _check_normal(owner: str, normal: Any) -> None:
    sizes = np.abs(np.asarray(elements(normal) if is_array(normal) else normal)).astype(float)
    with np.errstate(all="ignore"):
        square = float(np.sum(sizes * sizes))
    if sizes.size and not 0 < square < np.inf:
        raise ValueError(
            f"{owner}: normal must be a direction, of which the square of the norm is neither 0 "
            f"nor infinite in float64, got {source(normal)}; give another number or array, and "
            f"multiply offset by as much"
        )

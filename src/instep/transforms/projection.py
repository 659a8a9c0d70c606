"""Parameters kept in a set: constraints of inverse problems."""

from typing import Annotated, Any

from instep.hyperparameters import Domain, Positive, Schedule
from instep.transform import Transform

_Bound = Annotated[float | Schedule, Domain(infinite=True)]


class project(Transform):
    r"""Keep every element of the parameter between two bounds, after the step.

    .. math:: w \leftarrow \min(\max(w, a), b)

    Parameters
    ----------
    lower, upper
        The bounds :math:`a` and :math:`b`; infinite: no bound.

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
    """

    stage = "parameter"

    lower: _Bound = float("-inf")
    upper: _Bound = float("inf")

    def __post_init__(self) -> None:
        super().__post_init__()
        bounds = (self.lower, self.upper)
        if all(isinstance(bound, float) for bound in bounds) and self.lower > self.upper:  # type: ignore[operator]
            raise ValueError(f"{self.name}: lower must not be above upper, got {bounds}")

    @staticmethod
    def rule(xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        return xp.clip(w, h.lower, h.upper), {}


class project_norm(Transform):
    r"""Scale each parameter tensor to a norm of at most `radius`, after the step.

    .. math:: w \leftarrow \frac{r}{\max(\lVert w \rVert, r)}\, w

    Parameters
    ----------
    radius
        Largest Euclidean norm :math:`r` of a tensor. A parameter within it is not changed.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import project_norm
    >>> chain(SGD(lr=1.0), project_norm(1.0)).update(np.zeros(2), np.array([-3.0, -4.0]))
    array([0.6, 0.8])
    """

    stage = "parameter"

    radius: Positive = 1.0

    @staticmethod
    def rule(xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        return h.radius / xp.maximum(xp.norm(w), h.radius) * w, {}

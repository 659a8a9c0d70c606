"""When a step is taken."""

from typing import Annotated, ClassVar

from instep.hyperparameters import Domain
from instep.transform import Transform


class skip_nonfinite(Transform):
    """Turn a call away whose gradients contain an infinity or NaN anywhere in the tree.

    Such a call changes nothing: parameters, state and step number are as if it had never been.
    The attribute `skipped` of the chain counts these calls. Where it stands in the chain, it
    looks at the gradients as they are there. It cannot stand after `accumulate`: a NaN in the
    sum of several calls would stay there, and every step would be turned away from then on.

    Notes
    -----
    CuPy arrays are judged on their device, and no call waits for it. Reading `skipped` or `t` does.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import skip_nonfinite
    >>> optimizer, params = chain(skip_nonfinite(), SGD(lr=1.0)), [np.zeros(1), np.zeros(1)]
    >>> optimizer.update(params, [np.ones(1), np.array([np.inf])])
    [array([0.]), array([0.])]
    >>> optimizer.skipped, optimizer.t
    (1, 0)
    """

    stage = "gradient"
    guarded = True
    tree_readings = ("count",)

    @staticmethod
    def rule(xp, w, g, s, h):
        return g, {"count": xp.require(xp.isfinite(g))}


class _flushed(Transform):
    """The mean of as many gradients as `accumulate` has gathered."""

    stage = "gradient"

    k: Annotated[float, Domain(lower=1, integer=True, fixed=True)] = 2
    count: float = 1.0

    slots = exact_slots = ("sum",)

    @property
    def period(self) -> int:
        return int(self.k)

    @staticmethod
    def scalars(h):
        return {"complete": True}

    @staticmethod
    def rule(xp, w, g, s, h):
        return s.sum / h.count, {"sum": xp.zeros_like(g)}


class accumulate(Transform):
    r"""Take a step every `k`-th call, along the mean of the gradients of the last `k` calls.

    .. math:: g \leftarrow \frac{1}{k} \sum_{i=1}^{k} g_i

    Parameters
    ----------
    k
        Number of calls that make one step. What stands after it in the chain counts steps:
        its `t`, and its schedules, go on every `k`-th call. It cannot be changed later.

    Notes
    -----
    The same as `optax.MultiSteps`. The gradients are added in the order of the calls and divided
    once. A call without a gradient for some parameter does not count for that parameter, which
    then takes its steps at other calls. `flush` of the chain takes the step before all are there.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import accumulate
    >>> optimizer, w = chain(accumulate(2), SGD(lr=1.0)), np.zeros(1)
    >>> optimizer.update(w, np.array([1.0])).tolist(), optimizer.update(w, np.array([3.0])).tolist()
    ([0.0], [-2.0])
    """

    stage = "gradient"

    k: Annotated[float, Domain(lower=1, integer=True, fixed=True)] = 2

    slots = exact_slots = ("sum",)

    #: What stands in its place when a step is taken before it is complete.
    flushed: ClassVar[type[Transform]] = _flushed

    @property
    def period(self) -> int:
        return int(self.k)

    @staticmethod
    def scalars(h):
        return {"complete": h.t % h.k == 0}

    @staticmethod
    def rule(xp, w, g, s, h):
        total = s.sum + g
        if h.complete:
            return total / h.k, {"sum": xp.zeros_like(g)}
        return None, {"sum": total}

"""Elementwise changes of the gradient."""

from instep.hyperparameters import DecayRate, NonNegative, RealArray, Schedule
from instep.transform import Transform


class weight_decay(Transform):
    r"""Add a multiple of the parameter to the gradient: :math:`g \leftarrow g + \lambda w`.

    Parameters
    ----------
    rate
        Strength :math:`\lambda`: the gradient of :math:`\lambda \lVert w \rVert^2 / 2` is added.

    Notes
    -----
    The same as the option `weight_decay` of torch's optimizers and `optax.add_decayed_weights`
    before the optimizer. The decoupled decay of `AdamW` is another thing.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import weight_decay
    >>> chain(weight_decay(0.5), SGD(lr=1.0)).update(np.ones(1), np.zeros(1))
    array([0.5])
    """

    stage = "gradient"

    rate: NonNegative = 0.01

    @staticmethod
    def rule(xp, w, g, s, h):
        return g + h.rate * w, {}


class scale_gradients(Transform):
    r"""Multiply the gradient by a number: :math:`g \leftarrow c\, g`.

    Parameters
    ----------
    factor
        The number :math:`c`: for example 1/1024 where the loss was scaled by 1024.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import scale_gradients
    >>> chain(scale_gradients(0.5), SGD(lr=1.0)).update(np.ones(1), np.ones(1))
    array([0.5])
    """

    stage = "gradient"

    factor: float | Schedule | RealArray = 1.0

    @staticmethod
    def rule(xp, w, g, s, h):
        return h.factor * g, {}


class conjugate(Transform):
    r"""Take the complex conjugate of the gradient: :math:`g \leftarrow \bar{g}`.

    What JAX returns for complex parameters, :math:`\partial L / \partial \mathrm{Re}
    - i\, \partial L / \partial \mathrm{Im}`, becomes the direction of steepest ascent, which
    optimizers take. Real gradients stay as they are.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import conjugate
    >>> chain(conjugate(), SGD(lr=1.0)).update(np.zeros(1, complex), np.array([3 - 4j]))
    array([-3.-4.j])
    """

    stage = "gradient"

    @staticmethod
    def rule(xp, w, g, s, h):
        return xp.conj(g), {}


class maximize(Transform):
    r"""Ascend instead of descending: :math:`g \leftarrow -g`.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import maximize
    >>> chain(maximize(), SGD(lr=1.0)).update(np.zeros(1), np.ones(1))
    array([1.])
    """

    stage = "gradient"

    @staticmethod
    def rule(xp, w, g, s, h):
        return -g, {}


class grokfast(Transform):
    r"""Amplify what is slow in the gradient (Lee et al. 2024, arXiv:2405.20233, algorithm 1).

    .. math::
        m &\leftarrow \alpha m + (1 - \alpha)\, g \\
        g &\leftarrow g + \lambda m

    The running mean `m` starts at the first gradient.

    Parameters
    ----------
    factor
        Strength :math:`\lambda` with which the mean is added.
    decay
        Decay rate :math:`\alpha` of the mean.

    Notes
    -----
    The same as the authors' `gradfilter_ema`. optax and PyTorch have none.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import grokfast
    >>> optimizer, w = chain(grokfast(factor=1.0, decay=0.5), SGD(lr=1.0)), np.zeros(1)
    >>> for gradient in (2.0, 0.0):
    ...     w = optimizer.update(w, np.array([gradient]))  # steps of -4 and -1
    >>> w
    array([-5.])
    """

    stage = "gradient"

    factor: NonNegative = 2.0
    decay: DecayRate = 0.98

    slots = ("m",)
    positive_slots = ()

    @staticmethod
    def rule(xp, w, g, s, h):
        m = xp.where(h.t == 1, g, h.decay * s.m + (1 - h.decay) * g)
        return g + h.factor * m, {"m": m}

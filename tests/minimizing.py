"""Runs of `minimize` on trees of any library, by methods of all kinds, that can be disturbed."""

import numpy as np

from instep import LBFGS, Adam, ConjugateGradient, Momentum, chain, minimize
from instep.arrays import to_numpy
from instep.schedules import Linear
from instep.transforms import average, weight_decay

#: Makers of methods, by name. First steps are too long, so that lines are searched along.
METHODS = {
    "LBFGS": lambda **how: LBFGS(4, first_length=30.0, **how),
    "CG": lambda **how: ConjugateGradient("HZ", first_length=30.0, **how),
    "Adam": lambda **how: Adam(lr=Linear(0.3, 0.01, steps=20), **how),
    "average": lambda **how: chain(weight_decay(0.01), Momentum(lr=0.01), average(0.9), **how),
}
#: Those that search along lines.
SEARCHING = ("LBFGS", "CG")


def tree(dtype="float32", xp=np):
    """Return the parameters at which runs begin."""
    rng = np.random.default_rng(1)
    shapes = {"a": (5,), "b": (3, 4)}
    parts = {key: 2 * rng.standard_normal((2, *shape)) for key, shape in shapes.items()}
    whole = {k: x[0] + 1j * x[1] if "complex" in dtype else x[0] for k, x in parts.items()}
    return {key: xp.asarray(x.astype(dtype)) for key, x in whole.items()}


def on_host(params):
    """Return copies of arrays as NumPy's."""
    return {key: to_numpy(w).copy() for key, w in params.items()}


class Steep:
    """A sum of hyperbolic cosines, of both parts of complex numbers, with steeper and less steep.

    Attributes
    ----------
    seen
        The values and points that were asked for, on the host.
    disturb
        Called with the number of each evaluation, from 1, and what it found, which it returns, or
        something else; or it raises.
    """

    def __init__(self, disturb=lambda number, found: found):
        self.disturb, self.seen = disturb, []

    def __call__(self, params):
        total, grads = 0.0, {}
        for key, w in params.items():
            host = to_numpy(w)
            scales = np.linspace(0.5, 3, host.size).reshape(host.shape).astype(host.real.dtype)
            with np.errstate(over="ignore"):
                total += float((scales * np.cosh(host.real)).sum())
                g = scales * np.sinh(host.real)
                if host.dtype.kind == "c":
                    total += float((scales * np.cosh(host.imag)).sum())
                    g = g + 1j * scales * np.sinh(host.imag)
            grads[key] = like(w, g.astype(host.dtype))
        self.seen.append((total, on_host(params)))
        return self.disturb(len(self.seen), (total, grads))

    def value_of(self, params):
        """Return the value that was found at a point, bit for bit; None if it never was asked."""
        point = on_host(params)
        for value, other in self.seen:
            if all(point[key].tobytes() == other[key].tobytes() for key in point):
                return value
        return None


def like(w, x):
    """Return an array of NumPy as one of the library of another array."""
    if isinstance(w, np.ndarray):
        return x
    from instep.arrays import namespace, namespace_device

    return namespace(w).asarray(x, device=namespace_device(w))


def run(method, params, steps=12, disturb=None, **more):
    """Return the objective, and the result of a run."""
    objective = Steep() if disturb is None else Steep(disturb)
    return objective, minimize(objective, params, method, steps=steps, progress=False, **more)


def values(result):
    """Return what of a history is the same in each run."""
    return [(one.value, one.gradient_norm, one.step) for one in result.history]

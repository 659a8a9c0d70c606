"""Steps that are cut off by an exception: whether they were taken, or not at all."""

from functools import partial

import engine_runs
import faults
import numpy as np

from instep.arrays import to_numpy


def arrays(rng, shapes, xp=np):
    """Return float32 arrays; those whose names begin with s are strided, t's are transposed."""
    found = {}
    for name, shape in shapes.items():
        x = xp.asarray(rng.standard_normal(shape).astype("float32"))
        if name.startswith("s"):
            wide = xp.zeros((*shape, 2), "float32")
            wide[..., 0] = x
            x = wide[..., 0]
        found[name] = x.T if name.startswith("t") else x
    return found


PLAIN = {"a": (5,), "b": (3, 4)}
STRIDED = {"a": (5,), "s1": (4, 3), "t2": (2, 3)}


class Problem:
    """An optimizer on a tree, stepped with gradients that the step number decides.

    `of` makes of an array what stands in the tree; in the calls `bad` one gradient is infinite.
    """

    def __init__(self, make, shapes=PLAIN, missing=(), stride=1, xp=np, of=lambda x: x, bad=()):
        self.make, self.shapes, self.missing, self.xp, self.of = make, shapes, missing, xp, of
        self.bad = bad
        self.stride = stride  # of the lines at which it is interrupted

    def begin(self, steps, **settings):
        rng = np.random.default_rng(0)
        params, optimizer = arrays(rng, self.shapes, self.xp), self.make(**settings)
        run = {name: self.of(w) for name, w in params.items()}, optimizer
        for _ in range(steps):
            self.step(run, optimizer.t + getattr(optimizer, "skipped", 0))
        return run

    def gradients(self, number):
        grads = arrays(np.random.default_rng(100 + number), self.shapes, self.xp)
        if number % 3 == 1:
            grads |= dict.fromkeys(self.missing)
        if number in self.bad:
            grads["a"][-1] = np.inf
        return {name: None if g is None else self.of(g) for name, g in grads.items()}

    def trees(self, run, number):
        """Return what a step is called with."""
        return run[0], self.gradients(number)

    def step(self, run, number):
        run[1].update(*self.trees(run, number))


def on_host(run):
    """Return a run with its parameters as NumPy arrays."""
    params, optimizer = run
    found = {name: getattr(w, "get", partial(to_numpy, w))() for name, w in params.items()}
    return found, optimizer


def same(run, other):
    """Return whether two runs hold the same bits."""
    try:
        engine_runs.assert_same_run(on_host(run), on_host(other))
    except AssertionError:
        return False
    return getattr(run[1], "skipped", 0) == getattr(other[1], "skipped", 0)


def interrupted(problem, taken, settings, fault):
    """Return a run after `taken` steps and one that a fault may have come in the way of."""
    run = problem.begin(taken, **settings)
    params, grads = problem.trees(run, taken)
    try:
        with fault:
            run[1].update(params, grads)
    except (KeyboardInterrupt, TimeoutError, MemoryError) as error:
        assert error is fault.exception  # noqa: PT017  (and no other)
    else:
        assert not fault.raised, f"lost at {fault.place}"
    return run


def assert_whole(problem, taken, settings, after=None, stride=1):
    """Raise unless a step is whole wherever it is cut off, and the next one as it should be.

    Returns how often it was found not taken, and taken.
    """
    runs = [problem.begin(taken + n, **settings) for n in range(3)]
    counts = [0, 0]
    exceptions = [KeyboardInterrupt(), TimeoutError("from a handler"), MemoryError()]
    for fault, run in faults.each_line(
        lambda fault: interrupted(problem, taken, settings, fault), exceptions, after, stride
    ):
        found = [same(run, expected) for expected in runs[:2]]
        assert any(found), f"torn at {fault.place}"
        number = found.index(True)
        counts[number] += 1
        problem.step(run, taken + number)
        assert same(run, runs[number + 1]), f"goes on wrong from {fault.place}"
    return counts

"""What a step of Adam takes on arrays of other libraries, beside NumPy arrays: a table.

Tensors of PyTorch are compared with NumPy's view of the same memory, and arrays of JAX with the
`array_api` engine. Both take turns, so that what else the machine does hits both; medians.

    python benchmarks/libraries.py [torch] [jax]
"""

import os
import statistics
import sys
import time

import numpy as np

from instep import Adam

SECONDS = 6.0  # for each comparison


def medians(*steps, repeats):
    """Return the median seconds of each of some steps, which take turns."""
    times = [[] for _ in steps]
    end = time.perf_counter() + SECONDS
    for step in steps:
        step()
    while time.perf_counter() < end or len(times[0]) < 5:
        for step, own in zip(steps, times, strict=True):
            step()  # what the one before has left in caches, and XLA's threads, are not counted
            start = time.perf_counter()
            for _ in range(repeats):
                step()
            own.append((time.perf_counter() - start) / repeats)
    return [statistics.median(own) for own in times]


def on_tensors(count, size, threads):
    """Return the steps on NumPy arrays and on tensors of the same memory."""
    import torch

    own = {f"p{i}": torch.zeros(size) for i in range(count)}
    grads = {name: torch.full((size,), 0.5) for name in own}
    views, others = ({k: t.numpy() for k, t in tree.items()} for tree in (own, grads))
    numpy, optimizer = Adam(threads=threads), Adam(threads=threads)
    return lambda: numpy.update(views, others), lambda: optimizer.update(own, grads)


def measure_torch(threads):
    """Print what steps on tensors take."""
    for label, count, size, repeats in (
        ("1 tensor of 2**22", 1, 2**22, 1),
        ("200 tensors of 1,000", 200, 1000, 20),
    ):
        numpy, torch = medians(*on_tensors(count, size, threads), repeats=repeats)
        print(
            f"PyTorch, {label}, {threads} threads: {torch * 1e6:,.1f} us; "
            f"NumPy {numpy * 1e6:,.1f}; ratio {torch / numpy:.3f}, {(torch - numpy) * 1e6:+.1f} us"
        )


def measure_jax(threads):
    """Print what steps on arrays of JAX take."""
    import jax

    for label, size in (("2**22", 2**22), ("1,000", 1000)):
        w, g = jax.numpy.zeros(size, "float32"), jax.numpy.full(size, 0.5, "float32")
        optimizers = [Adam(threads=threads), Adam(engine="array_api")]

        def step(optimizer, params, grads):
            return lambda: jax.block_until_ready(optimizer.update(params, grads))

        ours, theirs = medians(*(step(o, {"w": w}, {"w": g}) for o in optimizers), repeats=3)
        numpy = Adam(threads=threads)
        arrays = {"w": np.zeros(size, "float32")}, {"w": np.full(size, 0.5, "float32")}
        (same,) = medians(lambda: numpy.update(*arrays), repeats=3)  # noqa: B023  (called here)
        print(
            f"JAX, 1 array of {label}, {threads} threads: {ours * 1e6:,.1f} us; array_api "
            f"{theirs * 1e6:,.1f}, {theirs / ours:.1f} times as long; NumPy {same * 1e6:,.1f}"
        )


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    chosen = sys.argv[1:] or ["torch", "jax"]
    for count in (1, 2):
        for name in chosen:
            {"torch": measure_torch, "jax": measure_jax}[name](count)

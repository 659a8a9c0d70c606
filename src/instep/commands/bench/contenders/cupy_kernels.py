"""What CuPy offers: a kernel a tensor, written by hand or made by `cupy.fuse`; and its memory."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from instep.commands.bench.cases import Case, place
from instep.commands.bench.clocks import Step
from instep.commands.bench.contenders import Contender
from instep.commands.bench.traffic import bytes_per_element, passes

#: Bytes of traffic below which the cache of a GPU serves a part of it.
SMALLEST = 1 << 28

SLOTS = {"SGD": "", "Momentum": "v", "AdaGrad": "h", "RMSProp": "h", "Adam": "mv", "AdamW": "mv"}

#: The same for kernels and for `cupy.fuse`; the numbers have the dtype of the parameters.
NUMBERS = ("rate", "root", "b1", "c1", "b2", "c2", "eps")

KERNELS = {
    "SGD": "w -= c2 * g",
    "Momentum": "v = b1 * v - c2 * g; w += v",
    "AdaGrad": "h += g * g; w -= c2 * g / (sqrt(h) + eps)",
    "RMSProp": "h = b2 * h + c2 * g * g; w -= c2 * g / (sqrt(h) + eps)",
    "Adam": "m = b1 * m + c1 * g; v = b2 * v + c2 * g * g; w -= rate * m / (sqrt(v) / root + eps)",
    "AdamW": "m = b1 * m + c1 * g; v = b2 * v + c2 * g * g;"
    "w = b2 * w - rate * m / (sqrt(v) / root + eps)",
}


class _Kernels(Contender):
    """A kernel a tensor."""

    package = "cupy"

    def lacks(self, case: Case) -> str | None:
        if case.optimizer not in SLOTS:
            return f"no kernel of {case.optimizer} is written out"
        if case.dtype not in ("float32", "float64"):
            return f"the kernels keep the state of {case.dtype} parameters in {case.dtype}"
        return None

    def compiled(self, case: Case) -> Callable[..., Any]:
        """Return what updates the arrays of one tensor in place."""
        raise NotImplementedError

    def prepare(self, case: Case) -> Step:
        cupy = importlib.import_module("cupy")
        update = self.compiled(case)
        params, grads = place(case)
        tensors = [
            (grads[key], w, *(cupy.zeros_like(w) for _ in SLOTS[case.optimizer]))
            for key, w in params.items()
        ]
        number: Any = np.dtype(case.dtype).type
        t = 0

        def step() -> None:
            nonlocal t
            t += 1
            rate, root = 1e-3 / (1 - 0.9**t), math.sqrt(1 - 0.999**t)
            numbers = [number(x) for x in (rate, root, 0.9, 0.1, 0.999, 0.001, 1e-8)]
            for arrays in tensors:
                update(*arrays, numbers)

        return step


class Elementwise(_Kernels):
    """A `cupy.ElementwiseKernel` for each tensor."""

    name = "kernel a tensor"

    def compiled(self, case: Case) -> Callable[..., Any]:
        cupy = importlib.import_module("cupy")
        slots = SLOTS[case.optimizer]
        kernel = cupy.ElementwiseKernel(
            ", ".join(["T g", *(f"T {name}" for name in NUMBERS)]),
            ", ".join(["T w", *(f"T {name}" for name in slots)]),
            KERNELS[case.optimizer],
            f"{case.optimizer.lower()}_of_one_tensor",
        )

        def update(g: Any, w: Any, *rest: Any) -> None:
            *slots, numbers = rest
            kernel(g, *numbers, w, *slots)

        return update


class Fuse(_Kernels):
    """A function under `cupy.fuse` for each tensor."""

    name = "cupy.fuse"

    def compiled(self, case: Case) -> Callable[..., Any]:
        cupy = importlib.import_module("cupy")
        fused = cupy.fuse()(_functions(cupy)[case.optimizer])

        def update(g: Any, w: Any, *rest: Any) -> None:
            *slots, numbers = rest
            fused(g, w, *slots, *numbers)

        return update


def _functions(xp: Any) -> dict[str, Callable[..., None]]:
    """Return updates in place as functions of arrays."""

    def sgd(g, w, rate, root, b1, c1, b2, c2, eps):  # type: ignore[no-untyped-def]
        w -= c2 * g

    def momentum(g, w, v, rate, root, b1, c1, b2, c2, eps):  # type: ignore[no-untyped-def]
        v *= b1
        v -= c2 * g
        w += v

    def adagrad(g, w, h, rate, root, b1, c1, b2, c2, eps):  # type: ignore[no-untyped-def]
        h += g * g
        w -= c2 * g / (xp.sqrt(h) + eps)

    def rmsprop(g, w, h, rate, root, b1, c1, b2, c2, eps):  # type: ignore[no-untyped-def]
        h *= b2
        h += c2 * g * g
        w -= c2 * g / (xp.sqrt(h) + eps)

    def adam(g, w, m, v, rate, root, b1, c1, b2, c2, eps):  # type: ignore[no-untyped-def]
        m *= b1
        m += c1 * g
        v *= b2
        v += c2 * g * g
        w -= rate * m / (xp.sqrt(v) / root + eps)

    def adamw(g, w, m, v, rate, root, b1, c1, b2, c2, eps):  # type: ignore[no-untyped-def]
        m *= b1
        m += c1 * g
        v *= b2
        v += c2 * g * g
        w *= b2
        w -= rate * m / (xp.sqrt(v) / root + eps)

    return {
        "SGD": sgd,
        "Momentum": momentum,
        "AdaGrad": adagrad,
        "RMSProp": rmsprop,
        "Adam": adam,
        "AdamW": adamw,
    }


class Stream(Contender):
    """The memory limit of a GPU: a kernel a pass that reads and writes what the pass does."""

    name = "stream"
    package = "cupy"
    copies = 5

    def lacks(self, case: Case) -> str | None:
        if case.elements * bytes_per_element(case) < SMALLEST:
            return "so little memory that the cache serves it"
        return None

    def prepare(self, case: Case) -> Step:
        cupy = importlib.import_module("cupy")
        graphs = passes(case)
        memory = {
            array.name: cupy.zeros(case.elements, array.dtype)
            for graph in graphs
            for array in graph.arrays
        }
        sink = cupy.zeros(1, np.float32)
        work = []
        for number, graph in enumerate(graphs):
            stored = [array.name for array in graph.stored]
            read = [array.name for array in graph.loaded if array.name not in stored]
            types = {array.name: array.dtype for array in graph.arrays}
            kernel = cupy.ElementwiseKernel(
                ", ".join(f"{types[name]} {name}" for name in read),
                ", ".join(["raw float32 sink", *(f"{types[name]} {name}" for name in stored)]),
                # What is only read has to be used, or the compiler would not read it: zeros are
                # compared with a number that they are not.
                "; ".join(
                    [f"if ((float){name} == 12345.f) sink[0] = 1" for name in read]
                    + [f"{name} = (float){name} + 1.f" for name in stored]
                ),
                f"stream_of_pass_{number}",
            )
            arguments = [*(memory[name] for name in read), sink, *(memory[n] for n in stored)]
            work.append((kernel, arguments))

        def step() -> None:
            for kernel, arguments in work:
                kernel(*arguments)

        return step

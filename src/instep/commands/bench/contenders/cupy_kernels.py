"""What CuPy offers: a kernel a tensor, written by hand or made by `cupy.fuse`; and its memory."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from instep.commands.bench.cases import Case
from instep.commands.bench.clocks import Step
from instep.commands.bench.contenders import Contender
from instep.commands.bench.contenders.formulas import (
    NUMBERS,
    Compiled,
    assignments,
    function,
    slots,
)
from instep.commands.bench.traffic import bytes_per_element, passes
from instep.graph.dtypes import is_complex

#: Bytes of traffic below which the cache of a GPU serves a part of it.
SMALLEST = 1 << 28


class _Kernels(Compiled):
    """A kernel a tensor."""

    package = "cupy"
    without_formula = "no kernel of {} is written out"
    without_dtype = "the kernels keep the state of {0} parameters in {0}"


class Elementwise(_Kernels):
    """A `cupy.ElementwiseKernel` for each tensor."""

    name = "kernel a tensor"

    def compiled(self, case: Case) -> Callable[..., object]:
        cupy = importlib.import_module("cupy")
        names = slots(case.optimizer)
        kernel = cupy.ElementwiseKernel(
            ", ".join(f"T {name}" for name in ("g", *NUMBERS)),
            ", ".join(f"T {name}" for name in ("w", *names)),
            "; ".join(assignments(case.optimizer)),
            f"{case.optimizer.lower()}_of_one_tensor",
        )
        first = len(names)
        return lambda w, g, *rest: kernel(g, *rest[first:], w, *rest[:first])


class Fuse(_Kernels):
    """A function under `cupy.fuse` for each tensor."""

    name = "cupy.fuse"

    def compiled(self, case: Case) -> Callable[..., object]:
        cupy = importlib.import_module("cupy")
        fused: Callable[..., object] = cupy.fuse()(in_place(case.optimizer, cupy.sqrt))
        return fused


def in_place(optimizer: str, sqrt: Any) -> Callable[..., None]:
    """Return an update as a function of arrays.

    A slot is assigned once, for `cupy.fuse` stores an array each time that it is assigned to:
    of ``m *= b1; m += c1 * g`` it makes two stores.
    """
    return function(optimizer, assignments(optimizer, "[...]"), sqrt=sqrt)


def _real(name: str, types: Mapping[str, str]) -> str:
    """Return the expression for an element as a float; of a complex one, its real part."""
    return f"(float){name}{'.real()' if is_complex(types[name]) else ''}"


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
                    [f"if ({_real(name, types)} == 12345.f) sink[0] = 1" for name in read]
                    + [f"{name} = {_real(name, types)} + 1.f" for name in stored]
                ),
                f"stream_of_pass_{number}",
            )
            arguments = [*(memory[name] for name in read), sink, *(memory[n] for n in stored)]
            work.append((kernel, arguments))

        def step() -> None:
            for kernel, arguments in work:
                kernel(*arguments)

        return step

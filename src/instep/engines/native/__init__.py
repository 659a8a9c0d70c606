"""The graph as LLVM IR, compiled with llvmlite for this CPU, on all cores: the default for NumPy.

`emit` writes the text, `compile` makes functions of it, `memory` places the state, `check` sees
whether the arrays of a step are those the plan was made for, `threads` counts the threads, `pool`
shares the work with them, which `handover` does in compiled code, and `bucket` brings all together.
"""

import importlib.util
from collections.abc import Sequence
from typing import Any

from instep.engines.base import Bucket, Member
from instep.engines.host import HostEngine
from instep.engines.native.emit import emit
from instep.engines.native.memory import allocate
from instep.graph import Graph
from instep.program import Program


class NativeEngine(HostEngine):
    """Compiles graphs for the CPU."""

    name = "native"

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("llvmlite") is None:
            return "llvmlite is not installed; pip install llvmlite"
        return None

    def allocate(self, parameters: Sequence[Any], dtypes: Sequence[str]) -> list[list[Any]]:
        return allocate(parameters, dtypes)

    def bucket(self, program: Program, members: Sequence[Member], threads: int | None) -> Bucket:
        from instep.engines.native.bucket import NativeBucket

        return NativeBucket(program, members, threads)

    def emit(self, graph: Graph) -> str:
        from instep.engines.native.compile import traits

        return emit(graph, traits())


ENGINE = NativeEngine()

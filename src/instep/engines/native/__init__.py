"""The graph as LLVM IR, compiled with llvmlite for this CPU, on all cores: the default for NumPy.

`emit` writes the text, with `cast` for conversions, for the processor that `target` describes.
`compile` makes functions of it, whose calls `symbols` looks up; `availability` says whether it can.
`functions` makes them functions of Python. `memory` places the state, `check` sees by `check_code`
whether the arrays of a step are those the plan was made for, and `tensors` whether tensors are;
`threads` counts the threads, `waking` says how many are worth waking, `pool` shares the work with
them, which `handover` does in compiled code. `strided` runs a pass on leaves that are no lines, by
`strided_code` and the `copies` of boxes in it; `launch` runs one on all, `one_call` makes one call
of all passes of a step, and `bucket` brings them together.
"""

from collections.abc import Sequence
from typing import Any

from instep.engines.base import Bucket, Member
from instep.engines.host import HostEngine
from instep.engines.native import availability
from instep.engines.native.emit import emit
from instep.engines.native.memory import allocate
from instep.graph import Graph
from instep.graph.program import Program


class NativeEngine(HostEngine):
    """Compiles graphs for the CPU."""

    name = "native"
    other_walk = (
        "walked in boxes, rows and every other element where they lie, what has another order or "
        "wider gaps through contiguous copies; slower"
    )

    def unavailable(self) -> str | None:
        return availability.problem()

    def allocate(self, parameters: Sequence[Any], dtypes: Sequence[str]) -> list[list[Any]]:
        return allocate(parameters, dtypes)

    def bucket(self, program: Program, members: Sequence[Member], threads: int | None) -> Bucket:
        from instep.engines.native.bucket import NativeBucket

        return NativeBucket(program, members, threads)

    def emit(self, graph: Graph) -> str:
        from instep.engines.native.compile import traits

        passes = [graph] if graph.remembers is None else [graph, graph.remembers]
        return "\n".join(emit(one, traits()) for one in passes)


ENGINE = NativeEngine()

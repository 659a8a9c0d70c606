"""The graph as CUDA C++, compiled by NVRTC and launched by CuPy: the default for CuPy arrays.

`emit`, `kernel`, `lines`, `boxes`, `blocks` and `expressions` write the text and need no CuPy;
`compile` makes kernels of it, `memory` and `launch` hold what they read, `sums` keeps sums on the
device, and `bucket` brings them together. `repeating` is the short way of a step like one before,
in which `check` looks at the fields of arrays that `array_fields` has found. `foreign` has the
arrays and streams of other libraries.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from instep import arrays
from instep.engines.base import Bucket, Member
from instep.engines.cuda import availability
from instep.engines.cuda.emit import emit
from instep.engines.fused import FusedEngine
from instep.graph import Graph
from instep.graph.program import Program


class CudaEngine(FusedEngine):
    """Compiles graphs for NVIDIA GPUs."""

    name = "cuda"
    other_walk = "walked in boxes, what has another order through shared memory; slower"

    def unavailable(self) -> str | None:
        return availability.problem()

    def refuses(self, w: Any) -> str | None:
        import cupy

        if type(w) is not cupy.ndarray:
            kind = f"{type(w).__module__}.{type(w).__name__}"
            return f"it updates cupy.ndarray, and this is a {kind}; convert it with cupy.asarray"
        return None

    def allocate(self, parameters: Sequence[Any], dtypes: Sequence[str]) -> list[list[Any]]:
        from instep.engines.cuda.memory import allocate

        return [allocate(w, dtypes) for w in parameters]

    def holds(self, number: Any, w: Any) -> bool:
        return arrays.library(number) == "cupy" and arrays.device(number) == arrays.device(w)

    def number(self, value: float, w: Any) -> Any:
        import cupy

        with w.device:
            return cupy.array(value, dtype=np.float64)

    def bucket(self, program: Program, members: Sequence[Member], threads: int | None) -> Bucket:
        from instep.engines.cuda.bucket import CudaBucket

        return CudaBucket(program, members)

    def emit(self, graph: Graph) -> str:
        passes = [graph] if graph.remembers is None else [graph, graph.remembers]
        return "\n".join(map(emit, passes))


ENGINE = CudaEngine()

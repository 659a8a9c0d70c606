"""Writes kernels.md: what the CUDA kernels of every optimizer move, and the registers they take.

python docs/write_kernels.py

It needs NVRTC of CUDA 13, CUDA's headers and nvdisasm (see tests/machine_code.py), and no GPU.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from emitted import passes
from machine_code import ALL_ARCHITECTURES, compile_code, nvrtc_version

import instep
from instep.engines.cuda.emit import emit
from instep.engines.cuda.kernel import vector_length

PAGE = Path(__file__).parent / "kernels.md"
DTYPES = ("float16", "float32", "float64")

#: The architecture whose instructions are counted. They differ between architectures in registers
#: and schedule, not in their accesses.
COUNTED = "sm_90"

_HEAD = """\
<!-- Written by docs/write_kernels.py. -->

# CUDA kernels

What each optimizer moves through memory for an element, and how many registers a thread takes, as
compiled by NVRTC {version} with no GPU. No kernel here uses local memory, so no register is spilled.

Bytes an element are counted twice: in the graph of the rule, and in the machine code, from the
16-byte loads and stores of the loop. Passes that reduce are included. A rule with several passes has
the registers of the hungriest. For rules with forms of their own for matrices, these are the kernels
of other arrays; options are at their defaults, and a step after the first is counted.
"""


def optimizers():
    """Return the names of the optimizers of the kit."""
    return sorted(instep.optimizers.__all__, key=str.lower)


def describe(name, dtype, architectures=ALL_ARCHITECTURES):
    """Return a row: name, dtype, passes, bytes by graph, bytes by machine code, registers."""
    graphs = passes(getattr(instep, name)(), dtype, step=1000)
    by_graph = sum(graph.bytes_per_element for graph in graphs)
    by_code = sum(counted_bytes(graph) for graph in graphs)
    registers = [
        max(compile_code(emit(graph), architecture).registers for graph in graphs)
        for architecture in architectures
    ]
    return [name, dtype, len(graphs), by_graph, by_code, *registers]


def counted_bytes(graph):
    """Return the bytes of an element in the loop over vectors of a kernel."""
    source = emit(graph).replace("#pragma unroll 4", "#pragma unroll 1")
    memory = compile_code(source, COUNTED).memory()
    wide = memory["LDG.E.128"] + memory["STG.E.128"]
    # An access of 16 bytes serves as many elements as a thread takes at once.
    bytes_, rest = divmod(16 * wide, vector_length(graph))
    assert rest == 0
    return bytes_


def line(row):
    """Return a row of the table as text."""
    return f"| {' | '.join(str(cell) for cell in row)} |"


def main():
    """Write the page."""
    head = ["optimizer", "dtype", "passes", "bytes, graph", "bytes, code", *ALL_ARCHITECTURES]
    tasks = [(name, dtype) for name in optimizers() for dtype in DTYPES]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(describe, *zip(*tasks, strict=True)))
    rule = ["---", "---", *["--:"] * (len(head) - 2)]
    lines = [line(head), line(rule), *(line(row) for row in rows)]
    PAGE.write_text(f"{_HEAD.format(version=nvrtc_version())}\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

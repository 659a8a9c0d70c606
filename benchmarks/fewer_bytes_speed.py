"""How long steps of Adam take where parameters or state have fewer bytes, beside PyTorch: a table.

All take turns in one process; medians. A share is that of the memory limit: what a loop takes that
moves the same bytes and computes nothing.

    python benchmarks/fewer_bytes_speed.py [elements]
"""

import statistics
import sys
import time

import torch
from fewer_bytes_rows import ROWS

from instep import Adam
from instep.commands.bench.contenders.streams import moving
from instep.graph.program import Program

ROUNDS = 9


def steps(elements, threads):
    """Return what takes a step in each row, what moves its bytes, and how many these are."""
    found = []
    for dtype, _, settings in ROWS:
        w = torch.ones(elements, dtype=getattr(torch, dtype))
        g = torch.linspace(1e-3, 2e-3, elements).to(w.dtype)
        if settings is None:
            w.requires_grad_()
            w.grad = g
            found.append((torch.optim.Adam([w], lr=1e-3, fused=True).step, None, None))
            continue
        optimizer = Adam(lr=1e-3, threads=threads, engine="native", **settings)
        graphs = Program(optimizer).passes(dtype, ())
        moved = sum(graph.bytes_per_element for graph in graphs)

        def step(optimizer=optimizer, w=w, g=g):
            optimizer.update(w, g)

        found.append((step, moving(graphs, elements, threads), moved))
    return found


def measure(elements, threads):
    """Print the table for so many threads."""
    torch.set_num_threads(threads)
    rows = steps(elements, threads)
    times = [([], []) for _ in rows]
    for round_ in range(ROUNDS + 1):
        for (step, limit, _), own in zip(rows, times, strict=True):
            for work, seconds in zip((step, limit), own, strict=True):
                start = time.perf_counter()
                if work is not None:
                    work()
                if round_:  # the first makes plans, and touches memory
                    seconds.append(time.perf_counter() - start)
    medians = [[statistics.median(seconds) for seconds in own] for own in times]
    first = medians[0][0]
    print(f"\n{elements:,} elements, {threads} threads\n")
    print("| parameters | | bytes | ms | PyTorch's float32 / this | share of the limit |")
    print("|---|---|---|---|---|---|")
    for (dtype, label, _), (_, _, moved), (own, limit) in zip(ROWS, rows, medians, strict=True):
        share = "" if moved is None else f"{limit / own:.2f}"
        bytes_ = "" if moved is None else f"{moved:.5g}"
        print(f"| {dtype} | {label} | {bytes_} | {own * 1e3:.1f} | {first / own:.2f} | {share} |")


if __name__ == "__main__":
    for count in (1, 2):
        measure(int(sys.argv[1]) if len(sys.argv) > 1 else 2**25, count)

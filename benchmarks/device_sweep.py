"""Other grids, blocks and hints to the caches than those that kernels have: what would pay.

    python benchmarks/device_sweep.py [case]

Variants take turns with what is shipped in one process; device time, in units of the shipped one's,
and how far its rounds are apart. On an emulated device the sizes are tiny, and times mean nothing.
"""

import re
import statistics
import sys
from contextlib import contextmanager

import cupy
from device import IS_EMULATED, ROUNDS, clipped, free, of_one, row, table, trees, updating
from networks import gpt2_small, resnet50

from instep import SGD, Adam
from instep.engines.cuda import launch


def float8():
    return Adam(state_dtype="float8")


def bfloat16():
    return Adam(state_dtype="bfloat16")


CASES = {
    "Adam, 2\\*\\*20": (Adam, [(1 << 20,)]),
    "Adam, 2\\*\\*25": (Adam, [(1 << 25,)]),
    "Adam, state float8, 2\\*\\*25": (float8, [(1 << 25,)]),
    "Adam, state float8, 2\\*\\*27": (float8, [(1 << 27,)]),
    "Adam, state bfloat16, 2\\*\\*27": (bfloat16, [(1 << 27,)]),
    "SGD, 2\\*\\*25": (SGD, [(1 << 25,)]),
    "Adam, ResNet-50": (Adam, resnet50()),
    "clipped AdamW, ResNet-50": (clipped, resnet50()),
    "Adam, GPT-2 small": (Adam, gpt2_small()),
    "Adam, 10,000 of 100": (Adam, [(100,)] * 10_000),
}


def with_threads(count):
    """Return the change of a kernel's text to blocks of so many threads, where it only stores."""

    def change(text):
        return re.sub(r"constexpr int THREADS = \d+;", f"constexpr int THREADS = {count};", text)

    return change


def twice(text):
    """Return a kernel's text with two rounds of its loop at a time."""
    return text.replace("#pragma unroll 1  // other", "#pragma unroll 2  // other")


#: Variant -> the change of the text, the threads, the largest chunk.
VARIANTS = {
    "shipped": (None, None, None),
    **{f"chunks of {n:,}": (None, None, n) for n in (2048, 4096, 8192, 16_384, 65_536)},
    **{f"{n} threads": (with_threads(n), n, None) for n in (128, 512)},
    **{f"{n} threads, chunks of 16,384": (with_threads(n), n, 16_384) for n in (64, 128, 512)},
    "two rounds at a time": (twice, None, None),
}


@contextmanager
def variant(name):
    """Let optimizers make their launches in another way."""
    change, count, largest = VARIANTS[name]
    shipped = launch.emit, launch.threads_per_block, launch.LARGEST_CHUNK, launch.LARGEST_OF_BLOCKS
    emit, threads_per_block, *_ = shipped

    def changed(graph, *, strided):
        text = emit(graph, strided=strided)
        return text if change is None or graph.sums else change(text)

    def threads(graph):
        return threads_per_block(graph) if count is None or graph.sums else count

    launch.emit, launch.threads_per_block = changed, threads
    if largest is not None:
        launch.LARGEST_CHUNK = launch.LARGEST_OF_BLOCKS = largest
    try:
        yield
    finally:
        launch.emit, launch.threads_per_block = shipped[:2]
        launch.LARGEST_CHUNK, launch.LARGEST_OF_BLOCKS = shipped[2:]


def sweep(make, shapes):
    """Return the rounds of every variant, in seconds."""
    params, grads = trees([(3000,), (100,)] if IS_EMULATED else shapes)
    steps, found = {}, {}
    for name in VARIANTS:
        with variant(name):
            steps[name] = updating(make(), params, grads)
            for _ in range(2):  # the plan, and what is remembered of a step
                steps[name]()
        found[name] = []
    cupy.cuda.Device().synchronize()
    for turn in range(ROUNDS):
        for name in list(steps)[:: -1 if turn % 2 else 1]:
            found[name].append(of_one(steps[name])[0])
    return found


def main(chosen):
    names = [name for name in CASES if chosen in name]
    table("case", "us", "apart", *[name for name in VARIANTS if name != "shipped"])
    for name in names:
        found = sweep(*CASES[name])
        own = statistics.median(found.pop("shipped"))
        first = found["chunks of 4,096"]
        apart = (max(first) - min(first)) / statistics.median(first)
        ratios = [f"{statistics.median(rounds) / own:.3f}" for rounds in found.values()]
        row(name, f"{own * 1e6:,.1f}", f"{apart:.1%}", *ratios)
        free()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")

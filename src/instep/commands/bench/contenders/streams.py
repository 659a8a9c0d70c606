"""The memory limit: what moves the bytes of a step and computes nothing.

`Stream` walks the arrays that the step walks, in as many passes, and reads and writes what the
step reads and writes, on the threads of the native engine. `Add` is NumPy's in-place addition of
1, on one array, at the same number of bytes. Both have the best of memory: arrays that begin on
huge pages. The faster one is the limit.
"""

import itertools
import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from instep.commands.bench.cases import Case
from instep.commands.bench.clocks import Step
from instep.commands.bench.contenders import Contender
from instep.commands.bench.traffic import bytes_per_element, passes
from instep.graph import Graph
from instep.graph.dtypes import DTYPES, WORDS, itemsize

#: Bytes of traffic below which the caches serve a part of it, and there is no one limit.
SMALLEST = 1 << 26

_HUGE_PAGE = 2 << 20

#: Bytes by which each array begins further behind a huge page than the one before: arrays that
#: all begin at the same place within a page compete for the same lines of the cache.
_ALIGNED = 128
_STAGGER = 9 * _ALIGNED

_CHUNK = 256 * 1024
_LANES = 16

# Positions in the arguments of a walk, after the address of its arrays' addresses.
_VECTORS, _NEXT = 1, 2

_BITS = {name: 8 * itemsize(name) for name in (*DTYPES, *WORDS)}


class _Limit(Contender):
    """What all limits have in common."""

    def lacks(self, case: Case) -> str | None:
        if case.elements * bytes_per_element(case) < SMALLEST:
            return "so little memory that the caches serve it"
        return None


class Stream(_Limit):
    """A compiled loop over as many arrays as the step has."""

    name = "stream"
    package = "llvmlite"
    copies = 5

    def prepare(self, case: Case) -> Step:
        return moving(passes(case), case.elements, case.threads)


def moving(graphs: Sequence[Graph], elements: int, threads: int) -> Step:
    """Return what moves the bytes that passes on so many elements move."""
    arrays = {array.name: array for graph in graphs for array in graph.arrays if array.per == 1}
    memory = {
        name: aligned(elements, itemsize(array.dtype), number * _STAGGER)
        for number, (name, array) in enumerate(arrays.items())
    }
    walks = [_Walk(graph, memory, elements, threads) for graph in graphs]

    def step() -> None:
        for walk in walks:
            walk()

    return step


class Add(_Limit):
    """NumPy's `a += 1`."""

    name = "stream add"
    package = "numpy"

    def prepare(self, case: Case) -> Step:
        traffic = case.elements * bytes_per_element(case)
        array = aligned(traffic // 8, 4).view(np.float32)  # 4 bytes are read, 4 are written

        def add(start: int, stop: int) -> None:
            part = array[start:stop]
            np.add(part, np.float32(1), out=part)

        if case.threads == 1:
            return lambda: add(0, len(array))
        return shared(add, len(array), case.threads)


def shared(work: Callable[[int, int], object], elements: int, threads: int) -> Step:
    """Return what calls `work` on ranges of elements that threads take as they come free."""
    others = ThreadPoolExecutor(threads - 1)

    def step() -> None:
        starts = itertools.count(0, _CHUNK)  # one step of it cannot be interrupted

        def take() -> None:
            for start in itertools.takewhile(elements.__gt__, starts):
                work(start, min(start + _CHUNK, elements))

        futures = [others.submit(take) for _ in range(threads - 1)]
        take()
        for future in futures:
            future.result()

    return step


def aligned(elements: int, size: int, offset: int = 0) -> NDArray[np.uint8]:
    """Return bytes for elements of a size, touched, that begin `offset` behind a huge page."""
    nbytes = elements * size
    memory = mmap.mmap(-1, nbytes + offset + _HUGE_PAGE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    block = np.frombuffer(memory, dtype=np.uint8)
    start = -block.ctypes.data % _HUGE_PAGE + offset
    found = block[start : start + nbytes]
    found[:] = 0
    return found


class _Walk:
    """A compiled loop, the arrays that it walks, and the number of threads that share it."""

    def __init__(
        self, graph: Graph, memory: dict[str, NDArray[np.uint8]], elements: int, threads: int
    ) -> None:
        from instep.engines.native.compile import address_of, compile_kernel
        from instep.engines.native.pool import run_on_threads

        graph = replace(graph, arrays=tuple(x for x in graph.arrays if x.name in memory))
        self._arrays = [memory[array.name] for array in graph.arrays]  # kept alive
        self._addresses = np.array([array.ctypes.data for array in self._arrays], np.int64)
        vectors = elements // _LANES
        self._arguments = np.array([self._addresses.ctypes.data, vectors, 0], np.int64)
        self._call = (
            address_of(compile_kernel(emit(graph))),
            self._arguments.ctypes.data,
            threads,
        )
        self._run = run_on_threads

    def __call__(self) -> None:
        self._arguments[_NEXT] = 0
        self._run(*self._call)


def emit(graph: Graph) -> str:
    """Return a kernel that loads and stores what a pass does, a vector of each array at a time.

    Arrays that are loaded and stored have their bits changed, those that are only loaded go
    into an exclusive or, and those that are only stored are filled. Threads take chunks, as they
    do of the native engine's passes.
    """
    loaded = {array.name for array in graph.loaded}
    stored = {array.name for array in graph.stored}
    before: list[str] = []
    heads: list[str] = []
    body: list[str] = []
    after: list[str] = []
    for k, array in enumerate(graph.arrays):
        kind = f"<{_LANES} x i{_BITS[array.dtype]}>"
        align = f"align {min(_LANES * _BITS[array.dtype] // 8, _ALIGNED)}"
        ones = f"splat (i{_BITS[array.dtype]} 1)"
        before += [
            f"  %at{k} = getelementptr ptr, ptr %arrays, i64 {k}",
            f"  %array{k} = load ptr, ptr %at{k}",
        ]
        body.append(f"  %p{k} = getelementptr {kind}, ptr %array{k}, i64 %i")
        if array.name in loaded:
            body.append(f"  %x{k} = load {kind}, ptr %p{k}, {align}")
        if array.name in stored:
            value = f"%y{k}" if array.name in loaded else ones
            if array.name in loaded:
                body.append(f"  %y{k} = xor {kind} %x{k}, {ones}")
            body.append(f"  store {kind} {value}, ptr %p{k}, {align}")
        elif array.name in loaded:
            before.append(f"  %sink{k} = alloca {kind}")
            heads.append(f"  %r{k} = phi {kind} [ zeroinitializer, %chunk ], [ %s{k}, %body ]")
            body.append(f"  %s{k} = xor {kind} %r{k}, %x{k}")
            # What has been read goes somewhere, or the compiler would not read it.
            after.append(f"  store volatile {kind} %r{k}, ptr %sink{k}")
    lines = [
        "define void @run(ptr %arguments) {",
        "entry:",
        "  %arrays = load ptr, ptr %arguments",
        f"  %vectors_at = getelementptr i64, ptr %arguments, i64 {_VECTORS}",
        "  %vectors = load i64, ptr %vectors_at",
        f"  %next_at = getelementptr i64, ptr %arguments, i64 {_NEXT}",
        *before,
        "  br label %take",
        "take:",
        f"  %start = atomicrmw add ptr %next_at, i64 {_CHUNK // _LANES} monotonic",
        "  %is_left = icmp ult i64 %start, %vectors",
        "  br i1 %is_left, label %chunk, label %done",
        "chunk:",
        f"  %wanted = add i64 %start, {_CHUNK // _LANES}",
        "  %is_full = icmp ult i64 %wanted, %vectors",
        "  %stop = select i1 %is_full, i64 %wanted, i64 %vectors",
        "  br label %head",
        "head:",
        "  %i = phi i64 [ %start, %chunk ], [ %next, %body ]",
        *heads,
        "  %more = icmp ult i64 %i, %stop",
        "  br i1 %more, label %body, label %end",
        "body:",
        *body,
        "  %next = add i64 %i, 1",
        "  br label %head",
        "end:",
        *after,
        "  br label %take",
        "done:",
        "  ret void",
        "}",
    ]
    return "\n".join(lines) + "\n"

"""The graph as NumPy ufuncs with `out=`, over blocks that stay in cache.

No dependency beyond NumPy: what runs where llvmlite cannot be had. It runs on one thread: two
are no faster, since the interpreter lock and the blocks' traffic take what they gain.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import setitem
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.engines import uniform
from instep.engines.base import Bucket, Member
from instep.engines.host import HostBucket, HostEngine, HostLaunch
from instep.engines.placement import Placement
from instep.engines.sums import Float64Namespace, SumTable
from instep.graph import Graph, Node, sum_scope
from instep.graph.program import Program
from instep.graph.rows import Row
from instep.interrupts import Call, at_once
from instep.numerics import LANES, TILE, canonical_sum
from instep.words import BLOCK as OF_STATE
from instep.words import random, shared

#: Elements of a block. 256 KiB of float32: a few blocks stay in the second-level cache, and the
#: cost of calling a ufunc (0.5 us) is small beside its work (15 us). Four tiles of a sum.
BLOCK = 4 * TILE


class BlockedEngine(HostEngine):
    """Runs graphs with NumPy alone."""

    name = "blocked"

    def unavailable(self) -> str | None:
        return None

    def bucket(self, program: Program, members: Sequence[Member], threads: int | None) -> Bucket:
        return BlockedBucket(program, members)

    def emit(self, graph: Graph) -> str:
        return str(Procedure(graph))


class BlockedBucket(HostBucket["BlockedLaunch"]):
    """Leaves that are walked in blocks, one ufunc at a time."""

    def launches(self, graph: Graph, members: list[int]) -> "list[BlockedLaunch]":
        return [BlockedLaunch(self, graph, members)]

    def remember(self, sums: SumTable) -> list[tuple[Any, Any]]:
        return list(self.made(sums))


class Progress:
    """How far a pass has come on each of its leaves, in elements.

    It is noted in the call that stores, so that nothing is stored twice after an exception.
    """

    def __init__(self, leaves: int) -> None:
        self._done = [0] * leaves

    def begin(self) -> None:
        """Begin a step."""
        self._done[:] = [0] * len(self._done)

    def __getitem__(self, leaf: int) -> int:
        return self._done[leaf]

    def store(self, leaf: int, stop: int, stores: Sequence[Call]) -> None:
        """Run these, which are implemented in C, and note that all up to `stop` is done."""
        at_once([*stores, partial(setitem, self._done, leaf, stop)])


class BlockedLaunch(HostLaunch):
    """A pass on leaves of a bucket, block by block."""

    def __init__(self, bucket: BlockedBucket, graph: Graph, members: list[int]) -> None:
        super().__init__(bucket, graph, members)
        leaves = [bucket.leaves[i] for i in members]
        if not all(leaf.is_walked(graph) for leaf in leaves):
            _ = bucket.gathering
        self._procedure = Procedure(graph, min(max(leaf.size for leaf in leaves), BLOCK))
        self._progress = Progress(len(members))
        self._scalars: dict[int, tuple[float, ...]] = {}

    def take(self, rows: Sequence[Row], candidate: int) -> None:
        self._scalars = {row: self.host_expressions(*rows[row].numbers) for row in self.rows}
        self._progress.begin()

    def run(self, bucket: HostBucket[Any], sums: SumTable) -> None:
        for i, leaf in enumerate(bucket.leaves[member] for member in self.members):
            reduced = {
                number: sums.values[number, leaf.position if sum_scope(number) == "tensor" else -1]
                for number in range(self.graph.sum_count)
            }
            if self.graph.sums:
                self._reduce(bucket, leaf, reduced, sums)
            else:
                self._store(bucket, leaf, reduced, i)

    def _reduce(
        self, bucket: HostBucket[Any], leaf: Placement, reduced: Mapping[int, float], sums: SumTable
    ) -> None:
        graph, arrays = self.graph, bucket.arrays(leaf)
        walked = leaf.is_walked(graph)
        blocks = _lines(graph, leaf, arrays) if walked else bucket.gathering.tiles(graph, arrays)
        scalars = self._scalars[leaf.row]
        tiles = []
        for i, block in enumerate(blocks):
            first = i * BLOCK  # as many are gathered
            tiles.append(self._procedure.reduce(block, scalars, reduced, first))
        for k, entry in enumerate(graph.sums):
            of_tiles = np.concatenate([np.zeros(0), *(found[k] for found in tiles)])
            with np.errstate(all="ignore"):
                total = _TOTALS[entry.kind](of_tiles)
            sums.values[entry.number, leaf.position] = total
            if sums.tiles is not None:
                sums.tiles[entry.number, leaf.position] = of_tiles

    def _store(
        self, bucket: HostBucket[Any], leaf: Placement, reduced: Mapping[int, float], i: int
    ) -> None:
        arrays, scalars, done = bucket.arrays(leaf), self._scalars[leaf.row], self._progress[i]
        if leaf.is_walked(self.graph):
            for block in _lines(self.graph, leaf, arrays, done):
                first, done = done, done + len(block[0])
                stores = self._procedure.stores(block, scalars, reduced, first)
                self._progress.store(i, done, stores)
            return
        if self.graph.has_blocks:
            parts = bucket.gathering.lines(self.graph, arrays, done)
        else:
            if not self.graph.in_order:
                arrays = [array.transpose(leaf.axes) for array in arrays]
            parts = bucket.gathering.boxes(self.graph, arrays, done)
        for stop, block, stores in parts:
            at_once(self._procedure.stores(block, scalars, reduced, stop - len(block[0])))
            self._progress.store(i, stop, stores)


def _lines(
    graph: Graph, leaf: Placement, arrays: Sequence[NDArray[Any]], begin: int = 0
) -> Iterator[list[NDArray[Any]]]:
    """Yield the blocks of arrays that are lines, from element `begin` on."""
    each = [spec.per for spec in graph.arrays]
    lines = [
        array.transpose(leaf.axes).reshape(-1) if per == 1 else array
        for array, per in zip(arrays, each, strict=True)
    ]
    for start in range(begin, leaf.size, BLOCK):
        yield [
            line[start // per : (start + BLOCK) // per]
            for line, per in zip(lines, each, strict=True)
        ]


class Procedure:
    """A pass as a list of ufunc calls on registers, which are buffers of one block each.

    A register is used again as soon as its value is dead, so a pass of fifteen operations needs
    three or four.
    """

    def __init__(self, graph: Graph, longest: int = 0) -> None:
        self.graph = graph
        self._index = {array.name: i for i, array in enumerate(graph.arrays)}
        self._per = {array.name: array.per for array in graph.arrays}
        self._plan_registers()
        # Here, for nothing may fail for lack of memory once a step has begun to store.
        self._buffers = {
            register: np.empty(longest, dtype=register[0])
            for register in (*self._register.values(), *self._copies.values())
        }

    def _plan_registers(self) -> None:
        graph = self.graph
        last_use = {i: position for position, n in enumerate(graph.nodes) for i in n.operands}
        kept = {store.node for store in graph.stores} | {entry.node for entry in graph.sums}
        free: dict[str, list[int]] = {}
        count: dict[str, int] = {}
        self._register: dict[int, tuple[str, int]] = {}
        for position, node in enumerate(graph.nodes):
            if position in graph.uniform or self._is_read(node):
                continue
            dead = [
                i
                for i in dict.fromkeys(node.operands)
                if i in self._register and last_use[i] == position and i not in kept
            ]
            # `where` writes its result in two steps, so it may not share an operand's register.
            early = () if node.operation == "where" else dead
            for i in early:
                free.setdefault(self._register[i][0], []).append(self._register[i][1])
            pool = free.setdefault(node.dtype, [])
            if pool:
                number = pool.pop()
            else:
                number = count[node.dtype] = count.get(node.dtype, -1) + 1
            self._register[position] = (node.dtype, number)
            for i in dead:
                if i not in early:
                    free.setdefault(self._register[i][0], []).append(self._register[i][1])
        # What is stored as it was loaded must be read before another store overwrites it.
        loads = {s.node for s in graph.stores if self._is_read(graph.nodes[s.node])}
        self._copies: dict[int, tuple[str, int]] = {}
        for position in sorted(loads):
            dtype = graph.nodes[position].dtype
            count[dtype] = count.get(dtype, -1) + 1
            self._copies[position] = (dtype, count[dtype])

    def _is_read(self, node: Node) -> bool:
        """Return whether a node is what lies in memory, element by element."""
        return node.operation == "load" and self._per[str(node.value)] == 1

    def reduce(
        self,
        block: Sequence[NDArray[Any]],
        scalars: Sequence[float],
        reduced: Mapping[int, float],
        first: int,
    ) -> list[NDArray[np.float64]]:
        """Return the sums of the tiles of a block that begins with the element of this number."""
        values = self._evaluate(block, scalars, reduced, first)
        with np.errstate(all="ignore"):
            return [
                _TILES[entry.kind](values[entry.node], len(block[0])) for entry in self.graph.sums
            ]

    def stores(
        self,
        block: Sequence[NDArray[Any]],
        scalars: Sequence[float],
        reduced: Mapping[int, float],
        first: int,
    ) -> list[Call]:
        """Evaluate the pass on such a block; return the calls that store the results."""
        values = self._evaluate(block, scalars, reduced, first)
        for position, register in self._copies.items():
            copy = self._buffers[register][: len(block[0])]
            copy[...] = values[position]
            values[position] = copy
        return [
            partial(setitem, block[self._index[store.array]], ..., value)
            for store in self.graph.stores
            for value in [_every(values[store.node], self._per[store.array])]
        ]

    def _evaluate(
        self,
        block: Sequence[NDArray[Any]],
        scalars: Sequence[float],
        reduced: Mapping[int, float],
        first: int,
    ) -> list[Any]:
        """Return the values of all nodes for one block."""
        graph, length = self.graph, len(block[0])
        values: list[Any] = []
        with np.errstate(all="ignore"):
            for position, node in enumerate(graph.nodes):
                operands = [values[i] for i in node.operands]
                if self._is_read(node):
                    values.append(block[self._index[str(node.value)]])
                    continue
                if position in graph.uniform:
                    values.append(uniform.value(node, operands, scalars, reduced))
                    continue
                out = self._buffers[self._register[position]][:length]
                if node.operation in _DRAWS:
                    *place, step = map(int, operands)
                    draw = int(str(node.value))
                    out[...] = _DRAWS[node.operation](first, length, place, step, draw)
                elif node.operation == "load":
                    _repeat(block[self._index[str(node.value)]], out)
                else:
                    _apply(node.operation, operands, out)
                values.append(out)
        return values

    def __str__(self) -> str:
        lines = [f"for each block of {BLOCK} elements:"]
        names: dict[int, str] = {}
        for position, node in enumerate(self.graph.nodes):
            operands = [names[i] for i in node.operands]
            match node.operation:
                case "load" | "constant":
                    names[position] = str(node.value)
                case "scalar":
                    names[position] = self.graph.scalars[int(str(node.value))].source
                case "reduced":
                    names[position] = f"sum{node.value}"
                case _ if position in self.graph.uniform:
                    names[position] = f"{node.operation}({', '.join(operands)})"
                case operation:
                    dtype, number = self._register[position]
                    names[position] = f"{dtype}_{number}"
                    lines.append(f"    {operation}({', '.join(operands)}, out={names[position]})")
        lines += [f"    {store.array}[:] = {names[store.node]}" for store in self.graph.stores]
        lines += [
            f"    sum{s.number} += sum of {names[s.node]}"
            if s.kind == "sum"
            else f"    sum{s.number} = maximum(sum{s.number}, {names[s.node]})"
            for s in self.graph.sums
        ]
        return "\n".join(lines)


#: What gives elements random words.
_DRAWS = {"random": random, "shared": shared}


def _every(x: Any, per: int) -> Any:
    """Return what one of so many elements has: the first of each block."""
    return x if per == 1 or not isinstance(x, np.ndarray) else x[::per]


def _repeat(x: NDArray[Any], out: NDArray[Any]) -> None:
    """Give every element what its block has."""
    whole = len(out) // OF_STATE
    out[: whole * OF_STATE].reshape(whole, OF_STATE)[...] = x[:whole, np.newaxis]
    out[whole * OF_STATE :] = x[whole:]


def _apply(operation: str, operands: list[Any], out: NDArray[Any]) -> None:
    match operation:
        case "cast":
            np.copyto(out, operands[0], casting="unsafe")
        case "real" | "imag":
            np.copyto(out, getattr(operands[0], operation))
        case "complex":
            out.real, out.imag = operands
        case "where":
            condition, a, b = operands
            np.copyto(out, b)
            np.copyto(out, a, where=condition)
        case "bits":
            np.copyto(out, operands[0].view(out.dtype))
        case "largest":
            (x,) = operands
            _repeat(np.maximum.reduceat(x, range(0, len(x), OF_STATE)), out)
        case _:
            uniform.UFUNCS[operation](*operands, out=out)


def _tile_sums(x: Any, length: int) -> NDArray[np.float64]:
    """Return the canonical sums of the tiles of a block."""
    tiles = -(-length // TILE)
    padded = np.zeros(tiles * TILE)
    padded[:length] = x
    rows = padded.reshape(tiles, TILE // LANES, LANES)
    lanes = np.zeros((tiles, LANES))
    for row in range(TILE // LANES):
        lanes += rows[:, row]
    width = LANES
    while width > 1:
        width //= 2
        lanes = lanes[:, :width] + lanes[:, width : 2 * width]
    return lanes[:, 0]


def _largest(x: Any, length: int) -> NDArray[np.float64]:
    """Return the largest element of a block."""
    return np.full(1, np.max(x), dtype=np.float64)


#: What a block leaves of sums and maxima, and what they are made of that.
_TILES = {"sum": _tile_sums, "maximum": _largest}
_TOTALS: dict[str, Callable[[NDArray[np.float64]], Any]] = {
    "sum": partial(canonical_sum, Float64Namespace),
    "maximum": partial(np.max, initial=-np.inf),
}


ENGINE = BlockedEngine()

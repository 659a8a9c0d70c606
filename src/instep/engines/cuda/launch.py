"""Launches: one pass over tensors that are walked in one way, with the tables it reads."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from operator import setitem
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep.engines.cuda.boxes import STAGE_ROOM
from instep.engines.cuda.compile import load
from instep.engines.cuda.counters import counters
from instep.engines.cuda.emit import emit
from instep.engines.cuda.kernel import (
    NEAR,
    kernel_name,
    leaf_dtype,
    remembered_numbers,
    step_dtype,
    threads_per_block,
)
from instep.engines.cuda.memory import Mailbox, boxes, chunk_length, places, stages, upload
from instep.engines.cuda.sums import DeviceSums
from instep.engines.cuda.verdicts import DeviceVerdicts
from instep.engines.fused import FusedBucket, Launch
from instep.engines.placement import Placement
from instep.engines.sums import SumTable, Verdicts
from instep.graph import Graph
from instep.graph.rows import Row
from instep.interrupts import Call, at_once
from instep.numerics import TILE

#: Elements of the smallest and the largest chunk of a block: two rounds of the loop of float32 at
#: least, so that what a block does once is no more than its work. Blocks run in their order, so
#: small chunks let all multiprocessors go through memory side by side: those of 4,096 took 0.94 to
#: 0.95 of the time of 65,536, and of one chunk for each place, on an H200. What is walked block by
#: block takes longer to enter, and 16,384 took 0.88 of the time of 4,096; boxes are larger still.
SMALLEST_CHUNK, LARGEST_CHUNK, LARGEST_OF_BLOCKS, LARGEST_BOX = 2_048, 4_096, 16_384, 65_536

_STEP = step_dtype()
_NEAR_AT = _STEP.fields["near"][1] // 8  # type: ignore[index]
_WORD_AT = {name: _STEP.fields[name][1] // 8 for name in _STEP.names}  # type: ignore[index, union-attr]


def _places(graph: Graph, rows: int) -> list[tuple[str, list[int] | None]]:
    """Return the dtypes of the scalars, with the positions of each, or None for all of them."""
    dtypes = [scalar.dtype for scalar in graph.scalars] * rows
    kinds = sorted(set(dtypes))
    if len(kinds) < 2:
        return [(kind, None) for kind in kinds]
    return [(kind, [i for i, dtype in enumerate(dtypes) if dtype == kind]) for kind in kinds]


class CudaLaunch(Launch):
    """A pass on leaves of a bucket that are walked in one way: a kernel, and its argument.

    Parameters
    ----------
    multiprocessors
        Of the device.
    strided
        Whether leaves are no lines: elements are reached in boxes, or one at a time.
    """

    def __init__(
        self,
        bucket: FusedBucket[Any],
        graph: Graph,
        members: list[int],
        multiprocessors: int,
        *,
        strided: bool,
    ) -> None:
        super().__init__(bucket, graph, members)
        self.strided = strided
        chosen = [bucket.leaves[i] for i in members]
        self._members = np.array(members, dtype=np.intp)
        self._is_done = False
        self._row_words = len(self.rows) * len(graph.scalars)
        candidates = 1 + Verdicts.MOST if graph.guards else 1
        self._pairs = candidates * self._row_words
        words = self._pairs + 2 * len(chosen)
        # The argument, and after it, without a gap, the words that do not fit in it.
        self._words = np.zeros(_NEAR_AT + max(words, NEAR), dtype=np.uint64)
        # Bytes, for of fields CuPy would ask NumPy at each launch, which takes it 8 us to tell.
        self._argument = self._words[: _STEP.itemsize // 8].view(f"V{_STEP.itemsize}").reshape(())
        self._step = self._words[_NEAR_AT:]
        self._mailbox = Mailbox(words - NEAR) if words > NEAR else None
        number_of = bucket.program.remembered
        numbers = [
            {number_of[name]: number for name, number in bucket.numbers[i].items()} for i in members
        ]
        self._tables(chosen, numbers, multiprocessors)
        self._threads = (threads_per_block(graph),)
        self._places = _places(graph, len(self.rows))
        self._kernel = load(emit(graph, strided=strided), kernel_name(graph, strided=strided))

    def _tables(
        self,
        leaves: Sequence[Placement],
        numbers: Sequence[Mapping[int, Any]],
        multiprocessors: int,
    ) -> None:
        """Put on the device what stays the same from step to step."""
        graph = self.graph
        sizes = np.array([leaf.size for leaf in leaves], dtype=np.int64)
        layouts: Sequence[NDArray[np.int64]] = ()
        if graph.sums and self.strided:
            layouts = [stages(graph, leaf, STAGE_ROOM) for leaf in leaves]
        if graph.remembered:  # one block for all tensors
            chunk, blocks = len(leaves), np.array([1, *[0] * (len(leaves) - 1)])
        elif graph.sums:
            chunk = TILE
            blocks = np.maximum(1, -(-sizes // chunk))  # also a tensor without elements has a sum
        else:
            largest = LARGEST_BOX if self.strided else LARGEST_CHUNK
            largest = LARGEST_OF_BLOCKS if graph.has_blocks else largest
            chunk = chunk_length(int(sizes.sum()), multiprocessors, SMALLEST_CHUNK, largest)
            if self.strided and graph.has_blocks:
                layouts = [places(graph, leaf) for leaf in leaves]
            elif self.strided:
                counts, layouts = zip(*(boxes(graph, leaf, chunk) for leaf in leaves), strict=True)
                elements, sizes = int(sizes.sum()), np.array(counts)
                chunk = max(1, chunk * int(sizes.sum()) // max(1, elements))
            blocks = -(-sizes // chunk)
        first = np.cumsum(blocks) - blocks
        table = np.zeros(len(leaves), dtype=leaf_dtype(graph))
        table["size"], table["first_block"] = sizes, first
        table["row"] = [self.rows.index(leaf.row) for leaf in leaves]
        table["position"] = [leaf.position for leaf in leaves]
        for i, array in enumerate(graph.arrays[2:]):
            table[f"slot{i}"] = [leaf.slots[array.name].data.ptr for leaf in leaves]
        for number in remembered_numbers(graph):
            table[f"number{number}"] = [found[number].data.ptr for found in numbers]
        self._grid = (int(blocks.sum()),)
        self._kept = [upload(np.repeat(np.arange(len(leaves), dtype=np.int32), blocks))]
        if self.strided:
            lengths = np.array([len(words) for words in layouts])
            on_device = upload(np.concatenate(layouts))
            self._kept.append(on_device)
            table["layout"] = on_device.data.ptr + 8 * (np.cumsum(lengths) - lengths)
        self._table, self._slots = table, tuple(array.name for array in graph.arrays[2:])
        self._kept.append(upload(table))
        self._tables_of = {self._slots: self._kept[-1]}
        self._set("leaf_of_block", self._kept[0].data.ptr)
        self._set("leaves", self._tables_of[self._slots].data.ptr)
        self._set("chunk", chunk)
        self._set("pairs", self._pairs)
        self._set("rows", len(self.rows))
        if self._mailbox is not None:
            self._set("far", self._mailbox.address)
        if graph.sums:
            self._make_partials(first, blocks)

    def _make_partials(self, first: NDArray[np.int64], blocks: NDArray[np.int64]) -> None:
        """Put room for the sums of tiles on the device: leaves have so many, from these on."""
        partials = upload(np.zeros(len(self.graph.sums) * self._grid[0]))
        arrived = upload(np.zeros(len(first) + 1, dtype=np.uint32))
        self._kept += [partials, arrived]
        self._tiles = partials, first, blocks
        self._set("partials", partials.data.ptr)
        self._set("arrived", arrived.data.ptr)

    def turning(self, names: Mapping[str, str]) -> list[Call]:
        own = [array.name for array in self.graph.arrays[2:]]
        slots = tuple(self._slots[own.index(names.get(name, name))] for name in own)
        if slots not in self._tables_of:  # each order of arrays has a table, and is sent once
            table = self._table.copy()
            for i, name in enumerate(slots):
                table[f"slot{i}"] = self._table[f"slot{own.index(name)}"]
            self._tables_of[slots] = upload(table)
        address = self._tables_of[slots].data.ptr
        return [
            partial(self.__dict__.update, {"_slots": slots}),
            partial(setitem, self._words, _WORD_AT["leaves"], address),
        ]

    def _set(self, name: str, value: int) -> None:
        self._words[_WORD_AT[name]] = value

    def take(self, rows: Sequence[Row], candidate: int) -> None:
        self._is_done = False
        function = self.host_expressions
        values = [value for row in self.rows for value in function(*rows[row].numbers)]
        words = self._step[candidate * self._row_words :]
        with np.errstate(over="ignore"):
            for dtype, places in self._places:
                # A float32 is in the low half of its word.
                typed = words.view(dtype)[:: 8 // np.dtype(dtype).itemsize]
                if places is None:
                    typed[: len(values)] = values
                else:
                    typed[places] = [values[i] for i in places]

    def leave_tiles(self, sums: SumTable) -> None:
        """Leave the sums of tiles on the host, where other processes have the others. Waits."""
        if sums.tiles is None or not self.graph.sums:
            return
        partials, first, blocks = self._tiles
        of_sums = partials.get().view(np.float64).reshape(-1, self._grid[0])
        for entry, own in zip(self.graph.sums, of_sums, strict=True):
            for position, begin, count in zip(self._table["position"], first, blocks, strict=True):
                sums.tiles[entry.number, int(position)] = own[begin : begin + count]

    def take_guard(self, verdicts: DeviceVerdicts, candidates: int) -> None:
        """Take what tells the device whether this launch is for the steps it has taken."""
        self._set("taken", verdicts.taken)
        self._set("known", verdicts.known)
        self._set("candidates", candidates)

    def run(self, addresses: NDArray[np.int64], sums: DeviceSums, *, whole_tree: bool) -> None:
        """Launch on the current stream, once since `take`.

        `addresses` are those of parameter and gradient of every leaf of the bucket.
        """
        if self.is_empty or self._is_done:
            return
        pairs = addresses if len(self._members) == len(addresses) else addresses[self._members]
        self._step[self._pairs : self._pairs + pairs.size] = pairs.ravel()
        self.take_sums(sums, whole_tree=whole_tree)
        at_once(self.sending())
        counters.launches += 1
        at_once([self.launching, partial(self.__dict__.update, {"_is_done": True})])

    def take_sums(self, sums: DeviceSums, *, whole_tree: bool) -> None:
        """Take the table of sums, in which this launch adds up the tree if it has all of it."""
        if self.graph.sum_count:
            self._set("sums", sums.address)
            self._set("columns", sums.columns)
            self._set("tree", len(self._members) if whole_tree else 0)

    @property
    def launching(self) -> Call:
        """The call that launches the kernel on the current stream."""
        return partial(self._kernel, self._grid, self._threads, (self._argument,))

    def sending(self) -> list[Call]:
        """Return the calls that send the words that do not travel with a launch, if they moved."""
        calls = [] if self._mailbox is None else self._mailbox.sending(self._step[NEAR:])
        counters.copies += bool(calls)
        return calls

    @property
    def is_empty(self) -> bool:
        """Whether there are no elements, and nothing is launched."""
        return self._grid[0] == 0

    @property
    def has_far_words(self) -> bool:
        """Whether there are words that do not travel with a launch."""
        return self._mailbox is not None

    # Where compiled code puts what changes -----------------------------------------------------

    def scalar_places(self) -> Iterable[tuple[int, list[tuple[int, bool]]]]:
        """Return, for each row, where its scalars go: addresses, and whether they are doubles."""
        wide = [scalar.dtype == "float64" for scalar in self.graph.scalars]
        place = self._step.ctypes.data
        for row in self.rows:
            yield row, [(place + 8 * i, is_wide) for i, is_wide in enumerate(wide)]
            place += 8 * len(wide)

    def address_places(self, addresses: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Return where the addresses of parameters and gradients stand, and where they go."""
        row, word = (8 * np.arange(n, dtype=np.int64) for n in (2 * len(self._members), 2))
        first = addresses.ctypes.data + addresses.strides[0] * self._members[:, np.newaxis]
        return (first + word).ravel(), self._step.ctypes.data + 8 * self._pairs + row

"""The table of sums on a device: what `SumTable` is on the host."""

from collections.abc import Iterable
from functools import cached_property, partial
from typing import Any

import numpy as np

from instep.engines.cuda.canonical_sum import ADD_UP_KERNELS
from instep.engines.cuda.compile import load
from instep.engines.cuda.counters import counters
from instep.engines.cuda.verdicts import DeviceVerdicts
from instep.engines.sums import RemoteSums, empty_table
from instep.graph import sum_kind
from instep.interrupts import Call
from instep.numerics import LANES


class DeviceSums(RemoteSums):
    """A row for each sum of the rule; a column for each leaf, and one for the tree."""

    def __init__(self, device: int, columns: int) -> None:
        import cupy

        self._cupy = cupy
        self._device = cupy.cuda.Device(device)
        self.columns = columns
        self._positions: set[int] = set()
        self._table: Any = None
        self._empty: Any = None  # what it holds before anything is added
        self._added: set[int] = set()

    def reserve(self, count: int, positions: Iterable[int]) -> None:
        """Make room for `count` sums over leaves at these positions. Before the first pass."""
        self._positions.update(positions)
        if count and (self._table is None or len(self._table) < count):
            with self._device:
                self._empty = self._cupy.asarray(empty_table(0, count, self.columns))
                self._table = self._empty.copy()

    def clear(self) -> None:
        if self._table is not None:
            with self._device:
                stream = self._cupy.cuda.get_current_stream()
                self._table.data.copy_from_device_async(
                    self._empty.data, self._table.nbytes, stream
                )

    @property
    def address(self) -> int:
        """Address of the table."""
        address: int = self._table.data.ptr
        return address

    @cached_property
    def verdicts(self) -> DeviceVerdicts:
        with self._device:
            return DeviceVerdicts(self)

    def begin(self) -> None:
        self._added.clear()
        if "verdicts" in self.__dict__:
            self.verdicts.begin()

    def added(self, numbers: Iterable[int]) -> None:
        """Take note that a kernel has added up the tree for these sums by itself."""
        self._added.update(numbers)

    def add_up(self, numbers: Iterable[int]) -> None:
        for number in sorted(set(numbers) - self._added):
            with self._device:
                counters.launches += 1
                self.adding_up(number)()

    def adding_up(self, number: int) -> Call:
        """Return the call that adds up the tree for a sum, on the current stream of the device."""
        name, text = ADD_UP_KERNELS[sum_kind(number)]
        row = self.address + 8 * self.columns * number
        argument = np.uint64(row), np.int64(self.columns - 1)
        return partial(load(text, name), (1,), (LANES,), argument)

    def has(self, position: int) -> bool:
        return position in self._positions

    def fetch(self, number: int) -> dict[int, float]:
        row = self._table[number].get()
        return {position: float(row[position]) for position in self._positions}

    def total(self, number: int) -> float:
        return float(self._table[number, -1].get())

    def put(self, number: int, total: float) -> None:
        self.put_leaf(number, self.columns - 1, total)

    def put_leaf(self, number: int, position: int, value: float) -> None:
        with self._device:
            self._table[number, position : position + 1].set(np.array([value]))

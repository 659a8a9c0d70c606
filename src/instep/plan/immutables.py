"""Arrays of JAX: a step reads their memory, and new arrays take over the memory that it writes."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from instep import arrays
from instep.plan.kinds import StandIn


def can_be_seen(array: Any) -> bool:
    """Return whether the elements of an array of JAX lie together in the memory of the CPU."""
    devices = array.sharding.device_set
    return (
        arrays.signature(array) is not None
        and len(devices) == 1
        and all(device.platform == "cpu" for device in devices)
        and array.is_fully_addressable
        and arrays.numpy_dtype(arrays.dtype_name(array)) is not None
    )


class Immutable(StandIn):
    """An array that cannot be written: of a parameter, an engine makes a new one."""

    def __init__(self, held: Any, *, written: bool) -> None:
        self.replaces = written
        self._signature = arrays.signature(held)
        self.sharding: Any = None

    def array(self, held: Any) -> Any:
        if arrays.library(held) != "jax" or arrays.signature(held) != self._signature:
            return None
        # Where an array was put somewhere, there the next one is put.
        self.sharding = held.sharding if getattr(held, "committed", True) else None
        return np.asarray(held)  # the memory itself

    @staticmethod
    def hand_back(written: Sequence[tuple["Immutable", Any]]) -> Sequence[Any]:
        # All together: 200 arrays take 15 ms, and 39 one by one.
        put = sys.modules["jax"].device_put
        placed = [(own.sharding, array) for own, array in written if own.sharding is not None]
        free = [array for own, array in written if own.sharding is None]
        there = iter(put([x for _, x in placed], [s for s, _ in placed], may_alias=True))
        anywhere = iter(put(free, may_alias=True))
        return [next(anywhere if own.sharding is None else there) for own, _ in written]

"""Passes over trees, and arrays like the parameters that several of them have as slots."""

from collections.abc import Collection, Mapping
from functools import partial
from operator import setitem
from typing import Any, Self

from instep import arrays
from instep.interrupts import Call
from instep.optimizer import Optimizer
from instep.stateful import arrays_of, share_arrays, turning


class Pass(Optimizer):
    """A pass over the trees of a method, which has the name of that in messages."""

    def called(self, name: str) -> Self:
        """Give it the name of the method."""
        self._called = name
        return self

    @property
    def name(self) -> str:
        """Name of the method, once it is known."""
        return str(self.__dict__.get("_called", type(self).__name__))


class Shared:
    """Arrays by name, for each parameter, and the optimizers that work on them."""

    def __init__(self) -> None:
        self._arrays: dict[str, dict[str, Any]] = {}
        self._members: list[tuple[Optimizer, Mapping[str, str]]] = []

    def join(self, optimizer: Optimizer, names: Mapping[str, str]) -> None:
        """Let an optimizer that took no step have arrays as its slots: their names, by slot.

        It makes those that there are none of yet: see `take_over`.
        """
        self._members.append((optimizer, names))
        if self._arrays:
            self._give(optimizer, names)

    def _give(self, optimizer: Optimizer, names: Mapping[str, str]) -> None:
        share_arrays(
            optimizer,
            {
                key: {slot: own[name] for slot, name in names.items()}
                for key, own in self._arrays.items()
            },
        )

    def take_over(self, optimizer: Optimizer, written: Collection[str] | None = None) -> None:
        """Take over the arrays that an optimizer has made: all, or those of these slots.

        Engines that cannot write arrays put others in their place, which all members are to have.
        """
        names = next(names for one, names in self._members if one is optimizer)
        is_first = not self._arrays
        for key, slots in arrays_of(optimizer).items():
            own = self._arrays.setdefault(key, {})
            for slot in names if written is None else written:
                array, name = slots[slot], names[slot]
                if own.get(name) is not array:
                    own[name] = array
                    if not is_first:
                        self._pass_on(key, name, array)
        if is_first:
            for other, its in self._members:
                if other is not optimizer:
                    self._give(other, its)

    def _pass_on(self, key: str, name: str, array: Any) -> None:
        for optimizer, names in self._members:
            slots = arrays_of(optimizer).get(key)
            if slots is not None:
                slots.update({slot: array for slot, its in names.items() if its == name})

    def turning(self, following: Mapping[str, str]) -> list[Call]:
        """Return the calls in C that give slots of all members the arrays of others: by slot."""
        calls = [call for optimizer, _ in self._members for call in turning(optimizer, following)]
        turned = [
            (optimizer, {slot: names[following.get(slot, slot)] for slot in names})
            for optimizer, names in self._members
        ]
        return [*calls, partial(setitem, self._members, slice(None), turned)]

    def fill(self, name: str, values: Mapping[str, Any]) -> None:
        """Give the arrays of a name these elements, by the paths of the parameters."""
        for key, own in self._arrays.items():
            array = arrays.filled(own[name], values[key])
            if array is not own[name]:  # one that cannot be written
                own[name] = array
                self._pass_on(key, name, array)

    def named(self, name: str) -> dict[str, Any]:
        """Return the arrays of a name, by the paths of the parameters."""
        return {key: own[name] for key, own in self._arrays.items()}

"""What is made of the numbers of a step for several passes: once where it is the same."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Protocol

#: The function from the numbers of each row to what is made of some of them, for compiled code.
Scalars = Callable[[Sequence[Sequence[float]]], tuple[float, ...]]

#: Where a scalar goes: its number, its address, and whether it is a double there, or a float.
Destination = tuple[int, int, bool]


class Taking(Protocol):
    """A pass that takes scalars."""

    host_expressions: Callable[..., tuple[float, ...]]

    def scalar_places(self) -> Iterable[tuple[int, list[tuple[int, bool]]]]:
        """Return, for each row, where its scalars go: addresses, and whether they are doubles."""


def joined_scalars(launches: Iterable[Taking]) -> tuple[Scalars, list[Destination]]:
    """Return the function that makes the scalars of all these passes, and where each goes."""
    begins: dict[tuple[Callable[..., tuple[float, ...]], int], int] = {}
    places, count = list[Destination](), 0
    for launch in launches:
        for row, own in launch.scalar_places():
            start = begins.setdefault((launch.host_expressions, row), count)
            count += len(own) if start == count else 0
            places += [(start + i, *place) for i, place in enumerate(own)]
    return _made(list(begins)), places


def _made(made: Sequence[tuple[Callable[..., tuple[float, ...]], int]]) -> Scalars:
    if len(made) == 1:
        ((make, row),) = made
        return lambda numbers: make(*numbers[row])
    if len(made) == 2:
        (make, row), (other, its) = made
        return lambda numbers: (*make(*numbers[row]), *other(*numbers[its]))
    return lambda numbers: tuple(chain.from_iterable([make(*numbers[row]) for make, row in made]))

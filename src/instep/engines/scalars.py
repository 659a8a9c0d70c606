"""What is made of the numbers of a step for several passes: once where it is the same."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

#: The function from the numbers of each row to what is made of some of them, for compiled code.
Scalars = Callable[[Sequence[Sequence[float]]], tuple[float, ...]]

#: That from the numbers of one row.
Make = Callable[..., tuple[float, ...]]

#: Where a scalar goes: its number, its address, and whether it is a double there, or a float.
Destination = tuple[int, int, bool]


class Taking(Protocol):
    """A pass that takes scalars."""

    host_expressions: Make

    def scalar_places(self) -> Iterable[tuple[int, list[tuple[int, bool]]]]:
        """Return, for each row, where its scalars go: addresses, and whether they are doubles."""


class Made(NamedTuple):
    """What makes the scalars of several passes.

    Attributes
    ----------
    of_rows
        The function of all rows.
    of_first
        That of the numbers of the first row, where no others are used, or None.
    places
        Where each scalar goes.
    """

    of_rows: Scalars
    of_first: Make | None
    places: Sequence[Destination]


def joined_scalars(launches: Iterable[Taking]) -> Made:
    """Return what makes the scalars of all these passes."""
    begins: dict[tuple[Make, int], int] = {}
    places, count = list[Destination](), 0
    for launch in launches:
        for row, own in launch.scalar_places():
            start = begins.setdefault((launch.host_expressions, row), count)
            count += len(own) if start == count else 0
            places += [(start + i, *place) for i, place in enumerate(own)]
    made = list(begins)
    return Made(_of_rows(made), made[0][0] if [row for _, row in made] == [0] else None, places)


def _of_rows(made: Sequence[tuple[Make, int]]) -> Scalars:
    if len(made) == 1:
        ((make, row),) = made
        return lambda numbers: make(*numbers[row])
    if len(made) == 2:
        (make, row), (other, its) = made
        return lambda numbers: (*make(*numbers[row]), *other(*numbers[its]))
    return lambda numbers: tuple(chain.from_iterable([make(*numbers[row]) for make, row in made]))

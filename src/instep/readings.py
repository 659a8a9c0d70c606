"""What a step has computed anyway, to be read."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from instep.graph.numbers import of_tensors, of_tree
from instep.plan.last import LastStep
from instep.state import State

#: The numbers of a leaf, or of the tree, by name.
Numbers = Mapping[str, float]


class Readings(Mapping[str, float]):
    """Numbers of the last step by name: those of the tree, and those that all its leaves share.

    Attributes
    ----------
    leaves : Mapping
        The numbers of each leaf that took the step, those of the tree too, by its path. They can be
        read until the next step.
    """

    def __init__(self, owner: str, of_tree: Numbers, leaves: Mapping[str, Numbers]) -> None:
        self._owner, self._of_tree = owner, of_tree
        self.leaves: Mapping[str, Numbers] = leaves

    def __getitem__(self, name: str) -> float:
        if name not in self._of_tree:
            raise KeyError(self._unknown(name))
        return self._of_tree[name]

    def __contains__(self, name: object) -> bool:
        return name in self._of_tree

    def __iter__(self) -> Iterator[str]:
        return iter(self._of_tree)

    def __len__(self) -> int:
        return len(self._of_tree)

    def __repr__(self) -> str:
        return f"Readings({dict(self)!r})"

    def _unknown(self, name: str) -> str:
        if not self.leaves:
            return f"{self._owner}.readings: there is nothing to read before a step; take one"
        known = dict.fromkeys(self._of_tree)
        for key, numbers in self.leaves.items():
            if name in numbers:
                return (
                    f"{self._owner}.readings: {name!r} is not one number for all leaves; read "
                    f"those of each, as in readings.leaves[{key!r}][{name!r}]"
                )
            known |= dict.fromkeys(numbers)
        return f"{self._owner}.readings: there is no {name!r}; there are {', '.join(known)}"


class _Leaves(Mapping[str, Numbers]):
    """The numbers of leaves, each of which are made when they are asked for."""

    def __init__(self, keys: tuple[str, ...], read: Callable[[str], Numbers]) -> None:
        self._keys, self._read = keys, read

    def __getitem__(self, key: str) -> Numbers:
        if key not in self._keys:
            raise KeyError(f"no leaf {key!r} took the step; there are {', '.join(self._keys)}")
        return self._read(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def readings(
    owner: str, state: State, turn: Callable[[], AbstractContextManager[object]]
) -> Readings:
    """Return what can be read now of the last step; `turn` waits for steps of other threads."""
    last: LastStep | None = state.last
    if last is None:
        return Readings(owner, {}, {})
    rows = last.rows

    def of_leaf(key: str) -> Numbers:
        with turn():
            if state.last is not last or last.rows is not rows:
                raise RuntimeError(
                    f"{owner}.readings: another step has been taken since; ask for the readings of "
                    f"that, with optimizer.readings"
                )
            return _of_leaf(last, state, key)

    return Readings(owner, _of_tree(last, state), _Leaves(tuple(last.leaves), of_leaf))


def _of_tree(last: LastStep, state: State) -> Numbers:
    found: dict[str, float] = {}
    different = set()
    for leaf in last.representatives():
        for name, number in {**last.hyperparameters(leaf), **last.readings(leaf, "tree")}.items():
            if repr(found.setdefault(name, number)) != repr(number):  # NaN is itself
                different.add(name)
    numbers = {name: float(number) for name, number in state.numbers.items()}
    return {name: number for name, number in found.items() if name not in different} | numbers


def _of_leaf(last: LastStep, state: State, key: str) -> Numbers:
    leaf = last.leaves[key]
    slots = state.leaves[key].slots if key in state.leaves else {}
    names = [name for name in of_tensors(leaf.program) if name in slots]
    return {
        **last.hyperparameters(leaf),
        **last.readings(leaf, "tree", "tensor"),
        **{name: float(slots[name]) for name in names},
        **{
            name: float(state.numbers[name])
            for name in of_tree(leaf.program)
            if name in state.numbers
        },
    }

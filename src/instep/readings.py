"""What a step has computed anyway, to be read."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager

from instep.graph.numbers import of_tensors, of_tree
from instep.plan.last import LastStep
from instep.state import State

#: The numbers of a leaf, or of the tree, by name.
Numbers = Mapping[str, float]


class Readings(Mapping[str, float]):
    """Numbers of the last step by name: those of the tree, and those that all its leaves share.

    In a chain and a partition a name begins with that of its rule, ``"Adam_lr"``. Where one rule
    alone has a number of such a name, ``"lr"`` will do.

    Attributes
    ----------
    leaves : Mapping
        The numbers of each leaf that took the step, those of the tree too, by its path. They can be
        read until the next step.
    """

    def __init__(
        self,
        owner: str,
        of_tree: Numbers,
        leaves: Mapping[str, Numbers],
        prefixes: Collection[str] = (),
    ) -> None:
        self._owner, self._of_tree, self._prefixes = owner, of_tree, prefixes
        self.leaves: Mapping[str, Numbers] = leaves

    def __getitem__(self, name: str) -> float:
        if name in self._of_tree:
            return self._of_tree[name]
        whole = self._with_rules(name)
        if len(whole) == 1:
            return self._of_tree[whole[0]]
        raise KeyError(self._unknown(name, whole))

    def __contains__(self, name: object) -> bool:
        return name in self._of_tree or len(self._with_rules(name)) == 1

    def __iter__(self) -> Iterator[str]:
        return iter(self._of_tree)

    def __len__(self) -> int:
        return len(self._of_tree)

    def __repr__(self) -> str:
        return f"Readings({dict(self)!r})"

    def _with_rules(self, name: object) -> list[str]:
        """Return the names that end so, behind that of a rule."""
        names = (f"{prefix}{name}" for prefix in self._prefixes)
        return [whole for whole in names if whole in self._of_tree]

    def _unknown(self, name: str, whole: list[str]) -> str:
        if whole:
            return (
                f"{self._owner}.readings: {name!r} is of several rules; read {' or '.join(whole)}"
            )
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
    owner: str,
    state: State,
    turn: Callable[[], AbstractContextManager[object]],
    prefixes: Collection[str],
) -> Readings:
    """Return what can be read now of the last step; `turn` waits for steps of other threads.

    `prefixes` are what rules put before the names of their numbers.
    """
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

    leaves = _Leaves(tuple(last.leaves), of_leaf)
    return Readings(owner, _of_tree(last, state), leaves, prefixes)


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

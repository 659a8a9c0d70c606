"""Partitions: an optimizer for each part of a tree, all of which take one step together."""

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

from instep.choices import Complex, Engine, Overrides, Rounding, Selector, Selectors, StateDtype
from instep.compound import Compound, checking_names, compose
from instep.elsewhere import ATTRIBUTES
from instep.hyperparameters import is_same, source
from instep.optimizer import Optimizer
from instep.settings import is_selector
from instep.showing import Section, changed, sections
from instep.signatures import readable
from instep.transform import Transform

#: The settings of an optimizer, which in a partition are those of all.
_SETTINGS: Mapping[str, Any] = {
    "engine": "auto",
    "threads": None,
    "overrides": {},
    "frozen": (),
    "complex": "modulus",
    "rounding": None,
    "master": False,
    "state_dtype": None,
    "min_float8_size": 4096,
    "seed": 0,
}


class Partition(Compound):
    """What `partition` returns: an optimizer for each part of a tree, as one optimizer.

    It has the methods of every `Optimizer`. Hyperparameters are those of its `branches`.
    """

    def __init__(self, branches: Mapping[Selector, Optimizer], settings: Mapping[str, Any]) -> None:
        _check(branches)
        self._branches = dict(branches)
        given = {k: x if settings[k] is None else settings[k] for k, x in _SETTINGS.items()}
        super().__init__(compose((), self._branches, (), is_partition=True), given)

    @property
    def branches(self) -> Mapping[Selector, Optimizer]:
        """The optimizers, by what chooses their parts of the tree."""
        return MappingProxyType(self._branches)

    def _as_source(self) -> str:
        settings = [f", {name}={value}" for name, value in self._shown_settings()]
        return f"partition({source(self._branches)}{''.join(settings)})"

    def _shown_settings(self) -> list[tuple[str, str]]:
        return changed(self, _SETTINGS, _SETTINGS)

    def _shown_sections(self) -> list[Section]:
        own = self._shown_settings()
        found = [
            (f"{selector!r}: {title}", values)
            for selector, rule in self._branches.items()
            for title, values in sections(rule)
        ]
        return [*found, (self.name, own)] if own else found

    def __getattr__(self, name: str) -> Any:
        if name in ("scale", *ATTRIBUTES) or name.startswith("_"):
            raise self._unknown(name)
        rest = where_to_set(self._branches, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}; it has {rest}")

    def _remedy(self, name: str, given: Any = None) -> str:
        if any(hasattr(rule, name) for rule in self._branches.values()):
            return f"it has {where_to_set(self._branches, name)}"
        return super()._remedy(name, given)

    def _names_to_set(self) -> str:
        return where_to_set(self._branches, "lr")

    def __copy__(self) -> Self:
        new = super().__copy__()
        branches = {selector: copy.copy(rule) for selector, rule in self._branches.items()}
        structure = compose((), branches, (), is_partition=True)
        new.__dict__.update(_branches=branches, _structure=structure)
        return new


def where_to_set(branches: Mapping[Selector, Optimizer], name: str) -> str:
    """Say where hyperparameters of a partition are, for messages."""
    having = (selector for selector, rule in branches.items() if hasattr(rule, name))
    selector = next(having, next(iter(branches)))
    return f"those of its branches: write optimizer.branches[{selector!r}].{name}"


@checking_names
@readable
def partition(
    branches: Mapping[Selector, Optimizer] | Mapping[Any, Optimizer],
    *,
    engine: Engine = "auto",
    threads: int | None = None,
    overrides: Overrides | None = None,
    frozen: Selectors = (),
    complex: Complex = "modulus",  # noqa: A002 - as the setting of every optimizer
    rounding: Rounding = None,
    master: bool = False,
    state_dtype: StateDtype = None,
    min_float8_size: int = 4096,
    seed: int = 0,
) -> Partition:
    """Give each part of a tree an optimizer of its own, and step them all as one.

    Every leaf is updated by the first optimizer that chooses it. A step is whole for all of them,
    or not taken at all. In a `chain`, transforms before and after a partition are for all leaves:
    what is summed over the tree before it, such as the norm of `clip_by_global_norm`, is summed
    over all parts.

    Parameters
    ----------
    branches
        Optimizers, or chains of one, by what chooses their leaves: patterns of paths, as in the
        module `fnmatch`, or functions of path and array. The first that matches decides.
    engine, threads, overrides, frozen, complex, rounding, seed
        As for `Optimizer`, for all branches. In `overrides`, a name is that of a hyperparameter of
        the optimizer that updates the leaf, and is for those optimizers that have it.
    master, state_dtype, min_float8_size
        The same, of how parameters and state are kept.

    Returns
    -------
    An optimizer, with the same `update(params, grads)`. Hyperparameters are set in its attribute
    `branches`: ``optimizer.branches["*"].lr = 0.1``.

    Raises
    ------
    TypeError, ValueError
        If something else is given; from `update`, if a leaf is chosen by nothing, or if something
        chooses no leaf.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, partition
    >>> optimizer = partition({"hidden": SGD(lr=1.0), "*": SGD(lr=0.5)})
    >>> params = {"hidden": np.zeros(1), "output": np.zeros(1)}
    >>> optimizer.update(params, {"hidden": np.ones(1), "output": np.ones(1)})
    {'hidden': array([-1.]), 'output': array([-0.5])}
    """
    given = engine, threads, overrides, frozen, complex, rounding, master, state_dtype
    settings = dict(zip(_SETTINGS, (*given, min_float8_size, seed), strict=True))
    return Partition(branches, settings)


def _check(branches: Any) -> None:
    """Raise unless these can be the branches of a partition."""
    if not isinstance(branches, Mapping) or not branches or not all(map(is_selector, branches)):
        raise TypeError(
            f"partition: give a dict of optimizers by path patterns, or by functions of path and "
            f'array, such as {{"hidden/*": Muon(), "*": AdamW()}}, got {branches!r}'
        )
    for selector, rule in branches.items():
        where = f"partition: {rule!r}, for {selector!r},"
        if isinstance(rule, type):
            raise TypeError(f"partition: {rule.__name__} is a class; write {rule.__name__}(...)")
        if isinstance(rule, Transform):
            raise TypeError(
                f"{where} is a transform; put it before the partition in a chain, or into a chain "
                f"with an optimizer, here"
            )
        if not isinstance(rule, Optimizer) or isinstance(rule.main, Partition):
            raise TypeError(f"{where} is no optimizer, and no chain of one, as a branch must be")
        if sum(other is rule for other in branches.values()) > 1:
            raise ValueError(f"{where} stands in two branches; make two, or choose both at once")
        if rule.t:
            raise ValueError(
                f"{where} has taken {rule.t} steps, of which a partition would know nothing; give "
                f"one that has taken none"
            )
        for name, default in _SETTINGS.items():
            if not is_same(getattr(rule, name), default):
                raise ValueError(
                    f"{where} has a setting of its own, {name}; give it to the partition, as in "
                    f"partition(..., {name}={source(getattr(rule, name))})"
                )

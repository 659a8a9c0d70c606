"""Chains: transforms and one optimizer as one rule, which runs in the fewest passes."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Self

from instep.choices import Complex, Engine, Overrides, Rounding, Selector, Selectors, StateDtype
from instep.compound import Compound, checking_names, compose
from instep.optimizer import Optimizer
from instep.orders import check_order
from instep.partitions import Partition, where_to_set
from instep.rule import Rule
from instep.showing import Section, changed, sections
from instep.signatures import readable
from instep.transform import Transform

#: The settings of an optimizer, which in a chain are those of the chain.
_SETTINGS = (
    *("engine", "threads", "overrides", "frozen", "complex", "rounding", "master", "state_dtype"),
    *("min_float8_size", "seed"),
)


class Chain(Compound):
    """What `chain` returns: transforms and one optimizer, applied in order as a single rule.

    It has the methods of every `Optimizer`, the hyperparameters of the optimizer in it as its
    attributes, those of transforms by the names that they have in `overrides`, such as
    ``weight_decay_rate``, and what its transforms are asked for.
    """

    _is_outermost = True

    def __init__(self, *rules: Rule, **given: Any) -> None:
        self.__dict__.update(_composed(rules))
        main = self._main
        settings = {
            name: getattr(main, name) if given.get(name) is None else given[name]
            for name in _SETTINGS
        }
        super().__init__(self._structure, settings)

    @property
    def main(self) -> Optimizer:
        main: Optimizer = self._main
        return main

    def _as_source(self) -> str:
        parts = [repr(rule) for rule in self._rules]
        settings = [f"{name}={value}" for name, value in self._shown_settings()]
        return f"chain({', '.join(parts + settings)})"

    def _shown_settings(self) -> list[tuple[str, str]]:
        return changed(self, vars(self._main), _SETTINGS)

    def _shown_sections(self) -> list[Section]:
        own = self._shown_settings()
        found = [section for rule in self._rules for section in sections(rule)]
        return [*found, (self.name, own)] if own else found

    def __getattr__(self, name: str) -> Any:
        # Hyperparameters are read as if they were the chain's, and so are the branches of a
        # partition.
        main = None if name.startswith("_") else self.__dict__.get("_main")
        if main is not None:
            if any(entry.name == name for entry in main.hyperparameters):
                return getattr(main, name)
            if (found := self._settable().get(name)) is not None:
                return getattr(*found)
        if isinstance(main, Partition):
            return getattr(main, name)
        raise self._unknown(name)

    def _settable(self) -> dict[str, tuple[Rule, str]]:
        """Return the rules that have hyperparameters, and what these are called there, by name."""
        main = self._main
        found = {
            prefix + entry.name: (rule, entry.name)
            for prefix, rule in self.parts.items()
            if rule is not main and any(rule is other for other in self._rules)
            for entry in rule.hyperparameters
        }
        return {entry.name: (main, entry.name) for entry in main.hyperparameters} | found

    def _remedy(self, name: str, given: Any = None) -> str:
        main: Optimizer = self._main
        known = self._settable()
        if meant := [full for full, (_, own) in known.items() if own == name]:
            return f"write {' or '.join(f'optimizer.{full}' for full in meant)}"
        if meant := [full for full in known if full.startswith(f"{name}_")]:
            return f"it has {', '.join(meant)}"
        return main._remedy(name, given)  # noqa: SLF001  (its own)

    def _names_to_set(self) -> str:
        main = self._main
        if isinstance(main, Partition):
            own = where_to_set(main.branches, "lr")
            return f"{', '.join(self._settable())}, and {own}" if self._settable() else own
        return ", ".join(self._settable()) or "none"

    def __dir__(self) -> list[str]:
        beside = ["branches"] if isinstance(self._main, Partition) else []
        return [*super().__dir__(), *self._settable(), *beside]

    def __copy__(self) -> Self:
        new = super().__copy__()
        new.__dict__.update(_composed([copy.copy(rule) for rule in self._rules]))
        return new

    def __setattr__(self, name: str, value: Any) -> None:
        main = None if name.startswith("_") else self.__dict__.get("_main")
        found = None
        if main is not None and not any(entry.name == name for entry in main.hyperparameters):
            found, main = self._settable().get(name), None
        if main is not None:
            setattr(main, name, value)
        elif found is not None:
            setattr(*found, value)
        else:
            super().__setattr__(name, value)


@checking_names
@readable
def chain(
    *rules: Rule,
    engine: Engine | None = None,
    threads: int | None = None,
    overrides: Overrides | None = None,
    frozen: Selectors | None = None,
    complex: Complex | None = None,  # noqa: A002 - as the setting of every optimizer
    rounding: Rounding = None,
    master: bool | None = None,
    state_dtype: StateDtype = None,
    min_float8_size: int | None = None,
    seed: int | None = None,
) -> Chain:
    """Compose transforms and one optimizer into one optimizer, which takes the fewest passes.

    Transforms of the gradient stand before the optimizer, after it those of the step, then those
    of the parameter; the order is the order of application. The whole composition is one rule:
    one pass over memory if it is elementwise, two if a norm is needed first.

    Parameters
    ----------
    *rules
        Transforms and exactly one optimizer.
    engine, threads, overrides, frozen, complex, rounding, seed
        As for `Optimizer`; by default those of the optimizer in the chain. From then on they are
        attributes of the chain, and those of the optimizer in it are not looked at.
        In `overrides`, hyperparameters of the optimizer have their own names, and those of
        transforms the name of the transform before it: ``weight_decay_rate`` is the `rate` of
        `weight_decay`, ``weight_decay2_rate`` that of a second one.
    master, state_dtype, min_float8_size
        The same, of how parameters and state are kept.

    Returns
    -------
    An optimizer, with the same `update(params, grads)`. Hyperparameters are its attributes, by the
    names that they have in `overrides`. It begins at ``t = 0`` with state of its own: steps that
    the optimizer in it has taken alone are not carried over, and `load_state_dict` takes the state
    of a chain of the same rules. A transform that is to act later stands in it from the start, with
    a schedule or a rate that is set then.

    Raises
    ------
    TypeError, ValueError
        If something else is given, or in an order that makes no sense.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import SGD, chain
    >>> from instep.transforms import clip_by_global_norm
    >>> optimizer = chain(clip_by_global_norm(1.0), SGD(lr=1.0))
    >>> optimizer.update([np.zeros(1), np.zeros(1)], [np.array([3.0]), np.array([4.0])])
    [array([-0.6]), array([-0.8])]
    """
    given = engine, threads, overrides, frozen, complex, rounding, master, state_dtype
    return Chain(*rules, **dict(zip(_SETTINGS, (*given, min_float8_size, seed), strict=True)))


def _composed(rules: Sequence[Rule]) -> dict[str, Any]:
    """Return what a chain has of its rules, by the names of its attributes."""
    main = _main_of(rules)
    place = rules.index(main)
    before, after = rules[:place], rules[place + 1 :]
    branches: Mapping[Selector, Optimizer] = {"*": main}
    if isinstance(main, Partition):
        branches = main.branches
    for branch in branches.values():
        own = list(branch.parts.values())
        check_order([*before, *own, *after], len(before) + own.index(branch.main))
    is_partition = isinstance(main, Partition)
    structure = compose(before, branches, after, is_partition=is_partition)
    return {"_rules": rules, "_main": main, "_structure": structure}


def _main_of(rules: Sequence[Rule]) -> Optimizer:
    """Return the optimizer among `rules`, or raise."""
    for rule in rules:
        if isinstance(rule, type):
            raise TypeError(f"chain: {rule.__name__} is a class; write {rule.__name__}(...)")
        if isinstance(rule, list | tuple):
            raise TypeError(
                f"chain: got a {type(rule).__name__} of parts; give them one by one, chain(*parts)"
            )
        if not isinstance(rule, Transform | Optimizer):
            what = ", or a class derived from Transform" if callable(rule) else ""
            raise TypeError(
                f"chain: {rule!r} is neither a transform nor an optimizer; give transforms, such "
                f"as clip_by_global_norm(1.0){what}, and one optimizer, such as Adam()"
            )
        if isinstance(rule, Optimizer) and rule.main is not rule:
            raise TypeError(
                f"chain: {rule!r} is a chain; give transforms and one optimizer, not a chain"
            )
    found = [i for i, rule in enumerate(rules) if isinstance(rule, Optimizer)]
    if len(found) != 1:
        raise ValueError(f"chain: give exactly one optimizer, got {len(found)}")
    main = rules[found[0]]
    assert isinstance(main, Optimizer)
    return main

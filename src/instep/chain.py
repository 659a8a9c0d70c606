"""Chains: transforms and one optimizer as one rule, which runs in the fewest passes."""

from collections.abc import Mapping
from typing import Any

from instep import arrays, tree
from instep.optimizer import Optimizer
from instep.rule import Rule
from instep.transform import Transform
from instep.transforms.averaging import average


class Chain(Optimizer):
    """Transforms and one optimizer, applied in order as a single rule. See `chain`."""

    def __init__(self, *rules: Rule, engine: str | None = None, threads: int | None = None) -> None:
        main = _check_order(rules)
        self._rules = _name_parts(rules)
        self._main = main
        self._swapped: list[Any] | None = None
        self.engine = main.engine if engine is None else engine
        self.threads = main.threads if threads is None else threads
        self.overrides = main.overrides
        self.frozen = main.frozen
        self.__post_init__()

    @property
    def main(self) -> Optimizer:
        return self._main

    @property
    def parts(self) -> Mapping[str, Rule]:
        return self._rules

    def rule(self, xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        """Apply the parts in order."""
        slots: dict[str, Any] = {}
        for prefix, rule in self._rules.items():
            own = (s.part(rule.name, prefix), h.part(rule.name, prefix))
            if isinstance(rule, Transform) and rule.stage == "gradient":
                g, new = rule.rule(xp, w, g, *own)
            else:
                w, new = rule.rule(xp, w, g, *own)
            slots |= {prefix + name: value for name, value in new.items()}
            if g is None:
                break
        return w, slots

    def __repr__(self) -> str:
        return f"chain({', '.join(repr(rule) for rule in self._rules.values())})"

    def __getattr__(self, name: str) -> Any:
        # Hyperparameters of the optimizer in the chain are read as if they were the chain's.
        main = self.__dict__.get("_main")
        if main is not None and any(entry.name == name for entry in main._hyperparameters):
            return getattr(main, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        main = self.__dict__.get("_main")
        if main is not None and any(entry.name == name for entry in main._hyperparameters):
            setattr(main, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def skipped(self) -> int:
        """Number of calls that `skip_nonfinite` turned away."""
        return self._skipped

    def update(self, params: Any, grads: Any) -> Any:
        if self._swapped is not None:
            raise RuntimeError(
                f"{self.name}.update: the averages are swapped in; call swap_averaged(params) "
                f"once more before the next step"
            )
        return super().update(params, grads)

    def averaged(self, params: Any) -> Any:
        """Return a tree of new arrays: the running averages of `params`.

        Leaves that no step has touched are copied as they are.
        """
        prefix = self._average()

        def mean(path: tree.Path, w: Any) -> Any:
            state = self._states.get(tree.join_path(path))
            weight = state.scalars.get(f"{prefix}weight") if state is not None else None
            if state is None or not weight:
                return arrays.converted(w, w)
            return arrays.converted(state.slots[f"{prefix}average"] / weight, w)

        return tree.mapped(mean, params)

    def swap_averaged(self, params: Any) -> Any:
        """Exchange `params` for their averages, in place; called again, exchange them back.

        Returns the tree, as `update` does. Between the two calls `update` is an error.
        """
        if self._swapped is None:
            new = [leaf for _, leaf in tree.flatten(self.averaged(params))]
            self._swapped = [arrays.converted(w, w) for _, w in tree.flatten(params)]
        else:
            new, self._swapped = self._swapped, None
        leaves = [w for _, w in tree.flatten(params)]
        if len(leaves) != len(new):
            raise ValueError(f"{self.name}.swap_averaged: params is not the tree of the first call")
        return tree.rebuild(params, list(map(arrays.assigned, leaves, new)))

    def _average(self) -> str:
        for prefix, rule in self._rules.items():
            if isinstance(rule, average):
                return prefix
        raise ValueError(f"{self!r} keeps no averages; put average(decay) at its end")


def chain(*rules: Rule, engine: str | None = None, threads: int | None = None) -> Chain:
    """Compose transforms and one optimizer into one optimizer, which takes the fewest passes.

    Transforms of the gradient stand before the optimizer and transforms of the parameter after
    it; the order is the order of application. The whole composition is one rule: one pass over
    memory if it is elementwise, two if a norm is needed first.

    Parameters
    ----------
    *rules
        Transforms and exactly one optimizer.
    engine, threads
        As for `Optimizer`; by default those of the optimizer in the chain.

    Returns
    -------
    An optimizer, with the same `update(params, grads)`. Hyperparameters of the optimizer in the
    chain are its attributes.

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
    return Chain(*rules, engine=engine, threads=threads)


def _check_order(rules: tuple[Rule, ...]) -> Optimizer:
    """Return the optimizer among `rules`, or raise."""
    for rule in rules:
        if isinstance(rule, type):
            raise TypeError(f"chain: {rule.__name__} is a class; write {rule.__name__}(...)")
        if not isinstance(rule, Transform | Optimizer) or isinstance(rule, Chain):
            raise TypeError(
                f"chain: {rule!r} is neither a transform nor an optimizer of its own; give "
                f"transforms and one optimizer, not a chain"
            )
    found = [i for i, rule in enumerate(rules) if isinstance(rule, Optimizer)]
    if len(found) != 1:
        raise ValueError(f"chain: give exactly one optimizer, got {len(found)}")
    for i, rule in enumerate(rules):
        if isinstance(rule, Transform):
            if rule.stage == "gradient" and i > found[0]:
                raise ValueError(
                    f"chain: {rule.name} works on gradients, which {rules[found[0]].name} has "
                    f"used by then; put it before the optimizer"
                )
            if rule.stage == "parameter" and i < found[0]:
                raise ValueError(
                    f"chain: {rule.name} works on the parameters after the step; put it after "
                    f"{rules[found[0]].name}"
                )
    main = rules[found[0]]
    assert isinstance(main, Optimizer)
    return main


def _name_parts(rules: tuple[Rule, ...]) -> dict[str, Rule]:
    """Return the rules by prefixes that are unique: the name, with a number if it is repeated."""
    names = [rule.name for rule in rules]
    parts = {}
    for i, rule in enumerate(rules):
        number = names[:i].count(rule.name) + 1
        parts[f"{rule.name}_" if number == 1 else f"{rule.name}{number}_"] = rule
    return parts

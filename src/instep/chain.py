"""Chains: transforms and one optimizer as one rule, which runs in the fewest passes."""

import copy
from collections.abc import Mapping
from typing import Any

from instep import arrays, tree, validation
from instep.graph.trace import check_result
from instep.interrupts import HeldInterrupts
from instep.optimizer import LeafState, Optimizer
from instep.rule import Rule
from instep.transform import Transform
from instep.transforms.averaging import average


class Chain(Optimizer):
    """Transforms and one optimizer, applied in order as a single rule. See `chain`."""

    def __init__(self, *rules: Rule, engine: str | None = None, threads: int | None = None) -> None:
        main = _check_order(rules)
        self._rules = _name_parts(rules)
        self._main = main
        self._swapped: dict[str, Any] | None = None  # the parameters, while averages stand there
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
            own_s, own_h = s.part(rule.name, prefix), h.part(rule.name, prefix)
            result = rule.rule(xp, w, g, own_s, own_h)
            value, new = check_result(rule.name, result, rule.state_slots())
            slots |= {prefix + name: slot for name, slot in new.items()}
            if not isinstance(rule, Transform) or rule.stage == "parameter":
                w = value
            elif value is not None:
                g = value
            elif "complete" in own_h and not own_h.complete:
                break
            else:
                raise TypeError(
                    f"{rule.name}.rule returned None for the gradient in a call that `scalars` "
                    f"does not call incomplete; see the documentation of the class Transform"
                )
        return w, slots

    def __repr__(self) -> str:
        parts = [repr(rule) for rule in self._rules.values()]
        settings = [
            f"{name}={getattr(self, name)!r}"
            for name in ("engine", "threads", "overrides", "frozen")
            if getattr(self, name) != getattr(self._main, name)
        ]
        return f"chain({', '.join(parts + settings)})"

    def __getattr__(self, name: str) -> Any:
        # Hyperparameters of the optimizer in the chain are read as if they were the chain's, and
        # so are the methods that it adds to those of all optimizers. They get its state.
        main = self.__dict__.get("_main")
        if main is not None and any(entry.name == name for entry in main._hyperparameters):
            return getattr(main, name)
        if main is not None and not name.startswith("_") and callable(getattr(main, name, None)):
            main = copy.copy(main)
            main._states, main._t = self._states_of_main(), self.t
            return getattr(main, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _states_of_main(self) -> dict[str, LeafState]:
        """Return the state without the names of the chain's parts."""
        prefix = next(prefix for prefix, rule in self._rules.items() if rule is self._main)

        def own(values: Mapping[str, Any]) -> dict[str, Any]:
            return {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}

        return {
            key: LeafState(own(state.slots), state.missed, own(state.scalars))
            for key, state in self._states.items()
        }

    def __setattr__(self, name: str, value: Any) -> None:
        main = self.__dict__.get("_main")
        if main is not None and any(entry.name == name for entry in main._hyperparameters):
            setattr(main, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def skipped(self) -> int:
        """Number of calls that `skip_nonfinite` turned away. On a GPU, this waits for it."""
        self._settle()
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
        self._settle()

        def mean(path: tree.Path, w: Any) -> Any:
            state = self._states.get(tree.join_path(path))
            weight = state.scalars.get(f"{prefix}weight") if state is not None else None
            if state is None or not weight:
                return arrays.converted(w, w)
            total = state.slots[f"{prefix}average"]
            if tuple(total.shape) != tuple(w.shape):
                raise ValueError(
                    f"{self.name}.averaged: {tree.format_path('params', path)} is "
                    f"{arrays.describe(w)}, but its average has shape {tuple(total.shape)}"
                )
            return arrays.converted(total / weight, w)

        return tree.mapped(mean, params)

    def swap_averaged(self, params: Any) -> Any:
        """Exchange `params` for their averages, in place; called again, exchange them back.

        Returns the tree, as `update` does. Between the two calls `update` is an error.
        """
        leaves = validation.parameters(self.name, params)
        if self._swapped is None:
            new = [leaf for _, leaf in tree.flatten(self.averaged(params))]
            kept = {leaf.key: arrays.converted(leaf.parameter, leaf.parameter) for leaf in leaves}
        else:
            new, kept = [self._swapped.get(leaf.key) for leaf in leaves], None
            if len(new) != len(self._swapped) or not all(
                x is not None and tuple(x.shape) == tuple(leaf.parameter.shape)
                for x, leaf in zip(new, leaves, strict=True)
            ):
                raise ValueError(
                    f"{self.name}.swap_averaged: params is not the tree of the first call, whose "
                    f"values would be put back; call it with that tree"
                )
        with HeldInterrupts():
            swapped = [
                arrays.assigned(leaf.parameter, x) for leaf, x in zip(leaves, new, strict=True)
            ]
            self._swapped = kept
        return tree.rebuild(params, swapped)

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
    parts: dict[str, Rule] = {}
    for rule in rules:
        prefix, number = f"{rule.name}_", 1
        while prefix in parts:
            number += 1
            prefix = f"{rule.name}{number}_"
        parts[prefix] = rule
    return parts

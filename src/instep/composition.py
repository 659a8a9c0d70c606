"""Chains: transforms and one optimizer as one rule, which runs in the fewest passes."""

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from instep import arrays, tree
from instep import averages as means
from instep.graph.trace import check_result
from instep.interrupts import finish, require_frames
from instep.optimizer import LeafState, Optimizer, Overrides
from instep.parts import AfterGathering, check_order, gathers, name_parts
from instep.plan import validation
from instep.rule import Rule
from instep.transform import Transform
from instep.transforms.averaging import average


@dataclass(frozen=True)
class _Swapped:
    """The parameters by their keys, while an average of them stands in their place."""

    average: str
    keys: Sequence[str]  # of all leaves of the tree
    parameters: Mapping[str, Any]


class _Mean(Optimizer):
    """What an average stands for: the sum of weighted parameters, divided by the weights."""

    slots = ("total",)
    scalar_slots: ClassVar[Mapping[str, float]] = {"weight": 1.0}

    @staticmethod
    def scalars(h: Any) -> Mapping[str, float | bool]:
        return {"weight": h.weight}

    @staticmethod
    def rule(xp: Any, w: Any, g: Any, s: Any, h: Any) -> Any:
        return s.total / h.weight, {}


class Chain(Optimizer):
    """What `chain` returns: transforms and one optimizer, applied in order as a single rule.

    It has the methods of every `Optimizer`, the hyperparameters of the optimizer in it as its
    attributes, and what its transforms are asked for.
    """

    def __init__(
        self,
        *rules: Rule,
        engine: str | None = None,
        threads: int | None = None,
        overrides: Overrides | None = None,
        frozen: Sequence[str] | None = None,
    ) -> None:
        main = check_order(rules)
        self._rules = name_parts(rules)
        self._main = main
        self._swapped: _Swapped | None = None
        self.engine = main.engine if engine is None else engine
        self.threads = main.threads if threads is None else threads
        self.overrides = main.overrides if overrides is None else overrides
        self.frozen = main.frozen if frozen is None else frozen
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
        gatherer: Rule | None = None
        for prefix, rule in self._rules.items():
            own_s, own_h = s.part(rule.name, prefix), h.part(rule.name, prefix)
            own_xp = xp if gatherer is None else AfterGathering(xp, rule, gatherer)
            result = rule.rule(own_xp, w, g, own_s, own_h)
            value, new = check_result(rule.name, result, rule.state_slots())
            slots |= {prefix + name: slot for name, slot in new.items()}
            if not isinstance(rule, Transform) or rule.stage == "parameter":
                w = value
                continue
            gatherer = rule if gathers(rule) else gatherer
            if value is not None:
                g = value
            elif gathers(rule) and "complete" in own_h and not own_h.complete:
                break
            else:
                raise TypeError(
                    f"{rule.name}.rule returned None for the gradient, but has no attribute "
                    f"`period`, or in a call that `scalars` does not call incomplete; see the "
                    f"documentation of the class Transform"
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

            def method(*arguments: Any, **keywords: Any) -> Any:
                with self._exclusive(name):
                    main = copy.copy(self._main)
                    main._states, main._t = self._states_of_main(), self.t
                    return getattr(main, name)(*arguments, **keywords)

            return functools.wraps(getattr(main, name))(method)
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

    def _names_to_set(self) -> str:
        transforms = ", ".join(rule.name for rule in self._rules.values() if rule is not self._main)
        rest = f"; those of {transforms} are set on the transforms themselves" if transforms else ""
        return f"{self._main._names_to_set()}{rest}"

    def __copy__(self) -> Self:
        new = super().__copy__()
        parts = {prefix: copy.copy(rule) for prefix, rule in self._rules.items()}
        (main,) = (rule for rule in parts.values() if isinstance(rule, Optimizer))
        new.__dict__.update(_rules=parts, _main=main)
        return new

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

    def _start(self) -> dict[str, Any]:
        return {**super()._start(), "_swapped": None}

    def _check_ready(self, call: str) -> None:
        if self._swapped is not None:
            raise RuntimeError(
                f"{self.name}.{call}: the averages are swapped in, so that params are not the "
                f"parameters; call swap_averaged(params) once more before"
            )

    def averaged(self, params: Any, *, which: int | None = None) -> Any:
        """Return a tree of new arrays: the running averages of `params`.

        Leaves that no step has touched are copied as they are.

        Parameters
        ----------
        params
            The tree of parameters.
        which
            Number of the average among those of the chain, from 0, where there are several.

        Raises
        ------
        ValueError
            If there is no such average, or if `params` has other shapes.
        """
        with self._exclusive("averaged"):
            return self._averaged(params, which)

    def _averaged(self, params: Any, which: int | None) -> Any:
        prefix = self._average("averaged", which)
        self._settle()
        states = {
            key: LeafState(
                {"total": state.slots[f"{prefix}average"]},
                scalars={"weight": state.scalars[f"{prefix}weight"]},
            )
            for key, state in self._states.items()
            if state.scalars.get(f"{prefix}weight")
        }
        return means.evaluate(f"{self.name}.averaged", _Mean(threads=self.threads), params, states)

    def swap_averaged(self, params: Any, *, which: int | None = None) -> Any:
        """Exchange `params` for their averages, in place; called again, exchange them back.

        Between the two calls `update` and `state_dict` are errors, and `reset` and
        `load_state_dict` forget the parameters that wait to be put back.

        Parameters
        ----------
        params
            The tree of parameters.
        which
            As for `averaged`; the second call does not need it.

        Returns
        -------
        The tree, as `update` does.

        Raises
        ------
        ValueError
            If there is no such average, or if the second call is given another tree: other
            keys, shapes, dtypes, libraries or devices. Nothing is changed then.
        """
        with self._exclusive("swap_averaged"):
            return self._swap(params, which)

    def _swap(self, params: Any, which: int | None) -> Any:
        everything = validation.unchecked(f"{self.name}.swap_averaged", params)
        keys = [leaf.key for leaf in everything]
        # What no step has touched, frozen leaves of any kind among them, is its own average.
        leaves = [leaf for leaf in everything if leaf.key in self._states]
        validation.check_parameters(self.name, leaves, "swap_averaged")
        if self._swapped is None:
            average = self._average("swap_averaged", which)
            means = [leaf for _, leaf in tree.flatten(self._averaged(params, which))]
            new = [means[leaf.position] for leaf in leaves]
            kept = {leaf.key: arrays.converted(leaf.parameter, leaf.parameter) for leaf in leaves}
            after = _Swapped(average, keys, kept)
        else:
            new, after = self._parameters_back(self._swapped, keys, leaves, which), None
        swapped = [leaf.parameter for leaf in everything]

        def swap() -> Any:  # called again, it writes the same again
            for leaf, x in zip(leaves, new, strict=True):
                swapped[leaf.position] = arrays.assigned(leaf.parameter, x)
            self._swapped = after
            return tree.rebuild(params, swapped)

        require_frames()
        return finish(swap)

    def _parameters_back(
        self,
        swapped: _Swapped,
        keys: Sequence[str],
        leaves: Sequence[validation.Leaf],
        which: int | None,
    ) -> list[Any]:
        """Return the parameters that the first call of `swap_averaged` has kept, or raise."""
        kept = swapped.parameters
        where = f"{self.name}.swap_averaged"
        if which is not None and self._average("swap_averaged", which) != swapped.average:
            raise ValueError(
                f"{where}: another average than {which} is swapped in; call swap_averaged(params) "
                f"once more before"
            )
        remedy = "give the tree of the first call, whose values are put back"
        if set(keys) != set(swapped.keys):
            raise ValueError(
                f"{where}: params has the leaves {keys}, and had {swapped.keys} in the first call; "
                f"{remedy}"
            )
        for leaf in leaves:
            now, before = arrays.describe(leaf.parameter), arrays.describe(kept[leaf.key])
            if now != before:
                raise ValueError(
                    f"{where}: {tree.format_path('params', leaf.path)} is {now}, and was {before} "
                    f"in the first call; {remedy}"
                )
        return [kept[leaf.key] for leaf in leaves]

    def _average(self, call: str, which: int | None) -> str:
        """Return the prefix of an average: of the only one, if `which` does not say."""
        found = {prefix: rule for prefix, rule in self._rules.items() if isinstance(rule, average)}
        if not found:
            raise ValueError(
                f"{self.name}.{call}: {self!r} keeps no averages; put average(decay) at its end"
            )
        if which is None and len(found) == 1:
            which = 0
        if not isinstance(which, int) or which not in range(len(found)):
            numbers = ", ".join(f"{i} for {rule!r}" for i, rule in enumerate(found.values()))
            raise ValueError(
                f"{self.name}.{call}: which must say which average, {numbers}; got {which!r}"
            )
        return list(found)[which]


def chain(
    *rules: Rule,
    engine: str | None = None,
    threads: int | None = None,
    overrides: Overrides | None = None,
    frozen: Sequence[str] | None = None,
) -> Chain:
    """Compose transforms and one optimizer into one optimizer, which takes the fewest passes.

    Transforms of the gradient stand before the optimizer and transforms of the parameter after
    it; the order is the order of application. The whole composition is one rule: one pass over
    memory if it is elementwise, two if a norm is needed first.

    Parameters
    ----------
    *rules
        Transforms and exactly one optimizer.
    engine, threads, overrides, frozen
        As for `Optimizer`; by default those of the optimizer in the chain. From then on they are
        attributes of the chain, and those of the optimizer in it are not looked at.
        In `overrides`, hyperparameters of the optimizer have their own names, and those of
        transforms the name of the transform before it: ``weight_decay_rate`` is the `rate` of
        `weight_decay`, ``weight_decay2_rate`` that of a second one.

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
    return Chain(*rules, engine=engine, threads=threads, overrides=overrides, frozen=frozen)

"""The answer of a rule: what to use in the place of parameters, most often a mean of their path.

Engines compute it, as the step of a rule: CuPy's own functions flush subnormal numbers, and what
the engines compute has the same bits everywhere.
"""

from collections.abc import Mapping
from functools import partial
from operator import setitem
from typing import Any

from instep import arrays, tree
from instep.answers import answering
from instep.graph.dtypes import COMPLEX, DTYPES, is_complex
from instep.interrupts import Call
from instep.plan import validation
from instep.plan.leaves import Leaf
from instep.plan.overlaps import check_overlaps
from instep.plan.step import Plan
from instep.rule import Rule
from instep.state import LeafState, Owner, State


class _Answer:
    """What makes the answer for a tree of parameters.

    Attributes
    ----------
    known
        The leaves that have an answer other than themselves, by their keys.
    """

    def __init__(
        self, owner: Owner, call: str, state: State, params: Any, which: int | None
    ) -> None:
        leaves = validation.unchecked(call, params)
        self._rules = [
            found
            for prefix, rule in _choose(owner, call, which)
            for found in answering(owner, call, state, leaves, prefix, rule)
        ]
        self._states = {key: leaf for _, own in self._rules for key, leaf in own.leaves.items()}
        self.known = {leaf.key: leaf for leaf in leaves if leaf.key in self._states}
        for leaf in self.known.values():
            validation.check_array(call, leaf.path, leaf.parameter)
            in_parts = owner.complex == "pairs" and arrays.is_complex(leaf.parameter)
            _check_shapes(call, leaf, self._states[leaf.key], (2,) if in_parts else ())

    def like(self, leaf: Leaf) -> Any:
        """Return an array of the dtype of the arithmetic: the parameter, if its state fits."""
        w = leaf.parameter
        dtypes = {arrays.dtype_name(slot) for slot in self._states[leaf.key].slots.values()}
        own = arrays.dtype_name(w)
        if own in DTYPES and dtypes <= {DTYPES[own].state, own if is_complex(own) else ""}:
            return w
        xp = arrays.namespace(w)
        widest = max(dtypes, key=lambda name: DTYPES[name].itemsize)  # complex, if there are such
        widest = COMPLEX.get(widest, widest) if arrays.is_complex(w) else widest
        return xp.empty((), dtype=getattr(xp, widest), device=arrays.namespace_device(w))

    def put(self, into: dict[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
        """Put the answer in the place of parameters, by their keys.

        `beside` are arrays of the same kind. A step takes them for gradients, which no answer
        reads.
        """
        new: dict[str, Any] = {}
        for rule, of_rule in self._rules:
            known = {key: of_rule.leaves[key] for key in into if key in of_rule.leaves}
            state = State(t=of_rule.t, leaves=known)
            own, own_beside = ({key: x[key] for key in state.leaves} for x in (into, beside))
            plan = Plan(rule, state, own, own_beside, value=None)
            try:
                new |= plan.step(rule, state, own)
            finally:
                plan.release()
        return new


def answer(owner: Owner, state: State, params: Any, which: int | None) -> Any:
    """Return a tree of new arrays like `params`. `Optimizer.answer` says more.

    Raises
    ------
    TypeError, ValueError
        If a leaf with an answer is no array that can be read, or has another shape than its state.
    """
    found = _Answer(owner, f"{owner.name}.answer", state, params, which)
    into, beside = {}, {}
    for key, leaf in found.known.items():
        w, like = leaf.parameter, found.like(leaf)
        into[key] = arrays.converted(w, like)
        plain = like is w and not getattr(w, "requires_grad", False)
        beside[key] = w if plain else arrays.converted(w, like)
    new = found.put(into, beside)

    def result(path: tree.Path, w: Any) -> Any:
        value = new.get(tree.join_path(path), w)
        if arrays.is_number(w) and value is not w:
            return arrays.number_of_type(type(w), value)
        if arrays.library(w) is None or (value is not w and value.dtype == w.dtype):
            return value
        return arrays.converted(value, w)

    return tree.mapped(result, params)


class Exchange:
    """Parameters that the answer takes the place of, and copies of them to be put back.

    Raises
    ------
    TypeError, ValueError
        If a leaf with an answer cannot be written, or has another shape than its state.
    """

    def __init__(self, owner: Owner, state: State, params: Any, which: int | None) -> None:
        call = f"{owner.name}.answer_in_place"
        self._answer = _Answer(owner, call, state, params, which)
        self._params, self._known = params, list(self._answer.known.values())
        validation.check_parameters(call, self._known)
        validation.check_replaced(call, params, self._known)
        for leaf in self._known:
            leaf.gradient = arrays.converted(leaf.parameter, leaf.parameter)  # what is kept
        check_overlaps(call, self._known)
        # Views can be written whatever the user sets on the arrays in the block.
        self._written = {
            leaf.key: arrays.view(leaf.parameter) for leaf in self._known if not leaf.is_replaced
        }
        self._places = [
            place
            for leaf in self._known
            if leaf.key not in self._written and (place := _place(params, leaf.path)) is not None
        ]

    def put(self) -> Any:
        """Put the answer in the place of the parameters; return the tree."""
        into, beside = {}, {}
        for leaf in self._known:
            w, like = leaf.parameter, self._answer.like(leaf)
            into[leaf.key] = w if like is w else arrays.converted(w, like)
            beside[leaf.key] = leaf.gradient if like is w else arrays.converted(w, like)
        new = self._answer.put(into, beside)
        leaves = [leaf for _, leaf in tree.flatten(self._params)]
        for leaf in self._known:
            w, value = leaf.parameter, new[leaf.key]
            if leaf.number is not None:
                leaves[leaf.position] = arrays.number_of_type(type(leaf.number), value)
            elif leaf.key not in self._written:
                leaves[leaf.position] = arrays.converted(value, w)
            elif value is not w:
                w[...] = arrays.converted(value, w)
        return tree.rebuild(self._params, leaves)

    def put_back(self) -> list[Call]:
        """Return the calls that put the parameters back; entries that are new are left alone."""
        return [
            *(
                partial(setitem, self._written[leaf.key], ..., leaf.gradient)
                for leaf in self._known
                if leaf.key in self._written
            ),
            *(partial(_restore, *place) for place in self._places),
        ]


def _place(params: Any, path: tree.Path) -> tuple[Any, Any, Any] | None:
    """Return the last container on a path that can be written, with the key and entry there."""
    found = None
    for key in path:
        entry = tree.entry(params, key)
        if tree.is_writable(params, key, entry):
            found = (params, key, entry)
        params = entry
    return found


def _restore(container: Any, key: Any, entry: Any) -> None:
    """Put an entry back, unless the list has become too short for it."""
    if tree.is_mapping(container) or key < len(container):
        container[key] = entry


def _choose(owner: Owner, call: str, which: int | None) -> list[tuple[str, Rule]]:
    """Return the rules that answer, with their prefixes: `which` says where a leaf has several."""
    found = [(prefix, rule) for prefix, rule in owner.parts.items() if rule.answer_rule is not None]
    most = max(
        sum(rule.answer_rule is not None for rule in composed.parts.values())
        for composed in owner.compositions.values()
    )
    if which is None and most <= 1:
        return found
    if not isinstance(which, int) or which not in range(len(found)):
        numbers = ", ".join(f"{i} for {rule!r}" for i, (_, rule) in enumerate(found))
        raise ValueError(
            f"{call}: which must say whose answer, {numbers}; got {which!r}"
            if found
            else f"{call}: no rule of {owner!r} has an answer of its own, got "
            f"which={which!r}; leave it out, or put average(decay) at the end of a chain"
        )
    return [found[which]]


def _check_shapes(call: str, leaf: Leaf, state: LeafState, more: tuple[int, ...]) -> None:
    w = leaf.parameter
    for slot in state.slots.values():
        if tuple(slot.shape) != (*w.shape, *more):
            raise ValueError(
                f"{call}: {tree.format_path('params', leaf.path)} is {arrays.describe(w)}, but its "
                f"average has shape {tuple(slot.shape)}"
            )

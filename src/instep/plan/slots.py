"""Buckets with the state of their leaves: from earlier steps, moved to where it is used, or new."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instep import arrays, engines
from instep.engines import Bucket, Engine
from instep.engines.base import Member
from instep.engines.codes import blocks_of, encoded, kept_as
from instep.graph.dtypes import is_complex
from instep.graph.kept import MASTER, Keeping
from instep.graph.numbers import first_values, of_tensors, of_tree
from instep.graph.program import Program
from instep.graph.remembered import PLACE
from instep.graph.rows import Row
from instep.plan.assignment import Assigned, Assignment
from instep.plan.leaves import Leaf
from instep.state import LeafState, Owner, State
from instep.tree import format_path
from instep.words import place_of


def buckets(
    given: Assignment, leaves: Sequence[Leaf], state: State, owner: Owner
) -> tuple[list[Bucket], dict[int, LeafState], dict[str, Any]]:
    """Return buckets, the states of the leaves by their numbers, and the numbers of the tree."""
    states: dict[int, LeafState] = {}
    numbers: dict[str, Any] = {}
    found = [_bucket(given, own, leaves, state, states, numbers, owner) for own in given.buckets]
    later: frozenset[str] = frozenset()
    for bucket, own in zip(found[::-1], given.buckets[::-1], strict=True):
        bucket.left_to_others, bucket.programs = later, given.programs
        later |= frozenset(of_tree(own.program))
    return found, states, numbers


def _bucket(
    given: Assignment,
    own: Assigned,
    leaves: Sequence[Leaf],
    state: State,
    states: dict[int, LeafState],
    numbers: dict[str, Any],
    owner: Owner,
) -> Bucket:
    """Return the bucket of leaves that one engine takes together.

    `states` is given what the leaves have now, by their numbers: the same state as from earlier
    steps, unless slots are new; and `numbers` those of the tree.
    """
    known = state.leaves
    engine, program = engines.load(own.engine), own.program
    chosen = [leaves[i] for i in own.members]
    varying = [given.arrays_of(i, leaves[i]) for i in own.members]
    found = _allocate(
        *(engine, program, chosen, [known.get(leaf.key) for leaf in chosen]),
        *([given.row(i) for i in own.members], varying),
    )
    between = _allocate_between(engine, program, chosen)
    rows = list({id(row): row for row in map(given.row, own.members)}.values())
    _place_numbers(engine, program, chosen, rows, state.numbers, numbers)
    members = []
    for i, leaf, slots, drafts, read in zip(
        own.members, chosen, found, between, varying, strict=True
    ):
        row, own_state = given.group_of[i], known.get(leaf.key)
        if (
            own_state is None
            or own_state.slots.keys() != slots.keys()
            or any(own_state.slots[name] is not x for name, x in slots.items())
        ):
            own_state = LeafState(slots, given.groups[row].history, owner.state_dtype)
        states[i] = own_state
        kept = own_state.slots
        if engine.fuses and (drafts or read):
            kept = kept | drafts | read
        remembered = {name: slots[name] for name in of_tensors(program)}
        remembered |= {name: numbers[name] for name in of_tree(program)}
        if PLACE in program.remembered:
            place = place_of(owner.seed, format_path("", leaf.path))
            remembered[PLACE] = engine.number(place, leaf.parameter)
        members.append(
            Member(leaf.position, row, leaf.parameter, leaf.gradient, kept, read, remembered)
        )
    return engine.bucket(program, members, owner.threads)


def _allocate(
    engine: Engine,
    program: Program,
    leaves: Sequence[Leaf],
    states: Sequence[LeafState | None],
    rows: Sequence[Row],
    varying: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return the slots of leaves, new ones where there are none that an engine can use."""
    dtype = leaves[0].dtype
    keeping = program.keeping(dtype)
    found = [
        {} if state is None else kept_as(keeping, program.positive, leaf.parameter.shape, state)
        for leaf, state in zip(leaves, states, strict=True)
    ]
    for leaf, slots in zip(leaves, found, strict=True):
        _check(program, leaf, slots, dtype)
        _prepare_whole(program, leaf, slots, dtype)
    if of_tensors(program):
        for leaf, slots, row in zip(leaves, found, rows, strict=True):
            first = first_values(program, row)
            for name in of_tensors(program):
                if not (name in slots and engine.holds(slots[name], leaf.parameter)):
                    value = float(slots.get(name, first[name]))
                    slots[name] = engine.number(value, leaf.parameter)
    own = [array for array in keeping.arrays if array.per == 1]
    fresh = [
        i
        for i, (leaf, slots) in enumerate(zip(leaves, found, strict=True))
        if not all(x.name in slots and engine.suits(slots[x.name], leaf.parameter) for x in own)
    ]
    allocated = engine.allocate([leaves[i].parameter for i in fresh], [x.dtype for x in own])
    for i, new in zip(fresh, allocated, strict=True):
        initial = program.initial_values(rows[i])
        codes = _first_codes(keeping, initial, varying[i], leaves[i])
        for spec, array in zip(own, new, strict=True):
            value = found[i].get(spec.name, codes.get(spec.name, initial.get(spec.name, 0.0)))
            if isinstance(value, str):
                start = varying[i].get(value)
                value = leaves[i].parameter if start is None else arrays.converted(start, array)
            # Engines allocate zeros: touching them again would cost a sweep over memory.
            zero = isinstance(value, float) and value == 0.0
            found[i][spec.name] = array if zero else arrays.filled(array, value)
        for spec in (spec for spec in keeping.arrays if spec.per > 1):
            w, value = leaves[i].parameter, found[i].get(spec.name, codes.get(spec.name, 0.0))
            found[i][spec.name] = _placed(w, spec.dtype, blocks_of(w.shape), value)
    return found


def _first_codes(
    keeping: Keeping, initial: Mapping[str, float | str], varying: Mapping[str, Any], leaf: Leaf
) -> dict[str, Any]:
    """Return what slots that are kept in codes start as, where that is not zero."""
    found: dict[str, Any] = {}
    for kept in keeping.slots:
        value: Any = initial.get(kept.name, 0.0)
        if kept.code and value != 0.0:
            shape = tuple(leaf.parameter.shape)
            given = varying[value] if isinstance(value, str) else np.full(shape, value)
            x = np.asarray(arrays.to_numpy(given))
            found |= encoded(kept, [x.real, x.imag] if is_complex(kept.dtype) else [x])
    return found


def _placed(w: Any, dtype: str, shape: tuple[int, ...], value: Any) -> Any:
    """Return an array where a parameter is, of a value, or of that of an array."""
    xp = arrays.namespace(w)
    new = xp.zeros(shape, dtype=getattr(xp, dtype), device=arrays.namespace_device(w))
    return new if isinstance(value, float) else arrays.filled(new, value)


def _allocate_between(
    engine: Engine, program: Program, leaves: Sequence[Leaf]
) -> list[dict[str, Any]]:
    """Return the arrays between two passes, which are no state, where an engine needs them."""
    names = program.between
    if not (names and engine.fuses):
        return [{} for _ in leaves]
    dtypes = [program.dtype_of(name, leaves[0].dtype) for name in names]
    allocated = engine.allocate([leaf.parameter for leaf in leaves], dtypes)
    return [dict(zip(names, new, strict=True)) for new in allocated]


def _place_numbers(
    engine: Engine,
    program: Program,
    leaves: Sequence[Leaf],
    rows: Sequence[Row],
    known: Mapping[str, Any],
    numbers: dict[str, Any],
) -> None:
    """Give the tree its numbers, where the engine has them: those that are `known`, or new ones.

    `rows` are those of the leaves.
    """
    firsts = [first_values(program, row) for row in rows]
    for name in of_tree(program):
        w = leaves[0].parameter
        if name not in known and not _agree(
            [*firsts, *([numbers] if name in numbers else [])], name
        ):
            raise ValueError(
                f"{program.name}.update: {name!r} is one number of the tree, and parameters have "
                f"different values of the hyperparameter with which it starts; give all the same: "
                f"no overrides of it"
            )
        if name not in numbers and name in known and engine.holds(known[name], w):
            numbers[name] = known[name]
        elif name not in numbers:
            value = float(known[name]) if name in known else firsts[0][name]
            numbers[name] = engine.number(value, w)
        elif not engine.holds(numbers[name], w):
            raise ValueError(
                f"{program.name}.update: {name!r} is one number of the tree, and the tree has "
                f"parameters on several devices; put {format_path('params', leaves[0].path)} where "
                f"the others are"
            )


def _agree(starts: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return whether a number is the same in all of these."""
    return len({repr(float(start[name])) for start in starts}) == 1


def _prepare_whole(program: Program, leaf: Leaf, slots: dict[str, Any], dtype: str) -> None:
    """Give a leaf its slots of other shapes, on the device of the parameter."""
    shapes = program.whole_shapes(tuple(leaf.parameter.shape)) if program.whole else {}
    for name, shape in shapes.items():
        w, slot = leaf.parameter, slots.get(name)
        if slot is None or (arrays.library(slot), arrays.device(slot)) != (
            arrays.library(w),
            arrays.device(w),
        ):
            value = 0.0 if slot is None else slot
            slots[name] = _placed(w, program.dtype_of(name, dtype), shape, value)


def _check(program: Program, leaf: Leaf, slots: Mapping[str, Any], dtype: str) -> None:
    prefixes = (MASTER, *(part.prefix for part in program.parts))
    if others := [name for name in slots if not name.startswith(prefixes)]:
        raise ValueError(
            f"{program.name}.update: {format_path('params', leaf.path)} is of another branch than "
            f"in earlier steps, which left it {others[0]!r}; choose as before, use a new key for a "
            f"new parameter, or forget all state with reset()"
        )
    for kept in program.keeping(dtype).slots:
        absent = [array.name for array in kept.arrays if array.name not in slots]
        if kept.name in slots and absent:
            raise ValueError(
                f"{program.name}.update: {format_path('params', leaf.path)} has state "
                f"{kept.name!r} without {absent[0]!r}; load a whole state, or forget all state "
                f"with reset()"
            )
    w_shape = tuple(leaf.parameter.shape)
    shapes = program.whole_shapes(w_shape) if program.whole else {}
    wanted = {name: (shape, program.dtype_of(name, dtype)) for name, shape in shapes.items()}
    wanted |= dict.fromkeys(of_tensors(program), ((), "float64"))
    for spec in program.keeping(dtype).arrays:
        shape = w_shape if spec.per == 1 else blocks_of(w_shape)
        wanted[spec.name] = shape, spec.dtype
    for name, slot in slots.items():
        # What is of no use now, such as the slot of an option that is off, is left as it is.
        if name in wanted and (tuple(slot.shape), arrays.dtype_name(slot)) != wanted[name]:
            is_complex = leaf.in_parts or arrays.is_complex(leaf.parameter)
            other = w_shape[:-1] if leaf.in_parts else (*w_shape, 2)
            is_other = is_complex and tuple(slot.shape) == other
            remedy = "set complex to what it was, " if is_other else ""
            raise ValueError(
                f"{program.name}.update: {format_path('params', leaf.path)} is "
                f"{arrays.describe(leaf.held[0])}, but its state {name!r} from earlier steps is "
                f"{arrays.dtype_name(slot)} {tuple(slot.shape)}; {remedy}use a new key "
                f"for a new parameter and a new optimizer for another network, or forget all "
                f"state with reset()"
            )

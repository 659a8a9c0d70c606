"""What each leaf of a tree is given: hyperparameters, a program, and an engine that runs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instep import arrays, engines
from instep.choices import Selector
from instep.graph.dtypes import is_complex
from instep.graph.program import Program
from instep.graph.rows import Group, Row, Varying
from instep.graph.told import Told
from instep.plan import stand_ins, validation, varying
from instep.plan.kinds import NOBODY
from instep.plan.leaves import Leaf
from instep.plan.overlaps import check_read
from instep.plan.selection import Selection
from instep.state import History, Owner, State


@dataclass(eq=False)
class Assigned:
    """Leaves that one bucket takes.

    Attributes
    ----------
    engine, reason
        Name of the engine, and why it was chosen, in words.
    dtype, device
        Storage dtype and device of the parameters.
    program
        The rules, as for leaves of these shapes.
    members
        The leaves, by their numbers among those that were assigned.
    """

    engine: str
    reason: str
    dtype: str
    device: str
    program: Program
    members: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Assignment:
    """What leaves are given.

    Attributes
    ----------
    groups
        What decides hyperparameters: leaves that agree in all of it are of one group.
    programs
        The rules of each group, whatever the shapes.
    rows
        The hyperparameters of the next step, one row for each group.
    group_of
        The number of the group of each leaf.
    varying
        The hyperparameters that are arrays, for each group.
    buckets
        The leaves that each engine takes together.
    in_parts
        Whether parts of complex numbers are numbers of their own.
    """

    groups: list[Group]
    programs: list[Program]
    rows: list[Row]
    group_of: list[int]
    varying: list[list[Varying]]
    buckets: list[Assigned]
    in_parts: bool = False

    def row(self, leaf: int) -> Row:
        """Return the hyperparameters of a leaf."""
        return self.rows[self.group_of[leaf]]

    @property
    def arrays(self) -> list[Varying]:
        """All hyperparameters that are arrays, each array once."""
        return list({id(one.array): one for group in self.varying for one in group}.values())

    def arrays_of(self, number: int, leaf: Leaf) -> dict[str, Any]:
        """Return the hyperparameters of a leaf that are arrays, by their names in graphs."""
        found = self.varying[self.group_of[number]]
        return {one.array_name: stand_ins.beside(leaf, one.array) for one in found}


def assign(
    owner: Owner,
    state: State,
    programs: Mapping[Selector, Program],
    leaves: Sequence[Leaf],
    selection: Selection,
    told: Told,
) -> Assignment:
    """Give leaves their groups, programs and engines. Schedules are told the value of the step."""
    groups: dict[Any, Group] = {}
    keys, of_groups = [], list[Program]()
    for leaf in leaves:
        overrides, program = selection.overrides[leaf.key], programs[selection.chosen[leaf.key]]
        own = state.leaves.get(leaf.key)
        history = History() if own is None else own.history
        memory = program.memory() | history.scalars
        key = (id(overrides), history.taken, tuple(sorted(memory.items())))
        new = History(history.taken, memory)
        if key not in groups:
            groups[key] = Group(overrides, state.t - new.taken, new, told)
            of_groups.append(program)
        keys.append(key)
    numbers = {key: number for number, key in enumerate(groups)}
    pairs = list(zip(of_groups, groups.values(), strict=True))
    arrays_of = [program.arrays_for(group) for program, group in pairs]
    rows = [program.row(state.t + 1, group) for program, group in pairs]
    group_of = [numbers[key] for key in keys]
    found = Assignment(list(groups.values()), of_groups, rows, group_of, arrays_of, [])
    found.in_parts = owner.complex == "pairs"
    for leaf, number in zip(leaves, group_of, strict=True):
        varying.check(f"{owner.name}.update", leaf, arrays_of[number])
    check_read(f"{owner.name}.update", leaves, found.arrays)
    found.buckets = _buckets(owner, state, found, leaves)
    return found


def _buckets(
    owner: Owner, state: State, given: Assignment, leaves: Sequence[Leaf]
) -> list[Assigned]:
    """Return what each engine takes together: one library, device, dtype and program."""
    buckets: dict[Any, Assigned] = {}
    chosen: dict[Any, tuple[str, str]] = {}
    requested = owner.engine
    may_fuse = requested == "auto" or engines.load(requested).fuses
    for i, leaf in enumerate(leaves):
        flags = given.row(i).flags
        in_parts = given.in_parts and is_complex(leaf.dtype)
        memory = stand_ins.of_memory(leaf) if may_fuse or in_parts else NOBODY
        if in_parts:
            validation.check_parts(f"{owner.name}.update", leaf, memory)
            leaf.take_apart(memory)
        plain = given.programs[given.group_of[i]].for_shape(tuple(leaf.parameter.shape))
        program = plain.taking(given.varying[given.group_of[i]], in_parts=in_parts)
        if may_fuse:
            leaf.put(memory)
        w = leaf.parameter
        kind = (arrays.library(leaf.held[0]), arrays.library(w), leaf.dtype, flags, program)
        if kind not in chosen:
            varying.check_use(plain, program, leaf.dtype, flags)
            chosen[kind] = engines.choose(requested, program, w, leaf.dtype, flags)
        engine, reason = chosen[kind]
        if not engines.load(engine).fuses:
            leaf.put(stand_ins.of_library(leaf))
        device = arrays.device(leaf.parameter)
        section = 0 if state.ranks is None else state.ranks.section(leaf.position)
        key = (engine, leaf.dtype, leaf.gradient_dtype, device, program, section)
        if key not in buckets:
            if arrays.library(leaf.parameter) != kind[0]:
                reason = f"{reason}, which stand for those of {kind[0]}"
            if leaf.in_parts:
                reason = f"{reason}; complex numbers as pairs of real ones"
            buckets[key] = Assigned(engine, reason, leaf.dtype, device, program)
        buckets[key].members.append(i)
    return list(buckets.values())

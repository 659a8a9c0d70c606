"""What a step does, in words and numbers: engines, passes, bytes an element, and the code."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from instep import arrays, engines
from instep.choices import Selector
from instep.graph import FusionError, Graph, Sum
from instep.graph.program import Program, programs_of
from instep.graph.rows import Flags
from instep.graph.told import Told
from instep.plan import validation
from instep.plan.assignment import Assigned, Assignment, assign
from instep.plan.leaves import Leaf
from instep.plan.selection import select
from instep.showing import written
from instep.state import Owner, State


@dataclass(frozen=True)
class BucketExplanation:
    """How the leaves of one bucket are updated.

    Attributes
    ----------
    engine
        Name of the engine.
    reason
        Why it was chosen, in words.
    dtype
        Storage dtype of the parameters.
    device
        Library and device of the parameters.
    leaves
        Keys of the leaves, in the order of the tree.
    elements
        Number of elements of all leaves.
    groups
        Number of sets of hyperparameters among the leaves.
    graphs
        The passes over memory; empty where a rule is called one operation at a time.
    layouts
        For leaves whose parameter and gradient are not one line in memory, how these lie and are
        walked, by key.
    note
        What is promised about bits.
    code
        What the engine makes of each pass.
    branch
        In a partition, what chose the leaves, and the rules that they have.
    """

    engine: str
    reason: str
    dtype: str
    device: str
    leaves: tuple[str, ...]
    elements: int
    groups: int
    graphs: tuple[Graph, ...]
    layouts: dict[str, str]
    note: str
    code: tuple[str, ...]
    branch: str = ""

    @property
    def passes(self) -> int | None:
        """Number of passes over memory; None where there is no graph."""
        return len(self.graphs) or None

    @property
    def launches(self) -> int | None:
        """Number of launches, or of calls into compiled code, that a step makes, one a pass."""
        return self.passes

    @property
    def bytes_per_element(self) -> float | None:
        """Memory traffic of a step in bytes for an element, over all passes."""
        return sum(graph.bytes_per_element for graph in self.graphs) or None

    def __str__(self) -> str:
        note, _, why = self.note.partition(" (")  # which is told once
        leaves = f"{len(self.leaves)} tensor{'s' if len(self.leaves) != 1 else ''}"
        lines = [
            f"{self.engine}: {leaves} of {self.dtype} on {self.device}, {self.elements:,} elements",
            *([f"  branch {self.branch}"] if self.branch else []),
            f"  chosen because: {self.reason}",
            f"  {note if why.removesuffix(')') in self.reason else self.note}",
        ]
        if self.groups > 1:
            lines.append(f"  {self.groups} groups of hyperparameters in the same launches")
        for number, graph in enumerate(self.graphs, start=1):
            reads = ", ".join(array.name for array in graph.loaded)
            writes = ", ".join(array.name for array in graph.stored)
            sums = ", ".join(_counted(graph.sums))
            lines.append(
                f"  pass {number} of {len(self.graphs)}: reads {reads}; "
                f"{f'writes {writes}' if writes else f'reduces to {sums}'}; "
                f"{round(graph.bytes_per_element, 2)} bytes an element"
            )
            lines += [
                f"    then {call.array} = {call.name}({call.array}), by the array library"
                for call in graph.calls
            ]
            if graph.remembers is not None:
                lines.append(f"    then remembers {_remembered(graph.remembers)}")
        if len(self.graphs) > 1:
            lines.append(f"  in all {round(self.bytes_per_element or 0, 2)} bytes an element")
        lines += [f"  {key}: {how}" for key, how in self.layouts.items()]
        return "\n".join(lines)


def _counted(sums: Iterable[Sum]) -> Iterator[str]:
    plural = {"sum": "sums", "maximum": "maxima"}
    for (kind, scope), count in Counter((s.kind, s.scope) for s in sums).items():
        yield f"{count} {kind if count == 1 else plural[kind]} over the {scope}"


def _remembered(graph: Graph) -> str:
    of = {"tensor": "of each tensor", "tree": "of the tree"}
    lasts = {True: " (turned away or not)", False: ""}
    found = (f"{entry.name} {of[entry.scope]}{lasts[entry.lasts]}" for entry in graph.remembered)
    return ", ".join(found)


@dataclass(frozen=True)
class Explanation:
    """What `Optimizer.explain` found.

    Attributes
    ----------
    optimizer
        The optimizer, as Python source.
    buckets
        One for each engine, dtype and device, and for each choice of passes where leaves differ.
    calls
        Which of the calls that make a step this is, in words; empty if each makes one.
    idle
        Paths of the parameters of which there is state, and that were not stepped for long: for 100
        steps, and for more than twice as long as there were steps to each of theirs.
    """

    optimizer: str
    buckets: tuple[BucketExplanation, ...]
    calls: str = ""
    idle: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        """The code of all passes of all buckets."""
        return "\n\n".join(text for bucket in self.buckets for text in bucket.code)

    def __str__(self) -> str:
        heading = [self.optimizer, self.calls] if self.calls else [self.optimizer]
        if self.idle:
            some = ", ".join(map(repr, self.idle[:10])) + (", ..." if self.idle[10:] else "")
            heading.append(
                f"  state of {len(self.idle)} parameters that were not stepped for long, and that "
                f"forget() can free: {some}"
            )
        return "\n".join([*heading, *(str(bucket) for bucket in self.buckets)])


def explain(owner: Owner, state: State, params: Any, grads: Any = None) -> Explanation:
    """Say how a step of an optimizer on `params` runs, without taking it."""
    if grads is None:
        leaves = validation.unchecked(f"{owner.name}.explain", params)
    else:
        leaves = validation.match(owner.name, params, grads)
    selection = select(owner, leaves)
    leaves = [leaf for leaf in leaves if leaf.key not in selection.frozen]  # which may be anything
    if grads is None:
        validation.check_parameters(f"{owner.name}.explain", leaves)
    else:
        leaves = [leaf for leaf in leaves if leaf.gradient is not None]
        validation.check(owner.name, params, leaves)
    given = assign(owner, state, programs_of(owner), leaves, selection, Told(owner.name, math.nan))
    buckets = []
    for bucket in given.buckets:
        members: dict[Flags, list[int]] = {}  # leaves with other flags run other passes
        for i in bucket.members:
            members.setdefault(given.row(i).flags, []).append(i)
        for flags, chosen in members.items():
            groups = {id(given.groups[given.group_of[i]].overrides) for i in chosen}
            layouts = _layouts(bucket.engine, given, leaves, chosen)
            found = _explain(bucket, flags, [leaves[i] for i in chosen], len(groups), layouts)
            branch = _branch(owner, selection.chosen[leaves[chosen[0]].key])
            buckets.append(replace(found, branch=branch))
    return Explanation(written(owner), tuple(buckets), _calls(owner, state.t), _idle(state))


#: Steps without one of a parameter, from which on they are many.
_MANY = 100


def _idle(state: State) -> tuple[str, ...]:
    """Return what was not stepped for long: those that are stepped in turn pause, too."""
    found = []
    for key, leaf in state.leaves.items():
        history = leaf.history
        pause, usual = state.t - history.last, history.last / max(history.taken, 1)
        if pause >= _MANY and pause > 2 * usual:
            found.append(key)
    return tuple(found)


def _explain(
    bucket: Assigned,
    flags: Flags,
    leaves: Sequence[Leaf],
    groups: int,
    layouts: dict[str, str],
) -> BucketExplanation:
    engine = engines.load(bucket.engine)
    graphs, note = _graphs(engine, bucket.program, leaves[0], flags)
    return BucketExplanation(
        engine=bucket.engine,
        reason=bucket.reason,
        dtype=bucket.dtype,
        device=f"{arrays.library(leaves[0].held[0])} {bucket.device}",
        leaves=tuple(leaf.key for leaf in leaves),
        elements=sum(math.prod(leaf.parameter.shape) for leaf in leaves),
        groups=groups,
        graphs=graphs if engine.fuses else (),
        layouts=layouts,
        note=note,
        code=tuple(engine.emit(graph) for graph in graphs),
    )


def _layouts(
    engine: str, given: Assignment, leaves: Sequence[Leaf], chosen: Sequence[int]
) -> dict[str, str]:
    """Return how leaves are walked that are no line in memory, by key."""
    layout = engines.load(engine).layout
    found = {}
    for i in chosen:
        w, g = leaves[i].parameter, leaves[i].gradient
        beside = ({} if g is None else {"gradient": g}) | given.arrays_of(i, leaves[i])
        found[leaves[i].key] = layout(w, beside)
    return {key: how for key, how in found.items() if how}


def _branch(owner: Owner, selector: Selector) -> str:
    if len(owner.compositions) == 1:
        return ""
    rules = owner.compositions[selector].parts.values()
    return f"{selector!r}: {', '.join(rule.name for rule in rules)}"


def _calls(owner: Owner, taken: int) -> str:
    found = {}
    for selector, composed in owner.compositions.items():
        period = math.prod(rule.period for rule in composed.parts.values())
        where = "" if len(owner.compositions) == 1 else f" of branch {selector!r}"
        found[where] = period, f"make a step{where}; this is number {taken % period + 1} of them"
    return "\n".join(f"  {period} calls {text}" for period, text in found.values() if period > 1)


def _does_nothing(graph: Graph) -> bool:
    """Return whether a pass, the last one, has nothing to store: a rule only measured."""
    return not (graph.stores or graph.sums or graph.calls or graph.remembers)


def _graphs(
    engine: engines.Engine, program: Program, leaf: Leaf, flags: Any
) -> tuple[tuple[Graph, ...], str]:
    """Return the passes, and what is promised about bits."""
    try:
        graphs = program.passes(leaf.dtype, flags, leaf.gradient_dtype)
        graphs = tuple(graph for graph in graphs if not _does_nothing(graph)) or graphs
    except FusionError as error:
        return (), f"one array operation at a time; bits may differ between libraries ({error})"
    if any(graph.calls for graph in graphs):
        return (
            graphs,
            "the same bits as every engine for these arrays, where their library has them",
        )
    if engine.fuses:
        return graphs, "the same bits as every other engine"
    return graphs, "one array operation at a time; the same bits where the library rounds exactly"

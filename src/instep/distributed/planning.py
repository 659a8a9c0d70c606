"""What is decided once for trees of one kind: which leaves must stay whole, and who has what."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from instep import arrays
from instep.distributed.cutting import Cuts, Extent
from instep.distributed.means import summed_as
from instep.distributed.routes import Round, Segment, last_rounds, rounds
from instep.engines import load
from instep.graph.program import Program, programs_of
from instep.graph.remembered import PLACE
from instep.graph.rows import Group
from instep.graph.told import Told
from instep.hyperparameters import is_array
from instep.numerics import TILE
from instep.plan.leaves import Leaf
from instep.plan.selection import Selection, select
from instep.state import History, Owner, State
from instep.tree import format_path

#: Sections of a step, of which one is stepped while gradients of the next are on their way.
SECTIONS = 8


def check_arrays(call: str, leaves: Sequence[Leaf]) -> None:
    """Raise TypeError for arrays that MPI is not given."""
    for leaf in leaves:
        library = arrays.library(leaf.parameter)
        other = arrays.library(leaf.gradient)
        if library not in ("numpy", "cupy") or other != library or arrays.is_number(leaf.held[0]):
            raise TypeError(
                f"{call}: {format_path('params', leaf.path)} is {arrays.describe(leaf.held[0])}, "
                f"and its gradient {arrays.describe(leaf.held[1])}; give NumPy or CuPy arrays, both"
                f" of one library"
            )
        if library == "cupy" and not leaf.parameter.flags.c_contiguous:
            raise ValueError(
                f"{call}: {format_path('params', leaf.path)} is not contiguous; give an array in C "
                f"order, such as cupy.ascontiguousarray makes"
            )


def check_cuts(call: str, cuts: Cuts, leaves: Sequence[Leaf], reasons: Sequence[str]) -> None:
    """Raise ValueError for leaves that were cut, and must stay whole from now on."""
    for leaf, reason in zip(leaves, reasons, strict=True):
        known = cuts.extents.get(leaf.key)
        if known is not None and known.size != leaf.parameter.size:
            raise ValueError(
                f"{call}: {format_path('params', leaf.path)} has {leaf.parameter.size} elements, "
                f"and had {known.size} in earlier steps; use a new key for a new parameter"
            )
        if reason and known is not None and not known.is_whole:
            raise ValueError(
                f"{call}: {format_path('params', leaf.path)} must stay whole from now on, for "
                f"{reason}, and it was cut in earlier steps; choose as before, or begin anew with "
                f"a new Sharded"
            )


def why_whole(
    owner: Owner, state: State, leaves: Sequence[Leaf], selection: Selection, told: Told
) -> list[str]:
    """Return why each leaf must stay whole, in words; empty where it may be cut."""
    programs = programs_of(owner)
    found, known = [], dict[Any, str]()
    for leaf in leaves:
        program = programs[selection.chosen[leaf.key]]
        overrides = selection.overrides[leaf.key]
        key = id(program), id(overrides), leaf.dtype, leaf.gradient_dtype
        if key not in known:
            group = Group(overrides, 0, History(scalars=program.memory()), told)
            known[key] = _why(owner, program, group, state.t + 1, leaf)
        found.append(known[key] or how_it_lies(leaf))
    return found


def how_it_lies(leaf: Leaf) -> str:
    """Return why a leaf must stay whole for what it is, whatever the rules."""
    if not leaf.parameter.flags.c_contiguous:
        return "it does not lie in C order"
    # On a device, sums of more tiles than a tile holds are overwritten.
    is_large = arrays.library(leaf.parameter) == "cupy" and leaf.parameter.size > TILE * TILE
    return "it has more than 2**28 elements on a device" if is_large else ""


def _why(owner: Owner, program: Program, group: Group, step: int, leaf: Leaf) -> str:
    values = [value for own in group.overrides.values() for value in own.values()]
    values += [getattr(part.rule, x.name) for part in program.parts for x in part.fields]
    if any(part.has_forms for part in program.parts):
        return "a rule computes on rows, columns or matrices"
    if PLACE in program.remembered:
        return "random words are drawn for its elements"
    if any(map(is_array, values)):
        return "a hyperparameter is an array"
    if owner.engine != "auto" and not load(owner.engine).fuses:
        return "its rule is called with whole arrays"
    try:
        graphs = program.passes(leaf.dtype, program.row(step, group).flags, leaf.gradient_dtype)
    except Exception:  # noqa: BLE001  (of a schedule too: the step will say what is wrong)
        return "its rule is called with whole arrays"
    is_applied = any(graph.calls or graph.has_blocks for graph in graphs)
    return "a rule applies a function to whole arrays" if is_applied else ""


@dataclass(eq=False)
class Shards:
    """Who has what of trees of one kind.

    Attributes
    ----------
    pieces
        The part of this process of each leaf that is stepped, by position: None where it has none.
    is_whole
        Whether it is not cut.
    inward, outward
        The rounds of gradients and those of parameters.
    sections
        Numbers of the sections in which leaves come and go, by position.
    means
        Where means of gradients are kept, by position: the part of this process.
    """

    pieces: dict[int, tuple[int, int] | None]
    is_whole: dict[int, bool]
    inward: list[Round]
    outward: list[Round]
    sections: dict[int, int]
    means: dict[int, Any] = field(default_factory=dict)

    def make_room(self, active: Sequence[Leaf]) -> None:
        """Make arrays for means, which serve every step: like gradients, but for a wider dtype.

        Here, for no process may fail when gradients are on their way.
        """
        for leaf in active:
            piece, g = self.pieces[leaf.position], leaf.gradient
            if piece is not None:
                shape = g.shape if self.is_whole[leaf.position] else (piece[1] - piece[0],)
                dtype = arrays.numpy_dtype(summed_as(leaf.gradient_dtype))
                xp, device = arrays.namespace(g), arrays.namespace_device(g)
                self.means[leaf.position] = xp.empty(shape, dtype=dtype, device=device)

    def part(self, position: int, array: Any) -> Any:
        """Return the part of this process of the array at a position, a view."""
        piece = self.pieces[position]
        if piece is None or self.is_whole[position]:
            return array
        return array.reshape(-1)[piece[0] : piece[1]]


def shards(active: Sequence[Leaf], cuts: Cuts, rank: int, bucket_bytes: int) -> Shards:
    """Return who has what of leaves that were cut."""
    pieces: dict[int, tuple[int, int] | None] = {}
    of_ranks: list[dict[tuple[str, str], list[Segment]]] = [{} for _ in range(cuts.ranks)]
    for leaf in active:
        pieces[leaf.position] = None
        kind = leaf.dtype, leaf.gradient_dtype
        for owner, begin, end in cuts.pieces[leaf.key]:
            if owner == rank:
                pieces[leaf.position] = begin, end
            of_ranks[owner].setdefault(kind, []).append(Segment(leaf.position, begin, end))
    kinds = list(dict.fromkeys((leaf.dtype, leaf.gradient_dtype) for leaf in active))
    inward: list[Round] = []
    outward: list[Round] = []
    for w, g in kinds:
        parts = [own.get((w, g), []) for own in of_ranks]
        size = arrays.numpy_dtype(summed_as(g)).itemsize
        inward += rounds(g, parts, size, bucket_bytes)
        outward += rounds(w, parts, arrays.numpy_dtype(w).itemsize, bucket_bytes)
    whole = {leaf.position: cuts.extents[leaf.key].is_whole for leaf in active}
    last, most = last_rounds(inward, rank), max(1, len(inward))
    sections = {position: i * SECTIONS // most for position, i in last.items()}
    return Shards(pieces, whole, inward, outward, sections)


def extents(active: Sequence[Leaf], whole: Sequence[str]) -> list[tuple[str, Extent]]:
    """Return what is to be known of leaves in order to cut them."""
    found = []
    for leaf, reason in zip(active, whole, strict=True):
        size, itemsize = int(leaf.parameter.size), arrays.numpy_dtype(leaf.dtype).itemsize
        found.append((leaf.key, Extent(size, itemsize, bool(reason))))
    return found


def selected(owner: Owner, leaves: Sequence[Leaf]) -> tuple[Selection, list[Leaf]]:
    """Return what is chosen for leaves, and those that a step is for."""
    selection = select(owner, leaves)
    free = [leaf for leaf in leaves if leaf.key not in selection.frozen]
    return selection, [leaf for leaf in free if leaf.gradient is not None]

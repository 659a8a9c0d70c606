"""The state of many processes in files: one for each process, and an index that says what they are.

The files of a save have names of their own. The index, which names them, is replaced when all are
complete, and what it named before is removed after that.
"""

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from instep import checkpoint
from instep.distributed.agreement import Agreement
from instep.distributed.cutting import Cuts, Extent, Piece
from instep.files.replacing import replaced
from instep.optimizer import Optimizer

INDEX, FORMAT = "index.json", 1


def save(
    agreement: Agreement, optimizer: Optimizer, cuts: Cuts, path: str | os.PathLike[str]
) -> None:
    """Write the state of all processes into a folder."""
    folder = Path(path)
    tag = agreement.meet(uuid.uuid4().hex[:12])[0]
    names = [f"rank-{i}-of-{agreement.size}-{tag}.npz" for i in range(agreement.size)]
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / names[agreement.rank]
    try:
        optimizer.save(own)
        of_ranks = agreement.meet(optimizer.state_dict()["numbers"])  # all files are complete
        numbers = {name: x for some in of_ranks for name, x in some.items()}
        before = _files(folder)
        if agreement.rank == 0:
            _check_files(folder, names)
            index = {
                "format": FORMAT,
                "t": optimizer.t,
                "numbers": {name: x.hex() for name, x in numbers.items()},
                "files": names,
                "leaves": {
                    key: [x.size, x.itemsize, x.is_whole, *map(list, cuts.pieces[key])]
                    for key, x in cuts.extents.items()
                },
            }
            with replaced(agreement.call, folder / INDEX) as draft:
                draft.write_text(json.dumps(index), "utf-8")
        agreement.meet(None)
        agreement.is_certain = True
    except BaseException:
        own.unlink(missing_ok=True)
        raise
    if agreement.rank == 0:
        for name in before:
            (folder / name).unlink(missing_ok=True)


def _files(folder: Path) -> list[str]:
    """Return the names of the files that an index names, if there is one that can be read."""
    try:
        found = json.loads((folder / INDEX).read_bytes())["files"]
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [name for name in found if isinstance(name, str) and Path(name).name == name]


def load(
    agreement: Agreement, optimizer: Optimizer, path: str | os.PathLike[str], *, strict: bool
) -> Cuts:
    """Give an optimizer its part of what was saved; return who has what."""
    folder = Path(path)
    call = f"{agreement.call}: {str(folder)!r}"
    files, old, numbers = _index(call, folder)
    if len({tuple(own) for own in agreement.meet(files)}) > 1:
        raise agreement.differ(f"{call}: ranks read different saves; give all the same folder")
    cuts = Cuts(agreement.size)
    cuts.add(old.extents.items())
    merged: dict[str, Any] = {}
    for rank in _needed(old, cuts, agreement.rank):
        state = checkpoint.load(optimizer.name, folder / files[rank])
        _merge(call, merged, state, rank, old, cuts, agreement.rank)
    new = _joined(merged, cuts, agreement.rank)
    # Who has no leaves remembers nothing of them: others tell it when it gets some.
    new["numbers"] = numbers if new["states"] else {}
    before, is_loaded = optimizer.state_dict(), False
    try:
        optimizer.load_state_dict(new, strict=strict)
        is_loaded = True
        agreement.meet(None)
    except BaseException:
        if is_loaded:
            optimizer.load_state_dict(before, strict=False)
        raise
    agreement.is_certain = True
    return cuts


def _needed(old: Cuts, new: Cuts, rank: int) -> list[int]:
    """Return who had what a process gets now: at least one, for the rest of a state."""
    found = {
        had.rank
        for key, pieces in new.pieces.items()
        for own in pieces
        if own.rank == rank
        for had in old.pieces[key]
        if had.begin < own.end and own.begin < had.end
    }
    return sorted(found or {0})


def _index(call: str, folder: Path) -> tuple[list[str], Cuts, dict[str, float]]:
    try:
        index = json.loads((folder / INDEX).read_bytes())
    except ValueError as error:
        raise ValueError(f"{call}: {INDEX} is damaged: {error}; load another save") from error
    try:
        _check_format(index["format"])
        files = [str(name) for name in index["files"]]
        numbers = {name: float.fromhex(x) for name, x in index["numbers"].items()}
        old = Cuts(len(files))
        for key, (size, itemsize, is_whole, *pieces) in index["leaves"].items():
            old.extents[key] = Extent(int(size), int(itemsize), bool(is_whole))
            old.pieces[key] = tuple(Piece(*map(int, piece)) for piece in pieces)
            _check_pieces(key, old)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{call}: {INDEX} is damaged: {error}; load another save") from error
    return files, old, numbers


def _check_files(folder: Path, names: list[str]) -> None:
    """Raise unless the files of all processes are there."""
    if missing := [name for name in names if not (folder / name).exists()]:
        raise FileNotFoundError(
            f"{missing[0]} of another rank is not in {str(folder)!r}; give a folder that all ranks "
            f"see, by the same path"
        )


def _check_format(found: Any) -> None:
    if found != FORMAT:
        raise ValueError(f"format {found!r} is not {FORMAT}, which this version reads")


def _check_pieces(key: str, cuts: Cuts) -> None:
    """Raise unless the pieces of a leaf are all of it, each of another process."""
    extent, pieces = cuts.extents[key], cuts.pieces[key]
    begins = [0, *(piece.end for piece in pieces)]
    is_line = [piece.begin for piece in pieces] == begins[:-1] and begins[-1] == extent.size
    ranks = [piece.rank for piece in pieces]
    if not is_line or not all(0 <= x < cuts.ranks for x in ranks) or len({*ranks}) < len(ranks):
        raise ValueError(f"the parts of {key!r} are not all of it")


def _merge(
    call: str,
    merged: dict[str, Any],
    state: Mapping[str, Any],
    rank: int,
    old: Cuts,
    new: Cuts,
    own: int,
) -> None:
    """Add what a file has of the pieces of a process to what others had."""
    if not merged:
        merged.update(state, states={})
    elif (state["t"], state["skipped"]) != (merged["t"], merged["skipped"]):
        raise ValueError(
            f"{call}: the file of rank {rank} is of step {state['t']}, and that of rank 0 of step "
            f"{merged['t']}; load another save"
        )
    for key, leaf in state["states"].items():
        if key not in old.pieces:
            raise ValueError(f"{call}: {INDEX} knows nothing of {key!r}; load another save")
        own_pieces = [one for one in old.pieces[key] if one.rank == rank]
        if not own_pieces:
            raise ValueError(
                f"{call}: the file of rank {rank} has {key!r}, which was another's; load another "
                f"save"
            )
        (piece,) = own_pieces
        wanted = [one for one in new.pieces[key] if one.rank == own]
        if wanted:
            merged["states"].setdefault(key, []).append((piece, wanted[0], leaf))


def _joined(merged: Mapping[str, Any], cuts: Cuts, rank: int) -> dict[str, Any]:
    """Return a state of the pieces of a process."""
    states = {}
    for key, found in merged["states"].items():
        first = found[0][2]
        if cuts.extents[key].is_whole:
            states[key] = first
            continue
        wanted = found[0][1]
        slots = {}
        for name, slot in first["slots"].items():
            if np.ndim(slot) == 0:  # a number of the tensor
                slots[name] = slot
                continue
            parts = []
            for piece, _, leaf in sorted(found, key=lambda one: one[0].begin):
                begin, end = max(piece.begin, wanted.begin), min(piece.end, wanted.end)
                own = leaf["slots"][name].reshape(-1)
                parts.append(own[max(0, begin - piece.begin) : max(0, end - piece.begin)])
            slots[name] = np.concatenate(parts)
        states[key] = {**first, "slots": slots}
    return {**merged, "states": states}

"""The folder of the results: figures that belong to the numbers beside them, and no others."""

import io
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from instep.commands.compare import paths, surfaces
from instep.commands.compare.style import theme
from instep.commands.errors import CommandError, extra
from instep.commands.progress import progress
from instep.files.replacing import replaced

NUMBERS = "results.json"
PAGE = "report.html"

#: All that the command writes beside the numbers.
OTHERS = (
    *("surfaces.png", "path_heights.png", "mnist_loss.png", "mnist_accuracy.png", PAGE),
    *(f"paths_{s.name}_{schedule}.png" for s in surfaces.SURFACES for schedule in paths.HEADINGS),
)


def prepared(folder: pathlib.Path) -> pathlib.Path:
    """Return the folder, made if need be, after having written to it.

    Raises
    ------
    CommandError
        It cannot be written, or has files by the names of ours that no earlier run has written.
    """
    try:
        if folder.is_file():
            raise CommandError(f"--out {folder} is a file; give the name of a folder")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CommandError(
            f"--out {folder} cannot be written ({error.strerror}); give another folder"
        ) from error
    foreign = sorted({n for n in (NUMBERS, *OTHERS) if os.path.lexists(folder / n)} - own(folder))
    if foreign:
        raise CommandError(
            f"--out {folder} holds files that no earlier run has written: {', '.join(foreign)}; "
            "give another folder"
        )
    return folder


def own(folder: pathlib.Path) -> set[str]:
    """Return the names of what an earlier run has written into a folder, as its numbers say."""
    try:
        found = json.loads((folder / NUMBERS).read_bytes())
        written = set(found["files"])
        found["versions"]["instep"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()  # it is missing, or somebody else's
    return {NUMBERS, *written.intersection(OTHERS)}


def write(name: str, content: bytes, folder: pathlib.Path) -> None:
    """Write a file: it is there whole, or as it was before."""
    try:
        with replaced("instep compare", folder / name) as draft:
            draft.write_bytes(content)
    except OSError as error:
        raise CommandError(
            f"{folder / name} cannot be written ({error.strerror}); see to that, or give another "
            "folder with --out"
        ) from error


def write_numbers(text: str, folder: pathlib.Path) -> list[str]:
    """Write the numbers, and remove the figures of an earlier run; return their names."""
    before = own(folder)
    stale = [name for name in OTHERS if name in before and (folder / name).is_file()]
    # First, so that no figure ever lies beside numbers that it does not show.
    for name in stale:
        (folder / name).unlink()
    write(NUMBERS, text.encode(), folder)
    return stale


def draw(figures: Mapping[str, Any], folder: pathlib.Path) -> list[str]:
    """Draw figures, given as functions that do, and write them; return the names of the files."""
    drawn = as_png(figures, "figures", dpi=150)
    for name, content in drawn.items():
        write(f"{name}.png", content, folder)
    return [f"{name}.png" for name in drawn]


def as_png(
    figures: Mapping[str, Any], task: str, *, dpi: int, colours: int | None = None
) -> dict[str, bytes]:
    """Draw figures in the theme in force; of `colours` at most, where they are to be small."""
    drawn = {}
    with progress(task, len(figures)) as advance:
        for name, drawing in figures.items():
            content = io.BytesIO()
            drawing().savefig(content, format="png", dpi=dpi)
            if colours is not None:
                with extra("PIL.Image").open(content) as image:
                    few = in_few_colours(image.convert("RGB"), colours)
                content = io.BytesIO()
                few.save(content, format="png", optimize=True)
            drawn[name] = content.getvalue()
            advance()
    return drawn


def in_few_colours(image: Any, colours: int) -> Any:
    """Return an image of Pillow, which Matplotlib brings along, in that many colours at most."""
    module = extra("PIL.Image")
    # An octree keeps the colours of thin lines, which a median cut gives up for the ground.
    few = image.quantize(colours, method=module.Quantize.FASTOCTREE, dither=module.Dither.NONE)
    # The corner is ground, which is to be the ground of the page and not a mean of its like.
    corner, palette = 3 * few.getpixel((0, 0)), few.getpalette()
    palette[corner : corner + 3] = bytes.fromhex(theme().ground[1:])
    few.putpalette(palette)
    return few

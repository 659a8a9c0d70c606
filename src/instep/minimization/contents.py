"""What a file of a run has."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from instep import files


@dataclass(frozen=True)
class Contents:
    """What a run is continued from, without what it was computed with.

    Attributes
    ----------
    header
        What JSON knows.
    found
        Arrays of NumPy by name.
    """

    header: Mapping[str, Any]
    found: Mapping[str, Any]

    def __call__(self) -> "Contents":
        """Return it itself, in the place of a run, whose contents change."""
        return self

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it into a file."""
        files.write("Result", path, self.header, self.found)

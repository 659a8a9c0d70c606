"""The parameters that two libraries share: their paths here, in their order there."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from instep.hyperparameters import described


@dataclass(frozen=True)
class Names:
    """Paths of parameters, in groups.

    Attributes
    ----------
    groups
        The paths of each group. One group, where none were given.
    arrays
        The parameters, where they were given.
    is_grouped
        Whether groups were given.
    """

    groups: list[list[str]]
    arrays: Mapping[str, Any]
    is_grouped: bool

    @property
    def flat(self) -> list[str]:
        """All paths, in order."""
        return [name for group in self.groups for name in group]


def named(call: str, given: Any) -> Names:
    """Return paths in groups, of a sequence of paths, a dict, or a sequence of these; or raise."""
    text = (
        f"{call}: names must be the paths of the parameters in their order there, as a list of "
        f"strings or a dict to the parameters, or a list of such, one for each group"
    )
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{text}, got {described(given)}")
    entries = given if isinstance(given, Mapping) else list(given)
    is_grouped = not isinstance(entries, Mapping) and not all(isinstance(e, str) for e in entries)
    arrays: dict[str, Any] = {}
    groups = []
    for entry in entries if is_grouped else [entries]:
        if isinstance(entry, str) or not isinstance(entry, Iterable):
            raise TypeError(f"{text}, got {described(entry)} among them")
        arrays |= entry if isinstance(entry, Mapping) else {}
        if isinstance(entry, Mapping):
            for name, x in entry.items():
                if not hasattr(x, "shape"):
                    raise TypeError(
                        f"{call}: names has {described(x)} for {name!r}, which is no array; give "
                        f"paths, such as 'layer.weight', to the arrays"
                    )
        group = list(entry)
        for name in group:
            if not isinstance(name, str):
                raise TypeError(f"{text}, got {described(name)} among them")
        groups.append(group)
    for name, count in Counter(name for group in groups for name in group).items():
        if count > 1:
            raise ValueError(f"{call}: names has {name!r} twice; give each parameter once")
    return Names(groups, arrays, is_grouped)

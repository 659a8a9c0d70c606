"""LLVM text that reads and writes fields: of array objects, and of records of 64-bit words."""

import enum
from collections.abc import Mapping


def loads(
    source: str, positions: Mapping[str, int | str], kind: str = "i64", unit: str = "i64"
) -> str:
    """Return the loads of fields of `source`, each to the value of its name.

    Parameters
    ----------
    positions
        In units: a number, or the name of a value.
    kind
        Of the fields.
    unit
        What positions count.
    """
    return "\n".join(
        f"  %{name}_field = getelementptr {unit}, ptr %{source}, i64 {position}\n"
        f"  %{name} = load {kind}, ptr %{name}_field"
        for name, position in positions.items()
    )


def named(record: type[enum.IntEnum], *names: str, prefix: str = "") -> dict[str, int]:
    """Return the positions of these fields of a record, or of all, by the names of their values."""
    chosen = [record[name.upper()] for name in names] or list(record)
    return {prefix + field.name.lower(): int(field) for field in chosen}


def store(target: str, position: int, value: str) -> str:
    """Return the store of a value as a word of `target`."""
    field = f"%{target}_{position}"
    return (
        f"  {field} = getelementptr i64, ptr %{target}, i64 {position}\n"
        f"  store i64 {value}, ptr {field}"
    )

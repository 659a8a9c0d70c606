"""How rules look: as Python source where they are printed, as a table in a notebook."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, ClassVar

from instep.hyperparameters import Hyperparameter, is_same, source

#: A title, and what stands under it, names with values as they are written.
Section = tuple[str, list[tuple[str, str]]]

#: Nothing has a color of its own: a notebook may be light or dark.
_CELL = 'style="text-align: left; font-family: monospace; white-space: pre-wrap"'


class Shown:
    """A rule that can be looked at."""

    hyperparameters: ClassVar[tuple[Hyperparameter, ...]] = ()

    #: Fields that are no hyperparameters of the rule, each with a function that validates it.
    _settings: ClassVar[Mapping[str, Callable[[str, Any], Any]]] = {}

    @property
    def name(self) -> str:
        """Name of the rule, in messages and in kernels."""
        return type(self).__name__

    def __repr__(self) -> str:
        return self._as_source()

    def _as_source(self) -> str:
        """Return the call that makes such a rule: settings where they are not as by default."""
        values = [*self._shown_values(), *self._shown_settings()]
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in values)})"

    def _shown_values(self) -> list[tuple[str, str]]:
        """Return the hyperparameters, as source."""
        return [(one.name, one.source(getattr(self, one.name))) for one in self.hyperparameters]

    def _shown_settings(self) -> list[tuple[str, str]]:
        """Return the settings that are not as by default, as source."""
        defaults = {field.name: _default(field) for field in dataclasses.fields(self)}  # type: ignore[arg-type]  # it is one
        return changed(self, defaults, self._settings)

    def _shown_sections(self) -> list[Section]:
        """Return what a table shows."""
        return [(self.name, self._shown_values() + self._shown_settings())]

    def _shown_title(self) -> str:
        return self.name

    def _repr_html_(self) -> str:
        """Return a table, which Jupyter and its kin show."""
        rows, found = [], self._shown_sections()
        for title, values in found:
            if len(found) > 1:
                rows += [f'<tr><th colspan="2" style="text-align: left">{escape(title)}</th></tr>']
            rows += [
                f"<tr><td {_CELL}>{escape(name)}</td><td {_CELL}>{escape(value)}</td></tr>"
                for name, value in values
            ]
        table = f'<table style="color: inherit">{"".join(rows)}</table>'
        return f"<div><strong>{escape(self._shown_title())}</strong>{table}</div>"


def changed(
    rule: object, defaults: Mapping[str, Any], names: "Sequence[str] | Mapping[str, Any]"
) -> list[tuple[str, str]]:
    """Return the attributes that are not as given, as source."""
    return [
        (name, source(getattr(rule, name)))
        for name in names
        if not is_same(getattr(rule, name), defaults[name])
    ]


def sections(rule: Shown) -> list[Section]:
    """Return what the table of a rule shows."""
    return rule._shown_sections()  # noqa: SLF001  (its own)


def written(one: object) -> str:
    """Return a rule as Python source, whatever steps it has taken."""
    return one._as_source() if isinstance(one, Shown) else repr(one)  # noqa: SLF001  (its own)


def _default(declared: "dataclasses.Field[Any]") -> Any:
    """Return the default of a field."""
    make = declared.default_factory
    return declared.default if make is dataclasses.MISSING else make()

"""What a plan depends on of its optimizer, where the optimizer does not hear of a change."""

from collections.abc import Sequence
from operator import is_

from instep.choices import Overrides
from instep.graph.program import Program
from instep.hyperparameters import is_same
from instep.rule import edition
from instep.state import Owner


class Settings:
    """The settings of an optimizer and of the rules in it, as a plan was made for them.

    Attributes
    ----------
    is_fixed
        Whether all that programs depend on ends an edition when it is set.
    """

    def __init__(self, owner: Owner, programs: Sequence[Program], *, with_arrays: bool) -> None:
        self._programs = programs
        self._overrides = {pattern: dict(entry) for pattern, entry in owner.overrides.items()}
        # Their keys and values at hand: they are compared at every step.
        self._entries = [(pattern, [*x], [*x.values()]) for pattern, x in self._overrides.items()]
        # What the rules in a chain are given may be set without its knowledge, arrays too.
        parts = [part for program in programs for part in program.parts]
        self.is_fixed = not with_arrays and all(part.fixed for part in parts)
        self._is_chain = "" not in owner.parts
        self._edition = object()

    def are_those_of(self, owner: Owner) -> bool:
        """Return whether the settings are the same now."""
        # Overrides are compared, for the user's dict may have been changed in place.
        given = owner.overrides
        if (given or self._entries) and not self._are_overrides(given):
            return False
        present = edition.present
        is_known = self._edition is present or not self._is_chain
        if not (self.is_fixed and is_known) and not self.are_current():
            return False
        self._edition = present
        return True

    def are_current(self) -> bool:
        """Return whether the rules have the options, arrays and slots that programs know."""
        for program in self._programs:  # noqa: SIM110  (a generator takes 0.3 us)
            if not program.is_current():
                return False
        return True

    def _are_overrides(self, given: Overrides) -> bool:
        if len(given) == len(self._entries):
            for pattern, keys, values in self._entries:
                entry = given.get(pattern)
                if entry is None or [*entry] != keys or not all(map(is_, entry.values(), values)):
                    break
            else:
                return True
        return is_same(given, self._overrides)

"""What a plan depends on of its optimizer, where the optimizer does not hear of a change."""

from operator import methodcaller

from instep.graph.program import Program
from instep.hyperparameters import is_same
from instep.state import Owner

#: Whether values of a rule have been arrays, or decay rates have moved: no generators, which take
#: 0.3 us.
_has_arrays = methodcaller("__contains__", "_varying")
_has_moved = methodcaller("__contains__", "_moving")


class Settings:
    """The settings of an optimizer and of the rules in it, as a plan was made for them."""

    def __init__(self, owner: Owner, program: Program, *, with_arrays: bool) -> None:
        self._program = program
        self._overrides = {pattern: dict(entry) for pattern, entry in owner.overrides.items()}
        # What the rules in a chain are given may be set without its knowledge, arrays too.
        self._is_fixed = not with_arrays and all(part.fixed for part in program.parts)
        is_chain = owner.main is not owner
        self._chained = [part.rule.__dict__ for part in program.parts] if is_chain else []
        self._options = [
            (part.rule.__dict__, name, value)
            for part in (program.parts if is_chain else ())
            for name, value in part.options.items()
        ]

    def are_those_of(self, owner: Owner) -> bool:
        """Return whether the settings are the same now."""
        # Overrides are compared, for the user's dict may have been changed in place.
        if (owner.overrides or self._overrides) and not is_same(owner.overrides, self._overrides):
            return False
        for values, name, value in self._options:
            if values[name] != value:
                return False
        given = self._chained
        may_differ = given and (any(map(_has_arrays, given)) or any(map(_has_moved, given)))
        return (self._is_fixed and not may_differ) or self._program.is_current()

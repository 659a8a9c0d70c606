"""The numbers that rules composed into one take at a step."""

from collections.abc import Mapping, Sequence

from instep.graph.dtypes import BOUNDS
from instep.graph.rows import NOTHING, Group, Part, Row, Varying


class StepNumbers:
    """The numbers of several rules.

    Attributes
    ----------
    parts
        The rules.
    lender
        That of which others borrow hyperparameters, if they do.
    """

    parts: list[Part]
    lender: Part | None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the numbers of a row."""
        return tuple(name for part in self.parts for name in part.names)

    def memory(self) -> dict[str, float]:
        """Return the initial values of the numbers that are remembered."""
        return {
            part.prefix + name: float(value)
            for part in self.parts
            for name, value in part.rule.scalar_slots.items()
        }

    def row(self, step: int, group: Group) -> Row:
        """Return the hyperparameters at `step`."""
        if len(self.parts) == 1 and not self.parts[0].prefix:
            overrides = group.overrides.get("", NOTHING)
            numbers, flags, memory = self.parts[0].numbers(step, group, overrides)
            if not flags and not memory:
                return Row(tuple(numbers), ())
            return Row(tuple(numbers), tuple(sorted(flags.items())), memory)
        everything: list[float] = []
        all_flags: dict[str, bool] = {}
        all_memory: dict[str, float] = {}
        waiting = False  # for the call that completes an accumulated gradient
        lent: Mapping[str, float] = NOTHING
        for part in self.parts:
            overrides = group.overrides.get(part.prefix, NOTHING)
            numbers, flags, memory = part.numbers(step, group, overrides, lent)
            everything += numbers
            if part is self.lender:
                lent = {entry.name: x for entry, x in zip(part.fields, numbers, strict=False)}
            if part.derives and not waiting:
                all_flags |= {part.prefix + name: flag for name, flag in flags.items()}
                all_memory |= {part.prefix + name: value for name, value in memory.items()}
                waiting = part.gathers and not flags.get("complete", True)
        return Row(tuple(everything), tuple(sorted(all_flags.items())), all_memory)

    def numbers(self, step: int, group: Group) -> tuple[float, ...]:
        """Return the numbers at `step`, where no rule derives any."""
        numbers: list[float] = []
        for part in self.parts:
            numbers += part.numbers(step, group, group.overrides.get(part.prefix, NOTHING))[0]
        return tuple(numbers)

    def arrays_for(self, group: Group) -> list[Varying]:
        """Return the hyperparameters of a group that are arrays; raise if they do not fit."""
        found: list[Varying] = []
        for part in self.parts:
            overrides = group.overrides.get(part.prefix, {})
            own = part.arrays(overrides)
            if own and part.rule.defines("check_values"):
                part.rule.check_values(part.rule.__dict__ | dict(overrides))
            found += own
        return found

    def check_rounding(self, numbers: Sequence[float], compute: str) -> None:
        """Raise if a hyperparameter that must not becomes 0 or infinite in the compute dtype."""
        least, most = BOUNDS[compute]
        for number in numbers:
            if not (least < number < most or number == 0):
                position = 0
                for part in self.parts:
                    _check_rounding(part, numbers[position:], compute)
                    position += len(part.names)
                break


def _check_rounding(part: Part, numbers: Sequence[float], compute: str) -> None:
    """Raise if a hyperparameter of a part is the one to be refused: they are the first numbers."""
    least, most = BOUNDS[compute]
    for number, entry in zip(numbers, part.fields, strict=False):
        if least < number < most or number == 0:
            continue
        domain = entry.domain
        if 0 < number <= least and domain.survives_rounding:
            becomes = "0"
            remedy = f"give {'' if domain.open_lower else '0 or '}a larger number"
        elif abs(number) >= most and not domain.infinite:
            becomes, remedy = "infinite", "give a number nearer to 0"
        else:
            continue
        raise ValueError(
            f"{part.owner}: {entry.name}={number!r} is {becomes} in {compute}, the dtype "
            f"of the arithmetic; {remedy}"
        )

"""How state is kept: as the numbers that a rule sees, or as codes of fewer bits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instep import encodings
from instep.encodings import SIGNED, UNSIGNED, Chance, Small
from instep.graph.dtypes import COMPLEX, NARROW, is_complex, state_dtype
from instep.graph.nodes import Array
from instep.words import BLOCK, Words

#: The array of a parameter that is kept whole: its name among those of state.
MASTER = "master"


def unit_name(slot: str) -> str:
    """Return what the array of the units of a slot in 8 bits is called."""
    return f"{slot}.unit"


@dataclass(frozen=True)
class Kept:
    """How an array of state is kept.

    Attributes
    ----------
    name
        That of the slot.
    dtype
        The dtype in which a rule sees it, or is kept where it has no codes.
    code
        What it has codes of: ``"bfloat16"``, numbers of 8 bits with a sign (``"float8"``) or
        without (``"unsigned"``), or nothing.
    chance
        Its number among what is rounded by chance; None: to the nearest.
    """

    name: str
    dtype: str
    code: str = ""
    chance: int | None = None

    @property
    def small(self) -> Small | None:
        """The format of its codes, if they have 8 bits."""
        return {"float8": SIGNED, "unsigned": UNSIGNED}.get(self.code)

    @property
    def arrays(self) -> tuple[Array, ...]:
        """What is kept: of complex numbers, the codes of both parts are one word."""
        if not self.code:
            return (Array(self.name, self.dtype),)
        bits = (16 if self.small is None else 8) << is_complex(self.dtype)
        units = [] if self.small is None else [Array(unit_name(self.name), "uint8", BLOCK)]
        return (Array(self.name, f"uint{bits}"), *units)

    def decoded(self, words: Words, code: Any, unit: Any) -> list[Any]:
        """Return the float32 numbers that have these codes: those of both parts, or of one."""
        width = 16 if self.small is None else 8
        parts = [code]
        if is_complex(self.dtype):
            low = words.operate("bit_and", code, (1 << width) - 1)
            parts = [low, words.operate("shift_right", code, width)]
        if self.small is None:
            return [encodings.from_bfloat16(words, part) for part in parts]
        return [self.small.decoded(words, part, unit) for part in parts]

    def encoded(self, words: Words, parts: Sequence[Any], chances: Sequence[Chance]) -> list[Any]:
        """Return the codes of float32 numbers, of both parts or of one, and their units."""
        found: list[Any] = []
        if self.small is None:
            width, made = 16, zip(parts, chances, strict=True)
            codes = [encodings.to_bfloat16(words, x, chance) for x, chance in made]
        else:
            width, unit = 8, self.small.unit(words, parts)
            made = zip(parts, chances, strict=True)
            codes = [self.small.encoded(words, x, unit, chance) for x, chance in made]
            found = [unit]
        code = codes[0]
        if len(codes) > 1:
            upper = words.operate("shift_left", codes[1], width)
            code = words.operate("bit_or", code, upper)
        return [code, *found]


def kept_in(name: str, arrays: Mapping[str, str], *, is_positive: bool) -> Kept:
    """Return how a slot is kept of which there are arrays of these dtypes, by name."""
    dtype = arrays[name]
    if not dtype.startswith("uint"):
        return Kept(name, dtype)
    is_small = unit_name(name) in arrays
    both = int(dtype.removeprefix("uint")) == (16 if is_small else 32)
    code = ("unsigned" if is_positive and not both else "float8") if is_small else "bfloat16"
    return Kept(name, "complex64" if both else "float32", code)


@dataclass(frozen=True)
class Keeping:
    """How parameters of a dtype, and their state, are kept.

    Attributes
    ----------
    dtype
        Of the parameters.
    slots
        The state arrays that are like a parameter.
    has_master
        Whether parameters are kept whole beside them.
    chance
        The number of the parameter among what is rounded by chance, if it is.
    rounds_at
        The name of the step with which numbers are rounded by chance.
    """

    dtype: str
    slots: tuple[Kept, ...] = ()
    has_master: bool = False
    chance: int | None = None
    rounds_at: str = ""

    @property
    def master(self) -> tuple[Array, ...]:
        """What is kept beside a parameter: its lower half, where it is the upper one, or all."""
        halves = self.dtype == "bfloat16"
        return (Array(MASTER, "uint16" if halves else "float32"),) if self.has_master else ()

    @property
    def arrays(self) -> tuple[Array, ...]:
        """All arrays of state, in their order."""
        return (*(array for kept in self.slots for array in kept.arrays), *self.master)


@dataclass(frozen=True)
class Fewer:
    """What an optimizer says of the bits of its state.

    Attributes
    ----------
    state_dtype, rounding, master
        As in `Optimizer`.
    exact, positive
        Names of slots that are kept as ever, and of those without negative numbers.
    step
        The name of the number of the step.
    unknown
        Slots of which it is not known whether they have negative numbers, with their rules.
    """

    state_dtype: str | None = None
    rounding: str | None = None
    master: bool = False
    exact: frozenset[str] = frozenset()
    positive: frozenset[str] = frozenset()
    step: str = ""
    unknown: Mapping[str, str] = field(default_factory=dict)

    def keeping(self, dtype: str, slots: Iterable[str], real: Iterable[str]) -> Keeping:
        """Return how parameters of a dtype, and these slots, are kept; some slots are real."""
        real, count = frozenset(real), 0
        has_master = self.master and dtype in NARROW
        chance, found = None, []
        if dtype in NARROW and self.rounding == "stochastic" and not has_master:
            chance, count = 0, 1
        for name in slots:
            kept = Kept(name, state_dtype(dtype, is_real=name in real))
            if self.state_dtype and name not in self.exact:
                kept = self._fewer(kept, count)
                count += (1 + is_complex(kept.dtype)) * (kept.chance is not None)
            found.append(kept)
        return Keeping(dtype, tuple(found), has_master, chance, self.step if count else "")

    def _fewer(self, kept: Kept, number: int) -> Kept:
        both = is_complex(kept.dtype)
        if self.state_dtype == "float32":
            return Kept(kept.name, COMPLEX["float32"] if both else "float32")
        code = str(self.state_dtype)
        if code == "float8" and kept.name in self.unknown:
            rule = self.unknown[kept.name]
            raise TypeError(
                f"{rule}: state in 8 bits has one format for numbers with a sign and another for "
                f"those without; declare positive_slots in the class, the names of the slots that "
                f"hold no negative numbers, such as means of squares, or () for none"
            )
        if code == "float8" and kept.name in self.positive and not both:
            code = "unsigned"
        return Kept(kept.name, kept.dtype, code, None if self.rounding == "nearest" else number)

"""Settings of a state beside those of an optimizer: which hold, and what does not go together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from instep import arrays
from instep.choices import Overrides, Selector, Selectors
from instep.hyperparameters import described, is_array, is_same
from instep.interrupts import Call
from instep.schedules.stored import (
    Named,
    arguments_of,
    functions_in,
    is_of_the_kit,
    name_of,
    remade,
    snapshot,
)


class MismatchError(ValueError):
    """What a state has does not go together with what an optimizer has."""


@dataclass(frozen=True)
class Matching:
    """Puts what a state has into the place of what an optimizer has.

    Attributes
    ----------
    owner
        The call, for messages.
    is_strict
        Whether what does not go together is an error. Else the optimizer keeps what it has.
    calls
        What is to be done where a schedule stays the object that it is: calls in C.
    """

    owner: str
    is_strict: bool = True
    calls: list[Call] = field(default_factory=list)
    _memo: dict[int, Any] = field(default_factory=dict)

    def value(self, what: str, given: Any, present: Any) -> Any:
        """Return what a hyperparameter is after a load: of the state, or what goes with it."""
        calls: list[Call] = []
        try:
            found = self._matched(what, given, present, calls)
        except MismatchError:
            if self.is_strict:
                raise
            return present
        self.calls.extend(calls)
        return found

    def _matched(self, what: str, given: Any, present: Any, calls: list[Call]) -> Any:
        if not callable(given):
            if callable(present):
                raise self._mismatch(what, given, present)
            return _placed(given, present)
        if is_of_the_kit(given):
            if type(given) is type(present):
                return self._filled(what, given, present, calls)
        elif callable(present) and not is_of_the_kit(present):
            if name_of(given) == name_of(present):
                return present  # by reference: it may be a method of an object that goes on
            raise self._mismatch(what, given, present)
        if callable(present) or is_array(present):
            raise self._mismatch(what, given, present)
        self._check_known(what, given)
        return snapshot(given, self._memo)

    def _filled(self, what: str, given: Any, present: Any, calls: list[Call]) -> Any:
        """Return a schedule of the kit, of the class of the one that is there.

        Where something is told to one, it stays that object.
        """
        new = arguments_of(given)
        for name, old in arguments_of(present).items():
            new[name] = self._argument(f"{what}.{name}", new[name], old, calls)
        if type(present).__hash__ is None:  # it changes, as `ReduceOnPlateau` does
            calls.append(partial(vars(present).update, vars(given) | new))
            return present
        is_one = all(new[name] is old for name, old in arguments_of(present).items())
        return present if is_one or (new == arguments_of(present)) else remade(present, new)

    def _argument(self, what: str, given: Any, present: Any, calls: list[Call]) -> Any:
        if isinstance(given, tuple) and isinstance(present, tuple) and len(given) == len(present):
            return tuple(
                [
                    self._argument(f"{what}[{i}]", *pair, calls)
                    for i, pair in enumerate(zip(given, present, strict=True))
                ]
            )
        if isinstance(given, tuple):
            self._check_known(what, given)
            return tuple([snapshot(part, self._memo) for part in given])
        return self._matched(what, given, present, calls)

    def _check_known(self, what: str, given: Any) -> None:
        """Raise if a state has only the name of a function."""
        for function in functions_in(given):
            if isinstance(function, Named):
                raise MismatchError(
                    f"{self.owner}: {what} was saved with the function {function.name}, of which a "
                    f"file has the name alone; make the optimizer with that function"
                )

    def _mismatch(self, what: str, given: Any, present: Any) -> MismatchError:
        return MismatchError(
            f"{self.owner}: {what} was saved as {_said(given)}, and here it is {_said(present)}; "
            f"make the optimizer with the same, and set {what} after loading, or keep what is here "
            f"with strict=False"
        )

    # What chooses leaves ----------------------------------------------------------------------

    def frozen(self, given: Any, present: Selectors) -> Sequence[Selector]:
        """Return what is frozen after a load."""
        given = tuple(given)
        for selector in given:
            self._check_selector("frozen", selector)
        return self._selected("frozen", given, tuple(present))

    def overrides(self, given: Mapping[Any, Any], present: Overrides) -> Overrides:
        """Return the overrides after a load: the same dict, if they were the same."""
        for selector, values in given.items():
            self._check_selector("overrides", selector)
            if not isinstance(values, Mapping):
                raise TypeError(
                    f"{self.owner}: overrides[{selector!r}] must be a dict of hyperparameters, "
                    f"got {described(values)}"
                )
        try:
            selectors = self._selected("overrides", tuple(given), tuple(present))
        except MismatchError:
            if self.is_strict:
                raise
            return present
        if selectors == tuple(present) and not self._are_alike(given, selectors, present):
            return present
        new = {
            selector: {
                name: self.value(
                    f"overrides[{_said(selector)}][{name!r}]",
                    value,
                    present.get(selector, {}).get(name, 0.0),
                )
                for name, value in values.items()
            }
            for selector, values in zip(selectors, given.values(), strict=True)
        }
        return present if is_same(new, present) else new

    def _are_alike(
        self, given: Mapping[Any, Any], selectors: Sequence[Selector], present: Overrides
    ) -> bool:
        """Return whether overrides are of the same hyperparameters."""
        pairs = zip(selectors, given.values(), strict=True)
        if not given or all(
            present[selector].keys() == values.keys() for selector, values in pairs
        ):
            return True
        if self.is_strict:
            raise self._mismatch("overrides", given, present)
        return False

    def _selected(
        self, what: str, given: tuple[Selector, ...], present: tuple[Selector, ...]
    ) -> tuple[Selector, ...]:
        """Return what chooses leaves: the functions that are here, for those of these names."""
        if not present:
            for selector in given:
                if not isinstance(selector, str):
                    self._check_known(what, selector)
            return given
        if [*map(_name, given)] == [*map(_name, present)]:
            return present
        if self.is_strict or what == "overrides":
            raise self._mismatch(what, given, present)
        return present

    def _check_selector(self, what: str, selector: Any) -> None:
        if not (isinstance(selector, str) or callable(selector)):
            raise TypeError(
                f"{self.owner}: {what} must have patterns of paths and functions, got "
                f"{described(selector)}"
            )


def _name(selector: Selector) -> tuple[bool, str]:
    is_pattern = isinstance(selector, str)
    return is_pattern, selector if isinstance(selector, str) else name_of(selector)


def _said(value: Any) -> str:
    """Return a setting in words: functions by their names."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_said(key)}: {_said(x)}' for key, x in value.items())}}}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_said, value))}{',' if len(value) == 1 else ''})"
    if is_array(value):
        return arrays.describe(value)
    if callable(value) and not is_of_the_kit(value):
        return f"the function {name_of(value)}"
    return described(value)


def _placed(value: Any, present: Any) -> Any:
    """Return a hyperparameter; an array goes where the one is that it takes the place of."""
    if not is_array(value):
        return value
    if not is_array(present):
        return arrays.to_numpy(value)
    device = arrays.namespace_device(present)
    return arrays.namespace(present).asarray(arrays.to_numpy(value), device=device)

"""Constructors of rules: what is said of arguments that a rule has not, and those of one's own."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence, ValuesView
from functools import wraps
from typing import Any

from instep.hyperparameters import Hyperparameter, is_array


def names_of(hyperparameters: Sequence[Hyperparameter]) -> str:
    """Return the names of hyperparameters, for messages."""
    return ", ".join(entry.name for entry in hyperparameters) or "none"


def is_generated(constructor: Any) -> bool:
    """Return whether a constructor of a rule is one that `checked` returned."""
    cls = getattr(constructor, "made_for", None)
    return cls is not None and vars(cls).get("__init__") is constructor


def checked(cls: Any) -> Callable[..., None]:
    """Return the constructor that `dataclass` has made for a class, with errors that help.

    A constructor of one's own in a subclass may call it with hyperparameters of the subclass, too.
    """
    construct = cls.__init__
    code = construct.__code__
    known = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
    unnamed = known[: code.co_argcount - 1]

    @wraps(construct)
    def constructed(self: Any, *given: Any, **named: Any) -> None:
        own = {entry.name for entry in self.hyperparameters}
        for name, value in named.items():
            if name not in known and name not in own:
                raise TypeError(
                    f"{self.name} has no hyperparameter {name!r}; "
                    f"{self._remedy(name, value) or f'it has {names_of(self.hyperparameters)}'}"
                )
        _check_unnamed(self, unnamed, given, named)
        if type(self) is not cls:  # it is called by a constructor of one's own
            named = _completed(self, unnamed[: len(given)], named)
            for name in [name for name in named if name not in known]:
                setattr(self, name, named.pop(name))
        construct(self, *given, **named)

    constructed.made_for = cls  # type: ignore[attr-defined]
    return constructed


def completing(construct: Any) -> Callable[..., None]:
    """Return a constructor of one's own that says so if it has not called the one that it hides."""

    @wraps(construct)
    def constructed(self: Any, *given: Any, **named: Any) -> None:
        construct(self, *given, **named)
        declared = *(entry.name for entry in self.hyperparameters), *self._settings
        if any(name not in vars(self) for name in declared):
            raise TypeError(
                f"{self.name}: its constructor has not called super().__init__(); call it, with "
                f"hyperparameters by their names, as in super().__init__(lr=lr)"
            )

    return constructed


def _completed(rule: Any, given: Sequence[str], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments with what the constructor of a subclass leaves as it is declared there."""
    found = dict(named)
    for declared in dataclasses.fields(rule):
        name, make = declared.name, declared.default_factory
        if name in given or name in named:
            continue
        default = declared.default if make is dataclasses.MISSING else make()
        value = vars(rule).get(name, default)
        if value is dataclasses.MISSING:
            raise TypeError(
                f"{rule.name}: {name} has no default; write super().__init__({name}=...) in its "
                f"constructor"
            )
        found[name] = value
    return found


def _check_unnamed(
    rule: Any, names: Sequence[str], given: Sequence[Any], named: Mapping[str, Any]
) -> None:
    """Raise for arguments that stand where hyperparameters are meant, or where there are none."""
    first = next(iter(names), "")
    if given and hasattr(rule, "update") and _are_parameters(given[0], first in named):
        remedy = f": {rule.name}({first}=...)" if first else ""
        raise TypeError(
            f"{rule.name}: {f'the first argument is {first}, ' if first else ''}got parameters; "
            f"give these to update(params, grads), at every step, and hyperparameters by their "
            f"names{remedy}"
        )
    if len(given) > len(names):
        own = next(iter(rule.hyperparameters), None)
        example = f", as in {rule.name}({own.name}=...)" if own else ""
        if not is_generated(type(rule).__init__):
            example = f", as in super().__init__({own.name if own else 'lr'}=...)"
        raise TypeError(
            f"{rule.name} takes {f'at most {len(names)}' if names else 'no'} arguments without "
            f"names, got {len(given)}; give hyperparameters and settings by their names{example}"
        )


def _are_parameters(value: Any, is_one_too_many: bool) -> bool:
    """Return whether parameters stand where a hyperparameter is meant."""
    if isinstance(value, Mapping | list | tuple):
        leaves = value.values() if isinstance(value, Mapping) else value
        return any(is_array(x) or isinstance(x, Mapping | list | tuple) for x in leaves)
    # Other libraries take generators.
    return isinstance(value, Iterator | ValuesView) or (is_one_too_many and is_array(value))

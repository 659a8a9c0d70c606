"""Signatures of constructors as they are read: `lr: float | Schedule | RealArray = 0.001`."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from instep.choices import Overrides, Selector, Selectors
from instep.hyperparameters import Schedule, hints_of

_Function = TypeVar("_Function", bound=Callable[..., Any])

_UNIONS = (types.UnionType, typing.Union)

#: Types that have a name of their own.
_NAMES: Mapping[Any, str] = {
    Schedule: "Schedule",
    Overrides: "Overrides",
    Selector: "Selector",
    Selectors: "Selectors",
}


class _Text(str):
    """A type as it is read, for a signature shows other strings within quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def write_signature(cls: Any) -> None:
    """Give the constructor that `dataclass` has made for a class a signature that is read easily.

    `inspect.signature`, `help`, notebooks and Sphinx show it. Domains are not in it: they are in
    the errors, and stay in the annotations, as do the types.
    """
    makers = {
        field.name: field.default_factory
        for field in dataclasses.fields(cls)
        if field.default_factory is not dataclasses.MISSING
    }
    with suppress(NameError):  # an annotation names what is not there, and is shown as it is
        _write(vars(cls)["__init__"], hints_of(cls), makers)


def write_signatures(things: Iterable[Any]) -> None:
    """Do so for those among them that are such classes."""
    for one in things:
        if isinstance(one, type) and dataclasses.is_dataclass(one):
            write_signature(one)


def readable(function: _Function) -> _Function:
    """Give a function a signature that is read easily."""
    _write(function, typing.get_type_hints(function), {})
    return function


def _write(function: Any, hints: dict[str, Any], makers: dict[str, Callable[[], Any]]) -> None:
    signature = inspect.signature(function)
    parameters = []
    for name, parameter in signature.parameters.items():
        changes: dict[str, Any] = {}
        if parameter.annotation is not parameter.empty:
            changes["annotation"] = _Text(_text(hints.get(name, parameter.annotation)))
        if name in makers:
            changes["default"] = makers[name]()
        parameters.append(parameter.replace(**changes))
    returned = hints.get("return", signature.empty)
    if returned is not signature.empty:
        returned = _Text(_text(returned))
    function.__signature__ = inspect.Signature(parameters, return_annotation=returned)


def _text(hint: Any) -> str:
    """Return a type as one would write it."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _text(parts[0])
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, parts))}]"
    if origin in _UNIONS or (isinstance(hint, Hashable) and hint in _NAMES):
        return " | ".join(_alternatives(hint))
    if isinstance(origin, type) and not any(isinstance(part, list) for part in parts):
        return f"{origin.__name__}[{', '.join(map(_text, parts))}]"
    if isinstance(hint, str) or hint is ...:
        return "..." if hint is ... else hint
    return "None" if hint is types.NoneType else getattr(hint, "__name__", repr(hint))


def _alternatives(hint: Any) -> list[str]:
    """Return the types of a union, those together that have a name together."""
    left, found = _parts(hint), []
    while left:
        named = (one for one in _NAMES if set(_parts(one)) <= set(left) and left[0] in _parts(one))
        one = next(named, None)
        found.append(_text(left[0]) if one is None else _NAMES[one])
        left = [part for part in left[1:] if one is None or part not in _parts(one)]
    return found


def _parts(hint: Any) -> list[Any]:
    return [*typing.get_args(hint)] if typing.get_origin(hint) in _UNIONS else [hint]

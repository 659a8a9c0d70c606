"""Checks of what the class of a rule declares: names, slots, and how state starts.

What can be seen when the class is made is checked then, and the rest when one is constructed.
"""

import inspect
from collections.abc import Mapping
from keyword import iskeyword
from types import FunctionType
from typing import Any

from instep.hyperparameters import described, real

#: Attributes of the base classes, chains included: a number of such a name would hide one of them.
RESERVED = frozenset(
    {
        *("answer", "answer_in_place", "answer_rule", "averaged", "borrowed", "check_values"),
        *(
            "complex",
            "defines",
            "engine",
            "eval_params",
            "exact_slots",
            "explain",
            "form_for",
            "frozen",
        ),
        *("guarded", "master", "min_float8_size", "positive_slots", "state_dtype"),
        *("branches", "compositions", "hyperparameters", "initial_state"),
        *("load", "load_state_dict", "main", "moving", "name", "needs_random", "needs_value"),
        *("numbers", "optional_slots", "overrides", "part", "parts", "readings", "scopes"),
        *("period", "real_slots", "reset", "rounding", "rule", "save", "scalar_slots", "scalars"),
        *("seed", "skipped", "slots", "stage", "state_dict", "state_slots", "t", "tensor_numbers"),
        *("tensor_readings", "threads", "tree_numbers", "tree_readings", "update", "varying"),
        *("constrains", "lasting_numbers", "number_domains", "points", "scale"),
        *("forget", "resize", "flush"),
    }
)

#: Those among them that are for users; the others are what rules declare, and what plans ask for.
FOR_USERS = frozenset(
    {
        *("answer", "answer_in_place", "averaged", "branches", "complex", "compositions"),
        *("engine", "eval_params", "explain", "flush", "forget", "frozen", "hyperparameters"),
        *("load", "load_state_dict", "main", "master", "min_float8_size", "name", "overrides"),
        *("parts", "readings", "reset", "resize", "rounding", "save", "scale", "seed"),
        *("skipped", "state_dict", "state_dtype", "t", "threads", "update"),
    }
)

#: Attributes of `h` and `s` themselves.
_HIDDEN = frozenset({"_kind", "_owner", "_powers", "_values"})

#: Why, for names that mean something in a rule too.
_MEANINGS = {
    "t": "h.t is the number of the step",
    "period": "the attribute `period` is the number of calls that make one step",
    "w": "it is the parameter",
    "g": "it is the gradient",
}

#: What is called as a method of a rule.
_FUNCTIONS = (FunctionType, staticmethod, classmethod)


def check_class(cls: Any) -> None:
    """Raise TypeError if a class of rules declares what it cannot mean."""
    hyperparameters = [entry.name for entry in cls.hyperparameters]
    for name in hyperparameters:
        _check_name(cls.__name__, "hyperparameter", name)
    if "kind" in hyperparameters and cls.defines("form_for"):
        raise TypeError(
            f"{cls.__name__}: no hyperparameter can be called 'kind', for h.kind is that of the "
            f"form; choose another name"
        )
    if not hasattr(cls.slots, "__get__"):  # a property is read when a rule is constructed
        _check_slots(cls.__name__, "slots", cls.slots)
        cls.slots = tuple(cls.slots)
    if not hasattr(cls.real_slots, "__get__"):
        _check_slots(cls.__name__, "real_slots", cls.real_slots)
    _check_slots(cls.__name__, "exact_slots", cls.exact_slots)
    if cls.positive_slots is not None:
        _check_slots(cls.__name__, "positive_slots", cls.positive_slots)
    _check_points(cls)
    _check_optional_slots(cls)
    _check_scalar_slots(cls, hyperparameters)
    _check_signatures(cls)
    _check_numbers(cls, "tensor_numbers", hyperparameters)
    _check_numbers(cls, "tree_numbers", hyperparameters)
    _check_lasting_numbers(cls)
    _check_readings(cls)
    if cls.needs_value and "value" in hyperparameters:
        raise TypeError(
            f"{cls.__name__}: with needs_value, h.value is the value of the objective, and no "
            f"hyperparameter; choose another name"
        )
    for name in ("constrains", "guarded", "needs_random", "needs_value"):
        if not isinstance(getattr(cls, name), bool):
            raise TypeError(
                f"{cls.__name__}: the class attribute `{name}` must be True or False, got "
                f"{described(getattr(cls, name))}"
            )
    for name, value in vars(cls).items():
        _check_hiding(cls, name, value)


def _check_hiding(cls: Any, name: str, value: Any) -> None:
    """Raise if what a class calls by a name hides another thing of a base class."""
    hidden = [vars(base)[name] for base in cls.__mro__[1:] if name in vars(base)]
    if name not in RESERVED or not any(hasattr(found, "__get__") for found in hidden):
        return
    is_property = isinstance(hidden[-1], property)
    if hasattr(value, "__get__"):
        differs = isinstance(value, _FUNCTIONS if is_property else property)
    else:
        differs = name != "period"
    if differs:
        what = "an attribute" if is_property else "a method"
        raise TypeError(
            f"{cls.__name__}: {name!r} is {what} of the base class, and here it is "
            f"{described(value)}; choose another name"
        )


def _check_signatures(cls: Any) -> None:
    """Raise unless what a class defines can be called as rules are."""
    new = ["new"] if getattr(cls, "stage", "") == "step" else []
    given = {
        "rule": ["xp", "w", *new, "g", "s", "h"],
        "scalars": ["h"],
        "answer_rule": ["xp", "w", "s", "h"],
    }
    for name, arguments in given.items():
        function = vars(cls).get(name)
        if isinstance(function, FunctionType | staticmethod):
            _check_signature(f"{cls.__name__}.{name}", function, arguments)


def _check_signature(title: str, function: Any, given: list[str]) -> None:
    own = ["self"] if isinstance(function, FunctionType) else []
    signature = inspect.signature(function if own else function.__func__)
    if not _takes(signature, [*own, *given]):
        forgotten = bool(own) and _takes(signature, given)
        remedy = "put @staticmethod before it" if forgotten else "change its signature"
        name = title.rpartition(".")[2]
        raise TypeError(
            f"{title} is called as {name}({', '.join(given)}), and is defined as "
            f"{name}{signature}; {remedy}"
        )


def _takes(signature: inspect.Signature, arguments: "list[str]") -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def check_instance(rule: Any) -> None:
    """Raise if the slots of a rule that was just constructed, or how they start, make no sense."""
    owner, slots = rule.name, rule.state_slots()
    if slots is not type(rule).slots:
        _check_slots(owner, "state_slots()", slots)
    initial: Any = rule.initial_state()
    if not isinstance(initial, Mapping):
        raise TypeError(
            f"{owner}.initial_state must return a dict of slots, got {described(initial)}"
        )
    known = {*rule.slots, *slots}
    listed = bool(rule.slots) or not rule.defines("state_slots")
    for slot, start in initial.items():
        if slot not in known and listed:
            raise TypeError(
                f"{owner}.initial_state: {slot!r} is not one of the slots "
                f"{', '.join(sorted(known)) or '(there are none)'}; check the name"
            )
        _check_start(rule, slot, start)


def _check_start(rule: Any, slot: str, start: Any) -> None:
    if isinstance(start, str):
        names = [entry.name for entry in rule.hyperparameters if not entry.option]
        # What `scalars` returns is not known before the first step: it is checked then.
        if start in ("w", "t", *names) or rule.defines("scalars"):
            return
        raise TypeError(wrong_start(rule.name, slot, start, ["t", *names]))
    try:
        real(start)
    except (TypeError, OverflowError):
        raise TypeError(
            f'{rule.name}.initial_state: {slot!r} must be a number, "w" for a copy of the '
            f"parameter, or the name of a hyperparameter, got {described(start)}"
        ) from None


def wrong_start(owner: str, slot: str, start: str, names: "list[str]") -> str:
    """Return what is wrong with a slot that is to start as something that does not exist."""
    return (
        f'{owner}.initial_state: {slot!r} is to start as {start!r}, which is neither "w", a copy '
        f"of the parameter, nor one of the numbers {', '.join(names)}; check the name"
    )


def wrong_number(owner: str, name: str, start: str) -> str:
    """Return what is wrong with a number that is to start as something that is no number."""
    return (
        f"{owner}: the number {name!r} is to start as {start!r}, which is no number at the first "
        f"step; give a number, or the name of one"
    )


def check_form(form: Any) -> None:
    """Raise unless the names in a form are names, and its shapes shapes."""
    _check_slots("Form", "slots", form.slots)
    _check_slots("Form", "between", form.between)
    if not isinstance(form.whole, Mapping):  # what a class of the user's returns
        raise TypeError(f"Form: whole must be a dict of shapes, got {described(form.whole)}")
    _check_slots("Form", "whole", tuple(form.whole))
    shapes: Mapping[str, Any] = form.whole
    for name, shape in shapes.items():
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise TypeError(
                f"Form: the shape of {name!r} must be a tuple of integers >= 0, got "
                f"{described(shape)}"
            )
    if not isinstance(form.kind, str):
        raise TypeError(f"Form: kind must be a string, got {described(form.kind)}")


def _check_points(cls: Any) -> None:
    _check_slots(cls.__name__, "points", cls.points)
    slots = cls.points if hasattr(cls.slots, "__get__") else cls.slots
    if unknown := [name for name in cls.points if name not in slots]:
        raise TypeError(
            f"{cls.__name__}: {unknown[0]!r} is one of the points, and not one of the slots "
            f"{', '.join(slots) or '(there are none)'}; name it there, too"
        )


def _check_optional_slots(cls: Any) -> None:
    if not isinstance(cls.optional_slots, Mapping):
        raise TypeError(
            f"{cls.__name__}: optional_slots must be a dict of slots and the names of options, got "
            f"{described(cls.optional_slots)}"
        )
    options = [entry.name for entry in cls.hyperparameters if entry.option]
    for slot, given in cls.optional_slots.items():
        option = given[0] if isinstance(given, tuple) and len(given) == 2 else given
        if option not in options:
            raise TypeError(
                f"{cls.__name__}: optional_slots has {slot!r} while {option!r} is on, which is not "
                f"one of the options {', '.join(options) or '(there are none)'}; check the name"
            )


def _check_scalar_slots(cls: Any, hyperparameters: list[str]) -> None:
    if hasattr(cls.scalar_slots, "__get__"):
        return
    if not isinstance(cls.scalar_slots, Mapping):
        raise TypeError(
            f"{cls.__name__}: scalar_slots must be a dict of names and initial values, got "
            f"{described(cls.scalar_slots)}"
        )
    for name, value in cls.scalar_slots.items():
        _check_name(cls.__name__, "scalar", name)
        try:
            real(value)
        except (TypeError, OverflowError):
            raise TypeError(
                f"{cls.__name__}: the scalar slot {name!r} must start at a number, got "
                f"{described(value)}"
            ) from None
        if name in hyperparameters:
            raise TypeError(
                f"{cls.__name__}: {name!r} is a hyperparameter and one of the scalar_slots; give "
                f"one of them another name"
            )


def _check_numbers(cls: Any, what: str, hyperparameters: list[str]) -> None:
    numbers = getattr(cls, what)
    if not isinstance(numbers, Mapping):
        raise TypeError(
            f"{cls.__name__}: {what} must be a dict of names and first values, got "
            f"{described(numbers)}"
        )
    _check_slots(cls.__name__, what, tuple(numbers))
    others = () if hasattr(cls.slots, "__get__") else cls.slots
    for name, start in numbers.items():
        if name in others or (what == "tree_numbers" and name in cls.tensor_numbers):
            raise TypeError(
                f"{cls.__name__}: {name!r} is one of the {what}, and another slot has that name; "
                f"give one of them another"
            )
        # What `scalars` returns is not known before the first step: it is looked for then.
        if isinstance(start, str):
            is_known = start in ("t", *hyperparameters) or cls.defines("scalars")
        else:
            is_known = _is_real(start)
        if not is_known:
            raise TypeError(
                f"{cls.__name__}: {name!r}, one of the {what}, must start at a number, or at the "
                f"value of a hyperparameter whose name is given, got {described(start)}"
            )


def _check_lasting_numbers(cls: Any) -> None:
    _check_slots(cls.__name__, "lasting_numbers", cls.lasting_numbers)
    if unknown := [name for name in cls.lasting_numbers if name not in cls.tree_numbers]:
        raise TypeError(
            f"{cls.__name__}: {unknown[0]!r} is one of the lasting_numbers, and not one of the "
            f"tree_numbers {', '.join(cls.tree_numbers) or '(there are none)'}; name it there, "
            f"with its first value"
        )


def _check_readings(cls: Any) -> None:
    taken = {*cls.tensor_numbers, *cls.tree_numbers}
    taken.update(() if hasattr(cls.slots, "__get__") else cls.slots)
    taken.update(() if hasattr(cls.scalar_slots, "__get__") else cls.scalar_slots)
    taken.update(entry.name for entry in cls.hyperparameters)
    for what in ("tensor_readings", "tree_readings"):
        names = getattr(cls, what)
        _check_slots(cls.__name__, what, names)
        if wrong := [name for name in names if name in taken]:
            raise TypeError(
                f"{cls.__name__}: {wrong[0]!r} is one of the {what}, and something else has that "
                f"name; give one of them another"
            )
        taken.update(names)


def _is_real(value: Any) -> bool:
    try:
        real(value)
    except (TypeError, OverflowError):
        return False
    return True


def _check_slots(owner: str, what: str, slots: Any) -> None:
    if isinstance(slots, str):
        raise TypeError(
            f"{owner}: {what} is the string {slots!r}, not a tuple of names; write ({slots!r},), "
            f"with a comma"
        )
    if not isinstance(slots, tuple | list):
        raise TypeError(f"{owner}: {what} must be a tuple of names, got {described(slots)}")
    for name in slots:
        _check_name(owner, "slot", name)
        if name in ("w", "g"):
            raise TypeError(
                f"{owner}: {name!r} cannot be the name of a slot, for {_MEANINGS[name]}; choose "
                f"another name"
            )
        if slots.count(name) > 1:
            raise TypeError(f"{owner}: {what} has {name!r} twice; each slot has a name of its own")


def _check_name(owner: str, kind: str, name: Any) -> None:
    if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
        raise TypeError(
            f"{owner}: {name!r} cannot be the name of a {kind}; give it one that could stand "
            f"after a dot, as in h.lr"
        )
    if name.startswith("__") or name in _HIDDEN or (kind == "hyperparameter" and name[0] == "_"):
        raise TypeError(
            f"{owner}: no {kind} can be called {name!r}, for attributes with a leading underscore "
            f"belong to the base class; choose another name"
        )
    if name in RESERVED:
        because = _MEANINGS.get(name, f"the attribute `{name}` of the base class is another thing")
        raise TypeError(
            f"{owner}: no {kind} can be called {name!r}, for {because}; choose another name"
        )

"""State of another library in an optimizer of the kit: all of it is checked before it changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from instep import arrays
from instep.bridges.fields import Field, Values
from instep.bridges.opened import Opened
from instep.hyperparameters import is_array


@dataclass(frozen=True)
class Read:
    """What the other side keeps of one parameter.

    Attributes
    ----------
    taken
        Number of steps that it took.
    fields
        Arrays and numbers, by their names there.
    """

    taken: int
    fields: Values


@dataclass(frozen=True)
class Given:
    """What the other side has.

    Attributes
    ----------
    t
        Number of steps that were taken.
    leaves
        What is kept of parameters, by their keys here.
    values, others
        Hyperparameters of the rule, and of others in a chain by their names in the state, where
        they are known. Schedules stay.
    overrides
        Those that are new.
    of_tree
        What is kept of the tree.
    of_all
        Numbers that each parameter keeps here, and that are the same for all there.
    arrays
        The parameters, where they are known.
    """

    t: int
    leaves: Mapping[str, Read]
    values: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    of_tree: Values = field(default_factory=dict)
    of_all: Values = field(default_factory=dict)
    arrays: Mapping[str, Any] = field(default_factory=dict)


def load(one: Opened, given: Given) -> None:
    """Give an optimizer the state of the other side, all of it or nothing."""
    new, t = one.present(), given.t
    for name, value in given.values.items():
        if is_array(new[name]):
            one.number(name, None, new[name], t)
        new[name] = value if not callable(new[name]) else new[name]
    numbers = one.numbers(new, t)
    states = {}
    for key, leaf in given.leaves.items():
        array = given.arrays.get(key)
        own = given.overrides.get(key) if given.overrides else one.overridden(key, array)
        values = new | {name: x for name, x in (own or {}).items() if name in new}
        states[key] = _leaf(one, key, leaf, values, array, given.of_all)
        states[key]["missed"] = t - leaf.taken
    tree = {entry.ours: float(entry.read(given.of_tree, numbers)) for entry in one.row.of_tree}
    state = {
        **one.state,
        "t": t,
        "hyperparameters": {
            **one.state["hyperparameters"],
            **{one.prefix + name: x for name, x in new.items()},
            **given.others,
        },
        "numbers": {one.prefix + name: x for name, x in tree.items()} if states else {},
        "states": states,
    }
    if given.overrides:
        state["overrides"] = given.overrides
    one.optimizer.load_state_dict(state)


def _leaf(
    one: Opened, key: str, given: Read, values: Mapping[str, Any], array: Any, of_all: Values
) -> dict[str, Any]:
    """Return the state of a parameter, or raise."""
    theirs = {
        name: _in_full(f"{one.call}: {name!r} of {key!r}", x) for name, x in given.fields.items()
    }
    shape = tuple(array.shape) if one.row.needs_params else one.row.shape_of(theirs)
    if array is not None and tuple(array.shape) != shape:
        raise ValueError(
            f"{one.call}: the state of {key!r} is of a parameter of shape {shape}, and it has "
            f"{tuple(array.shape)}; give the names in the order of the parameters there"
        )
    numbers = one.numbers(values, given.taken) | {"shape": shape}
    kept = {name: x for name, x in _kept(one, values, shape).items() if name not in of_all}
    found = {entry.ours: entry for entry in one.row.fields if entry.ours in kept}
    if others := sorted(kept.keys() - found.keys()):
        raise ValueError(
            f"{one.call}: {one.rule.name} keeps {others[0]!r} of a parameter of shape {shape}, "
            f"such as {key!r}, and {one.there} does not; leave it out of names"
        )
    _check_fields(one, key, theirs, list(found.values()))
    _check_rates(one, key, theirs, list(found.values()), numbers)
    new = {
        name: _real(one, key, name, entry.read(theirs, numbers)) for name, entry in found.items()
    }
    _check_shapes(one, key, new, kept, shape)
    return _stored(one, new | dict(of_all))


def _real(one: Opened, key: str, name: str, x: Any) -> Any:
    """Return what is real here, though the other side may keep it as complex numbers, or raise."""
    is_real = name in one.rule.real_slots or name in one.rule.tensor_numbers
    if not is_real or not np.iscomplexobj(x):
        return x
    if np.any(np.imag(x)):
        raise ValueError(
            f"{one.call}: the state of {key!r} makes {name!r} of complex numbers, and "
            f"{one.rule.name} takes squares of moduli, which are real; it goes on in no way here"
        )
    return np.real(x)


def _stored(one: Opened, new: Values) -> dict[str, Any]:
    """Return what is kept of a parameter as it is in a state of the kit."""
    rule, prefix = one.rule, one.prefix
    of_tensor = rule.tensor_numbers
    slots = {
        prefix + name: np.asarray(x, np.float64 if name in of_tensor else None)
        for name, x in new.items()
        if name not in rule.scalar_slots
    }
    scalars = {  # what transforms begin with: no other that remember something go over
        other + name: value
        for other, part in one.optimizer.parts.items()
        for name, value in part.scalar_slots.items()
    }
    scalars |= {prefix + name: float(x) for name, x in new.items() if name in rule.scalar_slots}
    return {"slots": slots, "scalars": scalars}


def _kept(one: Opened, values: Mapping[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the shapes of what a rule keeps of a parameter, by name."""
    bare = object.__new__(type(one.rule))  # a copy would have all state, too
    bare.__dict__.update(values)
    form = bare.form_for(shape)
    numbers = (*one.rule.tensor_numbers, *one.rule.scalar_slots)
    return {**dict.fromkeys(form.slots, shape), **form.whole, **dict.fromkeys(numbers, ())}


def _check_fields(one: Opened, key: str, given: Values, expected: Sequence[Field]) -> None:
    """Raise unless a parameter has the fields that the rule keeps, and no other."""
    names = {entry.theirs for entry in expected}
    if missing := sorted(names - given.keys()):
        raise ValueError(
            f"{one.call}: the state of {key!r} has no {missing[0]!r}, which {one.rule.name} "
            f"keeps; it has {', '.join(given) or 'nothing'}: give the state of that optimizer"
            f"{one.row.hint}"
        )
    if others := sorted(given.keys() - names):
        raise ValueError(
            f"{one.call}: the state of {key!r} has {others[0]!r}, for which {one.rule.name} "
            f"has nothing, with the options that it has; give the optimizer that it is of"
        )


def _check_rates(
    one: Opened, key: str, given: Values, expected: Sequence[Field], numbers: Values
) -> None:
    """Raise if all of a field would be lost, for it is multiplied by 0."""
    for entry in expected:
        if entry.divides and numbers[entry.divides] == 0 and np.any(given[entry.theirs]):
            remedy = " with lr_in_velocity=False" if "lr_in_velocity" in numbers else ""
            raise ValueError(
                f"{one.call}: {entry.divides} of the next step is 0, and {entry.ours!r} of {key!r} "
                f"would be {entry.theirs!r} times that, all of it 0 for good; make the optimizer"
                f"{remedy or ' while it is another'}"
            )


def _check_shapes(
    one: Opened, key: str, new: Values, expected: Mapping[str, Any], shape: tuple[int, ...]
) -> None:
    for name, value in new.items():
        if np.shape(value) != tuple(expected[name]):
            raise ValueError(
                f"{one.call}: the state of {key!r} makes {name!r} of shape {np.shape(value)}, "
                f"expected {tuple(expected[name])} for a parameter of shape {shape}; it is damaged"
            )


def _in_full(what: str, x: Any) -> Any:
    """Return an array, of 16 bits as float32, in which state of such parameters is kept."""
    x = np.asarray(x)
    if x.dtype.kind in "fiubc" and x.dtype.name != "float16":
        return x
    if arrays.dtype_name(x) in ("float16", "bfloat16"):
        return x.astype(np.float32)
    raise TypeError(f"{what} is {x.dtype}, not an array of real or complex numbers")

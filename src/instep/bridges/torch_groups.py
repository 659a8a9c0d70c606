"""Groups of `torch.optim`: hyperparameters, and transforms of a chain that are options there."""

import glob
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from instep import arrays
from instep.bridges.names import Names
from instep.bridges.opened import Opened
from instep.bridges.torch_rows import IGNORED, Option, TorchRow, epsilon_of
from instep.hyperparameters import described, real
from instep.transform import Transform
from instep.transforms import decoupled_weight_decay, maximize, weight_decay

_DECAYS = {"coupled": weight_decay, "decoupled": decoupled_weight_decay}


class Groups:
    """What the groups of a state say, beside an optimizer that is opened.

    Parameters
    ----------
    one
        The optimizer.

    Raises
    ------
    ValueError
        If transforms stand in its chain that PyTorch has not, or in another order.
    """

    def __init__(self, one: Opened) -> None:
        assert isinstance(one.row, TorchRow)
        self._one, self._row = one, one.row
        self._decays: dict[str, str] = {}  # prefixes of what decays weights, by its kind
        self._maximizes = False
        self._find_transforms()

    def _find_transforms(self) -> None:
        parts, main = self._one.optimizer.parts, self._one.rule
        before = True
        for prefix, rule in parts.items():
            before = before and rule is not main
            kind = next((kind for kind, cls in _DECAYS.items() if type(rule) is cls), "")
            is_of_loop = (
                isinstance(rule, Transform)
                and rule.stage == "gradient"
                and not (rule.slots or rule.scalar_slots or rule.numbers or rule.period > 1)
                and not (self._decays or self._maximizes)
            )
            if kind and kind not in self._decays and self._row.decay in (kind, "either"):
                self._decays[kind] = prefix
            elif type(rule) is maximize and not (self._decays or self._maximizes):
                self._maximizes = True
            elif rule is not main and not is_of_loop:
                raise ValueError(
                    f"{self._one.call}: torch's {self._row.peer} has nothing for {rule!r} at its "
                    f"place in the chain; it has chain(maximize(), weight_decay(), "
                    f"{main.name}()), and what keeps nothing before"
                )
        if len(self._decays) > 1:
            raise ValueError(
                f"{self._one.call}: torch's {self._row.peer} has one kind of weight decay, and the "
                f"chain has both; leave one out"
            )

    # From here ---------------------------------------------------------------------------------

    def written(self, names: Names, defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the groups of a state, or raise."""
        found, first = [], 0
        for group in names.groups:
            options = [self._written(key, defaults, names.arrays.get(key)) for key in group]
            if not options:
                options = [self._options(self._one.present(), {}, defaults)]
            for key, other in zip(group, options, strict=False):
                for name, value in other.items():
                    if value != options[0][name]:
                        raise ValueError(
                            f"to_torch: {group[0]!r} has {name}={options[0][name]!r} and {key!r} "
                            f"{name}={value!r}, which is no group of torch's; give names as a list "
                            f"of lists, one for each group of torch's optimizer"
                        )
            found.append({**options[0], "params": [*range(first, first + len(group))]})
            first += len(group)
        return found

    def _written(self, key: str, defaults: Mapping[str, Any], array: Any) -> dict[str, Any]:
        present, own = self._one.present(), self._one.overridden(key, array)
        return self._options(
            present | {k: x for k, x in own.items() if k in present}, own, defaults
        )

    def _options(
        self, values: Mapping[str, Any], own: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the options of a group with these hyperparameters."""
        one, t = self._one, self._one.state["t"]
        numbers = one.numbers(values, t)
        found = dict(defaults) | dict(self._row.fixed)
        tuples = {o.theirs: list(found[o.theirs]) for o in self._row.options if o.index is not None}
        for option in self._row.options:
            value = option.write(numbers[option.ours])
            if option.index is None:
                found[option.theirs] = value
            else:
                tuples[option.theirs][option.index] = value
        found |= {name: tuple(value) for name, value in tuples.items()}
        if "maximize" in found:
            found["maximize"] = self._maximizes
        elif self._maximizes:
            raise ValueError(f"{one.call}: torch's {self._row.peer} does not maximize")
        if self._row.decay:
            found["weight_decay"] = 0.0
        for kind, prefix in self._decays.items():
            rule = one.optimizer.parts[prefix]
            if getattr(rule, "corrected", False):
                raise ValueError(f"{one.call}: torch has no corrected weight decay")
            (entry,) = (entry for entry in rule.hyperparameters if entry.name == "rate")
            name = prefix + "rate"
            rate = own.get(name, getattr(rule, "rate"))  # noqa: B009  (any class of these)
            found["weight_decay"] = one.number(name, entry, rate, t)
            if self._row.decay == "either":
                found["decoupled_weight_decay"] = kind == "decoupled"
        return found

    # To here -----------------------------------------------------------------------------------

    def read(
        self, groups: Sequence[Mapping[str, Any]], names: Names, states: Mapping[Any, Any]
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, Any]]:
        """Return hyperparameters, overrides, and what transforms have, by their names; or raise."""
        if not groups:
            raise ValueError("from_torch: the state has no groups; pass a state_dict()")
        flat = iter(names.flat)
        paths = [[next(flat) for _ in group["params"]] for group in groups]
        found = []
        for group, keys in zip(groups, paths, strict=True):
            tensors = [x for n in group["params"] for x in states.get(n, {}).values()]
            known = [*tensors, *(names.arrays[key] for key in keys if key in names.arrays)]
            found.append(self._read(group, known))
        (values, others), *rest = found
        if self._one.optimizer.overrides:
            self._check_overrides(found, paths, names)
            return values, {}, others
        overrides: dict[str, dict[str, Any]] = {}
        first = values | others
        for (own, own_others), keys in zip(rest, paths[1:], strict=True):
            new = {n: x for n, x in (own | own_others).items() if x != first[n]}
            self._check_can_differ(new, first)
            for key in keys if new else ():
                overrides[glob.escape(key)] = new
        return values, overrides, others

    def _check_can_differ(self, new: Mapping[str, Any], first: Mapping[str, Any]) -> None:
        entries = {entry.name: entry for entry in self._one.rule.hyperparameters}
        for name, value in new.items():
            if name in entries and entries[name].option:
                raise ValueError(
                    f"from_torch: the groups of the state have {name}={first[name]!r} and "
                    f"{name}={value!r}, which is one for all parameters here; use two optimizers"
                )
            if name in entries and callable(getattr(self._one.rule, name)):
                raise ValueError(
                    f"from_torch: the groups of the state have several {name}, and here it is a "
                    f"schedule; give overrides with a schedule for each group"
                )

    def _check_overrides(
        self, found: Sequence[tuple[Any, Any]], paths: Sequence[Sequence[str]], names: Names
    ) -> None:
        """Raise unless the overrides of the optimizer are those of the groups of a state."""
        (values, others), *_ = found
        for (own, own_others), keys in zip(found, paths, strict=True):
            for key in keys:
                present = values | others | self._one.overridden(key, names.arrays.get(key))
                for name, value in (own | own_others).items():
                    if not callable(present[name]) and present[name] != value:
                        raise ValueError(
                            f"from_torch: the state has {name}={value!r} for {key!r}, and "
                            f"overrides make it {present[name]!r}; give an optimizer without "
                            f"overrides, and set them afterwards"
                        )

    def _read(
        self, group: Mapping[str, Any], arrays: Sequence[Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the hyperparameters of a group, and what transforms have, by their names."""
        values = {o.ours: self._value(group, o, arrays) for o in self._row.options}
        peer = self._row.peer
        for name, expected in self._row.fixed.items():
            if group.get(name, expected) != expected:
                raise ValueError(
                    f"from_torch: the state has {name}={group[name]!r}, and {self._one.rule.name} "
                    f"is torch's {peer} with {name}={expected!r}; give the optimizer that it is of"
                )
        decays = self._read_decay(group)
        known = {o.theirs for o in self._row.options} | self._row.fixed.keys() | IGNORED
        known |= {"weight_decay", "decoupled_weight_decay", "maximize", *self._row.ignored}
        for name, value in group.items():
            if name not in known:
                raise ValueError(
                    f"from_torch: the state has the option {name}={value!r}, which torch's {peer} "
                    f"is not known to have; give the optimizer that it is of"
                )
        if bool(group.get("maximize", False)) != self._maximizes:
            what = "chain(maximize(), ...)" if not self._maximizes else "a chain without maximize()"
            raise ValueError(
                f"from_torch: the state has maximize={group.get('maximize', False)!r}; give {what}"
            )
        return values, decays

    def _value(self, group: Mapping[str, Any], option: Option, arrays: Sequence[Any]) -> Any:
        """Return a hyperparameter."""
        if option.theirs not in group:
            raise ValueError(
                f"from_torch: the state has no option {option.theirs!r}, as torch's "
                f"{self._row.peer} has; it has {', '.join(map(str, group))}: give the optimizer "
                f"that it is of"
            )
        value = group[option.theirs]
        if option.index is not None:
            count = sum(other.theirs == option.theirs for other in self._row.options)
            value = _element(option.theirs, value, option.index, count)
        if value is None and option.ours == "eps1":
            value = epsilon_of(_dtype_of(arrays))
        (entry,) = (e for e in self._one.rule.hyperparameters if e.name == option.ours)
        with suppress(TypeError):  # it is said what it should be
            value = option.read(value)
        return entry.validate(f"from_torch, {option.theirs}", value)

    def _read_decay(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the rates of what decays weights, by their names."""
        kind = self._row.decay
        if not kind:
            return {}
        try:
            rate = real(group.get("weight_decay", 0.0))
        except (TypeError, OverflowError):
            raise TypeError(
                f"from_torch: the state has weight_decay={described(group['weight_decay'])}, which "
                f"is no number"
            ) from None
        if kind == "either":
            kind = "decoupled" if group.get("decoupled_weight_decay", False) else "coupled"
        if rate != 0 and kind not in self._decays:
            name = self._one.rule.name
            chain = {"coupled": f"weight_decay(), {name}()"}.get(
                kind, f"{name}(), decoupled_weight_decay()"
            )
            raise ValueError(
                f"from_torch: the state has weight_decay={described(rate)}, which is a transform "
                f"here; give chain({chain})"
            )
        return {
            prefix + "rate": rate if own == kind else 0.0 for own, prefix in self._decays.items()
        }


def _element(name: str, value: Any, index: int, count: int) -> Any:
    """Return an element of an option that has so many, or raise."""
    if not isinstance(value, list | tuple) or len(value) != count:
        raise ValueError(
            f"from_torch: {name} must be a tuple of {count} numbers, got {described(value)}"
        )
    return value[index]


def _dtype_of(known: Sequence[Any]) -> str:
    """Return the dtype of the parameters of a group, which their state has."""
    for x in known:
        if getattr(x, "shape", ()) != ():
            return arrays.dtype_name(x)
    raise ValueError(
        "from_torch: the state has eps=(None, ...), which depends on the dtype of parameters, and "
        "has no arrays that tell it; give names as a dict of them to the parameters"
    )

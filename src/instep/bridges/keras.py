"""The bridge to Keras: the variables of the classes of `keras.optimizers`.

.. skip: start if(__import__("importlib.util").util.find_spec("keras") is None, reason="no keras")
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instep.bridges.fields import Field
from instep.bridges.keras_rows import IGNORED, OFF, ROWS, KerasRow
from instep.bridges.loading import Given, Read, load
from instep.bridges.names import Names, named
from instep.bridges.opened import AnyOptimizer, Opened, opened
from instep.hyperparameters import described
from instep.optimizer import Optimizer
from instep.transforms import decoupled_weight_decay

_THERE = "keras.optimizers"

#: Paths, or a dict of them to the parameters.
Paths = Sequence[str] | Mapping[str, Any]


def to_keras(optimizer: Optimizer, keras_optimizer: Any, names: Paths) -> Any:
    """Give an optimizer of Keras the state of one of instep.

    Parameters
    ----------
    optimizer
        One of instep. In a chain, `decoupled_weight_decay` after it is the option `weight_decay`.
    keras_optimizer
        One of Keras of the class that has the rule, with the same options, whose method `build`
        has been called: ``keras_optimizer.build(model.trainable_variables)``.
    names
        The paths of the parameters, in the order in which it was built.

    Returns
    -------
    The optimizer of Keras. Its learning rate is that of the next step, if it is a number there.

    Raises
    ------
    TypeError, ValueError
        If the rules or their options differ, or it is built for other parameters. Nothing has
        changed then.

    Examples
    --------
    >>> import numpy as np
    >>> import keras
    >>> from instep import Momentum
    >>> from instep.bridges.keras import to_keras
    >>> optimizer, params = Momentum(lr=0.5), {"w": np.ones(2)}
    >>> params = optimizer.update(params, {"w": np.ones(2)})
    >>> theirs = keras.optimizers.SGD(momentum=0.9)
    >>> theirs.build([keras.Variable(np.ones(2))])
    >>> theirs = to_keras(optimizer, theirs, ["w"])
    >>> int(theirs.iterations), float(theirs.learning_rate)
    (1, 0.5)
    """
    one, there = opened("to_keras", _THERE, ROWS, optimizer), _There("to_keras", keras_optimizer)
    given = named("to_keras", names)
    row = there.check(one, given.flat)
    taken = _taken(one, given)
    numbers = one.numbers(one.present(), taken)
    there.check_options(one, row, numbers)
    if not one.keys and there.value(keras_optimizer.iterations) != 0:
        raise ValueError(
            "to_keras: the optimizer has no state, and Keras' has taken steps, of which it keeps "
            "some; give one that was just built"
        )
    new: list[tuple[Any, Any]] = []
    of_all = []
    for place, key in enumerate(given.flat if one.keys else ()):
        own = one.numbers(one.present() | one.overridden(key, given.arrays.get(key)), taken)
        if own != numbers:
            raise ValueError(
                f"to_keras: overrides gives {key!r} other hyperparameters, and Keras has one set "
                f"for all; leave them out"
            )
        values = one.values(key, own)
        of_all.append({field.ours: values.pop(field.ours) for field in row.of_all})
        for name, x in one.written(repr(key), row.fields, values, own).items():
            variable = there.of(name)[place]
            if tuple(variable.shape) != np.shape(x):
                raise ValueError(
                    f"to_keras: {variable.name!r} has shape {tuple(variable.shape)}, and that of "
                    f"{key!r} is {np.shape(x)}; give names in the order in which it was built"
                )
            new.append((variable, x))
    for field in row.of_all if of_all else ():
        if any(other != of_all[0] for other in of_all):
            raise ValueError(
                f"to_keras: parameters have several {field.ours!r}, and Keras has one for all"
            )
        new.append((there.number(field.theirs), field.write(of_all[0], numbers)))
    there.fill(new, taken, numbers["lr"])
    return keras_optimizer


def from_keras(optimizer: AnyOptimizer, keras_optimizer: Any, names: Paths) -> AnyOptimizer:
    """Give an optimizer the state of one of Keras, with its hyperparameters.

    The optimizer is given, because it has settings that Keras does not know, and may have a
    schedule. It says which form of a rule is meant: Keras' Adam is ``Adam(form="epsilon_hat")``.

    Parameters
    ----------
    optimizer
        One of instep, of the class that has the rule: in a chain with `decoupled_weight_decay`
        after it, where Keras' has the option `weight_decay`.
    keras_optimizer
        One of Keras that is built. It is not changed.
    names
        The paths of the parameters in instep, in the order in which it was built:
        ``[v.path for v in model.trainable_variables]``; or a dict of these to the parameters,
        whose shapes are looked at then.

    Returns
    -------
    The optimizer. Its learning rate is the number that Keras has; where Keras has a schedule, it
    must have one, which stays.

    Raises
    ------
    TypeError, ValueError
        If the rules or their options differ, or names do not fit. Nothing has changed then.

    Examples
    --------
    >>> import numpy as np
    >>> import keras
    >>> from instep import Momentum
    >>> from instep.bridges.keras import from_keras
    >>> variables = [keras.Variable(np.ones(2))]
    >>> theirs = keras.optimizers.SGD(0.5, momentum=0.75)
    >>> theirs.build(variables)
    >>> theirs.apply([keras.ops.ones(2)], variables)
    >>> optimizer = from_keras(Momentum(), theirs, ["w"])
    >>> optimizer.t, optimizer.lr, optimizer.momentum
    (1, 0.5, 0.75)
    """
    call = "from_keras"
    one, there = opened(call, _THERE, ROWS, optimizer), _There(call, keras_optimizer)
    given = named(call, names)
    row = there.check(one, given.flat)
    values, others = there.options(one, row)
    taken = int(there.value(keras_optimizer.iterations))
    if taken == 0:
        load(one, Given(0, {}, values, others))
        return optimizer
    numbers = {field.theirs: there.value(there.number(field.theirs)) for field in row.of_all}
    of_all = {field.ours: float(field.read(numbers, {})) for field in row.of_all}
    read = {}
    for place, key in enumerate(given.flat):
        fields = {name: there.value(own[place]) for name, own in there.variables.items()}
        read[key] = Read(taken, row.placed(fields) if row.placed else fields)
    load(one, Given(taken, read, values, others, of_all=of_all, arrays=given.arrays))
    return optimizer


class _There:
    """An optimizer of Keras.

    Attributes
    ----------
    variables
        Of parameters, in their order, by the names with which theirs end.
    """

    def __init__(self, call: str, optimizer: Any) -> None:
        needed = ("variables", "iterations", "learning_rate", "get_config", "built")
        if not all(hasattr(optimizer, name) for name in needed):
            raise TypeError(
                f"{call}: keras_optimizer must be one of keras.optimizers, got "
                f"{described(optimizer)}"
            )
        if not optimizer.built:
            raise ValueError(
                f"{call}: the optimizer of Keras is not built, and so has no variables; call its "
                f"method build(model.trainable_variables) before"
            )
        self._call, self._optimizer = call, optimizer
        with warnings.catch_warnings():  # Keras' own, of NumPy and its variables
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            self._config = optimizer.get_config()
        self.variables: dict[str, list[Any]] = {}
        self._numbers: dict[str, Any] = {}

    def check(self, one: Opened, names: Sequence[str]) -> KerasRow:
        """Return the row of an optimizer, or raise if the one of Keras is another."""
        row, peer = one.row, type(self._optimizer).__name__
        assert isinstance(row, KerasRow)
        if peer != row.peer:
            raise ValueError(
                f"{self._call}: {one.rule.name} is Keras' {row.peer}, and this is {peer}; give "
                f"optimizers of the same rule"
            )
        for name in OFF:
            if self._config.get(name) not in (None, False):
                raise ValueError(
                    f"{self._call}: Keras' optimizer has {name}={self._config[name]!r}, which is "
                    f"no part of a rule here; leave it out there"
                )
        for name, expected in row.fixed.items():
            if self._config.get(name, expected) != expected:
                raise ValueError(
                    f"{self._call}: Keras' optimizer has {name}={self._config[name]!r}, and "
                    f"{one.rule.name} is Keras' {peer} with {name}={expected!r}; give optimizers "
                    f"of the same rule"
                )
        for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
            if getattr(self._optimizer, name, None):
                raise ValueError(
                    f"{self._call}: Keras' optimizer excludes variables from weight decay, which "
                    f"overrides do here; the bridge does not translate it"
                )
        known = {*row.options.values(), *row.fixed, *IGNORED, *(["weight_decay"] * row.decays)}
        if unknown := sorted(self._config.keys() - known - {"weight_decay"}):
            raise ValueError(
                f"{self._call}: Keras' {peer} has the option {unknown[0]!r}, which the bridge does "
                f"not know"
            )
        self._find(row, len(names))
        return row

    def _find(self, row: KerasRow, count: int) -> None:
        """Take the variables apart, or raise if they are not those of so many parameters."""
        rest = [
            v for v in self._optimizer.variables if v.name not in ("iteration", "learning_rate")
        ]
        for name in (field.theirs for field in row.of_all):  # Keras numbers those of one name
            nameless = [v for v in rest if _ending(row.fields, v.name) == v.name]
            for variable in (v for v in nameless if v.name.startswith(name)):
                self._numbers[name] = variable
        rest = [v for v in rest if not any(v is number for number in self._numbers.values())]
        found: dict[str, list[Any]] = {}
        if row.find is not None:
            found = row.find(rest)
        else:
            for variable in rest:
                found.setdefault(_ending(row.fields, variable.name), []).append(variable)
        for name, own in found.items():
            if len(own) != count:
                raise ValueError(
                    f"{self._call}: names has {count} paths, and Keras' optimizer {len(own)} "
                    f"variables that end in {name!r}; give one path for each parameter with which "
                    f"it was built"
                )
        self.variables = found

    def of(self, field: str) -> list[Any]:
        """Return the variables of a field, or raise."""
        if field not in self.variables:
            raise ValueError(
                f"{self._call}: Keras' optimizer has no variables that end in {field!r}; make both "
                f"with the same options"
            )
        return self.variables[field]

    def number(self, name: str) -> Any:
        """Return the variable of what is one for all parameters, or raise."""
        if name not in self._numbers:
            raise ValueError(f"{self._call}: Keras' optimizer has no variable {name!r}")
        return self._numbers[name]

    def value(self, variable: Any) -> Any:
        """Return the value of a variable, as an array of NumPy."""
        import keras

        return np.array(keras.ops.convert_to_numpy(getattr(variable, "value", variable)))

    @property
    def _has_schedule(self) -> bool:
        return not isinstance(self._config["learning_rate"], int | float)

    def options(self, one: Opened, row: KerasRow) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return hyperparameters, and those of transforms by their names, as Keras has them."""
        values = {
            ours: self._config[theirs] * row.signs[ours]
            if ours in row.signs
            else self._config[theirs]
            for ours, theirs in row.options.items()
        }
        if values.get("weight_decay", 0.0) is None:
            values["weight_decay"] = 0.0
        if not self._has_schedule:
            values["lr"] = float(self.value(self._optimizer.learning_rate))
        elif not callable(one.present()["lr"]):
            raise ValueError(
                f"{self._call}: Keras' optimizer has a schedule, and lr is a number here; give an "
                f"optimizer with a schedule"
            )
        entries = {entry.name: entry for entry in one.rule.hyperparameters}
        found = {name: entries[name].validate(self._call, x) for name, x in values.items()}
        return found, self._decay(one, row)

    def _decay(self, one: Opened, row: KerasRow) -> dict[str, Any]:
        """Return the rate of what decays weights, by its name."""
        prefix, _ = _decay_of(one, row)
        rate = self._config.get("weight_decay") or 0.0
        if not row.decays:
            return {}
        if rate and not prefix:
            raise ValueError(
                f"{self._call}: Keras' optimizer has weight_decay={rate!r}, which is a transform "
                f"here; give chain({one.rule.name}(), decoupled_weight_decay())"
            )
        return {prefix + "rate": float(rate)} if prefix else {}

    def check_options(self, one: Opened, row: KerasRow, numbers: Mapping[str, Any]) -> None:
        """Raise unless Keras has the hyperparameters of an optimizer."""
        expected = {
            theirs: numbers[ours] * row.signs[ours] if ours in row.signs else numbers[ours]
            for ours, theirs in row.options.items()
        }
        _, decay = _decay_of(one, row)
        if row.decays:
            expected["weight_decay"] = decay
        for name, value in expected.items():
            present = self._config.get(name)
            present = 0.0 if present is None else present
            if present != value:
                raise ValueError(
                    f"{self._call}: {one.rule.name} has {name}={value!r} in Keras' terms, and "
                    f"Keras' optimizer {present!r}; make it with {name}={value!r}"
                )

    def fill(self, new: Sequence[tuple[Any, Any]], taken: int, lr: float) -> None:
        """Assign values to variables, with number of steps and learning rate."""
        for variable, x in new:
            variable.assign(np.asarray(x))
        self._optimizer.iterations.assign(taken)
        if not self._has_schedule:
            self._optimizer.learning_rate = lr


def _ending(fields: Sequence[Field], name: str) -> str:
    """Return the name with which that of a variable ends: the longest, or all of it."""
    found = [field.theirs for field in fields if name.endswith("_" + field.theirs)]
    return max(found, key=len, default=name)


def _decay_of(one: Opened, row: KerasRow) -> tuple[str, float]:
    """Return the prefix of what decays weights in a chain, if there is, and its rate; or raise."""
    prefix, rate = "", 0.0
    for name, rule in one.optimizer.parts.items():
        if rule is one.rule:
            continue
        if isinstance(rule, decoupled_weight_decay) and row.decays and not rule.corrected:
            (entry,) = (entry for entry in rule.hyperparameters if entry.name == "rate")
            prefix, rate = name, one.number(name + "rate", entry, rule.rate, one.state["t"])
        else:
            raise ValueError(
                f"{one.call}: Keras' {row.peer} has nothing for {rule!r} in the chain; it has "
                f"chain({one.rule.name}(), decoupled_weight_decay())"
            )
    return prefix, rate


def _taken(one: Opened, given: Names) -> int:
    """Return the number of steps that all parameters took, or raise."""
    if others := [key for key in one.keys if key not in given.flat]:
        raise ValueError(
            f"{one.call}: names has not {others[0]!r}, of which the optimizer has state; give the "
            f"paths of all parameters"
        )
    if one.keys and (others := [key for key in given.flat if key not in one.keys]):
        raise ValueError(
            f"{one.call}: the optimizer has no state of {others[0]!r}, and Keras counts steps for "
            f"all parameters; take a step with all"
        )
    steps = {one.taken(key) for key in one.keys} or {one.state["t"]}
    if len(steps) > 1:
        raise ValueError(
            f"{one.call}: parameters took {', '.join(map(str, sorted(steps)))} steps, for which "
            f"Keras has one count; forget those that missed some, with `forget`"
        )
    return steps.pop()

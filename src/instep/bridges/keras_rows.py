"""The table of the bridge to Keras: which rule is which class of `keras.optimizers`, and how.

A row has the names with which variables of the optimizer end, after those of the parameters, and
the options of `get_config`. To add an optimizer is to add a row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from instep import optimizers as own
from instep.bridges.fields import Field, Row, Values, same, squared

#: Returns the variables of parameters by field, of all variables but those of step and rate.
Finding = Callable[[Sequence[Any]], dict[str, list[Any]]]


@dataclass(frozen=True, kw_only=True)
class KerasRow(Row):
    """A rule, and the class of `keras.optimizers` that has it.

    Attributes
    ----------
    peer
        Name of the class.
    options
        Names of hyperparameters, and what they are called there. The learning rate is a variable.
    signs
        What an option is multiplied by there, where it is not 1.
    fixed
        The other options, with the values that make it this rule.
    of_all
        Numbers that each parameter keeps here, and that are the same for all there.
    decays
        Whether the option `weight_decay` is a transform of the chain here.
    find
        Finds variables that have no names of their own.
    placed
        Leaves out what is kept in the place of something else.
    """

    peer: str
    options: Mapping[str, str] = field(default_factory=dict)
    signs: Mapping[str, float] = field(default_factory=dict)
    fixed: Values = field(default_factory=dict)
    of_all: Sequence[Field] = ()
    decays: bool = True
    find: Finding | None = None
    placed: Callable[[Values], Values] | None = None


def _triples(variables: Sequence[Any]) -> dict[str, list[Any]]:
    """Find rows, columns and squares of each parameter in turn, as Adafactor adds them."""
    return {name: list(variables[i::3]) for i, name in enumerate(("r", "c", "velocity"))}


def _without_placeholders(values: Values) -> Values:
    """Leave out what Keras has in the place of means that it does not keep."""
    kept = ("r", "c") if np.ndim(values["velocity"]) > 1 else ("velocity",)
    return {name: values[name] for name in kept}


def _shape_of_factored(values: Values) -> tuple[int, ...]:
    if "velocity" in values:
        return np.shape(values["velocity"])
    return (*np.shape(values["r"]), *np.shape(values["c"])[-1:])


_BETAS = {"beta1": "beta_1", "beta2": "beta_2"}
_EPS = {"eps": "epsilon"}
_MEANS = (same("m", "momentum"), same("v", "velocity"))
_LARGEST = same("x", "velocity_hat")
_VELOCITY = (same("v", "momentum"),)
_HAT = {"form": "epsilon_hat"}


ROWS = (
    KerasRow(own.SGD, peer="SGD", fixed={"momentum": 0.0, "nesterov": False}),
    KerasRow(
        own.Momentum,
        _VELOCITY,
        needs={"dampening": 0.0, "lr_in_velocity": True},
        peer="SGD",
        options={"momentum": "momentum"},
        fixed={"nesterov": False},
    ),
    KerasRow(
        own.Nesterov,
        _VELOCITY,
        needs={"lr_in_velocity": True},
        peer="SGD",
        options={"momentum": "momentum"},
        fixed={"nesterov": True},
    ),
    KerasRow(
        own.RMSProp,
        (
            same("h", "velocity"),
            same("mean", "average_gradient"),
            Field(
                "deviation",
                "velocity",
                lambda x, h: x["deviation"] ** 2 + x["mean"] ** 2,
                lambda y, h: np.sqrt(np.maximum(y["velocity"] - y["average_gradient"] ** 2, 0)),
            ),
            same("velocity", "momentum"),
        ),
        needs={
            "eps_in_sqrt": True,
            "lr_in_velocity": True,
            "nesterov": False,
            "initial_accumulator_value": 0.0,
        },
        peer="RMSprop",
        options={"decay": "rho", "momentum": "momentum", "centered": "centered"} | _EPS,
    ),
    KerasRow(
        own.AdaGrad,
        (same("h", "accumulator"),),
        needs={"eps_in_sqrt": True},
        peer="Adagrad",
        options={"initial_accumulator_value": "initial_accumulator_value"} | _EPS,
    ),
    KerasRow(
        own.AdaDelta,
        (same("v", "accumulated_grad"), same("u", "accumulated_delta_var")),
        peer="Adadelta",
        options={"rho": "rho"} | _EPS,
    ),
    KerasRow(
        own.Adam,
        (*_MEANS, _LARGEST),
        needs=_HAT,
        peer="Adam",
        options={"amsgrad": "amsgrad"} | _BETAS | _EPS,
    ),
    KerasRow(
        own.AMSGrad,
        (*_MEANS, _LARGEST),
        needs=_HAT,
        peer="Adam",
        options=_BETAS | _EPS,
        fixed={"amsgrad": True},
    ),
    KerasRow(
        own.AdamW,
        (*_MEANS, _LARGEST),
        needs=_HAT,
        peer="AdamW",
        options={"amsgrad": "amsgrad", "weight_decay": "weight_decay"} | _BETAS | _EPS,
        decays=False,
    ),
    KerasRow(
        own.NAdam,
        _MEANS,
        needs={"psi": 1.0, "amsgrad": False},
        peer="Nadam",
        options=_BETAS | _EPS,
        of_all=(same("product", "variable"),),
    ),
    KerasRow(
        own.AdaMax,
        (same("m", "momentum"), same("u", "norm")),
        needs={"eps_in_max": False},
        peer="Adamax",
        options=_BETAS | _EPS,
    ),
    KerasRow(
        own.Lion,
        (same("m", "momentum"),),
        peer="Lion",
        options={"weight_decay": "weight_decay"} | _BETAS,
        decays=False,
    ),
    KerasRow(
        own.LAMB,
        _MEANS,
        needs={"weight_decay": 0.0},
        peer="Lamb",
        options=_BETAS | _EPS,
        fixed={"weight_decay": None},  # it decays before it takes norms
        decays=False,
    ),
    KerasRow(
        own.Adafactor,
        (squared("root", "velocity"), squared("rows", "r"), squared("columns", "c")),
        needs={"eps1_as": "term"},
        peer="Adafactor",
        options={
            "decay": "beta_2_decay",
            "d": "clip_threshold",
            "eps1": "epsilon_1",
            "eps2": "epsilon_2",
            "relative_step": "relative_step",
        },
        signs={"decay": -1.0},
        fixed={"weight_decay": None},
        decays=False,
        find=_triples,
        placed=_without_placeholders,
        shape=_shape_of_factored,
    ),
)

#: Options with which an optimizer of Keras does more than its rule.
OFF = (
    *("clipnorm", "global_clipnorm", "clipvalue", "use_ema", "loss_scale_factor"),
    "gradient_accumulation_steps",
)

#: Those that change nothing of a step, or that the above turn off.
IGNORED = frozenset({"name", "learning_rate", "ema_momentum", "ema_overwrite_frequency", *OFF})
